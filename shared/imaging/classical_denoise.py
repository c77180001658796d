"""Classical denoising, slice by slice, each method with the parameter that suits it best on training patients.

Filters that need the noise level are given an estimate from the slice itself (:func:`noise_level`). Neighbourhood sizes
and the factors before the noise level were chosen once, by PSNR, on training patients of the synthetic hospitals.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.imaging.images import StudyImages
from shared.imaging.tasks import Method

Slice = NDArray[np.float32]

TITLES: Mapping[str, str] = {
    "noisy": "Noisy input",
    "histogram_equalisation": "Histogram equalisation",
    "clahe": "Histogram equalisation, local (CLAHE)",
    "mean": "Mean 3×3",
    "median": "Median 3×3",
    "gaussian": "Gaussian",
    "butterworth": "Butterworth low-pass",
    "wiener": "Wiener (frequency domain)",
    "nlm": "Non-local means",
    "nlm_rician": "Non-local means, Rician bias corrected",
    "tv": "Total variation (Chambolle)",
}

# The median of a Rayleigh distribution, in units of the noise of one channel.
_RAYLEIGH_MEDIAN = float(np.sqrt(2 * np.log(2)))


def background_sigma(image: Slice) -> float:
    """Noise of one channel of an MR magnitude image, from the air in its corners.

    In air the magnitude has a Rayleigh distribution, of median ``sigma sqrt(2 ln 2)`` (Gudbjartsson and Patz 1995).
    The corners are the squares of a ninth of the image's edge. Zero where the scanner blanked them.
    """
    rows, columns = max(1, image.shape[0] // 9), max(1, image.shape[1] // 9)
    corners = [image[r, c] for r in (slice(rows), slice(-rows, None)) for c in (slice(columns), slice(-columns, None))]
    return float(np.median(np.concatenate([corner.ravel() for corner in corners]))) / _RAYLEIGH_MEDIAN


def texture_sigma(image: Slice) -> float:
    """Noise from the flattest tenth of the 7x7 windows inside the grey scale (after Rank, Lendl and Unbehauen 1999).

    For CT: its noise is correlated, so that differences of neighbours underestimate it, and its air is clipped to zero.
    """
    edge = 7
    mean = ndimage.uniform_filter(image.astype(np.float64), edge)
    variance = ndimage.uniform_filter(image.astype(np.float64) ** 2, edge) - mean**2
    inside = ndimage.minimum_filter((image > 0.02) & (image < 0.98), edge)
    flat = np.sqrt(np.maximum(variance[inside], 0.0))
    return float(np.percentile(flat, 10)) if flat.size else 0.0


def noise_level(image: Slice, modality: str) -> float:
    """Estimated standard deviation of the noise of one slice, in its own unit; 0 where there is none to be seen."""
    sigma = background_sigma(image) if modality == "MR" else 0.0
    return sigma if sigma > 0 else texture_sigma(image)


def remove_rician_bias(image: Slice, sigma: float) -> Slice:
    """``sqrt(max(x^2 - 2 sigma^2, 0))``, applied after averaging.

    The second moment of a magnitude is ``A^2 + 2 sigma^2``, so what averages magnitudes overestimates dark tissue and
    air (Wiest-Daesslé et al. 2008; Manjón et al. 2008).
    """
    return np.sqrt(np.maximum(image.astype(np.float64) ** 2 - 2 * sigma**2, 0.0)).astype(np.float32)


def _noisy(image: Slice, _sigma: float) -> Slice:
    return image


def _histogram_equalisation(image: Slice, _sigma: float) -> Slice:
    from skimage.exposure import equalize_hist  # noqa: PLC0415  heavy, and only reports need it

    return np.asarray(equalize_hist(image), dtype=np.float32)


def _clahe(image: Slice, _sigma: float) -> Slice:
    """Contrast-limited adaptive histogram equalisation (Pizer et al. 1987; Zuiderveld 1994), clip limit 0.01."""
    from skimage.exposure import equalize_adapthist  # noqa: PLC0415

    return np.asarray(equalize_adapthist(image, clip_limit=0.01), dtype=np.float32)


def _mean(image: Slice, _sigma: float) -> Slice:
    return np.asarray(ndimage.uniform_filter(image, 3), dtype=np.float32)


def _median(image: Slice, _sigma: float) -> Slice:
    return np.asarray(ndimage.median_filter(image, 3), dtype=np.float32)


def _gaussian(image: Slice, _sigma: float) -> Slice:
    return np.asarray(ndimage.gaussian_filter(image, 0.6), dtype=np.float32)


def _butterworth(image: Slice, _sigma: float) -> Slice:
    """Order 2, half power at 0.35 cycles per pixel."""
    from skimage.filters import butterworth  # noqa: PLC0415

    return np.asarray(butterworth(image, 0.35, high_pass=False, order=2, npad=0), dtype=np.float32)


def _wiener(image: Slice, sigma: float) -> Slice:
    """``S / (S + N)`` in the frequency domain: S + N is the smoothed periodogram, N that of white noise."""
    spectrum = np.fft.fft2(image)
    power = np.fft.ifftshift(ndimage.gaussian_filter(np.fft.fftshift(np.abs(spectrum) ** 2), 4, mode="wrap"))
    gain = np.maximum(power - sigma**2 * image.size, 0.0) / np.maximum(power, 1e-12)
    gain[0, 0] = 1.0
    return np.real(np.fft.ifft2(spectrum * gain)).astype(np.float32)


def _nlm(image: Slice, sigma: float) -> Slice:
    """Buades, Coll and Morel 2005: patches 5x5 within 13x13."""
    from skimage.restoration import denoise_nl_means  # noqa: PLC0415

    if sigma <= 0:
        return image
    result = denoise_nl_means(image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)
    return np.asarray(result, dtype=np.float32)


def _tv(image: Slice, sigma: float) -> Slice:
    """Chambolle 2004."""
    from skimage.restoration import denoise_tv_chambolle  # noqa: PLC0415

    return np.asarray(denoise_tv_chambolle(image, weight=0.8 * sigma), dtype=np.float32) if sigma > 0 else image


def _slice_by_slice(apply: Callable[[Slice, float], Slice], *, rician: bool = False) -> Method:
    """Make a filter of slices one of studies; with ``rician``, correct the bias of MR magnitudes afterwards."""

    def method(study: StudyImages) -> Slice:
        results = []
        for image in study.noisy:
            result = apply(image, noise_level(image, study.modality))
            if rician and study.modality == "MR":
                result = remove_rician_bias(result, background_sigma(image))
            results.append(np.clip(result, 0.0, 1.0))
        return np.stack(results)

    return method


METHODS: Mapping[str, Method] = {
    "noisy": _slice_by_slice(_noisy),
    "histogram_equalisation": _slice_by_slice(_histogram_equalisation),
    "clahe": _slice_by_slice(_clahe),
    "mean": _slice_by_slice(_mean),
    "median": _slice_by_slice(_median),
    "gaussian": _slice_by_slice(_gaussian),
    "butterworth": _slice_by_slice(_butterworth),
    "wiener": _slice_by_slice(_wiener),
    "nlm": _slice_by_slice(_nlm),
    "nlm_rician": _slice_by_slice(_nlm, rician=True),
    "tv": _slice_by_slice(_tv),
}
