"""Documents, reports and indexes that name the patient: none comes out, whatever class they claim to be."""

import time
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from client.deid import Profile, Status
from tests.attacks.deid.planting import TELLING, Hospital, ct, data, found
from tests.attacks.deid.test_hostile import MOST_SECONDS

PDF = b"%PDF-1.4 (Mustermann, Erika) "
CDA = b"<ClinicalDocument><patient>Mustermann</patient></ClinicalDocument>"
NAMES = {
    "ISO_IR 100": "Müstermann^Jürgen", "ISO_IR 101": "Łukaszewicz^Żaneta", "ISO_IR 144": "Люксембург^Роза",
    "ISO_IR 126": "Διονυσίου^Νίκος", "GB18030": "王小东^李", "ISO_IR 192": "홍길동^Ångström",
}  # fmt: skip


def document(sop_class: str, content: bytes) -> FileDataset:
    dataset = ct(2)
    dataset.SOPClassUID = sop_class
    dataset.EncapsulatedDocument = content + b" " * (len(content) % 2)
    dataset.DocumentTitle = "letter on Mustermann"
    return dataset


def report() -> FileDataset:
    dataset = ct(2)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", "Mrs Mustermann was seen"
    dataset.ContentSequence = Sequence([item])
    return dataset


def index() -> FileDataset:
    dataset = ct(2)
    record = Dataset()
    record.DirectoryRecordType, record.PatientName = "PATIENT", "Mustermann^Erika"
    dataset.DirectoryRecordSequence = Sequence([record])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    return dataset


HELD = {
    "PDF": document("1.2.840.10008.5.1.4.1.1.104.1", PDF),
    "CDA": document("1.2.840.10008.5.1.4.1.1.104.2", CDA),
    "structured report": report(),
    "DICOMDIR": index(),
}


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("profile", ["basic", "safe-harbor"])
def test_they_are_held(tmp_path: Path, kind: str, profile: str) -> None:
    hospital = Hospital(tmp_path, Profile.load(profile))
    hospital.add("good", ct())
    hospital.add("held", HELD[kind])
    outcome = hospital.release()
    statuses = {record.path: record.status for record in outcome.records()}
    assert statuses == {"good": Status.RELEASED, "held": Status.QUARANTINED}
    everything = b"".join(content + name.encode() for name, content in hospital.released().items())
    assert not found(everything, [one.encode() for one in TELLING])


@pytest.mark.parametrize("profile", ["basic", "safe-harbor"])
def test_documents_inside_an_image_do_not_come_out(tmp_path: Path, profile: str) -> None:
    """The class says CT; a PDF, a CDA, a content tree and directory records stand in it all the same."""
    hospital = Hospital(tmp_path, Profile.load(profile))
    dataset = ct()
    dataset.EncapsulatedDocument, dataset.DocumentTitle = PDF + b" ", "letter"
    dataset.ContentSequence = report().ContentSequence
    inner = Dataset()
    inner.add_new(0x00420011, "OB", CDA)
    dataset.AnatomicRegionSequence = [inner]
    hospital.add("slice", dataset)
    assert hospital.release().released == 1
    [content] = hospital.released().values()
    assert not found(content, [b"Mustermann", b"%PDF", b"ClinicalDocument"])


@pytest.mark.parametrize("depth", [0, 1, 3, 8])
@pytest.mark.parametrize("declared", NAMES)
def test_names_in_six_character_sets_at_every_depth(tmp_path: Path, declared: str, depth: int) -> None:
    """In attributes that stay: the words of a code, and the version of a program."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.SpecificCharacterSet, dataset.PatientName = declared, NAMES[declared]
    family, _, given = NAMES[declared].partition("^")
    inner = Dataset()
    inner.SoftwareVersions, inner.Manufacturer = f"for {family}", f"{given}{family}"
    for _ in range(depth):
        outer = Dataset()
        outer.AnatomicRegionModifierSequence = [inner]
        inner = outer
    dataset.update(inner)
    hospital.add("slice", dataset)
    assert hospital.release().released == 1
    [content] = hospital.released().values()
    traces = [part.encode(codec) for part in (family, given) for codec in CODECS[declared]]
    assert found(data(dataset), traces), "the test itself must plant"
    assert not found(content, [trace for trace in traces if len(trace) > 2])


CODECS = {
    "ISO_IR 100": ("latin-1", "utf-8"), "ISO_IR 101": ("iso8859-2", "utf-8"), "ISO_IR 144": ("iso8859-5", "utf-8"),
    "ISO_IR 126": ("iso8859-7", "utf-8"), "GB18030": ("gb18030", "utf-8"), "ISO_IR 192": ("utf-8",),
}  # fmt: skip


def test_truncated_at_every_element(tmp_path: Path) -> None:
    """Cut at the first byte, behind the tag, behind the length and in the middle of the value of every element."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    whole = data(ct())
    cuts = set()
    for element in ct():
        tag = element.tag.group.to_bytes(2, "little") + element.tag.elem.to_bytes(2, "little")
        at = whole.find(tag, 132)
        cuts.update(at + step for step in (0, 2, 4, 6, 8, 9) if at > 0)
    for cut in sorted(cuts):
        hospital.add(f"cut{cut:05d}", whole[:cut])
    hospital.add("whole", whole)
    started = time.process_time()
    outcome = hospital.release()
    assert (time.process_time() - started) / outcome.files < MOST_SECONDS
    assert outcome.refused > 0.9 * len(cuts)
    assert not [
        content for content in hospital.released().values() if found(content, [one.encode() for one in TELLING])
    ]
