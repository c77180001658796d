"""Hostile files against ``fedward node enhance``, and what its results and reports tell: docs/enhance.md."""

import json
import os
import resource
import threading
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.attacks.imaging.bombs import deflated
from tests.attacks.imaging.command import Done, fedward, files, full_disk, printable, refusal

MR = Path(str(get_testdata_file("MR_small.dcm")))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what the files say


def put(folder: Path, name: str, **values: object) -> Path:
    """An MR image with other values in its header; None deletes."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.dcmread(MR)
    for key, value in values.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = str(dataset.SOPInstanceUID)
    dataset.save_as(folder / name, enforce_file_format=False)
    return folder / name


def enhance(source: Path, out: Path, *more: object, task: str = "denoise") -> Done:
    return fedward("node", "enhance", "public-1", source, out, "--task", task, *more)


def reasons(out: Path) -> dict[str, tuple[str, str]]:
    found = json.loads((out.with_name(out.name + "-reports") / "enhance.json").read_bytes())["files"]
    return {one["path"]: (one["status"], one["reason"]) for one in found}


BAD = {
    "up.dcm": {"StudyInstanceUID": "../../../evil", "SeriesInstanceUID": "..", "SOPInstanceUID": "../../x"},
    "root.dcm": {"SOPInstanceUID": "/evil", "SeriesInstanceUID": "1.2.5"},
    "none.dcm": {"SOPInstanceUID": "1.2.4", "SeriesInstanceUID": "", "StudyInstanceUID": "1"},
    "long.dcm": {"SOPInstanceUID": "1." + "2" * 300, "SeriesInstanceUID": "1.2.19"},
    "rows.dcm": {"SOPInstanceUID": "1.2.6", "Rows": 65535, "Columns": 65535, "SeriesInstanceUID": "1.2.6.1"},
    "flat.dcm": {"SOPInstanceUID": "1.2.7", "Rows": 0, "SeriesInstanceUID": "1.2.7.1"},
    "frames.dcm": {"SOPInstanceUID": "1.2.8", "NumberOfFrames": 2**31 - 1, "SeriesInstanceUID": "1.2.8.1"},
    "slope.dcm": {"SOPInstanceUID": "1.2.9", "RescaleSlope": "0", "RescaleIntercept": "0", "SeriesInstanceUID": "1.9"},
    "scale.dcm": {
        "SOPInstanceUID": "1.3",
        "RescaleSlope": "1e300",
        "RescaleIntercept": "1",
        "SeriesInstanceUID": "1.8",
    },
    "nl\nfedward: well.dcm": {"SOPInstanceUID": "1.2.17", "Rows": 3, "SeriesInstanceUID": "1.2.17.1"},
}


def test_files_that_lie_fail_each_with_a_line_and_the_others_go_on(tmp_path: Path) -> None:
    for name, values in BAD.items():
        put(tmp_path / "in", name, **values)
    put(tmp_path / "in", "good.dcm", SOPInstanceUID="1.2.100")
    os.mkfifo(tmp_path / "in" / "pipe.dcm")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "zero.dcm").symlink_to("/dev/zero")
    deflated(tmp_path / "in" / "bomb.dcm")
    before, outside = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, files(tmp_path)
    done = enhance(tmp_path / "in", tmp_path / "out")
    refusal(done, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert printable(done.said)
    found = reasons(tmp_path / "out")
    assert {name for name, (status, _) in found.items() if status == "failed"} == {*BAD, "bomb.dcm"}
    assert found["bomb.dcm"][1] == "it inflates to more than 256 MiB"
    assert found["pipe.dcm"][0] == found["zero.dcm"][0] == found["loop"][0] == "skipped"
    made = files(tmp_path) - outside
    assert all(one.startswith(("out/", "out-reports/")) for one in made)
    assert len([one for one in made if one.endswith(".dcm")]) == 1


@pytest.mark.parametrize("task", ["superres", "segment"])
@pytest.mark.parametrize(
    "values",
    [{"PixelSpacing": ["0", "-1"]}, {"PixelSpacing": ["nan", "1"]}, {"ImageOrientationPatient": ["0"] * 6},
     {"ImagePositionPatient": ["1e400", "1", "1"]}, {"PixelSpacing": None}, {"PixelData": bytes(64 * 64 * 2)},
     {"FrameOfReferenceUID": "../x"}, {"SliceThickness": "-5"}],
    ids=["minus", "nan", "way", "far", "unsized", "black", "frame", "thick"],
)  # fmt: skip
def test_places_that_are_none_are_worked_on_or_refused_and_no_traceback(
    tmp_path: Path, task: str, values: dict[str, object]
) -> None:
    put(tmp_path / "in", "a.dcm", **values)
    done = enhance(tmp_path / "in", tmp_path / "out", task=task)
    assert "Traceback" not in done.said
    if done.code:
        refusal(done, 3, 4)
    for path in (tmp_path / "out").rglob("*.dcm"):
        spacing = pydicom.dcmread(path).get("PixelSpacing")
        assert spacing is None or min(spacing) > 0


def test_private_elements_at_any_depth_stay_behind_and_reports_name_nobody(tmp_path: Path) -> None:
    inner, private = Dataset(), Dataset()
    inner.CodeMeaning = "x"
    inner.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "HIDDEN-SECRET")
    private.RequestedProcedureDescription, private.RequestedProcedureCodeSequence = "scan", Sequence([inner])
    dataset = pydicom.dcmread(MR)
    dataset.RequestAttributesSequence = Sequence([private])
    dataset.PatientName, dataset.PatientID = "Lovelace^Ada", "ID-4711-X"
    (tmp_path / "in").mkdir()
    dataset.save_as(tmp_path / "in" / "a.dcm")
    done = enhance(tmp_path / "in", tmp_path / "out")
    assert done.code == 0, done
    (result,) = (tmp_path / "out").rglob("*.dcm")
    assert b"HIDDEN-SECRET" not in result.read_bytes()
    assert pydicom.dcmread(result).PatientID == "ID-4711-X"  # names stay, as documented
    for path in (tmp_path / "out-reports").iterdir():
        data = path.read_bytes()
        assert not [name for name in (b"Lovelace", b"ID-4711", str(dataset.SOPInstanceUID).encode()) if name in data]
    assert "Lovelace" not in done.said + result.as_posix()


def test_results_and_reports_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.dcm")
    before = os.umask(0)
    try:
        assert enhance(tmp_path / "in", tmp_path / "out").code == 0
    finally:
        os.umask(before)
    for folder in (tmp_path / "out", tmp_path / "out-reports"):
        for path in (folder, *folder.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_full_disk_keeps_whole_files_alone_and_the_same_command_goes_on(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.dcm")
    with full_disk(4000):
        refusal(enhance(tmp_path / "in", tmp_path / "out"), 5)
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert enhance(tmp_path / "in", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--send", "file:///etc/passwd"),
        ("--send", "http://user:secret@192.0.2.1/dicom"),
        ("--send", "dicom://AET@192.0.2.1:0", "--calling", "X"),
        ("--send", "dicom://AET@192.0.2.1:99999", "--calling", "X"),
        ("--send", "dicom://" + "A" * 17 + "@192.0.2.1:104", "--calling", "X"),
        ("--send", "dicom://AET@192.0.2.1:104", "--calling", "X\nY"),
        ("--send", "dicom://AET@192.0.2.1:104"),
        ("--send", "nonsense"),
        ("--charter", "x" * 64),
        ("--quorum", "-1"),
    ],
)
def test_addresses_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    put(tmp_path / "in", "a.dcm")
    done = enhance(tmp_path / "in", tmp_path / "out", *words)
    refusal(done, 2)
    assert "secret" not in done.said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["in", "in/deeper", "file", "file/below"])
def test_a_place_for_results_that_is_none_is_refused_or_kept_apart(tmp_path: Path, out: str) -> None:
    source = put(tmp_path / "in", "a.dcm")
    (tmp_path / "file").write_text("years of work")
    before = source.read_bytes()
    done = enhance(tmp_path / "in", tmp_path / out)
    assert "Traceback" not in done.said
    assert source.read_bytes() == before
    assert (tmp_path / "file").read_text() == "years of work"
    again = enhance(tmp_path / "in", tmp_path / out)  # what was made is not taken for a source
    assert "Traceback" not in again.said
    assert len(list(tmp_path.rglob("*.dcm"))) <= 2
    if done.code:
        refusal(done, 2, 5)


def test_two_at_once_make_each_result_once(tmp_path: Path) -> None:
    """From threads of one process the boundary of the command is not safe; the work itself must be."""
    from client.enhance.folder import enhance_folder
    from client.enhance.model import open_model
    from compliance.log import AuditLog

    put(tmp_path / "in", "a.dcm")
    model, codes = open_model("public-1", task="denoise"), list[int]()

    def work(number: int) -> None:
        with AuditLog(tmp_path / f"log-{number}.jsonl", site="", subject_key=b"k" * 32) as log:
            done = enhance_folder(
                tmp_path / "in", tmp_path / "out", model=model, log=log, reports=tmp_path / f"r{number}"
            )
        codes.append(done.counts["failed"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert codes == [0, 0]
    (only,) = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert pydicom.dcmread(only).PixelData
