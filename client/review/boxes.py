"""Boxes that a person draws over a held picture: rectangles of one frame, or of every frame, in pixels, half-open."""

from collections.abc import Iterable

from client.review.pictures import Shape
from shared.errors import UsageError

Box = tuple[int, int, int, int, int]
"""Frame, top, left, bottom, right: rows from top up to bottom, columns from left up to right, neither end included."""

EVERY_FRAME = -1
"""Stands in the place of the frame of a box that is on all of them."""
MOST_BOXES = 200
_MOST_BLANKED = 100_000
_HINT = "load the page again and draw the boxes anew"


def check_boxes(boxes: Iterable[Box], shape: Shape) -> None:
    """See that every box has an inside and lies in the picture.

    Raises:
        UsageError: One does not, or there are too many.
    """
    found = tuple(boxes)
    if len(found) > MOST_BOXES:
        raise UsageError(f"more than {MOST_BOXES} boxes", hint="draw larger ones, or refuse the file")
    for frame, top, left, bottom, right in found:
        if not (frame == EVERY_FRAME or 0 <= frame < shape.frames):
            raise UsageError("a box is on a frame that is not there", hint=_HINT)
        if not (0 <= top < bottom <= shape.rows and 0 <= left < right <= shape.columns):
            raise UsageError("a box does not lie in the picture", hint=_HINT)


def on_frames(boxes: Iterable[Box], shape: Shape) -> tuple[Box, ...]:
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
