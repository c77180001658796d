"""Random data sets around one patient: whatever stands where, the patient does not come out, and nothing falls over."""

import os
import random
import shutil
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from client.deid import Profile
from tests.attacks.deid.planting import Hospital, Secret, ct, data, found, nested, put

EXAMPLES = 1000 if os.environ.get("FEDWARD_DEEP") == "1" else 200
WORDS = st.text(string.ascii_letters, min_size=6, max_size=12)
NUMBERS = st.text(string.digits, min_size=7, max_size=12).map(lambda digits: f"7{digits}")
TEXT_VRS = {"LO", "SH", "ST", "LT", "UT", "UC", "PN", "AE"}
TAGS = sorted(tag for tag, entry in DicomDictionary.items() if entry[0] in TEXT_VRS | {"CS", "OB", "UN", "DS", "IS"})
SEQUENCES = sorted(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ" and tag >> 16 > 4)
AROUND = st.sampled_from(["{}", "x{}", "{}_3", "see {} again", "({})", "{}^{}", "- {} -"])
OWN = {*ct().keys(), 0x00280008}  # with another Number of Frames it is another image, and a truncated one


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A released file of somebody else: what stands there is about nobody."""
    hospital = Hospital(tmp_path_factory.mktemp("everywhere"), Profile.load("basic"))
    hospital.add("file", data(ct()))
    assert hospital.release().released == 1
    return next(iter(hospital.released().values())).lower()


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[str, str, str], bytes, list[bytes]]:
    """Who the patient is, the bytes of a file, and what must not come out."""
    family, given_name, number = draw(WORDS), draw(WORDS), draw(NUMBERS)
    dataset = ct(implicit=draw(st.booleans()))
    dataset.PatientName, dataset.PatientID = f"{family}^{given_name}", number
    for _ in range(draw(st.integers(1, 12))):
        tag = draw(st.sampled_from(TAGS))
        if tag in OWN or tag >> 16 in (0, 2, 4):
            continue
        vr = DicomDictionary[tag][0]
        shape = "{}" if vr in {"DS", "IS"} else draw(AROUND)
        secret = number if vr in {"DS", "IS"} else draw(st.sampled_from([family, given_name, number]))
        text = shape.replace("{}", secret.upper() if vr == "CS" else secret)
        value: object = text.encode() + b"\0" * (len(text) % 2) if vr in {"OB", "UN"} else text
        inner = Dataset()
        put(inner, Secret(tag, vr, value, ()))
        dataset.update(
            nested(inner, draw(st.integers(0, 5)), draw(st.lists(st.sampled_from(SEQUENCES), min_size=1, max_size=3)))
        )
    return (family, given_name, number), data(dataset), [one.encode() for one in (family, given_name, number)]


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
@pytest.mark.parametrize("profile", [Profile.load("basic")], ids=["basic"])
def test_no_identifier_of_the_patient_comes_out(
    tmp_path: Path, profile: Profile, everywhere: bytes, case: tuple[object, bytes, list[bytes]]
) -> None:
    _, content, traces = case
    root = tmp_path / "round"
    shutil.rmtree(root, ignore_errors=True)
    hospital = Hospital(root, profile)
    hospital.add("file", content)
    report = hospital.release()
    assert report.released == 1, next(report.records()).reason
    [result] = hospital.released().values()
    assert not found(result, [trace for trace in traces if trace.lower() not in everywhere])


def test_flipped_bytes_stop_nothing(tmp_path: Path) -> None:
    """Three hundred damaged files in one folder: each has its line, and the batch ends."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    rng = random.Random(20260101)
    dataset = ct()
    dataset.update(nested(Dataset(), 4, [0x00089215]))
    whole = bytearray(data(dataset))
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(132, len(damaged))] = rng.randrange(256)
        hospital.add(f"{number:03d}", bytes(damaged))
    report = hospital.release()
    assert report.files == 300
    assert "cannot be de-identified" not in (hospital.reports / "deid.json").read_text()


@pytest.mark.parametrize(
    "name", ["Fedward^Erika", "Removed^Urn", "Monochrome^Monochrome2", "Removed^Binary", "AAAAAA^REMOVE"]
)
def test_a_name_that_stands_in_every_released_file_holds_nobody_back(tmp_path: Path, name: str) -> None:
    dataset = ct()
    dataset.PatientName = name
    dataset.update(nested(Dataset(), 2, [0x00089215]))
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("file", data(dataset))
    report = hospital.release()
    assert report.released == 1, next(report.records()).reason
