"""Models that see two contrasts: the other one is found, registered and scaled as in training, and named."""

import hashlib
import json
import shutil
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.cohort import build_cohort
from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.enhance import beside
from client.enhance.folder import Enhanced, enhance_folder
from client.enhance.found import Status
from client.enhance.model import Model
from client.personal_models import PersonalModel, encoded, keep, now
from client.registration import Kind
from compliance.log import AuditLog
from shared.errors import DataError, UsageError
from shared.imaging.images import StudyImages
from shared.weights import weights_of
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.client.enhance.enhanced import enhanced_mr, written
from tests.client.enhance.test_images import complaints
from tests.client.enhance.test_series import model_of

SLICES = 12


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient of a hospital that takes T1, fast and good, and FLAIR with other slices; de-identified."""
    root = tmp_path_factory.mktemp("pairs")
    synthesize(root / "pacs", sites=choose_sites("P2"), patients=1, size=64, slices=SLICES, seed=5, workers=1)
    deidentify_folder(
        root / "pacs",
        root / "released",
        profile=Profile.load("basic"),
        key=SiteKey.create(root / "site.key"),
        log=None,
        reports=root / "reports",
    )
    return root / "released"


@pytest.fixture(scope="module")
def study(released: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyImages:
    """The same study as training sees it."""
    folder = tmp_path_factory.mktemp("cohort")
    with AuditLog(folder / "log.jsonl", site="P2", subject_key=bytes(32)) as log:
        cohort = build_cohort(released, folder / "cohort", log=log)
    (found,) = cohort.load(cohort.entries[0].key).studies
    assert found.second is not None
    return found


def series(released: Path) -> dict[str, Path]:
    """The folders of the three series."""
    found = {}
    for path in released.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if header.Modality == "MR":
            kind = "second" if "InversionTime" in header else f"averages {int(header.NumberOfAverages)}"
            found[kind] = path.parent
    first = min(name for name in found if name != "second")
    return {"first": found[first], "second": found["second"]}


def applied(
    model: Model, source: Path, second: Path | None, root: Path, *, kind: Kind = "rigid", fractional: bool = False
) -> Enhanced:
    root.mkdir(exist_ok=True)
    with AuditLog(root / "log.jsonl", site="P2", subject_key=bytes(32)) as log:
        return enhance_folder(
            source,
            root / "out",
            model=model,
            log=log,
            reports=root / "reports",
            second=second,
            kind=kind,
            fractional=fractional,
        )


def ordered(folder: Path) -> list[pydicom.Dataset]:
    return sorted((pydicom.dcmread(one) for one in folder.rglob("*.dcm")), key=lambda one: one.ImagePositionPatient[2])


def test_a_series_is_denoised_as_training_saw_it(released: Path, study: StudyImages, tmp_path: Path) -> None:
    """The folder of the second contrast is the whole study: the good series of the first contrast is not taken."""
    model, place = model_of("denoise_pair"), series(released)
    done = applied(model, place["first"], released, tmp_path)
    assert done.counts == {"written": SLICES, "there": 0, "skipped": 0, "failed": 0}
    wanted = model.task.predict(model.network, study)
    alone = model.task.predict(
        model.network, StudyImages("MR", study.noisy, study.noisy, None, (1, 1), np.zeros_like(study.noisy))
    )
    sources, made = ordered(place["first"]), ordered(tmp_path / "out")
    values = np.stack([one.pixel_array for one in sources])
    high = np.percentile(values, 99.5)
    assert np.abs(wanted - alone).max() * high > 5
    for index, one in enumerate(made):
        seen = values[index] < high
        assert np.abs(one.pixel_array - wanted[index] * high)[seen].max() <= 1.01


def test_a_result_names_its_own_slice_and_those_of_the_second_contrast_that_lie_behind(
    released: Path, tmp_path: Path
) -> None:
    place = series(released)
    applied(model_of("denoise_pair"), place["first"], place["second"], tmp_path)
    sources, others = ordered(place["first"]), [str(one.SOPInstanceUID) for one in ordered(place["second"])]
    for source, made in zip(sources, ordered(tmp_path / "out"), strict=True):
        own, *behind = made.SourceImageSequence
        assert own.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert "SpatialLocationsPreserved" not in own
        assert {one.SpatialLocationsPreserved for one in behind} == {"NO"}
        numbers = [others.index(one.ReferencedSOPInstanceUID) for one in behind]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert 2 <= len(numbers) <= 4
        assert "with a second contrast" in made.DerivationDescription
        assert made.SeriesInstanceUID not in {source.SeriesInstanceUID, others[0]}


@pytest.mark.parametrize("fractional", [False, True])
def test_a_series_is_segmented_as_training_saw_it(
    released: Path, study: StudyImages, tmp_path: Path, fractional: bool
) -> None:
    model, place = model_of("segment_pair"), series(released)
    (path,) = applied(model, place["first"], place["second"], tmp_path, fractional=fractional).results()
    seg = highdicom.seg.segread(tmp_path / "out" / path)
    sources = [str(one.SOPInstanceUID) for one in ordered(place["first"])]
    found = seg.get_pixels_by_source_instance(sources, combine_segments=not fractional, relabel=False)
    if not fractional:
        assert np.array_equal(found, model.task.predict(model.network, study))
    referred = {
        str(item.SeriesInstanceUID): {str(one.ReferencedSOPInstanceUID) for one in item.ReferencedInstanceSequence}
        for item in seg.ReferencedSeriesSequence
    }
    assert referred == {
        str(some[0].SeriesInstanceUID): {str(one.SOPInstanceUID) for one in some}
        for some in map(ordered, (place["first"], place["second"]))
    }


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("task", ["denoise_pair", "segment_pair"])
def test_dciodvfy_has_nothing_new_to_complain_of(released: Path, tmp_path: Path, task: str) -> None:
    place = series(released)
    before = complaints(next(place["first"].glob("*.dcm")))
    results = applied(model_of(task), place["first"], place["second"], tmp_path).results()
    assert results
    for path in results[:3]:
        assert complaints(tmp_path / "out" / path) <= before


def test_a_second_run_finds_what_is_there_and_another_second_contrast_makes_another_result(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, place = model_of("denoise_pair"), series(released)
    first = applied(model, place["first"], place["second"], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(beside, "taken", None)  # nothing is registered anew
        again = applied(model, place["first"], place["second"], tmp_path)
    assert again.counts["there"] == SLICES
    shutil.copytree(place["second"], tmp_path / "fewer")
    min((tmp_path / "fewer").glob("*.dcm"), key=lambda one: pydicom.dcmread(one).ImagePositionPatient[2]).unlink()
    fewer = applied(model, place["first"], tmp_path / "fewer", tmp_path)
    affine = applied(model, place["first"], place["second"], tmp_path, kind="affine")
    results = [set(one.results()) for one in (first, fewer, affine)]
    assert len(set.union(*results)) == 3 * SLICES


def test_how_many_contrasts_a_model_sees_must_fit(released: Path, tmp_path: Path) -> None:
    place = series(released)
    with pytest.raises(UsageError, match="sees two contrasts of a study") as caught:
        applied(model_of("segment_pair"), place["first"], None, tmp_path)
    assert "--second" in caught.value.hint
    with pytest.raises(UsageError, match="sees one series"):
        applied(model_of("denoise"), place["first"], place["second"], tmp_path)
    with pytest.raises(UsageError, match="there is no "):
        applied(model_of("denoise_pair"), place["first"], tmp_path / "nothing", tmp_path)
    with pytest.raises(UsageError, match="the output folder lies in"):
        applied(model_of("denoise_pair"), place["first"], tmp_path, tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_has_no_second_contrast_is_passed_over(released: Path, tmp_path: Path) -> None:
    model, place = model_of("denoise_pair"), series(released)
    with pytest.raises(DataError, match=beside.NONE_BESIDE):
        applied(model, place["first"], place["first"], tmp_path)
    written(enhanced_mr(), tmp_path / "in" / "many.dcm")
    shutil.copytree(place["first"], tmp_path / "in" / "first")
    done = applied(model, tmp_path / "in", released, tmp_path)
    assert done.counts == {"written": SLICES, "there": 0, "skipped": 1, "failed": 0}
    (many,) = (one for one in done.records if one.status is Status.SKIPPED)
    assert many.reason == beside.MANY_FRAMES


@pytest.mark.parametrize("fault", ["noise", "truncated", "uneven", "blank", "tiny", "spacing"])
def test_a_second_contrast_that_cannot_be_used_fails_the_series_and_says_why(
    released: Path, tmp_path: Path, fault: str
) -> None:
    place = series(released)
    shutil.copytree(place["second"], tmp_path / "second")
    noise = np.random.default_rng(3)
    for number, path in enumerate(sorted((tmp_path / "second").glob("*.dcm"))):
        image = pydicom.dcmread(path)
        if fault == "noise":
            image.PixelData = noise.integers(0, 1000, (image.Rows, image.Columns), np.uint16).tobytes()
        elif fault == "blank":
            image.PixelData = bytes(len(image.PixelData))
        elif fault == "tiny":
            image.PixelData = image.pixel_array[:9, :9].tobytes() + b"\0"
            image.Rows = image.Columns = 9
        elif fault == "spacing":
            image.PixelSpacing = [0, 0]
        elif fault == "truncated" and number == 0:
            image.PixelData = image.PixelData[:100]
        elif fault == "uneven" and number == 0:
            image.ImagePositionPatient = [*image.ImagePositionPatient[:2], image.ImagePositionPatient[2] + 1.7]
        image.save_as(path)
    done = applied(model_of("denoise_pair"), place["first"], tmp_path / "second", tmp_path)
    assert done.counts == {"written": 0, "there": 0, "skipped": 0, "failed": SLICES}
    (reason,) = {one.reason for one in done.records}
    assert {
        "noise": "with certainty",
        "truncated": "its second contrast: its pixels cannot be decoded",
        "uneven": "not a stack of even distances",
        "blank": "is blank",
        "tiny": "fewer than 16 rows",
        "spacing": "that no scanner has",
    }[fault] in reason
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_the_command_says_which_options_belong_together(released: Path, tmp_path: Path) -> None:
    words = ["enhance", "public-1", str(released), str(tmp_path / "out"), "--task", "denoise"]
    for more, told in ((["--affine"], "--affine belongs to"), (["--second", str(released)], "sees one series")):
        result = CliRunner().invoke(app, [*words, *more])
        assert isinstance(result.exception, UsageError)
        assert told in result.exception.message


def test_the_command_applies_a_hospitals_own_model_to_all_studies_of_a_folder(released: Path, tmp_path: Path) -> None:
    weights = encoded(weights_of(model_of("segment_pair").network))
    digest = hashlib.sha256(weights).hexdigest()
    own = tmp_path / "own"
    keep(
        own, PersonalModel("segment_pair", "run", digest, digest, 0.0, {"0": 0.8}, 1, "P2", "", now(), ("P",)), weights
    )
    place = series(released)
    words = ["enhance", str(own), str(place["first"]), str(tmp_path / "out"), "--second", str(released), "--affine"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.exception
    told = json.loads(result.stdout)
    assert (told["written"], told["results"], told["task"]) == (SLICES, 1, "segment_pair")
    (seg,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(seg).SegmentSequence[0].SegmentAlgorithmName == "fedward segment_pair"
    result = CliRunner().invoke(app, ["enhance", str(own), str(place["first"]), str(tmp_path / "out")])
    assert isinstance(result.exception, UsageError)
    assert "--second" in result.exception.hint
