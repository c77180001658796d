"""Random windows out of a patient's slices, turned and mirrored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.imaging.images import PatientImages, StudyImages

if TYPE_CHECKING:
    from shared.imaging.tasks import Task


@dataclass(frozen=True)
class Window:
    """Where one training patch is cut.

    Attributes:
        stack: Which of the stacks.
        index: Which slice of it.
        top: First row.
        left: First column.
        turn: One of the eight symmetries of the square.
    """

    stack: int
    index: int
    top: int
    left: int
    turn: int

    def cut(self, stacks: Sequence[NDArray[Any]], size: int, scale: int = 1) -> NDArray[Any]:
        """The window out of arrays that are ``scale`` times finer than those it was drawn for.

        Args:
            stacks: Arrays ``[n, h, w]``.
            size: Edge of the window in pixels before scaling; where the image is smaller, its border is repeated.
            scale: Pixels of these arrays to one pixel of the drawn ones.

        Returns:
            ``[size * scale, size * scale]``.
        """
        edge = size * scale
        top, left = self.top * scale, self.left * scale
        patch = stacks[self.stack][self.index, top : top + edge, left : left + edge]
        if patch.shape != (edge, edge):
            patch = np.pad(patch, ((0, edge - patch.shape[0]), (0, edge - patch.shape[1])), mode="edge")
        return _turned(patch, self.turn)


def draw_windows(
    shapes: Sequence[tuple[int, ...]], count: int, size: int, rng: np.random.Generator, *, turns: int = 8
) -> list[Window]:
    """Draw windows uniformly over all slices of all stacks.

    Args:
        shapes: ``(n, h, w)`` of each stack.
        count: How many windows.
        size: Their edge in pixels.
        rng: Where the draws come from; the same state gives the same windows.
        turns: How many of the symmetries may occur: 8 all, 2 only the mirror image left to right, 1 none.
    """
    slices = [(stack, index) for stack, shape in enumerate(shapes) for index in range(shape[0])]
    windows = []
    for pick, turn in zip(rng.integers(len(slices), size=count), rng.integers(turns, size=count), strict=True):
        stack, index = slices[pick]
        _, height, width = shapes[stack]
        top, left = rng.integers(0, [max(height - size, 0) + 1, max(width - size, 0) + 1])
        windows.append(Window(stack, index, int(top), int(left), int(turn)))
    return windows


def stacked(windows: Sequence[Window], stacks: Sequence[NDArray[Any]], size: int, scale: int = 1) -> NDArray[Any]:
    """All windows as one array ``[len(windows), size * scale, size * scale]``; see :meth:`Window.cut`."""
    return np.stack([window.cut(stacks, size, scale) for window in windows])


def eligible_studies(task: "Task", patient: PatientImages) -> list[StudyImages]:
    """The studies of a patient that a task can use.

    Raises:
        DataError: There is none.
    """
    studies = [study for study in patient.studies if task.eligible(study)]
    if not studies:
        raise DataError(
            f"a patient has no study that the task {task.name} can use",
            hint=f"it needs {' or '.join(sorted(task.modalities))}, and labels to segment, or a second contrast "
            "for pairs; leave such patients out",
        )
    return studies


def _turned(patch: NDArray[Any], turn: int) -> NDArray[Any]:
    if turn & 1:
        patch = patch[:, ::-1]
    if turn & 2:
        patch = patch[::-1]
    return patch.T if turn & 4 else patch
