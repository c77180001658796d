"""The cohort: pairs of series from real de-identified DICOM, split by patient, cached, and never leaking a patient."""

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import laplace

from client import cohort as cohorts
from client.cohort import Cohort, Split, build_cohort
from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.splits import assigned
from compliance.log import AuditLog
from shared.errors import DataError
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.client.fractions import in_fractions


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals' images, one MR and one CT, de-identified into one folder."""
    root = tmp_path_factory.mktemp("cohort")
    synthesize(root / "pacs", sites=choose_sites("H1,H7"), patients=3, size=64, slices=3, seed=5, workers=1)
    deidentify_folder(
        root / "pacs",
        root / "released",
        profile=Profile.load("basic"),
        key=SiteKey.create(root / "site.key"),
        log=None,
        reports=root / "reports",
    )
    return root / "released"


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=bytes(32))


@pytest.fixture
def cohort(released: Path, tmp_path: Path, log: AuditLog) -> Cohort:
    return build_cohort(released, tmp_path / "cohort", log=log)


def test_every_study_gives_a_pair_and_its_labels(cohort: Cohort) -> None:
    assert len(cohort.entries) == 6
    assert not cohort.left_out
    for entry in cohort.entries:
        for study in cohort.load(entry.key).studies:
            assert study.noisy.dtype == study.reference.dtype == np.float32
            assert 0 <= study.noisy.min() <= study.noisy.max() <= 1
            assert study.label is not None
            assert set(np.unique(study.label)) <= {0, 1, 2, 3}
            assert study.spacing[0] > 0


def test_the_input_is_the_noisier_series_of_the_same_slices(cohort: Cohort) -> None:
    for entry in cohort.entries:
        for study in cohort.load(entry.key).studies:
            # The air of an MR corner holds nothing but noise; in CT air is clipped, so look at the middle of the body.
            place = slice(0, 8) if study.modality == "MR" else slice(24, 40)
            rough, smooth = (np.abs(laplace(image[1, place, place])).mean() for image in (study.noisy, study.reference))
            assert rough > smooth
            assert np.corrcoef(study.noisy.ravel(), study.reference.ravel())[0, 1] > 0.8


def test_the_label_lies_on_its_own_slice(cohort: Cohort) -> None:
    for entry in cohort.entries:
        for study in cohort.load(entry.key).studies:
            assert study.label is not None
            if study.modality == "MR":  # in T1 white matter (3) is brighter than fluid (1) in every slice
                for image, label in zip(study.reference, study.label, strict=True):
                    assert image[label == 3].mean() > image[label == 1].mean()


@pytest.mark.control("GDPR-5-1-c-minimisation")
def test_reading_the_cohort_needs_no_dicom(released: Path, tmp_path: Path, log: AuditLog) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    built = build_cohort(copy, tmp_path / "cohort", log=log)
    shutil.rmtree(copy)
    for key in built.patients(Split.TRAIN):
        assert Cohort.open(tmp_path / "cohort").load(key).slices >= 3


def test_what_is_cached_is_not_read_again(
    released: Path, tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_cohort(released, tmp_path / "cohort", log=log)
    monkeypatch.setattr(cohorts, "_pixels", lambda _: pytest.fail("pixels were read again"))
    assert build_cohort(released, tmp_path / "cohort", log=log).entries == first.entries


@pytest.mark.control("MODEL-held-out")
def test_a_patient_is_on_one_side_with_all_studies(cohort: Cohort) -> None:
    train, held = set(cohort.patients(Split.TRAIN)), set(cohort.patients(Split.HELD_OUT))
    assert not train & held
    assert train | held == {entry.key for entry in cohort.entries}
    assert len(held) == 2
    assert max(len(entry.studies) for entry in cohort.entries) > 1


@pytest.mark.control("MODEL-held-out")
@given(
    known=st.dictionaries(st.text(min_size=1), st.sampled_from(Split), max_size=20),
    new=st.sets(st.text(min_size=1), max_size=20),
    holdout=st.floats(0, 0.9),
)
def test_the_split_never_moves_a_patient_and_depends_on_nothing_but_pseudonyms(
    known: dict[str, Split], new: set[str], holdout: float
) -> None:
    patients = sorted(set(known) | new)
    split = assigned(patients, known, holdout)
    assert set(split) == set(patients)
    assert all(split[key] is side for key, side in known.items())
    assert assigned(patients, split, holdout) == split
    assert assigned(patients, {}, holdout) == assigned(list(reversed(patients)), {}, holdout)


@given(patients=st.sets(st.text(min_size=1), min_size=3, max_size=40), holdout=st.floats(0.05, 0.5))
def test_a_share_of_the_patients_is_held_out(patients: set[str], holdout: float) -> None:
    split = assigned(sorted(patients), {}, holdout)
    held = sum(side is Split.HELD_OUT for side in split.values())
    assert held == max(1, round(holdout * len(patients)))


def test_a_study_without_a_pair_is_left_out_with_the_reason(released: Path, tmp_path: Path, log: AuditLog) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    study = sorted(path for path in copy.glob("*/*") if path.is_dir())[0]
    for path in study.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        for name in ("NumberOfAverages", "Exposure"):
            if name in image:
                delattr(image, name)
        image.save_as(path)
    built = build_cohort(copy, tmp_path / "cohort", log=log)
    assert built.left_out == {"no two series of the same slices that differ in acquisition effort": 1}


def test_nothing_usable_is_one_line_that_says_why(tmp_path: Path, log: AuditLog) -> None:
    (tmp_path / "released").mkdir()
    with pytest.raises(DataError, match="can be used"):
        build_cohort(tmp_path / "released", tmp_path / "cohort", log=log)
    assert not (tmp_path / "cohort" / "index.json").exists()


@pytest.mark.control("HIPAA-164.312-c-integrity", "MODEL-provenance")
def test_a_damaged_cache_or_index_is_said(cohort: Cohort) -> None:
    entry = cohort.entries[0]
    (cohort.folder / "images" / entry.studies[0].file).write_bytes(b"not tensors")
    with pytest.raises(DataError, match="were changed"):
        cohort.load(entry.key)
    (cohort.folder / "images" / entry.studies[0].file).unlink()
    with pytest.raises(DataError, match="cannot read"):
        cohort.load(entry.key)
    (cohort.folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Cohort.open(cohort.folder)
    with pytest.raises(DataError, match="no cohort"):
        Cohort.open(cohort.folder / "elsewhere")


def test_building_again_mends_a_damaged_cache(cohort: Cohort, released: Path, log: AuditLog) -> None:
    entry = cohort.entries[0]
    (cohort.folder / "images" / entry.studies[0].file).write_bytes(b"not tensors")
    again = build_cohort(released, cohort.folder, log=log)
    assert again.load(entry.key).slices == 3 * len(entry.studies)
    assert again.entries == cohort.entries


def test_a_broken_file_among_the_released_is_named(released: Path, tmp_path: Path, log: AuditLog) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    (copy / "broken.dcm").write_bytes(b"DICM?")
    with pytest.raises(DataError, match=r"broken\.dcm is not a released DICOM file"):
        build_cohort(copy, tmp_path / "cohort", log=log)


@pytest.mark.control("GDPR-5-1-c-minimisation")
def test_the_index_holds_no_header_but_the_pseudonym(cohort: Cohort, released: Path) -> None:
    text = (cohort.folder / "index.json").read_text()
    uids = {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in released.rglob("*.dcm")}
    assert not [uid for uid in uids if uid in text]
    assert {row["key"] for row in json.loads(text)["patients"]} == {path.name for path in released.iterdir()}


def test_building_is_recorded_before_and_after(cohort: Cohort, log: AuditLog, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    built = [row for row in rows if row["action"] == "cohort.build"]
    assert [row["outcome"] for row in built] == ["started", "ok"]
    assert built[-1]["detail"]["patients"] == 6


def test_classes_follow_the_coded_type_of_a_segment_and_not_its_number(
    released: Path, tmp_path: Path, log: AuditLog, cohort: Cohort
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    for path in copy.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        if image.Modality == "SEG":  # exchange the meaning of the first two segments
            first, second = image.SegmentSequence[0], image.SegmentSequence[1]
            kinds = first.SegmentedPropertyTypeCodeSequence, second.SegmentedPropertyTypeCodeSequence
            second.SegmentedPropertyTypeCodeSequence, first.SegmentedPropertyTypeCodeSequence = kinds
            image.save_as(path)
    changed = build_cohort(copy, tmp_path / "changed", log=log)
    for entry in cohort.entries:
        for before, after in zip(cohort.load(entry.key).studies, changed.load(entry.key).studies, strict=True):
            assert before.label is not None
            assert after.label is not None
            assert np.array_equal(after.label, np.array([0, 2, 1, 3])[before.label])


def test_probabilities_are_no_labels_and_the_record_says_so(released: Path, tmp_path: Path, log: AuditLog) -> None:
    copy = shutil.copytree(released, tmp_path / "copy")
    path = next(p for p in sorted(copy.rglob("*.dcm")) if pydicom.dcmread(p, stop_before_pixels=True).Modality == "SEG")
    in_fractions(path)
    for _ in range(2):  # the second time from the cache
        cohort = build_cohort(copy, tmp_path / "cohort", log=log)
        assert cohort.no_labels == Cohort.open(cohort.folder).no_labels == 1
        assert sorted(study.labelled for entry in cohort.entries for study in entry.studies) == [False] + [True] * 7
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert rows[-1]["detail"]["segmentations_no_labels"] == 1


# --- studies without a reference --------------------------------------------------------------------------------------


@pytest.fixture
def lone(released: Path, tmp_path: Path) -> Path:
    """The released files; of one patient without the series of the greater effort."""
    folder = shutil.copytree(released, tmp_path / "lone")
    chosen = min(path for path in folder.iterdir() if path.is_dir())
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in chosen.rglob("*.dcm")}
    efforts = {path: float(one.get("NumberOfAverages") or one.get("Exposure") or 0) for path, one in headers.items()}
    for path, effort in efforts.items():
        alike = [efforts[p] for p, one in headers.items() if one.StudyInstanceUID == headers[path].StudyInstanceUID]
        if effort > min(one for one in alike if one > 0):
            path.unlink()
    return folder


def test_a_study_without_a_reference_is_left_out_unless_it_is_asked_for(
    lone: Path, tmp_path: Path, log: AuditLog
) -> None:
    plain = build_cohort(lone, tmp_path / "plain", log=log)
    assert sum(plain.left_out.values()) > 0
    whole = build_cohort(lone, tmp_path / "whole", log=log, unpaired=True)
    assert not whole.left_out
    rows = [(entry.key, study) for entry in whole.entries for study in entry.studies]
    single = {key for key, study in rows if not study.paired}
    assert len(single) == 1
    assert len(whole.entries) == len(plain.entries) + 1
    loaded = whole.load(single.pop())
    for images in loaded.studies:
        assert not images.paired
        assert images.noisy.shape[0] == 3
        assert images.noisy.std() > 0.05
    text = (tmp_path / "plain" / "index.json").read_text()
    assert "paired" not in text
    assert Cohort.open(tmp_path / "whole").entries == whole.entries
    assert build_cohort(lone, tmp_path / "whole", log=log).entries == whole.entries
