"""The brain from which all virtual heads descend: the ICBM 2009a nonlinear atlas in the installed nilearn wheel.

The maps carry the notice of McGill University (use and modification permitted where the notice stays). They are read
where the user's own installation put them and are never copied into what fedward distributes.

Source: Fonov, Evans, Botteron, Almli, McKinstry, Collins: Unbiased average age-appropriate atlases for pediatric
studies, NeuroImage 54 (2011) 313-327.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.errors import DataError
from simulation.sites.warp import Points

FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
MARGIN = 36  # mm of air around the brain: skull, fat and skin are painted into it
FAR = 30.0  # mm; no layer of the head lies further from the brain
BRAIN_FROM = 5  # grey level (0..255) above which the skull-stripped T1 is brain


@dataclass(frozen=True)
class Atlas:
    """Tissue maps on a grid of 1 mm in the atlas's own space (+x right, +y front, +z head, mm).

    Attributes:
        fractions: CSF, grey matter, white matter, uint8 ``[3, x, y, z]``; 255 is all of the voxel.
        distance: Distance from the brain, mm, on every second voxel, float32 ``[x/2, y/2, z/2]``.
        origin: Coordinates of voxel 0, 0, 0.
    """

    fractions: NDArray[np.uint8]
    distance: NDArray[np.float32]
    origin: tuple[float, float, float]

    def sample(self, points: Points) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tissue fractions ``[3, ...]`` in [0, 1] and distance from the brain ``[...]`` (mm) at atlas coordinates."""
        places = points - np.asarray(self.origin, np.float32).reshape(3, *(1,) * (points.ndim - 1))
        fractions = np.stack(
            [ndimage.map_coordinates(tissue, places, order=1, output=np.float32) for tissue in self.fractions]
        )
        distance = ndimage.map_coordinates(self.distance, places / 2, order=1, mode="nearest", output=np.float32)
        return fractions / np.float32(255), distance


def atlas_file(name: str) -> Path:
    """The file of one map (``t1``, ``gm``, ``wm``) in the installed nilearn, found without importing it.

    Raises:
        DataError: nilearn is not installed, or does not hold the atlas.
    """
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "the brain atlas is missing: nilearn is not installed", hint="pip install 'fedward[simulation]'"
        )
    path = Path(spec.origin).parent / "datasets" / "data" / FILE.format(name)
    if not path.is_file():
        raise DataError(f"the installed nilearn has no {path.name}", hint="pip install 'fedward[simulation]'")
    return path


def _read(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    path = atlas_file(name)
    import nibabel  # noqa: PLC0415  # comes with nilearn; sites with CT need neither

    image = nibabel.load(path)
    return np.asarray(image.dataobj, np.uint8), np.asarray(image.affine, np.float64)


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The atlas, read once per process (about a second).

    The atlas averages 152 people and is blurred; squaring the fractions before normalising makes each voxel decide for
    a tissue, as in one person.

    Raises:
        DataError: nilearn is not installed, or does not hold the atlas.
    """
    t1, affine = _read("t1")
    grey, _ = _read("gm")
    white, _ = _read("wm")
    brain = ndimage.binary_fill_holes(t1 > BRAIN_FROM)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    t1, grey, white, brain = t1[box], grey[box], white[box], brain[box]
    solid = (grey.astype(np.float32) + white) / 255
    parts = np.stack([np.clip(brain - solid, 0, 1), grey / np.float32(255), white / np.float32(255)]) ** 2
    parts *= brain / np.maximum(parts.sum(0), np.float32(1e-6))
    pad = [(MARGIN, MARGIN)] * 3
    fractions = np.pad((parts * 255).round().astype(np.uint8), [(0, 0), *pad])
    distance = 2 * ndimage.distance_transform_edt(~np.pad(brain, pad)[::2, ::2, ::2])
    corner = affine[:3, 3] + np.array([part.start for part in box]) - MARGIN
    x, y, z = (float(value) for value in corner)
    return Atlas(fractions, np.minimum(distance, FAR).astype(np.float32), (x, y, z))
