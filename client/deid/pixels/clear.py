"""One file: look at every frame, blank what is found, look again. What is not clear then is not released."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.deid.codec import Part10
from client.deid.pixels import redact
from client.deid.pixels.decide import Look
from client.deid.pixels.detect import Box, detector
from client.deid.pixels.frames import Frame, Frames
from client.deid.pixels.views import viewer
from client.deid.streams import UnclearError

ROUNDS = 3
"""How often text may be found in one frame before a person has to look."""
LARGEST_MASK = 0.4
"""Share of a frame that may be blanked; where more looks like text, it is a document, or no text at all."""


@dataclass(frozen=True)
class Cleared:
    """A file whose every frame was looked at.

    Attributes:
        part10: The file; the very same where nothing was found.
        frames: How many frames were looked at.
        boxes: How many boxes were blanked, over all frames.
        recoded: Whether frames that were compressed with loss are stored without loss now.
    """

    part10: Part10
    frames: int
    boxes: int
    recoded: bool = False


def fresh(boxes: list[Box], mask: NDArray[np.bool_]) -> list[Box]:
    """Boxes at least half of which was not blanked yet: a blank bar in grain looks like a line of text itself."""
    return [box for box in boxes if mask[box.slices()].mean() < 0.5]


def clear(part10: Part10, why: Look, *, only_regions: bool = False) -> Cleared:
    """Blank the text in all frames of a file, one frame in memory at a time.

    Args:
        part10: The file, with nothing but pixels in its compressed streams (:func:`client.deid.streams.stripped`).
        why: Why it is looked at.
        only_regions: Whether everything outside its ultrasound regions is blanked unseen, where it has any.

    Raises:
        UnclearError: It cannot be cleared; the text says why.
    """
    frames = Frames(part10)
    see = viewer(part10, frames)
    inside = redact.regions(part10) if only_regions else []

    def boxes_in(frame: Frame) -> list[Box]:
        # The later views are of amplified grain, in which somebody who wants to read will.
        views = enumerate(see(frame))
        return [box for number, view in views for box in detector().find(view, doubtful=number == 0)]

    total = 0
    changed: set[int] = set()
    for index in range(frames.layout.frames):
        frame = original = frames.read(index)
        if inside:
            frame = redact.blanked_outside(frame, inside, frames.photometric)
            total += not np.array_equal(frame, original)
        mask = np.zeros(frame.shape[:2], bool)
        for _ in range(ROUNDS):
            boxes = fresh(boxes_in(frame), mask)
            if not boxes:
                break
            total += len(boxes)
            for box in boxes:
                mask[box.slices()] = True
            if mask.mean() > LARGEST_MASK:
                raise UnclearError(f"what looks like text covers more than {LARGEST_MASK:.0%} of a frame")
            frame = redact.blanked(frame, boxes, frames.photometric)
        else:
            if fresh(boxes_in(frame), mask):
                raise UnclearError("text is left in its pixels after redaction")
        if not np.array_equal(frame, original):
            frames.write(index, frame)
            changed.add(index)
    if why.claimed and not total:
        raise UnclearError(f"{why.why}, and no text was found in them")
    if changed and frames.recoded:
        for index in set(range(frames.layout.frames)) - changed:
            frames.write(index, frames.read(index))
    return Cleared(frames.result(), frames.layout.frames, total, recoded=bool(changed) and frames.recoded)
