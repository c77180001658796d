"""What scanners and protocols do to images that a model was not trained on, made on purpose, one at a time.

Some change the scene, so the right answer changes with it (contrast, shading); others change the measurement of the
same scene (noise, blur, spikes), and the right answer stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.imaging.degrade import add_rician_noise
from shared.imaging.images import StudyImages

Images = NDArray[np.float32]
Change = Callable[[Images, str, np.random.Generator], Images]
"""Images ``[n, h, w]`` in [0, 1], their modality and a generator to images alike."""


@dataclass(frozen=True)
class Shift:
    """One change.

    Attributes:
        title: What it is, with its size.
        change: What it does.
        scene: Whether the right answer changes with it.
        modalities: Where it happens.
    """

    title: str
    change: Change
    scene: bool = False
    modalities: frozenset[str] = frozenset({"MR", "CT"})


def _noise(sigma: float) -> Change:
    """More noise: of the magnitude in MR, additive in CT."""

    def change(images: Images, modality: str, rng: np.random.Generator) -> Images:
        if modality == "MR":
            return add_rician_noise(images, sigma, rng)
        return (images + rng.normal(scale=sigma, size=images.shape)).astype(np.float32)

    return change


def _contrast(gamma: float) -> Change:
    def change(images: Images, _modality: str, _rng: np.random.Generator) -> Images:
        bent: Images = (images**gamma).astype(np.float32)
        return bent

    return change


def _shading(images: Images, _modality: str, _rng: np.random.Generator) -> Images:
    """A coil at the upper left: from 30 % brighter there to 30 % darker opposite, on a smooth quarter wave."""
    _, height, width = images.shape
    along = np.add.outer(np.linspace(0, 0.5, height), np.linspace(0, 0.5, width))
    return (images * (1 + 0.3 * np.cos(np.pi * along))).astype(np.float32)


def _blur(images: Images, _modality: str, _rng: np.random.Generator) -> Images:
    return np.asarray(ndimage.gaussian_filter(images, sigma=(0, 1, 1)), np.float32)


def _spikes(images: Images, _modality: str, rng: np.random.Generator) -> Images:
    """A spark in the receiver: one sample of k-space too large, stripes of 5 % of the window over the whole image."""
    _, height, width = images.shape
    rows, columns = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    wave = np.cos(2 * np.pi * 0.15 * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0, 2 * np.pi))
    return np.abs(images + np.asarray(0.05 * wave, np.float32))


_MR: Final = frozenset({"MR"})
SHIFTS: Final[Mapping[str, Shift]] = {
    "noise_small": Shift("More noise, σ = 0.03", _noise(0.03)),
    "noise_large": Shift("More noise, σ = 0.08", _noise(0.08)),
    "blur": Shift("Blur, Gaussian of 1 pixel", _blur),
    "spikes": Shift("Spike in k-space, stripes of 5 %", _spikes, modalities=_MR),
    "shading": Shift("Shading of a coil, ±30 %", _shading, scene=True, modalities=_MR),
    "contrast_low": Shift("Contrast, gamma 0.7", _contrast(0.7), scene=True),
    "contrast_high": Shift("Contrast, gamma 1.4", _contrast(1.4), scene=True),
}
"""By name, in the order of tables. Sizes were chosen before any model was tried on them."""


def shifted(study: StudyImages, shift: Shift, *, seed: int = 0) -> tuple[StudyImages, StudyImages]:
    """A study as it would have been measured, and the one that the answer is judged by.

    The change is made to all series: some tasks make their input of the reference, others see a second contrast; where
    that has no values it still has none. The same seed gives the same change.
    """
    noisy, reference = (
        np.clip(shift.change(images, study.modality, np.random.default_rng([seed, number])), 0.0, 1.0)
        for number, images in enumerate((study.noisy, study.reference))
    )
    second = study.second
    if second is not None:
        changed = np.clip(shift.change(second, study.modality, np.random.default_rng([seed, 2])), 0.0, 1.0)
        second = np.where(second > 0, changed, second)
    measured = replace(study, noisy=noisy, reference=reference, second=second)
    return measured, measured if shift.scene else study
