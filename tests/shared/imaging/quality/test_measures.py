"""All measures of a study together: a perfect result is perfect, and a planted lesion shows where it should."""

import numpy as np
import pytest

from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums
from shared.imaging.quality.measures import MEASURES, Judge, figures
from shared.imaging.tasks import get_task, task_names
from tests.shared.imaging.phantoms import study


def dimmed(images: StudyImages) -> StudyImages:
    """With room above white matter for a bright lesion."""
    return StudyImages(
        images.modality,
        np.float32(0.6) * images.noisy,
        np.float32(0.6) * images.reference,
        images.label,
        images.spacing,
    )


@pytest.mark.parametrize("name", ["denoise", "superres", "segment"])
def test_the_truth_itself_has_the_ideal_value_of_every_measure(name: str) -> None:
    task, images = get_task(name), study(64, 64, slices=2)
    truth = task.truth(images)
    probabilities = np.moveaxis(np.eye(4, dtype=np.float32)[truth], -1, 1) if name == "segment" else None
    found = figures(task, Judge(task, images, 5.0).score(truth, probabilities).sums)
    assert found == {measure: pytest.approx(MEASURES[measure].ideal, abs=1e-6) for measure in found}
    assert list(found) == [measure for measure in MEASURES if measure in found]
    assert len(found) >= 7


@pytest.mark.parametrize("name", ["denoise", "superres"])
def test_a_lesion_planted_into_the_output_is_one_spot_added_in_each_slice(name: str) -> None:
    task, images = get_task(name), dimmed(study(96, 96, slices=2, sigma=0.04))
    y, x = np.mgrid[:96, :96]
    lesion = (0.3 * np.exp(-((y - 50) ** 2 + (x - 44) ** 2) / (2 * 2.5**2))).astype(np.float32)
    judge = Judge(task, images)
    outputs = (images.reference, images.reference + lesion)
    clean, planted = (figures(task, judge.score(output).sums) for output in outputs)
    assert (clean["added"], clean["lost"]) == (0, 0)
    assert (planted["added"], planted["lost"]) == (1, 0)
    assert planted["consistency"] > 1.5
    assert judge.spots(images.reference + lesion, 0).added[0].size == 2.5


def test_sums_of_studies_weigh_every_slice_alike() -> None:
    task = get_task("denoise")
    few, many = study(48, 48, slices=1, sigma=0.1), study(48, 48, slices=3, sigma=0.02, seed=1)
    sums = [Judge(task, images).score(images.noisy).sums for images in (few, many)]
    apart = [figures(task, one)["psnr"] for one in sums]
    assert figures(task, sum(sums, start=Sums.zero()))["psnr"] == pytest.approx((apart[0] + 3 * apart[1]) / 4)


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_measured_on_images_of_any_size(name: str) -> None:
    task, images = get_task(name), study(45, 50, slices=2, sigma=0.05)
    judge = Judge(task, images)
    perfect = figures(task, judge.score(task.truth(images)).sums)
    assert judge.source.shape == (2, 45, 50)
    assert perfect[task.main_metric] == (100.0 if task.main_metric == "psnr" else 1.0)
    assert perfect.get("consistency", 1.0) <= 1.0
    for method in task.classical().values():
        assert figures(task, judge.score(method(images)).sums)[task.main_metric] < perfect[task.main_metric]


def test_every_task_has_its_measures_and_each_says_what_it_is() -> None:
    for name in task_names():
        assert get_task(name).main_metric in MEASURES
    assert all(one.definition.endswith(".") and one.title for one in MEASURES.values())
