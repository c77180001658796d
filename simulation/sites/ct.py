"""The CT scanner: line integrals, photons, filtered back-projection.

Pure functions of a protocol, a torso and a random generator; nothing here knows of files.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from simulation.sites.acquisition import Acquisition
from simulation.sites.specs import CtProtocol, Kernel
from simulation.sites.torso import Torso, paint
from simulation.sites.warp import Move, slice_points, smooth_noise

Array = NDArray[np.float32]

WATER = 0.0193  # linear attenuation of water, 1/mm: about 70 keV, the effective energy of a 120 kV beam
ELECTRONIC = 4.0  # standard deviation of the detector's own noise, photons; chosen so that it shows at the low dose
VIEWS = 180  # parallel views over half a turn
FINER = 4  # detector samples per element in the back-projection


def to_attenuation(hu: Array) -> Array:
    """Hounsfield units to linear attenuation, 1/mm."""
    return np.maximum(np.float32(WATER) * (1 + hu / 1000), 0).astype(np.float32)


def to_hounsfield(attenuation: Array) -> Array:
    """Linear attenuation (1/mm) to Hounsfield units."""
    return ((attenuation / np.float32(WATER) - 1) * 1000).astype(np.float32)


def _angles() -> NDArray[np.float64]:
    """Half a step off the axes: rays along the pixel rows would be sharper than all others and leave stripes."""
    return (np.arange(VIEWS) + 0.5) * np.pi / VIEWS


def project(image: Array) -> Array:
    """Parallel-beam line integrals.

    Each ray steps from row to row, or from column to column where it runs flatter, and interpolates between two
    neighbours (Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1
    (1982) 192-196).

    Args:
        image: ``[n, size, size]``, attenuation per pixel.

    Returns:
        ``[VIEWS, size, n]``: one detector element per pixel width.
    """
    count, size, _ = image.shape
    middle = (size - 1) / 2
    axis = np.arange(size) - middle
    by_row = np.ascontiguousarray(image.transpose(1, 2, 0)).reshape(size * size, count)  # slices last: contiguous
    sinogram = np.empty((VIEWS, size, count), np.float32)
    steps = np.arange(size)[None, :]
    for view, angle in enumerate(_angles()):
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        steep = abs(cosine) >= abs(sine)
        major, minor = (cosine, sine) if steep else (sine, cosine)
        crossing = (axis[:, None] - axis[None, :] * minor) / major + middle  # where the ray meets each row or column
        low = np.floor(crossing)
        weight = (crossing - low).astype(np.float32)
        total = np.zeros((size, count), np.float32)
        for offset, part in ((0, 1 - weight), (1, weight)):
            place = low.astype(np.intp) + offset
            share = np.where((place >= 0) & (place < size), part, np.float32(0)) / np.float32(abs(major))
            place = np.clip(place, 0, size - 1)
            flat = steps * size + place if steep else place * size + steps
            total += np.einsum("dsn,ds->dn", by_row.take(flat, axis=0), share, optimize=False)
        sinogram[view] = total
    return sinogram


def ramp(size: int, kernel: Kernel) -> Array:
    """The filter's response on the non-negative frequencies of a transform of length ``size``.

    The band-limited ramp from its samples in space (Kak and Slaney, Principles of Computerized Tomographic Imaging,
    1988, section 3.3), times a Hann window (soft) or a cosine window (sharp).
    """
    place = scipy.fft.fftfreq(size, 1 / size)
    odd = place % 2 != 0
    response = np.zeros(size)
    response[0] = 0.25
    response[odd] = -1 / (np.pi * place[odd]) ** 2
    frequency = scipy.fft.rfftfreq(size)
    taper = np.cos(np.pi * frequency) ** 2 if kernel is Kernel.SOFT else np.cos(np.pi * frequency)
    filtered: Array = (2 * scipy.fft.rfft(response, workers=1).real * taper).astype(np.float32)
    return filtered


def back_project(sinogram: Array, kernel: Kernel) -> Array:
    """Filtered back-projection of ``[VIEWS, size, n]``; returns ``[n, size, size]`` per pixel width."""
    views, size, count = sinogram.shape
    length = 2 ** int(np.ceil(np.log2(2 * size)))
    spectrum = scipy.fft.rfft(sinogram, length, axis=1, workers=1) * ramp(length, kernel)[None, :, None]
    filtered = scipy.fft.irfft(spectrum, length, axis=1, workers=1)[:, :size].astype(np.float32)
    fine = np.arange((size - 1) * FINER + 1) / FINER
    low = np.minimum(fine.astype(np.intp), size - 2)
    weight = (fine - low).astype(np.float32)[None, :, None]
    filtered = filtered[:, low] * (1 - weight) + filtered[:, low + 1] * weight
    axis = (np.arange(size) - (size - 1) / 2).astype(np.float32)
    image = np.zeros((size, size, count), np.float32)
    for view, angle in enumerate(_angles()):
        place = axis[None, :] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
        index = np.rint((place + np.float32((size - 1) / 2)) * FINER).astype(np.intp)
        image += filtered[view].take(index, axis=0, mode="clip")
    return np.ascontiguousarray(image.transpose(2, 0, 1)) * np.float32(np.pi / (2 * views))


def count_photons(integrals: Array, photons: float, rng: np.random.Generator) -> Array:
    """The line integrals as measured with ``photons`` per unattenuated element: Poisson and electronic noise."""
    counts = rng.poisson(photons * np.exp(-integrals.astype(np.float64)))
    measured = counts + rng.normal(0, ELECTRONIC, integrals.shape)
    return -np.log(np.maximum(measured, 1) / photons).astype(np.float32)


def simulate_ct(
    protocol: CtProtocol,
    torso: Torso,
    rng: np.random.Generator,
    *,
    pixels: int,
    slices: int,
    fov: float,
    current: float | None = None,
    visit: int = 0,
) -> Acquisition:
    """One CT study of a torso.

    Args:
        protocol: How the site scans.
        torso: Who is scanned.
        rng: Randomness of this visit: position, texture, photons. The torso's own is in ``torso``.
        pixels: Rows and columns.
        slices: How many.
        fov: Side of the image, mm; the body must lie inside the circle that it bounds.
        current: Tube current of the low-dose series, mA, if it differs from the protocol's.
        visit: 0 for the first study, 1 and 2 for follow-ups.
    """
    move = Move.draw(rng, degrees=1.0, millimetres=4.0) if visit else Move.none()
    heights = np.round(torso.lowest + protocol.gap * np.arange(slices), 3)
    hu, label = paint(torso, move(slice_points(pixels, fov, heights)), protocol.phase, visit=visit)
    soft = (hu > -300) & (hu < 400)
    hu += soft * (smooth_noise(rng, hu.shape, (0, 1.1, 1.1), 6.0) + smooth_noise(rng, hu.shape, (0.5, 4, 4), 4.0))
    spacing = fov / pixels
    integrals = project(to_attenuation(hu)) * np.float32(spacing)
    photons = protocol.photons * (current or protocol.current) / protocol.current
    series = []
    for dose in (photons, photons * protocol.dose_ratio):
        measured = count_photons(integrals, dose, rng) / np.float32(spacing)
        image = to_hounsfield(back_project(measured, protocol.kernel))
        series.append(np.clip(np.rint(image), -1024, 3071).astype(np.int16))
    return Acquisition(series[0], series[1], label, heights, spacing)
