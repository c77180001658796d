"""The checker catches an engine that forgot a rule: each rule is switched off in turn, on a file that needs it."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset

from client.deid import Profile, Status
from client.deid.check import Facts, Finding, Kind, check, reason
from client.deid.known import Known
from tests.attacks.deid.planting import Hospital, ct, data
from tests.attacks.deid.test_leaks import load_research

Change = Callable[[FileDataset], object]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    folder = tmp_path_factory.mktemp("expert")
    return {"research": load_research(folder)} | {name: Profile.load(name) for name in ("basic", "safe-harbor")}


def original() -> FileDataset:
    dataset = ct()
    dataset.StudyDate, dataset.ContentDate, dataset.StudyTime = "20240229", "20240301", "101112"
    dataset.PatientAge = "093Y"
    return dataset


def released(profile: Profile, folder: Path) -> FileDataset:
    hospital = Hospital(folder, profile)
    hospital.add("slice", original())
    assert hospital.release().released == 1
    return hospital.datasets()[0]


def findings(profile: Profile, folder: Path, change: Change) -> set[Kind]:
    """What the checker says of a file that came out of the engine and was changed afterwards."""
    out = released(profile, folder)
    change(out)
    known, facts = Known.of(data(original())), Facts.of(profile)
    return {one.kind for one in check(data(out), known, facts)}


def nested(tag: int, vr: str, value: object) -> Change:
    def change(dataset: FileDataset) -> None:
        inner = Dataset()
        inner.add_new(tag, vr, value)
        outer = Dataset()
        outer.AnatomicRegionModifierSequence = [inner]
        dataset.AnatomicRegionSequence = [outer]

    return change


def put(tag: int, vr: str, value: object) -> Change:
    return lambda dataset: dataset.add_new(tag, vr, value)


def meta(dataset: FileDataset) -> None:
    dataset.file_meta.SourceApplicationEntityTitle = "SCANNER"


def preamble(dataset: FileDataset) -> None:
    dataset.preamble = b"Mustermann".ljust(128, b"\0")


def private(dataset: FileDataset) -> None:
    dataset.private_block(0x0019, "ACME 1.1", create=True).add_new(1, "DS", "1")


def behind(dataset: FileDataset) -> None:
    dataset.PixelData += b"more"


def in_pixels(dataset: FileDataset) -> None:
    dataset.PixelData = b"Mustermann".ljust(128, b"\1")


SWITCHED_OFF: dict[str, tuple[Change, Kind]] = {
    "preamble": (preamble, Kind.PREAMBLE),
    "file meta information": (meta, Kind.META),
    "patient's name": (put(0x00100010, "PN", "Someone^Else"), Kind.PERSON),
    "name in an item": (nested(0x0040A123, "PN", "Someone^Else"), Kind.PERSON),
    "Patient ID": (put(0x00100020, "LO", "77-12"), Kind.IDENTIFIER),
    "institution": (put(0x00080080, "LO", "Some Hospital"), Kind.IDENTIFIER),
    "address in an item": (nested(0x00101040, "LO", "Some Street 1"), Kind.IDENTIFIER),
    "known name in a version": (put(0x00181020, "LO", "v1 of MUSTERMANN's"), Kind.KNOWN),
    "known number in a comment": (nested(0x00080104, "LO", "see PID 4711/0815"), Kind.KNOWN),
    "known name in a table": (nested(0x00283006, "OW", b"\1\2Mustermann\3\4"), Kind.KNOWN),
    "known name in the pixels": (in_pixels, Kind.KNOWN),
    "UIDs": (put(0x0020000D, "UI", "1.2.826.0.1.4711.1"), Kind.UID),
    "UIDs in references": (nested(0x00081155, "UI", "1.2.826.0.1.4711.3.1"), Kind.UID),
    "dates": (put(0x00080020, "DA", "20240229"), Kind.DATE),
    "dates in items": (nested(0x0040A121, "DA", "20240301"), Kind.DATE),
    "dates in text": (put(0x00181020, "LO", "built 2024-02-29"), Kind.DATE),
    "ages": (put(0x00101010, "AS", "093Y"), Kind.AGE),
    "private": (private, Kind.PRIVATE),
    "overlays": (put(0x60003000, "OW", b"\0\0"), Kind.OVERLAY),
    "curves": (put(0x50003000, "OW", b"\0\0"), Kind.OVERLAY),
    "padding": (put(0xFFFCFFFC, "OB", b"\0\0"), Kind.STRUCTURE),
    "icons": (put(0x00880200, "SQ", []), Kind.STRUCTURE),
    "unknown values": (put(0x00187773, "UN", b"what is it"), Kind.UNKNOWN),
    "addresses": (put(0x00181020, "LO", "ask a@hospital.example"), Kind.ADDRESS),
    "bytes behind the pixels": (behind, Kind.PIXELS),
    "a document": (put(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.104.1"), Kind.DOCUMENT),
    "the marker": (put(0x00120062, "CS", "NO"), Kind.MARKER),
    "the method": (put(0x00120063, "LO", "another"), Kind.MARKER),
    "the codes": (put(0x00120064, "SQ", []), Kind.MARKER),
    "what was done to dates": (put(0x00280303, "CS", "UNMODIFIED"), Kind.MARKER),
    "what is said of burned-in text": (put(0x00280301, "CS", "YES"), Kind.MARKER),
}


@pytest.mark.control("HIPAA-164.514-b2-checker")
@pytest.mark.parametrize("profile", ["basic", "safe-harbor", "research"])
@pytest.mark.parametrize("rule", SWITCHED_OFF)
def test_an_engine_with_a_rule_switched_off_is_caught(
    profiles: dict[str, Profile], tmp_path: Path, profile: str, rule: str
) -> None:
    change, kind = SWITCHED_OFF[rule]
    assert kind in findings(profiles[profile], tmp_path, change)


@pytest.mark.parametrize("profile", ["basic", "safe-harbor", "research"])
def test_what_the_engine_made_passes(profiles: dict[str, Profile], tmp_path: Path, profile: str) -> None:
    assert not findings(profiles[profile], tmp_path, lambda _: None)


@pytest.mark.control("HIPAA-164.514-b2-C-dates")
def test_dates_that_moved_apart_are_caught(profiles: dict[str, Profile], tmp_path: Path) -> None:
    """Intervals count: two dates of one patient move by the same days."""

    def change(dataset: FileDataset) -> None:
        day = int(dataset.ContentDate[-2:])
        dataset.ContentDate = dataset.ContentDate[:-2] + f"{day % 28 + 1:02d}"

    assert findings(profiles["research"], tmp_path, change) == {Kind.DATE}


@pytest.mark.control("HIPAA-164.514-b2-checker")
def test_an_engine_that_does_nothing_is_caught(profiles: dict[str, Profile]) -> None:
    content = data(original())
    for profile in profiles.values():
        kinds = {one.kind for one in check(content, Known.of(content), Facts.of(profile))}
        assert kinds >= {Kind.PERSON, Kind.IDENTIFIER, Kind.UID, Kind.DATE, Kind.MARKER, Kind.KNOWN}


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ("ISO_IR 100", "Müßiggang^Jürgen"), ("ISO_IR 144", "Люксембург^Роза"), ("ISO_IR 126", "Διονυσίου^Νίκος"),
        ("ISO 2022 IR 87", "山田^太郎"), ("GB18030", "王小东^李"), ("ISO_IR 192", "홍길동^Ångström"),
    ],
)  # fmt: skip
def test_names_of_every_character_set(profiles: dict[str, Profile], tmp_path: Path, declared: str, name: str) -> None:
    before = original()
    before.SpecificCharacterSet = declared if not declared.startswith("ISO 2022") else ["", declared]
    before.PatientName = name
    out = released(profiles["basic"], tmp_path)
    out.SpecificCharacterSet = "ISO_IR 192"
    out.SoftwareVersions = f"for {name.split('^', maxsplit=1)[0]} "
    found = check(data(out), Known.of(data(before)), Facts.of(profiles["basic"]))
    assert Finding(Kind.KNOWN, 0x00181020) in found


@pytest.mark.control("HIPAA-164.514-b2-checker")
def test_a_hit_quarantines_the_file_with_kind_and_tag(
    profiles: dict[str, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine forgets to look into free text: nothing comes out, and the report says why without the value."""
    monkeypatch.setattr("client.deid.state.FileState.identifies", lambda *_: False)
    hospital = Hospital(tmp_path, profiles["basic"])
    dataset = original()
    dataset.SoftwareVersions = "MUSTERMANN 7"
    hospital.add("slice", dataset)
    report = hospital.release()
    assert (report.released, report.quarantined) == (0, 1)
    [record] = report.records()
    assert record.status is Status.QUARANTINED
    assert "an identifier of the input at (0018,1020)" in record.reason
    assert "mustermann" not in record.reason.lower()
    assert report.rules["check_known"] >= 1
    assert not hospital.released()


def test_names_of_files_are_looked_at(profiles: dict[str, Profile], tmp_path: Path) -> None:
    out = data(released(profiles["basic"], tmp_path))
    known, facts = Known.of(data(original())), Facts.of(profiles["basic"])
    assert check(out, known, facts, "FW1/2/3/Mustermann.dcm") == (Finding(Kind.NAME),)


def test_what_cannot_be_read_again_does_not_go_out(profiles: dict[str, Profile], tmp_path: Path) -> None:
    out = data(released(profiles["basic"], tmp_path))
    facts = Facts.of(profiles["basic"])
    assert check(out[:100], Known(), facts) == (Finding(Kind.UNREADABLE),)
    assert check(out, Known.of(b"no DICOM"), facts) == (Finding(Kind.UNREADABLE),)
    assert check(out, replace(Known(), readable=False), facts) == (Finding(Kind.UNREADABLE),)


def test_a_reason_is_short(profiles: dict[str, Profile]) -> None:
    many = [Finding(Kind.DATE, tag) for tag in range(1, 9)]
    assert reason(many).endswith("and 5 more")
    assert pydicom.dcmread(io.BytesIO(data(original()))).PatientID not in reason(many)
