"""What erasure and rectification mean for the next ingest, with real DICOM."""

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from client.cohort import Split, build_cohort
from client.consenting import withdraw
from client.deid import Profile
from client.eligible import eligible
from client.ingest import Ingested, ingest
from client.lineage import Lineage
from client.manifest import checked, index_digest, read_manifest, write_manifest
from client.node import HELD, Node
from client.records import pseudonym_of, read_register
from client.rights import erase, rectify
from client.sources.folder import Folder
from client.sources.selection import Selection
from tests.federation import toy


@pytest.fixture
def source(images: Path, tmp_path: Path) -> Path:
    """Two MR studies of two patients; one file waits for a person."""
    folder: Path = tmp_path / "in"
    shutil.copytree(images / "H1", folder)
    first = sorted(folder.rglob("*.dcm"))[0]
    burned = pydicom.dcmread(first)
    burned.ImageType = ["DERIVED", "SECONDARY", "REPORT"]
    burned.save_as(first)
    return folder


def take_in(node: Node, source: Path) -> Ingested:
    return ingest(node, Folder(source), Selection(), profile=Profile.load("basic"))


def ids(source: Path) -> list[str]:
    return [str(pydicom.dcmread(path, stop_before_pixels=True).PatientID) for path in sorted(source.rglob("*.dcm"))]


def keys(done: Ingested) -> set[str]:
    return {entry.key for entry in done.cohort.entries}


@pytest.mark.control("GDPR-17-erasure")
def test_an_erased_patient_is_not_taken_in_again_also_with_a_new_study(node: Node, source: Path) -> None:
    number, other = ids(source)[0], ids(source)[-1]
    patient = pseudonym_of(node, number)
    done = take_in(node, source)
    assert len(list((node.folder / HELD).rglob("*.dcm"))) == 1
    assert patient in keys(done) | {patient}
    out = erase(node, patient, who="Ada")
    assert out is not None
    assert (out.taken_out.held, out.taken_out.unread) == (1, 0)
    for path in node.folder.rglob("*"):
        assert patient not in str(path)
        assert not path.is_file() or (patient.encode() not in path.read_bytes()), path
    for path in source.rglob("*.dcm"):  # the archive gets another study of each
        header = pydicom.dcmread(path)
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(header, name, generate_uid(entropy_srcs=[header[name].value]))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.save_as(path)
    again = take_in(node, source)
    assert keys(again) == {pseudonym_of(node, other)}
    assert not (node.folder / "released" / patient).exists()
    assert not list((node.folder / HELD).rglob("*.dcm"))
    refusals = [row for row in toy.log_rows(node.folder) if row["action"] == "refusal"]
    assert [row["detail"]["reason"] for row in refusals] == ["erased"]
    assert take_in(node, source).tally.unchanged == 2, "what was turned away is not fetched again"


def test_rectified_studies_come_back_and_the_patient_takes_part_again(node: Node, source: Path) -> None:
    number = ids(source)[-1]
    patient = pseudonym_of(node, number)
    toy.with_basis(node.folder)
    first = take_in(node, source)
    side = next(entry.split for entry in first.cohort.entries if entry.key == patient)
    assert rectify(node, patient, who="Ada").studies == 1
    assert eligible((patient,), node) == ()
    for path in source.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        if str(header.PatientID) == number:
            header.PatientSex = "O"
            header.save_as(path)
    again = take_in(node, source)
    assert again.tally.fetched > 0
    assert next(entry.split for entry in again.cohort.entries if entry.key == patient) is side
    assert eligible((patient,), node) == (patient,)
    assert not read_register(node)[0].patients


@pytest.mark.control("MODEL-provenance")
def test_an_ingest_writes_the_manifest_and_knows_whose_its_studies_are(node: Node, source: Path) -> None:
    done = take_in(node, source)
    made = read_manifest(node)
    assert made is not None
    assert made.index == index_digest(node)
    assert made.body["counts"]["patients"] == len(done.cohort.entries)
    assert [(one["source"], one["studies"]) for one in made.body["sources"]] == [("folder", 2)]
    assert {row["patient"] for row in Lineage(node).taken()} == {pseudonym_of(node, one) for one in ids(source)}
    assert not checked(node, done.cohort)
    rows = [row["detail"] for row in toy.log_rows(node.folder) if row["action"] == "dataset.manifest"]
    assert rows[-1]["manifest"] == made.digest
    others = made.for_others()
    assert others["counts"] == dict.fromkeys(("patients", "train", "held_out", "eligible"), "fewer than 10")
    withdraw(node, done.cohort.entries[0].key)
    with node.open_log() as log:
        now = write_manifest(node, log)
    assert now.for_others()["counts"] == others["counts"], "one withdrawal does not show"


@pytest.mark.control("MODEL-held-out")
def test_a_patient_who_leaves_the_archive_and_comes_back_is_on_the_side_where_he_was(node: Node, images: Path) -> None:
    first = take_in(node, images / "H1")
    patient = first.cohort.entries[-1].key
    index = node.folder / "cohort" / "index.json"
    # As if each had been held out: whoever is new would be in training, as there are two.
    index.write_text(index.read_text().replace('"train"', '"held_out"'))
    away = node.folder / "released" / patient
    with node.open_log() as log:
        kept = shutil.move(away, node.folder.parent / "away")
        without = build_cohort(node.folder / "released", node.folder / "cohort", log=log)
        assert patient not in {entry.key for entry in without.entries}
        shutil.move(kept, away)
        back = build_cohort(node.folder / "released", node.folder / "cohort", log=log)
    assert next(entry.split for entry in back.entries if entry.key == patient) is Split.HELD_OUT
