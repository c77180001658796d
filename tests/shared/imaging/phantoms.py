"""Small heads made of ellipses, for tests that need an image but not a hospital."""

import numpy as np

from shared.imaging.degrade import add_rician_noise
from shared.imaging.images import PatientImages, StudyImages

# Intensities of background, cerebrospinal fluid, grey matter, white matter.
CONTRAST = np.array([0.0, 0.25, 0.55, 0.85], dtype=np.float32)
SECOND = np.array([0.0, 0.9, 0.5, 0.4], dtype=np.float32)


def study(
    height: int = 64,
    width: int = 64,
    *,
    slices: int = 2,
    modality: str = "MR",
    sigma: float = 0.05,
    seed: int = 0,
    labelled: bool = True,
    beside: bool = True,
) -> StudyImages:
    """Nested ellipses, white matter innermost, with Rician noise in the noisy series; another contrast beside MR."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    label = np.zeros((slices, height, width), dtype=np.uint8)
    for index in range(slices):
        radius = np.hypot(y - rng.uniform(-0.1, 0.1), 1.2 * (x - rng.uniform(-0.1, 0.1)))
        for tissue, edge in enumerate((0.75, 0.6, 0.4), start=1):
            label[index][radius < edge] = tissue
    reference = CONTRAST[label]
    noisy = np.clip(add_rician_noise(reference, sigma, rng), 0, 1)
    second = SECOND[label] if beside and modality == "MR" else None
    return StudyImages(modality, noisy, reference, label if labelled else None, (1.0, 1.0), second)


def patient(*studies: StudyImages) -> PatientImages:
    """A patient with these studies, or with one default study."""
    return PatientImages("p", studies or (study(),))


def band_limited(height: int, width: int, *, keep: int = 5, seed: int = 0) -> np.ndarray:
    """A positive image ``[1, height, width]`` without any frequency above ``keep`` cycles per image."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None] / height, np.arange(width)[None, :] / width
    image = np.full((height, width), 0.5)
    for _ in range(8):
        fy, fx = rng.integers(-keep, keep + 1, size=2)
        image += 0.05 * np.cos(2 * np.pi * (fy * y + fx * x) + rng.uniform(0, 2 * np.pi))
    return image[None].astype(np.float32)
