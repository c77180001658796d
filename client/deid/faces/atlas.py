"""A mean head with its face, and where in it the face is.

The head is the template of pydeface 2.1.0 (mean of aligned T1 images; MIT licence, Copyright (c) 2015, in
``data/head_atlas.LICENSE``), put on a grid of 4 mm; ``benchmarks/head_atlas.py`` makes the file again. Its coordinates
are a DICOM patient's, mm: +x left, +y back, +z head (PS3.3 C.7.6.2.1.1).

The face is described by planes that leave the brain on their other side, the idea of Schimke and Hale: Quickshear
defacing for neuroimages, Proc. 2nd USENIX Workshop on Health Security and Privacy (2011). One plane through the head
would take the neck with it or leave the eyes; here there are three wedges, each cut by planes and open to the front and
the feet: one over the whole width, and one for each orbit, whose roof lies higher. All points of them are about 7 mm
or more from the brain of the ICBM 2009a atlas, fitted to this template (affine, mutual information).
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

Plane = tuple[float, float, float, float]
"""Half a space: the points p (mm) with a*x + b*y + c*z + d > 0."""
Wedge = tuple[Plane, ...]
"""The points that lie in every one of some half spaces."""

# Below a plane that rises to the front, in front of a frontal plane, and for the orbits to one side of a sagittal one.
WEDGES: tuple[Wedge, ...] = (
    ((0.0, -0.417, -1.0, -56.85), (0.0, -1.0, 0.0, -52.0)),
    ((0.0, -0.25, -1.0, -37.5), (0.0, -1.0, 0.0, -60.0), (1.0, 0.0, 0.0, -18.0)),
    ((0.0, -0.25, -1.0, -37.5), (0.0, -1.0, 0.0, -60.0), (-1.0, 0.0, 0.0, -18.0)),
)
LANDMARKS: NDArray[np.float64] = np.array(
    [
        *[(0.0, -98.0, -20.0), (0.0, -112.0, -62.0), (34.0, -84.0, -33.0), (-34.0, -84.0, -33.0), (0.0, -98.0, -92.0)],
        *[(0.0, -78.0, 5.0), (34.0, -62.0, -12.0), (-34.0, -62.0, -12.0), (0.0, 40.0, 0.0), (0.0, -10.0, 70.0)],
    ]
)
"""Bridge and tip of the nose, eyes, mouth, frontal pole, floor of the frontal lobes, back and top of the brain."""
BRAIN_BOX = ((-66.0, -80.0, -40.0), (66.0, 72.0, 86.0))
"""A box around the upper brain: its first and its last corner, mm."""
AIR = 24
"""Grey level below which the template is not head."""


@dataclass(frozen=True)
class Atlas:
    """The mean head.

    Attributes:
        values: Grey levels, uint8 ``[z, y, x]``.
        origin: Coordinates x, y, z of the first voxel, mm.
        spacing: Edge of a voxel, mm.
    """

    values: NDArray[np.uint8]
    origin: tuple[float, float, float]
    spacing: float


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The mean head, read once per process."""
    with as_file(files("client.deid") / "data" / "head_atlas.npz") as path, np.load(path, allow_pickle=False) as stored:
        x, y, z = (float(one) for one in stored["origin"])
        return Atlas(stored["values"], (x, y, z), float(stored["spacing"]))


def inside(wedges: tuple[Wedge, ...], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points, mm, ``[..., 3]``, lie in any of the wedges; ``[...]``."""
    found = np.zeros(points.shape[:-1], bool)
    for wedge in wedges:
        here = np.ones(points.shape[:-1], bool)
        for *normal, offset in wedge:
            here &= points @ np.asarray(normal) + offset > 0
        found |= here
    return found


def moved(wedges: tuple[Wedge, ...], matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> tuple[Wedge, ...]:
    """The wedges in the space from which ``p -> matrix @ p + shift`` leads here."""

    def plane(one: Plane) -> Plane:
        normal = np.asarray(one[:3])
        a, b, c = (float(value) for value in normal @ matrix)
        return (a, b, c, float(normal @ shift) + one[3])

    return tuple(tuple(plane(one) for one in wedge) for wedge in wedges)
