"""How close one slice is to its reference beyond PSNR and SSIM: several scales, edges, and fine detail.

LPIPS (Zhang et al. 2018) is left out: it is a trained network, and no weights of it ship with fedward.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Slice = NDArray[np.float32]
_Plane = NDArray[np.float64]

WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang, Simoncelli and Bovik 2003, section 3.2), finest first."""
WINDOW: Final = 11
_SIGMA: Final = 1.5
_C1, _C2 = 0.01**2, 0.03**2
# 170 on grey values up to 255 (Xue et al. 2014, section II.C).
_GMSD_C: Final = 170 / 255**2


def scales(height: int, width: int) -> int:
    """How many of the five scales of :func:`ms_ssim` a slice has room for: the window must fit into the coarsest."""
    edge = min(height, width)
    return sum(edge // 2**scale >= WINDOW for scale in range(len(WEIGHTS)))


def ms_ssim(prediction: Slice, truth: Slice) -> float:
    """Multi-scale structural similarity of one slice, at most 1 (Wang, Simoncelli and Bovik 2003), data range 1.

    The window is the Gaussian of SSIM (sigma 1.5, 11 pixels), borders are left out, and between scales 2x2 pixels are
    averaged. Contrast and structure count at every scale, luminance at the coarsest alone; a negative mean counts as 0.
    A slice below 176 pixels has fewer scales than five (:func:`scales`): their exponents are divided by their sum, so
    figures of different matrices must not be compared.

    Args:
        prediction: ``[h, w]`` in [0, 1].
        truth: ``[h, w]`` in [0, 1].

    Raises:
        ValueError: The shapes differ, or the slice is below 11 pixels.
    """
    _same_shape(prediction, truth)
    count = scales(*truth.shape)
    if not count:
        raise ValueError(f"a slice of {truth.shape} is smaller than the window of {WINDOW} pixels")
    exponents = np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count])
    left, right, value = prediction.astype(np.float64), truth.astype(np.float64), 1.0
    for scale, exponent in enumerate(exponents, start=1):
        luminance, structure = _terms(left, right)
        mean = (luminance * structure).mean() if scale == count else structure.mean()
        value *= max(float(mean), 0.0) ** exponent
        left, right = halved(left), halved(right)
    return float(value)


def gmsd(prediction: Slice, truth: Slice) -> float:
    """Gradient magnitude similarity deviation of one slice, 0 for identity (Xue, Zhang, Mou and Bovik 2014).

    The standard deviation over all pixels of the similarity of gradients (Prewitt, after averaging 2x2 pixels): edges
    that are blurred here and sharpened there count, an even loss does not. It needs no trained network and follows
    what readers say of sharpness more closely than PSNR, so that it stands beside adversarial models.

    Args:
        prediction: ``[h, w]`` in [0, 1].
        truth: ``[h, w]`` in [0, 1].

    Raises:
        ValueError: The shapes differ.
    """
    _same_shape(prediction, truth)
    left, right = (_gradient(halved(image.astype(np.float64))) for image in (prediction, truth))
    similarity = (2 * left * right + _GMSD_C) / (left**2 + right**2 + _GMSD_C)
    return float(similarity.std())


def fine_detail(image: Slice) -> float:
    """Energy of one slice above half of the highest frequency, in rows or in columns (Parseval's sum over pixels).

    That is what super-resolution by two has to invent, since the low-resolution scan does not have it; a blurred result
    has little of it, noise has much. A report shows the ratio to the reference's.
    """
    power = np.abs(np.fft.fft2(image.astype(np.float64))) ** 2 / image.size
    rows, columns = (np.abs(np.fft.fftfreq(edge)) for edge in image.shape)
    outside = (rows[:, None] >= 0.25) | (columns[None, :] >= 0.25)
    return float(power[outside].sum())


def halved(image: _Plane) -> _Plane:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = (edge // 2 for edge in image.shape)
    blocks: _Plane = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float64)


def _terms(left: _Plane, right: _Plane) -> tuple[_Plane, _Plane]:
    """Luminance, and contrast times structure, of SSIM (Wang et al. 2004, eq. 6, and 9 with 10), without borders."""

    def local(image: _Plane) -> _Plane:
        border = WINDOW // 2
        mean = ndimage.gaussian_filter(image, _SIGMA, radius=border)
        return np.asarray(mean[border:-border, border:-border], dtype=np.float64)

    means = local(left), local(right)
    product = means[0] * means[1]
    squares = means[0] ** 2 + means[1] ** 2
    luminance = (2 * product + _C1) / (squares + _C1)
    variances = local(left**2) + local(right**2) - squares
    structure = (2 * (local(left * right) - product) + _C2) / (variances + _C2)
    return luminance, structure


def _gradient(image: _Plane) -> _Plane:
    """Gradient magnitude by Prewitt's operator over three, zeros outside, as in the authors' program."""
    parts = [ndimage.prewitt(image, axis=axis, mode="constant") / 3 for axis in (0, 1)]
    return np.asarray(np.hypot(*parts), dtype=np.float64)


def _same_shape(prediction: Slice, truth: Slice) -> None:
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must be planes of one shape")
