"""Boxes that a person draws over a held picture: rectangles of one frame, or of every frame, in pixels, half-open."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from client.deid.known import UNREADABLE
from client.deid.streams import FrameBox
from shared.errors import DataError, UsageError

EVERY_FRAME = -1
"""Stands in the place of the frame of a box that is on all of them."""
MOST_BOXES = 200
"""Of one decision; those of several on one content are blanked together."""
_MOST_BLANKED = 100_000
_MOST_PIXELS = 64 << 20
_HINT = "load the page again and draw the boxes anew"


@dataclass(frozen=True)
class Shape:
    """How many frames a file has, and how many rows and columns each."""

    frames: int
    rows: int
    columns: int


def shape_of(path: Path) -> Shape | None:
    """The shape of the picture in a file; None where it has none that can be shown."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        shape = Shape(
            int(dataset.get("NumberOfFrames", 1) or 1), int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))
        )
    except UNREADABLE:
        return None
    drawable = min(shape.rows, shape.columns) > 0 and shape.rows * shape.columns <= _MOST_PIXELS
    return shape if drawable and shape.frames > 0 else None


def to_blank(path: Path, boxes: Iterable[FrameBox]) -> tuple[FrameBox, ...]:
    """What is blanked in the file at ``path`` if these boxes are: each that is on every frame written out once a frame.

    Raises:
        UsageError: A box does not lie in the picture, or there are too many.
        DataError: There are boxes, and the file has no picture.
    """
    wanted = tuple(boxes)
    if not wanted:
        return ()
    shape = shape_of(path)
    if shape is None:
        raise DataError("the file has no picture that could be blanked", hint="refuse it")
    check_boxes(wanted, shape)
    return on_frames(wanted, shape)


def check_boxes(boxes: Iterable[FrameBox], shape: Shape) -> None:
    """See that every box has an inside and lies in the picture.

    Raises:
        UsageError: One does not.
    """
    for frame, top, left, bottom, right in boxes:
        if not (frame == EVERY_FRAME or 0 <= frame < shape.frames):
            raise UsageError("a box is on a frame that is not there", hint=_HINT)
        if not (0 <= top < bottom <= shape.rows and 0 <= left < right <= shape.columns):
            raise UsageError("a box does not lie in the picture", hint=_HINT)


def on_frames(boxes: Iterable[FrameBox], shape: Shape) -> tuple[FrameBox, ...]:
    """The boxes with each that is on every frame written out once a frame, sorted, none twice.

    Raises:
        UsageError: That makes more than can be worked off.
    """
    found = set(boxes)
    everywhere = {box for box in found if box[0] == EVERY_FRAME}
    if len(found) + len(everywhere) * shape.frames > _MOST_BLANKED:
        raise UsageError("too many boxes for so many frames", hint="draw fewer, larger ones, or refuse the file")
    spread = {(frame, *box[1:]) for box in everywhere for frame in range(shape.frames)}
    return tuple(sorted((found - everywhere) | spread))
