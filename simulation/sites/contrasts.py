"""A head in two contrasts with a known move in between: what registration is measured against."""

from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import load_atlas
from simulation.sites.mri import draw_head, simulate_mr
from simulation.sites.specs import MrProtocol, PulseSequence
from simulation.sites.warp import Move

STREAM: Final = crc32(b"two contrasts")
T1: Final = MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=500, te=14, noise=0.05, thickness=4.0, gap=4.0)
T2: Final = MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=4000, te=100, noise=0.05, thickness=4.0, gap=4.0)
_FLIP: Final = np.diag([-1.0, -1.0, 1.0])
_CENTRE: Final = np.array([0.0, -18.0, 0.0])
"""Scanner coordinates p are ``_FLIP @ p + _CENTRE`` before the move, as :func:`~simulation.sites.mri.simulate_mr` has
it."""


@dataclass(frozen=True)
class TwoContrasts:
    """One patient, scanned twice; between the scans he moved.

    Attributes:
        first: T1-weighted.
        second: T2-weighted, of the same anatomy on the same grid of the scanner.
        move: How he lay in the second.
    """

    first: Acquisition
    second: Acquisition
    move: Move

    def where(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points ``[n, 3]`` of the first scan, mm in scanner coordinates, lie in the second."""
        return lying(points, self.move)


def lying(points: NDArray[np.float64], move: Move) -> NDArray[np.float64]:
    """Where points ``[n, 3]`` of a head that did not move, mm in scanner coordinates, lie after ``move``."""
    own = points @ _FLIP.T + _CENTRE
    moved = np.linalg.solve(move.matrix, (own - move.shift).T).T
    back: NDArray[np.float64] = (moved - _CENTRE) @ np.linalg.inv(_FLIP).T
    return back


def two_contrasts(
    seed: int, index: int, *, pixels: int = 96, slices: int = 16, degrees: float = 3.0, millimetres: float = 4.0
) -> TwoContrasts:
    """Patient number ``index``; it depends on the arguments alone.

    Args:
        seed: Not negative.
        index: Not negative.
        pixels: Rows and columns.
        slices: How many, 4 mm apart.
        degrees: Standard deviation of the rotation in each plane.
        millimetres: Standard deviation of the shift along each axis.

    Raises:
        DataError: The brain atlas is not installed.
    """
    anatomy, position, one, two = (np.random.default_rng([seed, STREAM, index, stream]) for stream in range(4))
    head, atlas = draw_head(anatomy, ageing=0.4), load_atlas()
    move = Move.draw(position, degrees=degrees, millimetres=millimetres)
    first = simulate_mr(T1, atlas, head, one, pixels=pixels, slices=slices, fov=240)
    second = simulate_mr(T2, atlas, head, two, pixels=pixels, slices=slices, fov=240, move=move)
    return TwoContrasts(first, second, move)
