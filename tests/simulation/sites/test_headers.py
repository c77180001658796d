"""What the files say about the patient, and where."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from simulation.sites.headers import (
    PRIVATE_CREATOR,
    PRIVATE_GROUP,
    age_at,
    clock,
    draw_person,
    draw_visits,
)
from simulation.sites.specs import SITES, UNSEEN, SiteSpec
from simulation.sites.synthesize import Synthesized


@pytest.fixture(scope="module")
def first_slices(hospitals: Synthesized) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(hospitals.out.rglob("002/001.dcm"))]


def depth(ds: Dataset) -> int:
    return 1 + max((depth(item) for e in ds if e.VR == "SQ" for item in e.value), default=0)


def texts(ds: Dataset) -> Iterator[str]:
    for element in ds.iterall():
        if element.VR not in {"SQ", "OW", "UI"}:
            yield str(element.value)


def test_the_name_is_where_real_headers_hold_it(first_slices: list[Dataset]) -> None:
    for ds in first_slices:
        holding = [text for text in texts(ds) if str(ds.PatientName) in text or ds.PatientID in text]
        assert len(holding) >= 6
        private = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        plain = private[0x10].value
        assert sum(plain in text for text in texts(ds)) >= 6  # free text on several levels
        assert private[0x12].value[0].private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x10].value.startswith(plain)


def test_sequences_nest_three_deep(first_slices: list[Dataset]) -> None:
    for ds in first_slices:
        assert depth(ds) >= 4  # the data set itself and three levels of items
        context = ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].ProtocolContextSequence[0]
        assert context.ConceptNameCodeSequence[0].CodeMeaning == "Remark"


def test_names_in_other_scripts_survive_their_character_set(hospitals: Synthesized) -> None:
    scripts = defaultdict(set)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(hospitals.out.rglob("*.dcm")):
            ds = pydicom.dcmread(path)
            scripts[path.relative_to(hospitals.out).parts[0]].add(str(ds.PatientName))
            assert "�" not in " ".join(texts(ds))
    for site in ("H1", "H3", "H4", "H6", "H8", "X1", "X2"):
        assert any(not name.isascii() for name in scripts[site]), site


def test_somebody_is_past_ninety(first_slices: list[Dataset]) -> None:
    old = {ds.PatientID for ds in first_slices if int(ds.PatientAge[:3]) > 89}
    assert len(old) >= len(SITES + UNSEEN)


def test_age_birth_and_study_agree(first_slices: list[Dataset]) -> None:
    for ds in first_slices:
        birth, study = (date.fromisoformat(value) for value in (ds.PatientBirthDate, ds.StudyDate))
        assert int(ds.PatientAge[:3]) == age_at(birth, study)


def test_studies_spread_over_years(first_slices: list[Dataset]) -> None:
    assert len({ds.StudyDate[:4] for ds in first_slices}) >= 5


@given(birth=st.dates(date(1900, 1, 1), date(2000, 1, 1)), years=st.integers(0, 110))
def test_one_ages_on_the_birthday(birth: date, years: int) -> None:
    when = date(birth.year + years, 3, 1)
    assert age_at(birth, when) == years - (birth.month > 3 or (birth.month == 3 and birth.day > 1))


@given(st.integers(0, 24 * 3600 - 1))
def test_times_are_dicom_times(seconds: int) -> None:
    text = clock(seconds)
    assert int(text[:2]) * 3600 + int(text[2:4]) * 60 + int(text[4:]) == seconds


def test_a_third_of_the_patients_come_again() -> None:
    counts = [len(draw_visits(np.random.default_rng(index), index)) for index in range(60)]
    assert sum(count > 1 for count in counts) == 20
    assert set(counts) == {1, 2, 3}


@given(seed=st.integers(0, 2**32 - 1))
def test_follow_ups_are_later(seed: int) -> None:
    days = [visit.day for visit in draw_visits(np.random.default_rng(seed), 5)]
    assert days == sorted(set(days))


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 20), site=st.sampled_from(SITES + UNSEEN))
def test_identifiers_fit_their_elements(seed: int, index: int, site: SiteSpec) -> None:
    """PS3.5 table 6.2-1: the short strings hold 16 characters."""
    person = draw_person(np.random.default_rng(seed), site, index)
    assert len(person.phone) <= 16
    assert len(person.address) <= 64
    assert 0.5 < person.height < 2.5


def test_two_patients_never_share_an_identifier(hospitals: Synthesized) -> None:
    folders = [path for site in hospitals.out.iterdir() if site.is_dir() for path in site.iterdir()]
    assert len({path.name for path in folders}) == hospitals.patients
    assert all(isinstance(path, Path) for path in folders)
