"""Blanking: boxes in frames, and what lies outside ultrasound regions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.deid.codec import Dataset, Part10
from client.deid.pixels.box import Box
from client.deid.pixels.frames import Frame

GREYS = {"MONOCHROME1", "MONOCHROME2"}
"""Photometric interpretations of grey frames without a palette (PS3.3 C.7.6.3.1.2)."""
_REGIONS = 0x00186011
_CORNERS = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)  # columns and rows of the first and the last pixel


def blanked(frame: Frame, boxes: Iterable[Box], photometric: str) -> Frame:
    """A copy of the frame with its own darkest value in the boxes; outside them it stays as it is."""
    changed = frame.copy()
    value = _darkest(frame, photometric)
    for box in boxes:
        changed[box.slices()] = value
    return changed


def blanked_outside(frame: Frame, regions: Sequence[Box], photometric: str) -> Frame:
    """A copy of the frame in which only the regions are left."""
    changed = np.empty_like(frame)
    changed[...] = _darkest(frame, photometric)
    for region in regions:
        changed[region.slices()] = frame[region.slices()]
    return changed


def blanked_where(frame: Frame, mask: NDArray[np.bool_], photometric: str) -> Frame:
    """A copy of a grey frame with its own darkest value where the mask, ``[rows, columns]``, is set."""
    changed = frame.copy()
    changed[mask] = _darkest(frame, photometric)
    return changed


def _darkest(frame: Frame, photometric: str) -> Any:
    if photometric == "MONOCHROME1":
        return frame.max()
    if photometric == "MONOCHROME2":
        return frame.min()
    if photometric == "PALETTE COLOR":
        values, counts = np.unique(frame, return_counts=True)
        return values[counts.argmax()]
    if photometric.startswith("YBR_FULL"):
        return np.array([frame[..., 0].min(), 128, 128], frame.dtype)
    return np.zeros(frame.shape[-1:], frame.dtype)


def regions(part10: Part10) -> list[Box]:
    """The ultrasound regions of a file (PS3.3 C.8.5.5), as far as they lie in the picture."""
    items = part10.dataset.get(_REGIONS, ("", []))[1]
    order = "big" if part10.encoding.big else "little"
    found = []
    for item in items if isinstance(items, list) else []:
        corners = [_number(item, tag, order) for tag in _CORNERS]
        if None in corners:
            continue
        left, top, right, bottom = (int(one or 0) for one in corners)
        if left <= right and top <= bottom:
            found.append(Box(top, left, bottom + 1, right + 1))
    return found


def _number(item: Dataset, tag: int, order: str) -> int | None:
    value = item.get(tag, ("", b""))[1]
    if not isinstance(value, bytes) or len(value) != 4:
        return None
    return int.from_bytes(value, "big" if order == "big" else "little")
