"""One file: look at every frame, blank what is found, look again. What is not clear then is not released."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from client.deid.codec import Part10
from client.deid.pixels import redact
from client.deid.pixels.box import Box, Mask, Picture
from client.deid.pixels.decide import DOUBTFUL, LEFT, NONE_FOUND, TOO_MUCH, Look
from client.deid.pixels.detect import detector
from client.deid.pixels.frames import Frame, Frames
from client.deid.pixels.ink import ink_views
from client.deid.pixels.views import viewer
from client.deid.streams import FrameBox, UnclearError

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
        boxes: What was blanked: frame, top, left, bottom, right, half open.
        recoded: Whether frames that were compressed with loss are stored without loss now.
        outside: Whether what lies outside ultrasound regions was blanked unseen.
    """

    part10: Part10
    frames: int
    boxes: tuple[FrameBox, ...] = field(repr=False)
    recoded: bool = False
    outside: bool = False


def clear(part10: Part10, why: Look, *, only_regions: bool = False) -> Cleared:
    """Blank the text in all frames of a file, one frame in memory at a time.

    Args:
        part10: The file, with nothing but pixels in its compressed streams (:func:`client.deid.streams.stripped`).
        why: Why it is looked at.
        only_regions: Whether everything outside its ultrasound regions is blanked unseen, where it has any.

    Raises:
        UnclearError: It cannot be cleared; the text says why, and what was found goes with it as a proposal.
    """
    frames = Frames(part10)
    see = viewer(part10, frames)
    inside = redact.regions(part10) if only_regions else []
    clearing = _Clearing(see, frames.photometric)
    changed: set[int] = set()
    for index in range(frames.layout.frames):
        original = frames.read(index)
        frame = redact.blanked_outside(original, inside, frames.photometric) if inside else original
        frame = clearing.cleared(index, frame)
        if not np.array_equal(frame, original):
            frames.write(index, frame)
            changed.add(index)
    if why.claimed and not changed:
        raise UnclearError(why.why + NONE_FOUND)
    return replace(_finished(frames, changed, clearing.boxes), outside=bool(inside))


def blank(part10: Part10, boxes: Iterable[FrameBox]) -> Cleared:
    """Blank what a person chose, and nothing else: the person has looked at every frame.

    Args:
        part10: As for :func:`clear`.
        boxes: Frame, top, left, bottom, right, half open; all within the picture.

    Raises:
        UnclearError: The pixels cannot be decoded, or not be stored again without loss.
    """
    chosen = tuple(boxes)
    if not chosen:
        return Cleared(part10, 0, ())
    frames = Frames(part10)
    by_frame: dict[int, list[Box]] = {}
    for number, *place in chosen:
        by_frame.setdefault(number, []).append(Box(*place))
    for index, places in by_frame.items():
        frames.write(index, redact.blanked(frames.read(index), places, frames.photometric))
    return _finished(frames, set(by_frame), chosen)


def _finished(frames: Frames, changed: set[int], boxes: Iterable[FrameBox]) -> Cleared:
    if changed and frames.recoded:
        for index in set(range(frames.layout.frames)) - changed:
            frames.write(index, frames.read(index))
    return Cleared(frames.result(), frames.layout.frames, tuple(boxes), recoded=bool(changed) and frames.recoded)


class _Clearing:
    """The frames of one file, one after the other."""

    def __init__(self, see: Callable[[Frame], list[Picture]], photometric: str) -> None:
        self._see, self._photometric = see, photometric
        self._before: tuple[Frame, list[Box]] | None = None
        self.boxes: list[FrameBox] = []

    def cleared(self, index: int, original: Frame) -> Frame:
        """The frame without its text.

        Raises:
            UnclearError: Text is left, or may be, or nearly everything looks like text.
        """
        mask: Mask = np.zeros(original.shape[:2], bool)
        found = self._carried(original)
        frame = self._blank(original, mask, index, found)
        frame = self._until_none(frame, mask, index, found, self._find)
        if found:
            # Where somebody wrote something, there may be more of it that is harder to see.
            views = [one for view in self._sure(original) for one in ink_views(view, found, mask)]
            frame = self._until_none(frame, mask, index, found, lambda _, gone: self._find_ink(views, gone, index))
        self._before = original, found
        return frame

    def _until_none(
        self, frame: Frame, mask: Mask, index: int, found: list[Box], find: Callable[[Frame, Mask], list[Box]]
    ) -> Frame:
        for _ in range(ROUNDS):
            boxes = find(frame, mask)
            if not boxes:
                return frame
            found += boxes
            frame = self._blank(frame, mask, index, boxes)
        if find(frame, mask):
            raise UnclearError(LEFT, self.boxes)
        return frame

    def _carried(self, frame: Frame) -> list[Box]:
        """What was found in the frame before and stands here again, value by value: names do not move in a film."""
        if self._before is None:
            return []
        previous, boxes = self._before
        return [box for box in boxes if np.array_equal(previous[box.slices()], frame[box.slices()])]

    def _find(self, frame: Frame, mask: Mask) -> list[Box]:
        views = self._see(frame)
        sure = len(self._sure_of(views))
        seen = enumerate(views)
        return [box for number, view in seen for box in detector().find(view, mask, doubtful=number < sure)]

    def _find_ink(self, views: list[Picture], mask: Mask, index: int) -> list[Box]:
        seen = [detector().search(view, mask, window=True) for view in views]
        boxes = [box for one in seen for box in one.text]
        doubts = [box for one in seen for box in one.doubts]
        if doubts and not boxes:
            raise UnclearError(DOUBTFUL, self.boxes + [_at(index, box) for box in doubts])
        return boxes

    def _sure(self, frame: Frame) -> list[Picture]:
        return self._sure_of(self._see(frame))

    @staticmethod
    def _sure_of(views: list[Picture]) -> list[Picture]:
        """All but the last of several, which is of amplified grain, in which somebody who wants to read will."""
        return views[: max(len(views) - 1, 1)]

    def _blank(self, frame: Frame, mask: Mask, index: int, boxes: list[Box]) -> Frame:
        for box in boxes:
            mask[box.slices()] = True
            self.boxes.append(_at(index, box))
        if mask.mean() > LARGEST_MASK:
            raise UnclearError(TOO_MUCH, self.boxes)
        return redact.blanked(frame, boxes, self._photometric) if boxes else frame


def _at(index: int, box: Box) -> FrameBox:
    return index, box.top, box.left, box.bottom, box.right
