"""A folder: every file has its line, one bad file stops nothing, and what is done is recorded before it is done."""

import json
import os
import stat
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from client.deid import Profile, Status, deidentify_folder
from client.deid.batch import BATCH
from compliance.log import AuditLog, verify
from shared.errors import DataError, OutputError, RecordError, UsageError
from tests.client.deid.files import KEY, OTHER_KEY, image, to_bytes


class Place:
    """Folders of one test."""

    def __init__(self, root: Path) -> None:
        self.source, self.out, self.reports = root / "in", root / "out", root / "reports"
        self.source.mkdir()

    def add(self, name: str, content: bytes) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def outputs(self) -> dict[str, bytes]:
        return {str(one.relative_to(self.out)): one.read_bytes() for one in self.out.rglob("*") if one.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(place: Place, profile: Profile, **options: object) -> object:
    settings: dict[str, object] = {"profile": profile, "key": KEY, "log": None, "reports": place.reports} | options
    return deidentify_folder(place.source, place.out, **settings)  # type: ignore[arg-type]


def test_every_file_has_a_line(place: Place, basic: Profile) -> None:
    place.add("Roe Jane/a.dcm", to_bytes(image()))
    place.add("notes.txt", b"Jane Roe came late")
    place.add("picture.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 200)
    place.add("empty", b"")
    place.add("cut.dcm", to_bytes(image(number=2))[:-10])
    place.add("report.dcm", to_bytes(image(sop_class="1.2.840.10008.5.1.4.1.1.88.11", number=3)))
    (place.source / "loop").symlink_to(place.source)
    os.mkfifo(place.source / "pipe")
    report = run(place, basic)
    records = {record.path: record for record in report.records()}
    assert report.counts == {"files": 8, "released": 1, "quarantined": 1, "refused": 6}
    assert {path: record.status for path, record in records.items()} == {
        "Roe Jane/a.dcm": Status.RELEASED, "notes.txt": Status.REFUSED, "picture.jpg": Status.REFUSED,
        "empty": Status.REFUSED, "cut.dcm": Status.REFUSED, "report.dcm": Status.QUARANTINED,
        "loop": Status.REFUSED, "pipe": Status.REFUSED,
    }  # fmt: skip
    assert "JPEG" in records["picture.jpg"].reason
    assert "truncated" in records["cut.dcm"].reason
    assert records["report.dcm"].reason == "a structured report"
    assert records["Roe Jane/a.dcm"].rules["pseudonym"] == 2
    assert len(place.outputs()) == 1


def test_the_report_is_json_with_a_line_per_file(place: Place, basic: Profile) -> None:
    for number in range(3):
        place.add(f"{number}.dcm", to_bytes(image(number=number)))
    report = run(place, basic)
    text = report.path.read_text()
    assert json.loads(text)["profile_sha256"] == basic.sha256
    assert json.loads(text)["counts"] == report.counts
    assert sum('"input"' in line for line in text.splitlines()) == 3
    assert stat.S_IMODE(report.path.stat().st_mode) == 0o600
    assert "Roe" not in text
    assert "MRN" not in text


def test_workers_come_to_the_same_result(place: Place, basic: Profile, tmp_path: Path) -> None:
    for number in range(20):
        place.add(f"{number:02d}.dcm", to_bytes(image(number=number)))
    place.add("99.txt", b"no")
    alone = run(place, basic)
    lines = alone.path.read_text()
    outputs = place.outputs()
    place.out, place.reports = tmp_path / "out2", tmp_path / "reports2"
    together = run(place, basic, workers=2)
    assert together.path.read_text() == lines
    assert place.outputs() == outputs


def test_a_second_run_writes_the_same_files_again(place: Place, basic: Profile) -> None:
    place.add("a.dcm", to_bytes(image()))
    run(place, basic)
    before = place.outputs()
    place.add("b.dcm", to_bytes(image(number=2)))
    run(place, basic)
    assert before.items() <= place.outputs().items()
    assert len(place.outputs()) == 2


@pytest.mark.control("HIPAA-164.514-c-pseudonyms")
def test_another_key_gives_other_names(place: Place, basic: Profile) -> None:
    place.add("a.dcm", to_bytes(image()))
    run(place, basic)
    run(place, basic, key=OTHER_KEY)
    [first, second] = place.outputs()
    assert not set(Path(first).parts) & set(Path(second).parts)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_instance_twice(place: Place, basic: Profile, workers: int) -> None:
    """The same file again is the same release; another content under one UID waits for a person."""
    other = image(number=1)
    other.PixelData = b"\1\0" * 16
    place.add("a.dcm", to_bytes(image()))
    place.add("b.dcm", to_bytes(image()))
    place.add("c.dcm", to_bytes(other))
    report = run(place, basic, workers=workers)
    assert [record.status for record in report.records()] == [Status.RELEASED, Status.RELEASED, Status.QUARANTINED]
    [content] = place.outputs().values()
    assert pydicom.dcmread(next(place.out.rglob("*.dcm"))).PixelData == image().PixelData
    assert content


def test_progress_is_told(place: Place, basic: Profile) -> None:
    for number in range(3):
        place.add(f"{number}.dcm", to_bytes(image(number=number)))
    told: list[tuple[int, int]] = []
    run(place, basic, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_to_do_leaves_nothing_behind(place: Place, basic: Profile) -> None:
    with pytest.raises(DataError, match="holds no files") as caught:
        run(place, basic)
    assert caught.value.exit_code == 4
    place.add("a.jpg", b"\xff\xd8\xff" + b"\0" * 300)
    place.add("b.jpg", b"\xff\xd8\xff" + b"\0" * 300)
    place.add("c.pdf", b"%PDF-1.7")
    with pytest.raises(DataError, match="2 x JPEG picture, 1 x PDF document") as caught:
        run(place, basic)
    assert caught.value.hint
    assert not place.out.exists()
    assert not place.reports.exists()


@pytest.mark.parametrize("which", ["same", "inside", "around", "reports", "reports inside"])
def test_folders_that_overlap_are_wrong_use(place: Place, basic: Profile, which: str) -> None:
    place.add("a.dcm", to_bytes(image()))
    match which:
        case "same":
            place.out = place.source
        case "inside":
            place.out = place.source / "out"
        case "around":
            place.out = place.source.parent
        case "reports inside":
            place.reports = place.source / "reports"
        case _:
            place.reports = place.out / "reports"
    with pytest.raises(UsageError):
        run(place, basic)
    assert sorted(path.name for path in place.source.iterdir()) == ["a.dcm"]


def test_a_missing_folder_is_wrong_use(tmp_path: Path, basic: Profile) -> None:
    with pytest.raises(UsageError, match="no folder"):
        deidentify_folder(tmp_path / "none", tmp_path / "out", profile=basic, key=KEY, log=None, reports=tmp_path / "r")


def test_an_output_that_takes_nothing_stops_the_batch(place: Place, basic: Profile) -> None:
    place.add("a.dcm", to_bytes(image()))
    place.out.write_text("a file where the folder should be")
    with pytest.raises(OutputError):
        run(place, basic)
    assert not place.reports.exists()


@pytest.mark.control("HIPAA-164.312-b-audit")
def test_the_record_comes_first_and_names_nobody(place: Place, basic: Profile, tmp_path: Path) -> None:
    for number in range(BATCH + 3):
        place.add(f"Roe{number:03d}.dcm", to_bytes(image(number=number)))
    path = tmp_path / "audit" / "log.jsonl"
    with AuditLog(path, site="H1", subject_key=b"s" * 32) as log:
        report = run(place, basic, log=log)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert verify(path).entries == 4
    assert [(row["action"], row["outcome"]) for row in rows] == [("deidentify", "started"), ("deidentify", "ok")] * 2
    assert [row["detail"]["files"] for row in rows] == [BATCH, BATCH, 3, 3]
    assert sum(row["detail"]["released"] for row in rows[1::2]) == report.released
    assert Counter(row["detail"]["profile_sha256"] for row in rows) == {basic.sha256: 4}
    assert "Roe" not in path.read_text()
    assert "FW" not in path.read_text()


def test_names_that_are_no_text(place: Place, basic: Profile, tmp_path: Path) -> None:
    (place.source / os.fsdecode(b"M\xfcller.txt")).write_text("no DICOM")
    place.add("a.dcm", to_bytes(image()))
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"s" * 32) as log:
        report = run(place, basic, log=log)
    assert report.counts == {"files": 2, "released": 1, "quarantined": 0, "refused": 1}
    assert "M\udcfcller.txt" in {record.path for record in report.records()}


def test_without_a_record_nothing_happens(place: Place, basic: Profile, tmp_path: Path) -> None:
    place.add("a.dcm", to_bytes(image()))
    log = AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"s" * 32)
    log.close()
    with pytest.raises((RecordError, ValueError)):
        run(place, basic, log=log)
    assert not place.out.exists()
