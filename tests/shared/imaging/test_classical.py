"""The methods without training, each on the image it was made for."""

import numpy as np
import pytest
from PIL import Image

from shared.imaging import classical
from shared.imaging.classical_denoise import background_sigma, noise_level, remove_rician_bias, texture_sigma
from shared.imaging.classical_segment import oracle_order
from shared.imaging.classical_superres import enlarge
from shared.imaging.degrade import add_rician_noise, kspace_downsample
from shared.imaging.images import StudyImages
from shared.imaging.tasks import get_task, summarise, task_names
from tests.shared.imaging.phantoms import band_limited, study
from tests.shared.imaging.test_degrade import centroid


def figure(name: str, method: str, images: StudyImages) -> float:
    task = get_task(name)
    return summarise(name, task.score(task.classical()[method](images), images))[task.main_metric]


def test_the_methods_of_each_task_in_the_order_of_tables_with_titles() -> None:
    keys = {name: list(get_task(name).classical()) for name in task_names()}
    assert keys["denoise"] == [
        "noisy", "histogram_equalisation", "clahe", "mean", "median", "gaussian", "butterworth", "wiener", "nlm",
        "nlm_rician", "tv",
    ]  # fmt: skip
    assert keys["denoise_self"] == keys["denoise_pair"] == keys["denoise"]
    assert keys["segment_pair"] == keys["segment"]
    assert keys["denoise_volume"] == [*keys["denoise"], "nlm_volume", "nlm_volume_rician"]
    assert keys["masked"] == ["masked", "interpolated"]
    assert keys["superres"] == ["bicubic", "lanczos", "zero_fill"]
    assert keys["segment"] == ["multi_otsu", "gmm", "gmm_brain"]
    assert set(classical.TITLES) == {key for methods in keys.values() for key in methods}
    assert classical.title("nlm") == "Non-local means"
    assert all("oracle" in classical.title(key) for key in keys["segment"])


@pytest.mark.parametrize("method", ["mean", "median", "gaussian", "butterworth", "wiener", "nlm", "tv"])
def test_every_filter_removes_noise_within_tissue(method: str) -> None:
    images = study(96, 96, sigma=0.08)
    inner = images.label == 3
    filtered = get_task("denoise").classical()[method](images)
    assert filtered[inner].std() < 0.8 * images.noisy[inner].std()


def test_the_noisy_input_is_returned_as_it_is() -> None:
    images = study()
    np.testing.assert_array_equal(get_task("denoise").classical()["noisy"](images), images.noisy)


def test_histogram_equalisation_spreads_the_grey_values_evenly() -> None:
    images = study(96, 96)
    ranks = np.sort(get_task("denoise").classical()["histogram_equalisation"](images)[0].ravel())
    np.testing.assert_allclose(ranks, np.linspace(0, 1, ranks.size), atol=0.02)


def test_the_noise_level_of_both_modalities_is_found() -> None:
    rng = np.random.default_rng(0)
    magnetic = study(128, 128, sigma=0.06)
    assert background_sigma(magnetic.noisy[0]) == pytest.approx(0.06, rel=0.1)
    flat = np.full((96, 96), 0.5) + rng.normal(scale=0.06, size=(96, 96))
    assert texture_sigma(flat.astype(np.float32)) == pytest.approx(0.06, rel=0.2)
    assert noise_level(flat.astype(np.float32), "CT") == texture_sigma(flat.astype(np.float32))


def test_a_slice_without_noise_is_left_alone() -> None:
    blank = np.zeros((1, 64, 64), np.float32)
    images = StudyImages("CT", blank, blank, None, (1.0, 1.0))
    for method in ("wiener", "nlm", "nlm_rician", "tv"):
        np.testing.assert_array_equal(get_task("denoise").classical()[method](images), blank)


@pytest.mark.parametrize("amplitude", [0.0, 0.1, 0.3])
def test_the_rician_correction_removes_the_bias_of_an_average(amplitude: float) -> None:
    sigma = 0.1
    noisy = add_rician_noise(np.full((1, 200, 200), amplitude, np.float32), sigma, np.random.default_rng(0))
    averaged = np.full((8, 8), np.sqrt(np.mean(noisy.astype(np.float64) ** 2)), np.float32)
    assert averaged.mean() > amplitude + 0.01
    assert remove_rician_bias(averaged, sigma).mean() == pytest.approx(amplitude, abs=0.02)


def test_the_rician_correction_helps_magnitudes_and_leaves_computed_tomography_alone() -> None:
    methods = get_task("denoise").classical()
    magnetic, computed = study(96, 96, sigma=0.08), study(96, 96, sigma=0.08, modality="CT")
    assert figure("denoise", "nlm_rician", magnetic) > figure("denoise", "nlm", magnetic) + 1
    np.testing.assert_array_equal(methods["nlm_rician"](computed), methods["nlm"](computed))


@pytest.mark.parametrize("kernel", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_interpolation_does_not_move_the_image(kernel: Image.Resampling) -> None:
    y, x = np.mgrid[0:64, 0:64]
    blob = np.exp(-((y - 20.3) ** 2 + (x - 41.7) ** 2) / (2 * 5.0**2))[None].astype(np.float32)
    large = enlarge(kspace_downsample(blob, 2), kernel)
    assert centroid(large[0]) == pytest.approx(centroid(blob[0]), abs=1e-3)
    np.testing.assert_allclose(large, blob, atol=0.02)


def test_zero_filling_restores_a_band_limited_study_up_to_the_noise() -> None:
    image = band_limited(64, 64)
    images = StudyImages("MR", image, image, None, (1.0, 1.0))
    # The noise of the low-resolution images, 0.01, is 40 dB.
    assert figure("superres", "zero_fill", images) == pytest.approx(40.0, abs=0.5)


def test_the_oracle_finds_the_best_names_whatever_the_order_of_the_clusters() -> None:
    truth = study(40, 40, slices=1).label[0]
    shuffled = np.array([2, 3, 0, 1])[truth]
    np.testing.assert_array_equal(oracle_order(shuffled, truth), truth)


def test_the_oracle_keeps_the_names_that_are_fixed() -> None:
    truth = np.array([[0, 1, 2, 3]], np.uint8)
    np.testing.assert_array_equal(oracle_order(np.array([[0, 3, 1, 2]]), truth, fixed=1), truth)
    assert oracle_order(np.array([[1, 0, 2, 3]]), truth, fixed=1)[0, 1] == 0


@pytest.mark.parametrize("method", ["multi_otsu", "gmm", "gmm_brain"])
def test_clusterings_find_tissues_of_distinct_brightness(method: str) -> None:
    assert figure("segment", method, study(80, 80, sigma=0.02)) > 0.85


def test_clusterings_of_a_blank_slice_call_it_background() -> None:
    blank = StudyImages(
        "MR", np.zeros((1, 32, 32), np.float32), np.zeros((1, 32, 32), np.float32),
        np.zeros((1, 32, 32), np.uint8), (1.0, 1.0),
    )  # fmt: skip
    for method in ("multi_otsu", "gmm_brain"):
        assert not get_task("segment").classical()[method](blank).any()


def test_clusterings_need_the_truth_and_say_so() -> None:
    with pytest.raises(ValueError, match="taken from the truth"):
        get_task("segment").classical()["gmm"](study(labelled=False))
