"""A hostile or mistaken ``--second`` against ``fedward node enhance``: docs/enhance.md, two contrasts."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from client.enhance import beside
from client.enhance.folder import Enhanced
from shared.errors import DataError
from tests.attacks.imaging.bombs import deflated
from tests.client.enhance.test_pair import SLICES, applied, series
from tests.client.enhance.test_pair import released as released  # noqa: PLC0414  # a fixture
from tests.client.enhance.test_series import model_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what the files say
Values = dict[str, object]


def changed(released: Path, second: Path, values: Values, which: Callable[[int], bool] = lambda _: True) -> Path:
    """A copy of the second contrast with other values in the headers of some files."""
    shutil.copytree(series(released)["second"], second)
    for number, path in enumerate(sorted(second.glob("*.dcm"))):
        if which(number):
            dataset = pydicom.dcmread(path)
            for name, value in values.items():
                setattr(dataset, name, value)
            dataset.save_as(path, enforce_file_format=False)
    return second


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile files are written by programs that check nothing."""
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)


@pytest.mark.parametrize(
    "values",
    [
        {"StudyInstanceUID": "1.2.3"},
        {"PatientID": "somebody else"},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"EchoTime": "nan"},
        {"ImagePositionPatient": ["1e308", "1", "2"]},
        {"ImagePositionPatient": ["1", "2"]},
        {"SOPInstanceUID": "1.2.3.4"},
        {"BitsStored": 99},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        {"SeriesInstanceUID": "../../x"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_is_no_second_contrast_of_the_patient_is_not_taken(released: Path, tmp_path: Path, values: Values) -> None:
    second = changed(released, tmp_path / "second", values)
    with pytest.raises(DataError, match=beside.NONE_BESIDE):
        applied(model_of("denoise_pair"), series(released)["first"], second, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("values", "which"),
    [
        ({"ImagePositionPatient": ["nan", "1", "2"]}, lambda _: True),
        ({"ImagePositionPatient": ["nan", "1", "2"]}, lambda number: number == 3),
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "1"]}, lambda _: True),
        ({"SOPInstanceUID": "1.2.3.4"}, lambda number: number < 2),
        ({"RescaleSlope": "1e300", "RescaleIntercept": "0"}, lambda _: True),
    ],
    ids=["places", "one place", "orientation", "twice", "slope"],
)
def test_a_second_contrast_that_lies_fails_in_a_line_and_nothing_is_written(
    released: Path, tmp_path: Path, values: Values, which: Callable[[int], bool]
) -> None:
    second = changed(released, tmp_path / "second", values, which)
    done = applied(model_of("denoise_pair"), series(released)["first"], second, tmp_path / "run")
    assert done.counts["failed"] == SLICES
    assert all(one.reason and "1.2.3.4" not in one.reason and "nan" not in one.reason for one in done.records)
    assert not list((tmp_path / "run").rglob("*.dcm"))


def run(released: Path, tmp_path: Path, second: Path) -> Enhanced:
    return applied(model_of("denoise_pair"), series(released)["first"], second, tmp_path / "run")


def test_what_lies_beside_the_second_contrast_does_no_harm(released: Path, tmp_path: Path) -> None:
    second = changed(released, tmp_path / "second", {})
    os.mkfifo(second / "pipe.dcm")
    (second / "loop").symlink_to(second)
    (second / "zero.dcm").symlink_to("/dev/zero")
    (second / "text.dcm").write_text("nothing")
    deflated(second / "bomb.dcm")
    changed(released, second / "other", {"StudyInstanceUID": "1.2.3", "PatientID": "other"})
    assert run(released, tmp_path, second).counts["written"] == SLICES


def test_a_file_that_goes_between_look_and_read_fails_the_series(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, before = changed(released, tmp_path / "second", {}), beside.read

    def gone(path: Path) -> pydicom.Dataset:
        shutil.rmtree(second, ignore_errors=True)
        return before(path)

    monkeypatch.setattr(beside, "read", gone)
    done = run(released, tmp_path, second)
    assert {one.reason for one in done.records} == {"its second contrast: it cannot be read as DICOM"}


def test_reports_and_log_name_nothing_of_the_second_series_and_results_are_their_owners_alone(
    released: Path, tmp_path: Path
) -> None:
    private = {"SeriesDescription": "HUSH", "PatientComments": "HUSH", "InstitutionName": "HUSH"}
    second = changed(released, tmp_path / "second", private)
    done = run(released, tmp_path, second)
    assert done.counts["written"] == SLICES
    uids = [str(pydicom.dcmread(one).SOPInstanceUID) for one in second.glob("*.dcm")]
    for path in (done.path, tmp_path / "run" / "log.jsonl"):
        told = path.read_text(encoding="utf-8")
        assert not any(one in told for one in [*uids, "HUSH", str(second)])
    assert len(json.loads(done.path.read_bytes())["files"]) == SLICES  # of IN, none of --second
    for path in (tmp_path / "run" / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        if path.is_file():
            assert b"HUSH" not in path.read_bytes()
