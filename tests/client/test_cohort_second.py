"""The second contrast of a study in the cohort: found by its timing, registered, cached, or left out with a reason."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import safetensors.numpy

from client import cohort_second
from client.cohort import Cohort, build_cohort
from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.registration import Kind, Registered, Series, register
from compliance.log import AuditLog
from simulation.sites.contrasts import lying
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import second_move, synthesize

SEED = 5
SECOND_TIMES = {"EchoTime": 110.0, "RepetitionTime": 9000.0, "InversionTime": 2400.0}


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "log.jsonl", site="P2", subject_key=bytes(32))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital that takes T1 and FLAIR with other slices, de-identified; two patients of one visit each."""
    root = tmp_path_factory.mktemp("pairs")
    synthesize(root / "pacs", sites=choose_sites("P2"), patients=2, size=64, slices=12, seed=SEED, workers=1)
    deidentify_folder(
        root / "pacs",
        root / "released",
        profile=Profile.load("basic"),
        key=SiteKey.create(root / "site.key"),
        log=None,
        reports=root / "reports",
    )
    return root / "released"


def series(released: Path) -> dict[str, list[Path]]:
    """Files of images by series; the second contrast's are those with an inversion."""
    found: dict[str, list[Path]] = {}
    for path in sorted(released.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if header.Modality == "MR":
            found.setdefault(str(header.SeriesInstanceUID), []).append(path)
    return found


def second_series(released: Path) -> list[list[Path]]:
    return [files for files in series(released).values() if "InversionTime" in pydicom.dcmread(files[0])]


def alter(files: list[Path], change: Callable[[pydicom.Dataset], None]) -> None:
    for path in files:
        image = pydicom.dcmread(path)
        change(image)
        image.save_as(path)


def test_the_default_profile_leaves_what_tells_contrasts_apart(pairs: Path) -> None:
    files = second_series(pairs)
    assert len(files) == 2
    header = pydicom.dcmread(files[0][0], stop_before_pixels=True)
    assert {name: float(header[name].value) for name in SECOND_TIMES} == SECOND_TIMES


def test_a_second_contrast_comes_onto_the_grid_of_the_first_and_the_move_is_undone(
    pairs: Path, tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Series, Registered]] = []

    def spied(first: Series, second: Series, *, kind: Kind) -> Registered:
        seen.append((first, register(first, second, kind=kind)))
        return seen[-1][1]

    monkeypatch.setattr(cohort_second, "register", spied)
    cohort = build_cohort(pairs, tmp_path / "cohort", log=log)
    assert not cohort.no_second
    moves, errors = [second_move(SEED, choose_sites("P2")[0], number) for number in range(2)], []
    for first, found in seen:
        points = np.argwhere(first.values > np.percentile(first.values, 60))[::50, ::-1].astype(float)
        places = points @ first.affine[:3, :3].T + first.affine[:3, 3]
        # Which patient it is nobody can tell any more: the nearer of the two moves.
        own = min(moves, key=lambda move: np.linalg.norm(found.where(places) - lying(places, move), axis=1).mean())
        before, after = (
            np.linalg.norm(one - lying(places, own), axis=1).mean() for one in (places, found.where(places))
        )
        errors.append((before, after))
    assert all(before > 3 and after < 2 for before, after in errors), errors
    for entry in cohort.entries:
        (images,) = cohort.load(entry.key).studies
        assert images.second is not None
        assert images.second.dtype == np.float32
        assert images.second.shape == images.noisy.shape
        assert 0 <= images.second.min() < images.second.max() <= 1
        assert entry.studies[0].blank().second is not None
        fluid, white = (images.second[images.label == one].mean() for one in (1, 3))
        assert fluid < white  # FLAIR: fluid is dark where the labels of the first have it
    assert [study["second"] for row in index_of(cohort) for study in row["studies"]] == ["rigid"] * 2
    assert "no_second" not in (cohort.folder / "index.json").read_text()


def index_of(cohort: Cohort) -> list[dict[str, list[dict[str, object]]]]:
    rows: list[dict[str, list[dict[str, object]]]] = json.loads((cohort.folder / "index.json").read_bytes())["patients"]
    return rows


def test_what_was_registered_is_not_registered_again_unless_as_another_kind(
    pairs: Path, tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_cohort(pairs, tmp_path / "cohort", log=log)
    asked: list[Kind] = []

    def spied(first: Series, second: Series, *, kind: Kind) -> Registered:
        asked.append(kind)
        return register(first, second)

    monkeypatch.setattr(cohort_second, "register", spied)
    assert build_cohort(pairs, tmp_path / "cohort", log=log).entries == first.entries
    assert not asked
    again = build_cohort(pairs, tmp_path / "cohort", log=log, registration="affine")
    assert asked == ["affine"] * 2
    assert {study.second for entry in again.entries for study in entry.studies} == {"affine"}
    assert [entry.split for entry in again.entries] == [entry.split for entry in first.entries]


def blanked(image: pydicom.Dataset) -> None:
    image.PixelData = bytes(len(image.PixelData))


def scrambled(image: pydicom.Dataset) -> None:
    values = np.random.default_rng(int(image.InstanceNumber)).integers(0, 4095, image.pixel_array.shape)
    image.PixelData = values.astype("<u2").tobytes()


@pytest.mark.parametrize(("change", "reason"), [(blanked, "blank"), (scrambled, cohort_second.UNCERTAIN)])
def test_a_second_contrast_that_cannot_be_registered_is_left_out_and_counted_and_the_study_stays(
    pairs: Path, tmp_path: Path, log: AuditLog, change: Callable[[pydicom.Dataset], None], reason: str
) -> None:
    copy = shutil.copytree(pairs, tmp_path / "copy")
    alter(second_series(copy)[0], change)
    for _ in range(2):  # the second time from the cache
        cohort = build_cohort(copy, tmp_path / "cohort", log=log)
        assert not cohort.left_out
        ((why, count),) = cohort.no_second.items()
        assert (reason in why, count) == (True, 1)
        assert Cohort.open(cohort.folder).no_second == cohort.no_second
        assert sorted(study.second for entry in cohort.entries for study in entry.studies) == ["", "rigid"]
    assert json.loads((cohort.folder / "index.json").read_bytes())["no_second"] == dict(cohort.no_second)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert rows[-1]["detail"]["no_second"] == 1


def test_a_series_of_the_same_contrast_or_one_that_says_nothing_or_was_computed_is_no_second(
    pairs: Path, tmp_path: Path, log: AuditLog
) -> None:
    def like_the_first(image: pydicom.Dataset) -> None:
        image.EchoTime, image.RepetitionTime = 13, 640
        del image.InversionTime

    def silent(image: pydicom.Dataset) -> None:
        image.EchoTime = None

    def computed(image: pydicom.Dataset) -> None:
        image.ImageType = ["DERIVED", "SECONDARY"]

    for number, change in enumerate((like_the_first, silent, computed)):
        copy = shutil.copytree(pairs, tmp_path / f"copy{number}")
        for files in second_series(copy):
            alter(files, change)
        cohort = build_cohort(copy, tmp_path / f"cohort{number}", log=log)
        assert not cohort.no_second
        assert {study.second for entry in cohort.entries for study in entry.studies} == {""}


def test_the_pair_is_of_one_contrast_though_the_second_has_the_same_slices(
    pairs: Path, tmp_path: Path, log: AuditLog
) -> None:
    plain = build_cohort(pairs, tmp_path / "plain", log=log)
    copy = shutil.copytree(pairs, tmp_path / "copy")
    for files in second_series(copy):
        study = files[0].parent.parent
        first = next(other for other in series(study).values() if other != files)
        for path, like in zip(by_height(files), by_height(first), strict=True):
            place = pydicom.dcmread(like, stop_before_pixels=True).ImagePositionPatient
            image = pydicom.dcmread(path)
            image.ImagePositionPatient, image.NumberOfAverages = place, 64
            image.save_as(path)
    built = build_cohort(copy, tmp_path / "cohort", log=log)
    for before, after in zip(plain.entries, built.entries, strict=True):
        one, other = (cohort.load(entry.key).studies[0] for cohort, entry in ((plain, before), (built, after)))
        assert np.array_equal(one.noisy, other.noisy)
        assert np.array_equal(one.reference, other.reference)


def by_height(files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda p: float(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]))


def test_a_study_without_a_second_contrast_has_the_name_the_bytes_and_the_row_that_it_had(
    pairs: Path, tmp_path: Path, log: AuditLog
) -> None:
    """Held against the form of the cache before there were second contrasts."""
    released = shutil.copytree(pairs, tmp_path / "released")
    for files in second_series(released):
        shutil.rmtree(files[0].parent)
    cohort = build_cohort(released, tmp_path / "cohort", log=log)
    text = (cohort.folder / "index.json").read_text()
    assert "second" not in text
    for entry in cohort.entries:
        for study in entry.studies:
            uids: dict[str, list[str]] = {}
            for path in (released / entry.key).rglob("*.dcm"):
                header = pydicom.dcmread(path, stop_before_pixels=True)
                uids.setdefault(str(header.StudyInstanceUID), []).append(str(header.SOPInstanceUID))
            digests = {uid: hashlib.sha256("|".join(sorted(own)).encode()).hexdigest() for uid, own in uids.items()}
            names = {hashlib.sha256(f"{uid}|{own}".encode()).hexdigest()[:24] for uid, own in digests.items()}
            assert study.file.removesuffix(".safetensors") in names
            arrays = safetensors.numpy.load_file(cohort.folder / "images" / study.file)
            assert set(arrays) == {"noisy", "reference", "label"}
            assert set(study.row()) == {
                *("file", "modality", "slices", "height", "width", "spacing", "labelled", "source", "sha256"),
            }
