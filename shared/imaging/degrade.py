"""What scanners do to an image: noise of the magnitude image, and a window in k-space.

All images are ``[n, height, width]``; intensities are in the unit of the image, normally [0, 1].
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]


def add_rician_noise(images: Images, sigma: float, rng: np.random.Generator) -> Images:
    """The magnitude of ``images`` after complex Gaussian noise (Gudbjartsson and Patz 1995).

    Args:
        images: Magnitudes without noise.
        sigma: Standard deviation of the noise in each of the real and the imaginary channel.
        rng: Where the noise comes from.
    """
    real = images + rng.normal(scale=sigma, size=images.shape)
    return np.hypot(real, rng.normal(scale=sigma, size=images.shape)).astype(np.float32)


def add_fbp_noise(images: Images, sigma: float, rng: np.random.Generator) -> Images:
    """CT slices with the noise of a lower dose as filtered back-projection leaves it.

    Back-projection weighs the noise of the projections with the reconstruction filter, so that its power in the image
    rises with the frequency and falls with the filter's window: ``|f| W(f)^2`` (Riederer, Pelc and Chesler 1978), here
    with the Hann window of a soft kernel. It is the same over all of the slice; in a patient it is stronger behind
    bone and at the centre, and has streaks where few photons come through, which this has not.

    Args:
        images: ``[n, height, width]``, Hounsfield units.
        sigma: Standard deviation of the noise that is added, Hounsfield units.
        rng: Where the noise comes from.
    """
    _, height, width = images.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    window = np.where(frequency < 0.5, 0.5 * (1 + np.cos(2 * np.pi * frequency)), 0.0)
    shape = np.sqrt(frequency) * window
    white = rng.normal(size=images.shape)
    noise = np.fft.irfft2(np.fft.rfft2(white) * shape, s=(height, width))
    power = np.fft.irfft2(shape**2, s=(height, width))[0, 0]  # the variance that white noise of 1 comes out with
    return np.asarray(images + noise * (sigma / np.sqrt(power if power > 0 else 1.0)), np.float32)


def kspace_downsample(images: Images, factor: int = 2, *, sigma: float = 0.0) -> Images:
    """Acquire ``images`` at a coarser resolution: the centre of k-space, complex noise, magnitude.

    A pixel of the result lies at the centre of the ``factor x factor`` pixels that it replaces: without the phase ramp
    of ``(factor - 1) / 2`` pixels it would lie at their first corner, and every interpolation would look half a pixel
    wrong.

    Args:
        images: ``[n, h, w]``, with ``h`` and ``w`` multiples of ``factor``.
        factor: How many times coarser.
        sigma: Standard deviation of the noise in each channel of the result. It is seeded by the content of ``images``,
            so that the same slices give the same result at every hospital and in every run.

    Returns:
        ``[n, h / factor, w / factor]``, on the same intensity scale.
    """
    _, height, width = images.shape
    rows, columns = height // factor, width // factor
    kspace = np.fft.fftshift(np.fft.fft2(images), axes=(1, 2)) * _ramp(height, width, (factor - 1) / 2)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    centre = kspace[:, top : top + rows, left : left + columns]
    small = np.fft.ifft2(np.fft.ifftshift(centre, axes=(1, 2))) / factor**2
    if sigma > 0:
        rng = np.random.default_rng(_seed(images))
        small = small + sigma * (rng.normal(size=small.shape) + 1j * rng.normal(size=small.shape))
    return np.abs(small).astype(np.float32)


def zero_fill(images: Images, factor: int = 2) -> Images:
    """Interpolate by zeros around k-space: the inverse of :func:`kspace_downsample` for band-limited images.

    This is what a scanner does when it shows a larger matrix than it acquired (Bernstein, Fain and Riederer 2001).

    Args:
        images: ``[n, h, w]``.
        factor: How many times finer.

    Returns:
        ``[n, factor h, factor w]``, on the same intensity scale; ringing may leave the input's range.
    """
    count, rows, columns = images.shape
    height, width = rows * factor, columns * factor
    kspace = np.zeros((count, height, width), dtype=np.complex128)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    centre = np.fft.fftshift(np.fft.fft2(images), axes=(1, 2)) * factor**2
    kspace[:, top : top + rows, left : left + columns] = centre
    kspace *= _ramp(height, width, -(factor - 1) / 2)
    return np.real(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)))).astype(np.float32)


def _ramp(height: int, width: int, shift: float) -> NDArray[np.complex128]:
    """The factor in centred k-space that moves an image by ``shift`` pixels towards its first corner."""
    rows = np.exp(2j * np.pi * shift * np.fft.fftshift(np.fft.fftfreq(height)))
    columns = np.exp(2j * np.pi * shift * np.fft.fftshift(np.fft.fftfreq(width)))
    ramp: NDArray[np.complex128] = rows[:, None] * columns[None, :]
    return ramp


def _seed(images: Images) -> int:
    digest = hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
