"""The MR scanner: tissue, signal equation, coil, k-space, noise.

Pure functions of a protocol, a head and a random generator; nothing here knows of files.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import Atlas
from simulation.sites.specs import MrProtocol, PulseSequence
from simulation.sites.warp import Move, Points, RandomField, Warp, slice_points, smooth_noise

CSF, GREY, WHITE, FAT, SKIN = range(5)


class Tissue(NamedTuple):
    """Relaxation times (ms) and proton density relative to water."""

    t1: float
    t2: float
    density: float


TISSUES: dict[float, tuple[Tissue, ...]] = {
    # 1.5 T: the BrainWeb phantom (Kwan, Evans, Pike: MRI simulation-based evaluation of image-processing and
    # classification methods, IEEE Trans. Med. Imaging 18 (1999) 1085-1097); skin is its "muscle/skin".
    1.5: (
        Tissue(2569, 329, 1.0),
        Tissue(833, 83, 0.86),
        Tissue(500, 70, 0.77),
        Tissue(350, 70, 1.0),
        Tissue(900, 47, 1.0),
    ),
    # 3 T: grey and white matter and muscle after Stanisz et al., T1, T2 relaxation and magnetization transfer in tissue
    # at 3T, Magn. Reson. Med. 54 (2005) 507-512; CSF and fat, and all densities, chosen for contrast.
    3.0: (
        Tissue(4000, 300, 1.0),
        Tissue(1820, 99, 0.86),
        Tissue(1084, 69, 0.77),
        Tissue(380, 68, 1.0),
        Tissue(1412, 50, 1.0),
    ),
    # 0.3 T: chosen for contrast (T1 shorter, T2 slightly longer than at 1.5 T).
    0.3: (
        Tissue(2300, 340, 1.0),
        Tissue(620, 100, 0.86),
        Tissue(350, 85, 0.77),
        Tissue(230, 80, 1.0),
        Tissue(560, 50, 1.0),
    ),
}
LESION = Tissue(1.5, 2.6, 1.05)  # white-matter lesion relative to white matter: chosen for contrast
SUBSLICES = 3  # samples through the slice's thickness: partial volume
BRIGHT = 2000.0  # stored value of the 99th percentile of the reference series, as a scanner's automatic gain would do
TOP = 4095  # 12 bits
VENTRICLES = np.array([0.0, -15.0, 12.0])  # centre and half axes of the region that ageing widens, atlas mm
VENTRICLE_AXES = np.array([22.0, 34.0, 18.0])


@dataclass(frozen=True)
class WhiteLesion:
    """A white-matter hyperintensity: centre in atlas mm, radius in mm, the visit at which it first shows."""

    centre: NDArray[np.float64]
    radius: float
    onset: int


@dataclass(frozen=True)
class Head:
    """One person's head; the same at every visit but for the lesions.

    Attributes:
        warp: The person's coordinates (mm, +x right, +y front, +z head) to the atlas's.
        atrophy: Widening of ventricles and sulci, 0 to about 1.3.
        layers: Thickness of skull, fat and skin, mm.
        lowest: z of the lowest slice, mm.
        lesions: White-matter lesions of all visits.
        spread: The person's deviation from the tabulated T1, T2 and density, as factors ``[5, 3]``.
    """

    warp: Warp
    atrophy: float
    layers: tuple[float, float, float]
    lowest: float
    lesions: tuple[WhiteLesion, ...]
    spread: NDArray[np.float64]


class Maps(NamedTuple):
    """What is where: tissue fractions ``[5, n, height, width]`` and lesion load ``[n, height, width]``, in [0, 1]."""

    tissue: NDArray[np.float32]
    lesion: NDArray[np.float32]

    @property
    def label(self) -> NDArray[np.uint8]:
        """The prevailing brain tissue (1 CSF, 2 grey, 3 white), 0 outside the brain; lesions are white matter."""
        brain = self.tissue[:3]
        return np.where(brain.sum(0) > 0.5, brain.argmax(0) + 1, 0).astype(np.uint8)


def draw_head(rng: np.random.Generator, *, ageing: float) -> Head:
    """A new person, the older the closer ``ageing`` is to 1."""
    warp = Warp.draw(rng, half=130.0, coarse=(4.0, 38.0), fine=(1.1, 13.0), scale=0.07, degrees=3.5, may_mirror=True)
    atrophy = float(ageing * rng.uniform(0.5, 1.3))
    layers = (rng.uniform(5, 8), rng.uniform(4, 7), rng.uniform(1.0, 2.0))
    lesions = []
    for _ in range(rng.poisson(14 * atrophy)):
        direction = rng.normal(size=3)
        centre = VENTRICLES + VENTRICLE_AXES * direction / np.linalg.norm(direction) * rng.uniform(0.9, 1.9)
        lesions.append(WhiteLesion(centre, rng.uniform(1.5, 4.0), int(rng.choice(3, p=(0.8, 0.1, 0.1)))))
    spread = 1 + rng.normal(0, 0.03, (5, 3)) * (1, 1, 0.5)
    return Head(warp, atrophy, layers, float(rng.uniform(-16, -4)), tuple(lesions), spread)


def tissue_maps(atlas: Atlas, head: Head, points: Points, *, visit: int = 0) -> Maps:
    """The head at ``points`` (the person's own coordinates, ``[3, n, height, width]``)."""
    places = head.warp(points)
    shape = (3, 1, 1, 1)
    centre, axes = (value.astype(np.float32).reshape(shape) for value in (VENTRICLES, VENTRICLE_AXES))
    offset = places - centre
    pull = np.float32(0.38 * head.atrophy) * np.exp(-((offset / axes) ** 2).sum(0) / np.float32(1.2))
    places = centre + offset * (1 - pull)  # nearer points of the atlas are drawn outwards: wider ventricles
    fractions, distance = atlas.sample(places)
    inside = np.clip(fractions.sum(0), 0, 1)
    fractions[CSF] *= np.float32(1 + 1.5 * head.atrophy)  # where a voxel is mixed, fluid takes the room of tissue
    fractions *= inside / np.maximum(fractions.sum(0), np.float32(1e-6))

    def layer(start: float, end: float) -> NDArray[np.float32]:
        soft = np.clip(distance - start + 0.5, 0, 1) * np.clip(end - distance + 0.5, 0, 1)
        outside: NDArray[np.float32] = soft * (1 - inside)
        return outside

    skull, fat, skin = head.layers
    outer = 2.0 + skull
    fractions[CSF] += np.float32(0.9) * layer(0.5, 2.0)
    tissue = np.concatenate(
        [fractions, layer(outer, outer + fat)[None], layer(outer + fat, outer + fat + skin + 1)[None]]
    )
    lesion = np.zeros(inside.shape, np.float32)
    for spot in head.lesions:
        if spot.onset <= visit:
            radius = spot.radius * (1 + 0.12 * (visit - spot.onset))
            near = ((places - spot.centre.astype(np.float32).reshape(shape)) ** 2).sum(0) / np.float32(radius**2)
            np.maximum(lesion, np.exp(-(near**2)), out=lesion)
    return Maps(tissue, lesion * fractions[WHITE])


def signal(protocol: MrProtocol, tissue: Tissue) -> float:
    """The signal equation: spin echo, spoiled gradient echo, or FLAIR (inversion recovery, magnitude)."""
    recovery = float(np.exp(-protocol.tr / tissue.t1))
    if protocol.sequence is PulseSequence.SPIN_ECHO:
        magnetisation = 1 - recovery
    elif protocol.sequence is PulseSequence.SPOILED_GRADIENT_ECHO:
        flip = np.deg2rad(protocol.flip)
        magnetisation = float(np.sin(flip)) * (1 - recovery) / (1 - float(np.cos(flip)) * recovery)
    else:
        magnetisation = abs(1 - 2 * float(np.exp(-protocol.ti / tissue.t1)) + recovery)
    return tissue.density * magnetisation * float(np.exp(-protocol.te / tissue.t2))


def signals(protocol: MrProtocol, spread: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """The signal of each tissue of one person ``[5]``, and that of a lesion."""
    own = [Tissue(*(float(v) for v in np.array(t) * s)) for t, s in zip(TISSUES[protocol.field], spread, strict=True)]
    lesion = Tissue(*(a * b for a, b in zip(own[WHITE], LESION, strict=True)))
    levels = np.array([signal(protocol, tissue) for tissue in own], np.float32)
    levels[FAT] *= protocol.fat
    return levels, signal(protocol, lesion)


def window(pixels: int, kept: float) -> NDArray[np.float32]:
    """1 for the central fraction ``kept`` of the k-space lines, 0 outside (centred order)."""
    half = round(pixels * kept / 2)
    lines = np.zeros(pixels, np.float32)
    lines[pixels // 2 - half : pixels // 2 + half] = 1
    return lines


def acquire(
    image: NDArray[np.float32],
    *,
    kept: tuple[float, float],
    sigma: float,
    averages: tuple[int, ...],
    rng: np.random.Generator,
) -> list[NDArray[np.float32]]:
    """Magnitude images of slices ``[n, height, width]``, one for each number of averages.

    k-space is cut to the fractions ``kept`` (rows, columns), complex white noise is added (standard deviation ``sigma``
    per channel for one average, in image units) and the magnitude taken: the noise is Rician (Gudbjartsson and Patz,
    The Rician distribution of noisy MRI data, Magn. Reson. Med. 34 (1995) 910-914).
    """
    keep = window(image.shape[1], kept[0])[:, None] * window(image.shape[2], kept[1])[None]
    keep = scipy.fft.ifftshift(keep)
    kspace = scipy.fft.fft2(image, norm="ortho", workers=1) * keep
    pictures = []
    for count in averages:
        noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma / np.sqrt(count))
        pictures.append(np.abs(scipy.fft.ifft2(kspace + (noise[0] + 1j * noise[1]) * keep, norm="ortho", workers=1)))
    return pictures


def shading(rng: np.random.Generator, points: Points, height: float) -> NDArray[np.float32]:
    """The coil's bias field: smooth, around 1, with the peak-to-peak ``height``."""
    field = RandomField.draw(rng, spread=1.0, width=75.0, half=150.0).on_slices(points)[0]
    low, high = float(field.min()), float(field.max())
    gain: NDArray[np.float32] = 1 + height * ((field - low) / (high - low + 1e-6) - 0.5)
    return gain


def simulate_mr(
    protocol: MrProtocol,
    atlas: Atlas,
    head: Head,
    rng: np.random.Generator,
    *,
    pixels: int,
    slices: int,
    fov: float,
    visit: int = 0,
    move: Move | None = None,
) -> Acquisition:
    """One MR study of a head.

    Args:
        protocol: How the site scans.
        atlas: The anatomy that the head deforms.
        head: Who is scanned.
        rng: Randomness of this visit: position, texture, coil, noise. The head's own is in ``head``.
        pixels: Rows and columns.
        slices: How many.
        fov: Side of the image, mm.
        visit: 0 for the first study, 1 and 2 for follow-ups.
        move: How the patient lies; None for as at the first visit, and at follow-ups at random.
    """
    if move is None:
        move = Move.draw(rng) if visit else Move.none()
    heights = np.round(head.lowest + protocol.gap * np.arange(slices), 3)
    within = (np.arange(SUBSLICES) - (SUBSLICES - 1) / 2) * protocol.thickness / SUBSLICES
    scanner = slice_points(pixels, fov, (heights[:, None] + within).ravel())
    x, y, z = scanner
    maps = tissue_maps(atlas, head, move(np.stack([-x, -y - 18, z])), visit=visit)  # the brain's centre is at y = -18

    def through_slice(values: NDArray[np.float32]) -> NDArray[np.float32]:
        split = values.reshape(*values.shape[:-3], slices, SUBSLICES, pixels, pixels)
        mean: NDArray[np.float32] = split.mean(-3, dtype=np.float32)
        return mean

    maps = Maps(through_slice(maps.tissue), through_slice(maps.lesion))
    levels, lesion_level = signals(protocol, head.spread)
    image = np.zeros(maps.lesion.shape, np.float32)
    for level, fraction in zip(levels, maps.tissue, strict=True):
        image += level * fraction
    image += maps.lesion * np.float32(lesion_level - levels[WHITE])
    shape = image.shape
    image *= 1 + smooth_noise(rng, shape, (0, 0.7, 0.7), 0.012) + smooth_noise(rng, shape, (0.5, 6, 6), 0.02)
    image *= shading(rng, scanner[:, SUBSLICES // 2 :: SUBSLICES], protocol.shading)
    fast, reference = acquire(
        image,
        kept=(protocol.kept_phase, protocol.kept_read),
        sigma=protocol.noise * float(levels[:3].max()),
        averages=(1, protocol.averages),
        rng=rng,
    )
    gain = np.float32(BRIGHT / np.percentile(reference, 99))
    stored = [np.clip(np.rint(series * gain), 0, TOP).astype(np.uint16) for series in (fast, reference)]
    return Acquisition(stored[0], stored[1], maps.label, heights, fov / pixels)
