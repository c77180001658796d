"""Tasks that use neighbouring slices, one noisy series alone, or images that are partly hidden."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from shared.imaging import classical_volume
from shared.imaging.classical_denoise import background_sigma
from shared.imaging.denoise_volume import neighbours
from shared.imaging.hiding import CELL, SHARE, hidden_of
from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums
from shared.imaging.tasks import get_task, summarise
from tests.shared.imaging.phantoms import patient, study


def alone(images: StudyImages) -> StudyImages:
    """The study without its reference."""
    return replace(images, reference=images.reference[:0])


# --- neighbouring slices ----------------------------------------------------------------------------------------------


def test_each_slice_stands_between_its_neighbours_and_the_ends_are_repeated() -> None:
    stack = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    given = neighbours(stack)
    assert given.shape == (4, 5, 2, 3)
    assert given[:, :, 0, 0].tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert not given.flags.owndata


def test_a_patch_is_the_same_window_of_five_slices_and_the_reference_of_the_middle_one() -> None:
    images = study(60, 50, slices=4, sigma=0.0)
    numbered = replace(images, noisy=(images.noisy + np.arange(4, dtype=np.float32)[:, None, None]))
    numbered = replace(numbered, reference=numbered.noisy)
    inputs, targets = get_task("denoise_volume").draw(patient(numbered), 12, np.random.default_rng(0))
    torch.testing.assert_close(inputs[:, 2:3], targets)
    order = (inputs.amin(dim=(2, 3)) + 1e-6).floor()
    expected = {(0, 0, 0, 1, 2), (0, 0, 1, 2, 3), (0, 1, 2, 3, 3), (1, 2, 3, 3, 3)}
    assert {tuple(int(one) for one in row) for row in order} == expected


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_series_of_any_length_are_denoised(slices: int) -> None:
    task, images = get_task("denoise_volume"), study(24, 20, slices=slices)
    for name in task.networks:
        network = task.network(0, name)
        np.testing.assert_allclose(task.predict(network, images), images.noisy, atol=1e-6)
    for method in classical_volume.METHODS.values():
        assert method(images).shape == images.noisy.shape


def test_a_filter_of_the_volume_uses_what_neighbours_know() -> None:
    one = study(64, 64, slices=1, sigma=0.0)
    still = np.repeat(one.reference, 7, axis=0)
    noisy = np.clip(still + np.random.default_rng(0).normal(0, 0.08, still.shape), 0, 1).astype(np.float32)
    images = StudyImages("CT", noisy, still, None, (1.0, 1.0))
    task = get_task("denoise_volume")
    flat, volume = (
        summarise("denoise", task.score(task.classical()[name](images), images))["psnr"]
        for name in ("nlm", "nlm_volume")
    )
    assert volume > flat + 0.5


# --- no reference -----------------------------------------------------------------------------------------------------


def test_a_study_has_a_reference_of_every_slice_or_none() -> None:
    images = study()
    assert images.paired
    assert not alone(images).paired
    with pytest.raises(ValueError, match="alike"):
        replace(images, reference=images.reference[:1])
    with pytest.raises(ValueError, match="alike"):
        replace(images, reference=images.reference[:0, :5])


def test_studies_without_a_reference_are_for_the_tasks_that_need_none() -> None:
    images = alone(study())
    usable = {"denoise", "denoise_volume", "denoise_self", "superres", "segment", "masked"}
    assert {name for name in usable if get_task(name).eligible(images)} == {"denoise_self", "segment", "masked"}
    assert not get_task("denoise_self").judged(images)
    assert all(get_task(name).judged(images) for name in ("segment", "masked"))


def test_training_without_a_reference_reads_none_and_its_score_is_nothing() -> None:
    task, images = get_task("denoise_self"), study(80, 80)
    with_one, without = (task.draw(patient(one), 3, np.random.default_rng(0)) for one in (images, alone(images)))
    assert all(torch.equal(a, b) for a, b in zip(with_one, without, strict=True))
    predicted = task.predict(task.network(0), alone(images))
    nothing = task.score(predicted, alone(images))
    assert dict(nothing.values) == dict.fromkeys(task.sums, 0.0)
    whole = task.score(task.predict(task.network(0), images), images)
    assert (nothing + whole) == whole + Sums.zero()


def test_a_pair_are_neighbours_in_one_image_and_never_the_same_pixel() -> None:
    rows, columns = np.mgrid[0:96, 0:96].astype(np.float32)
    images = StudyImages("MR", np.stack([rows, columns]), np.zeros((0, 96, 96), np.float32), None, (1.0, 1.0))
    first, second = get_task("denoise_self").draw(patient(images), 6, np.random.default_rng(0))
    assert first.shape == second.shape == (6, 1, 48, 48)
    apart = (first - second).abs()
    assert set(apart.unique().tolist()) == {0.0, 1.0}  # of the two neighbours one is beside, the other below
    assert 0.4 < float(apart.mean()) < 0.6


def test_the_bias_of_mr_noise_is_taken_away_and_ct_is_left_as_it_is() -> None:
    task, images = get_task("denoise_self"), study(96, 96, sigma=0.08)
    network = task.network(0)
    air = images.label == 0
    made = task.predict(network, images)
    sigma = background_sigma(images.noisy[0])
    assert made[air].mean() < 0.6 * images.noisy[air].mean()
    assert made[0] == pytest.approx(np.sqrt(np.maximum(images.noisy[0] ** 2 - 2 * sigma**2, 0)), abs=1e-5)
    tomogram = replace(images, modality="CT")
    np.testing.assert_allclose(task.predict(network, tomogram), tomogram.noisy, atol=1e-6)


def test_a_mean_filter_is_better_than_nothing_where_noise_is_independent_and_seems_worse_where_it_is_not() -> None:
    task, rng = get_task("denoise_self"), np.random.default_rng(0)
    white = rng.normal(0, 1, (2, 128, 128))
    smooth = gaussian_filter(white, (0, 1.0, 1.0))
    gains = []
    for noise in (white, smooth):
        noisy = np.asarray(0.5 + 0.1 * noise / noise.std(), np.float32)
        inputs, targets = task.draw(patient(StudyImages("CT", noisy, noisy[:0], None, (1.0, 1.0))), 8, rng)
        mean = torch.nn.functional.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=False)
        assert float((mean - 0.5).square().mean()) < 0.5 * float((inputs - 0.5).square().mean())
        gains.append(float(task.loss(inputs, targets) - task.loss(mean, targets)))
    assert gains[0] > 0
    assert gains[1] < 0


# --- hidden parts -----------------------------------------------------------------------------------------------------


def test_as_much_of_every_patch_is_hidden_and_only_that_counts() -> None:
    task = get_task("masked")
    inputs, targets = task.draw(patient(study(120, 110)), 4, np.random.default_rng(0))
    whole, blank = targets[:, :1], targets[:, 1:]
    assert blank.mean(dim=(1, 2, 3)).tolist() == [SHARE] * 4
    torch.testing.assert_close(inputs, whole * (1 - blank))
    assert float(task.loss(whole + 7 * (1 - blank), targets)) == 0
    assert float(task.loss(whole + 2 * blank, targets)) == pytest.approx(4)


def test_what_is_hidden_when_it_is_judged_is_the_same_in_every_run_and_what_is_visible_stays() -> None:
    task, images = get_task("masked"), study(50, 41)
    blank = hidden_of(images)
    assert np.array_equal(blank, hidden_of(study(50, 41, seed=4)))
    assert (blank[:, :CELL, :CELL].min(axis=(1, 2)) == blank[:, :CELL, :CELL].max(axis=(1, 2))).all()
    network = task.network(0)
    made = task.predict(network, images)
    assert np.array_equal(made[~blank], task.truth(images)[~blank])
    assert not np.allclose(made[blank], task.truth(images)[blank])


def test_interpolation_fills_in_better_than_nothing() -> None:
    task, images = get_task("masked"), study(96, 96)
    score: Callable[[str], float] = lambda name: summarise(  # noqa: E731
        "masked", task.score(task.classical()[name](images), images)
    )["psnr"]
    assert score("interpolated") > score("masked") + 1
