"""An erased patient whose Patient ID the archive writes a little otherwise comes in again, with new studies."""

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from client.deid import Profile
from client.ingest import Ingested, ingest
from client.node import Node
from client.records import pseudonym_of
from client.rights import erase
from client.sources.folder import Folder
from client.sources.selection import Selection
from tests.client.sources.conftest import images

__all__ = ["images"]


def take_in(node: Node, source: Path) -> set[str]:
    done: Ingested = ingest(node, Folder(source), Selection(), profile=Profile.load("basic"))
    return {entry.key for entry in done.cohort.entries}


@pytest.mark.parametrize("how", ["same", "spaces behind", "spaces in front", "issuer", "nul"])
def test_an_erased_patient_is_turned_away_however_his_number_is_padded(
    images: Path,
    tmp_path: Path,
    how: str,
) -> None:
    """consent.md: the digest that stays "keeps the next ingest from taking him in again"; padding (PS3.5 6.2)."""
    source = Path(shutil.copytree(images / "H1", tmp_path / "in"))
    node = Node.create(tmp_path / "node", site="H1", purpose="tests")
    number = str(pydicom.dcmread(sorted(source.rglob("*.dcm"))[-1], stop_before_pixels=True).PatientID)
    before = take_in(node, source)
    assert pseudonym_of(node, number) in before
    assert erase(node, pseudonym_of(node, number), who="Ada") is not None
    for path in source.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(header, name, generate_uid(entropy_srcs=[header[name].value]))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        if str(header.PatientID) == number:
            if how == "issuer":
                header.IssuerOfPatientID = "another"
            else:
                ends = {"same": "", "spaces behind": "   ", "spaces in front": "", "nul": "\x00"}[how]
                header.PatientID = ("  " if how == "spaces in front" else "") + number + ends
        header.save_as(path)
    after = take_in(node, source)
    assert after == before - {pseudonym_of(node, number)}
