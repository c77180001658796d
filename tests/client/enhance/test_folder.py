"""Folders: what is done once is not done again, one bad file stops nobody, and the record comes first."""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from client.enhance.folder import enhance_folder
from client.enhance.model import Model
from compliance.log import AuditLog, entries
from shared.errors import DataError, OutputError, RecordError, UsageError
from tests.client.enhance.conftest import Apply


def example(name: str) -> Path:
    return Path(str(get_testdata_file(name)))


def series_of(sites: Path, site: str = "H2") -> Path:
    return min((sites / site).rglob("*.dcm")).parent


def written(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


# --- again, and after an interrupt ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["denoise", "segment"])
def test_a_second_run_finds_what_is_there(apply: Apply, sites: Path, tmp_path: Path, task: str) -> None:
    first = apply(task, sites / "H2")
    before = written(tmp_path / "out")
    again = apply(task, sites / "H2")
    assert first.counts["written"] == again.counts["there"] > 0
    assert again.counts["written"] == 0
    assert again.results() == first.results() == tuple(sorted(before))
    assert written(tmp_path / "out") == before


def test_names_follow_from_the_model_and_the_source(apply: Apply, sites: Path, tmp_path: Path) -> None:
    here, there = (apply("denoise", series_of(sites), tmp_path / name) for name in ("a", "b"))
    other = apply("superres", series_of(sites), tmp_path / "c")
    assert here.results() == there.results()
    assert not set(here.results()) & set(other.results())


def test_an_interrupted_run_leaves_whole_files_and_goes_on(
    sites: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    series, out = series_of(sites), tmp_path / "out"
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
        with pytest.raises(KeyboardInterrupt):
            enhance_folder(
                series, out, model=models["denoise"], log=log, reports=tmp_path / "reports", on_progress=stop
            )
        half = written(out)
        assert len(half) == 2
        assert all(name.endswith(".dcm") for name in half)
        done = enhance_folder(series, out, model=models["denoise"], log=log, reports=tmp_path / "reports")
    assert (done.counts["there"], done.counts["written"]) == (2, 1)
    rows = [(row["outcome"], row["detail"].get("written")) for row in entries(tmp_path / "log.jsonl")]
    assert rows == [("started", None), ("failed", 2), ("started", None), ("ok", 1)]
    assert half.items() <= written(out).items()
    # Two halves are as good as one whole: the scale is that of the series, not of what was left of it.
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
        enhance_folder(series, tmp_path / "whole", model=models["denoise"], log=log, reports=tmp_path / "reports")
    for path in (tmp_path / "whole").rglob("*.dcm"):
        twin = out / path.relative_to(tmp_path / "whole")
        assert pydicom.dcmread(path).PixelData == pydicom.dcmread(twin).PixelData


def test_a_series_that_grew_is_made_anew_in_another_series(apply: Apply, sites: Path, tmp_path: Path) -> None:
    """The scale of MR is that of the series: results of two scales must not stand in one."""
    slices = sorted(series_of(sites).glob("*.dcm"))
    (tmp_path / "in").mkdir()
    for path in slices[:2]:
        shutil.copy(path, tmp_path / "in")
    few = apply("denoise", tmp_path / "in")
    shutil.copy(slices[2], tmp_path / "in")
    more = apply("denoise", tmp_path / "in")
    assert (more.counts["written"], more.counts["there"]) == (3, 0)
    assert len({Path(one).parent for one in (*few.results(), *more.results())}) == 2


def test_a_ct_series_that_grew_keeps_what_was_made(apply: Apply, sites: Path, tmp_path: Path) -> None:
    slices = sorted(series_of(sites, "H7").glob("*.dcm"))
    (tmp_path / "in").mkdir()
    shutil.copy(slices[0], tmp_path / "in")
    apply("denoise", tmp_path / "in")
    for path in slices:
        shutil.copy(path, tmp_path / "in")
    more = apply("denoise", tmp_path / "in")
    assert (more.counts["written"], more.counts["there"]) == (2, 1)
    assert len({Path(one).parent for one in more.results()}) == 1


# --- what is no image for the model -----------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_others(apply: Apply, sites: Path, tmp_path: Path) -> None:
    shutil.copytree(series_of(sites), tmp_path / "in")
    bad, *good = sorted((tmp_path / "in").glob("*.dcm"))
    bad.write_bytes(bad.read_bytes()[:-2000])
    for _ in range(2):  # the second run says the same
        done = apply("denoise", tmp_path / "in")
        assert done.counts["failed"] == 1
        assert done.counts["written"] + done.counts["there"] == len(good)
        (record,) = [one for one in done.records if one.status == "failed"]
        assert (record.path, record.reason) == (bad.name, "its pixels cannot be decoded")


@pytest.mark.parametrize("task", ["denoise", "superres", "segment"])
@pytest.mark.parametrize("times", [1e12, float("nan")])
def test_what_a_broken_model_makes_is_no_image(
    models: dict[str, Model], sites: Path, tmp_path: Path, task: str, times: float
) -> None:
    """Weights may be numbers and make none, and a slice that is black or white all over would look like a result."""
    broken = copy.deepcopy(models[task].network)
    for weights in broken.parameters():
        weights.data *= times
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
        model = replace(models[task], network=broken)
        done = enhance_folder(series_of(sites), tmp_path / "out", model=model, log=log, reports=tmp_path / "reports")
    assert {one.status for one in done.records} == {"failed"}
    assert {one.reason for one in done.records} == {
        "what the model makes of it is no image; evaluate the model before it is used"
    }
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_what_the_model_is_not_for_is_passed_over_and_listed(apply: Apply, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "notes.txt").write_text("not DICOM")
    for name in ("MR_small.dcm", "CT_small.dcm", "rtplan.dcm"):
        shutil.copy(example(name), source)
    shutil.copy(example("MR_small_RLE.dcm"), source / "z-the-same.dcm")
    for number, (name, value) in enumerate(
        (
            ("ImageType", ["ORIGINAL", "PRIMARY", "P"]),
            ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            ("PhotometricInterpretation", "MONOCHROME1"),
        )
    ):
        ds = pydicom.dcmread(example("MR_small.dcm"))
        setattr(ds, name, value)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        ds.save_as(source / f"{number}.dcm")
    done = apply("superres", source)
    found = {one.path: one.reason for one in done.records if one.status == "skipped"}
    assert found == {
        "notes.txt": "it is no DICOM file",
        "CT_small.dcm": "the model is not for CT",
        "rtplan.dcm": "it is neither an MR nor a CT image",
        "z-the-same.dcm": "another file is the same instance",
        "0.dcm": "it is no magnitude image",
        "1.dcm": "it is a localizer",
        "2.dcm": "it is not in shades of grey with 0 for black",
    }
    assert done.counts == {"written": 1, "there": 0, "skipped": 7, "failed": 0}
    report = json.loads(done.path.read_text())
    assert {row["path"] for row in report["files"]} == {*found, "MR_small.dcm"}
    assert done.path.stat().st_mode & 0o077 == 0


def test_a_file_name_that_is_no_text_stands_in_the_report(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(example("MR_small.dcm"), os.fsencode(tmp_path / "in") + b"/m\xfcller.dcm")
    done = apply("denoise", tmp_path / "in")
    assert done.counts["written"] == 1
    assert json.loads(done.path.read_text("utf-8"))["files"][0]["path"] == r"m\udcfcller.dcm"


def test_a_ct_image_that_is_not_in_hounsfield_units_is_passed_over(apply: Apply, tmp_path: Path) -> None:
    ds = pydicom.dcmread(example("CT_small.dcm"))
    ds.RescaleType = "Z_EFF"
    ds.save_as(tmp_path / "z.dcm")
    with pytest.raises(DataError, match="Hounsfield"):
        apply("denoise", tmp_path / "z.dcm")


@pytest.mark.parametrize("change", ["rows", "bits", "high bit", "slope", "uid", "length"])
def test_a_header_that_contradicts_the_pixels_is_a_line_of_the_report(
    apply: Apply, tmp_path: Path, change: str
) -> None:
    ds = pydicom.dcmread(example("CT_small.dcm"))
    match change:
        case "rows":
            ds.Rows = 4096
        case "bits":
            ds.BitsStored = 0
        case "high bit":
            ds.HighBit = 11
        case "slope":
            ds.RescaleSlope = 0
        case "length":
            pass  # below, in the bytes
        case _:
            ds.StudyInstanceUID = "../../../etc"
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "bad.dcm")
    if change == "length":
        raw = (tmp_path / "in" / "bad.dcm").read_bytes()
        (tmp_path / "in" / "bad.dcm").write_bytes(
            raw.replace(b"\x02\x00\x00\x00UL\x04\x00", b"\x02\x00\x00\x00UL\x03\x00", 1)
        )
    shutil.copy(example("MR_small.dcm"), tmp_path / "in")
    done = apply("denoise", tmp_path / "in")
    assert done.counts == {"written": 1, "there": 0, "skipped": 0, "failed": 1}


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("Rows", "its pixels are not described"),
        ("BitsAllocated", "its pixels are not described"),
        ("SeriesInstanceUID", "its UIDs are none"),
    ],
)
def test_a_header_that_lacks_what_is_needed_is_told_as_that(
    apply: Apply, tmp_path: Path, keyword: str, reason: str
) -> None:
    ds = pydicom.dcmread(example("CT_small.dcm"))
    delattr(ds, keyword)
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "bad.dcm")
    shutil.copy(example("MR_small.dcm"), tmp_path / "in")
    failed = [one.reason for one in apply("denoise", tmp_path / "in").records if one.status == "failed"]
    assert failed == [reason]


def test_too_many_pixels_are_refused_before_they_are_read(
    apply: Apply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.enhance.found.MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(DataError, match="more pixels"):
        apply("denoise", example("MR_small.dcm"))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_input_and_output_are_apart(apply: Apply, sites: Path, tmp_path: Path) -> None:
    shutil.copytree(series_of(sites), tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "in" / "out", tmp_path):
        with pytest.raises(UsageError):
            apply("denoise", tmp_path / "in", out)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        apply("denoise", tmp_path / "in", tmp_path / "file")
    with pytest.raises(UsageError):
        apply("denoise", tmp_path / "nowhere")
    assert len(list((tmp_path / "in").iterdir())) == 3


def test_results_are_for_their_owner_alone(apply: Apply, sites: Path, tmp_path: Path) -> None:
    apply("denoise", series_of(sites))
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


# --- the record -------------------------------------------------------------------------------------------------------


def test_each_study_is_recorded_before_and_after_without_identifiers(
    apply: Apply, sites: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    done = apply("denoise", sites / "H2")
    rows = list(entries(tmp_path / "log.jsonl"))
    assert [(row["action"], row["outcome"]) for row in rows] == [("enhance", "started"), ("enhance", "ok")] * (
        len({one.split("/")[0] for one in done.results()})
    )
    assert sum(row["detail"].get("written", 0) for row in rows) == done.counts["written"]
    assert {row["detail"]["weights_sha256"] for row in rows} == {models["denoise"].digest}
    source = pydicom.dcmread(min((sites / "H2").rglob("*.dcm")))
    log = (tmp_path / "log.jsonl").read_text()
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert str(source[name].value).split("^")[0] not in log
    apply("denoise", sites / "H2")
    assert len(list(entries(tmp_path / "log.jsonl"))) == len(rows)  # nothing was done


def test_what_cannot_be_recorded_is_not_done(
    apply: Apply, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compliance.log.write_all", full)
    with pytest.raises(RecordError):
        apply("denoise", series_of(sites))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_the_run_and_is_recorded(
    apply: Apply, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("client.enhance.folder.write_bytes", full)
    with pytest.raises(OutputError):
        apply("denoise", series_of(sites))
    assert [row["outcome"] for row in entries(tmp_path / "log.jsonl")] == ["started", "failed"]
