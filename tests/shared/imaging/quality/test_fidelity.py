"""Fidelity of a slice against independent implementations, and against what can be worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pytorch_msssim import ms_ssim as peer_ms_ssim
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from shared.imaging.quality.fidelity import fine_detail, gmsd, ms_ssim, scales
from tests.shared.imaging.phantoms import study

planes = arrays.arrays(np.float32, (24, 20), elements=st.floats(0, 1, width=32))


def blurred(height: int, width: int, sigma: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    images = study(height, width, slices=1, sigma=0.08)
    return gaussian_filter(images.noisy[0], sigma).astype(np.float32), images.reference[0]


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float64))[None, None]


@pytest.mark.parametrize("size", [(192, 208), (256, 176)])
def test_ms_ssim_is_that_of_an_independent_implementation(size: tuple[int, int]) -> None:
    prediction, truth = blurred(*size)
    peer = peer_ms_ssim(as_tensor(prediction), as_tensor(truth), data_range=1.0).item()
    assert ms_ssim(prediction, truth) == pytest.approx(peer, abs=1e-5)
    assert ms_ssim(prediction, truth) < 0.99


def test_with_room_for_one_scale_it_is_ssim() -> None:
    prediction, truth = blurred(20, 21)
    single = structural_similarity(
        prediction, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    assert scales(20, 21) == 1
    assert ms_ssim(prediction, truth) == pytest.approx(single, abs=1e-5)


def test_five_scales_need_176_pixels() -> None:
    assert [scales(edge, 999) for edge in (10, 11, 22, 44, 88, 176, 512)] == [0, 1, 2, 3, 4, 5, 5]
    with pytest.raises(ValueError, match="smaller than the window"):
        ms_ssim(np.zeros((8, 40), np.float32), np.zeros((8, 40), np.float32))


def peer_gmsd(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Xue et al. 2014 once more, with torch: averaging, Prewitt over three, similarity, standard deviation."""
    kernel = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=torch.float64)[None, None] / 3

    def gradient(image: np.ndarray) -> torch.Tensor:
        small = F.avg_pool2d(as_tensor(image), 2)
        return torch.hypot(F.conv2d(small, kernel, padding=1), F.conv2d(small, kernel.mT, padding=1))

    ours, theirs = gradient(prediction), gradient(truth)
    c = 170 / 65025
    return ((2 * ours * theirs + c) / (ours**2 + theirs**2 + c)).std(correction=0).item()


def test_gmsd_is_that_of_an_independent_implementation() -> None:
    prediction, truth = blurred(63, 80)
    assert gmsd(prediction, truth) == pytest.approx(peer_gmsd(prediction, truth), abs=1e-9)
    assert gmsd(prediction, truth) > 0.05


@given(planes, planes)
def test_both_are_bounded_and_the_same_from_both_sides(left: np.ndarray, right: np.ndarray) -> None:
    assert 0 <= gmsd(left, right) <= 0.5
    assert gmsd(left, right) == pytest.approx(gmsd(right, left))
    assert ms_ssim(left, right) <= 1 + 1e-9
    assert gmsd(left, left) == pytest.approx(0, abs=1e-9)
    assert ms_ssim(left, left) == pytest.approx(1)


def test_shapes_must_agree() -> None:
    for measure in (gmsd, ms_ssim):
        with pytest.raises(ValueError, match="one shape"):
            measure(np.zeros((20, 20), np.float32), np.zeros((20, 21), np.float32))


@pytest.mark.parametrize(("cycles", "share"), [(3, 0.0), (7, 0.0), (8, 1.0), (12, 1.0)])
def test_fine_detail_is_the_energy_above_half_of_the_highest_frequency(cycles: int, share: float) -> None:
    wave = np.cos(2 * np.pi * cycles * np.arange(32) / 32)
    image = np.tile(0.2 * wave, (32, 1)).astype(np.float32)
    assert fine_detail(image) == pytest.approx(share * float((image.astype(float) ** 2).sum()), abs=1e-6)
