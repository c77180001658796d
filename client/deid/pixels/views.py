"""What a person would see: stored values of 8 to 16 bits, grey either way, palette or colour, as 8-bit pictures."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client.deid.codec import Part10
from client.deid.engine import text_of
from client.deid.pixels.box import Picture
from client.deid.pixels.decide import DEEP_COLOURS, NO_PALETTE, UNKNOWN_COLOURS
from client.deid.pixels.frames import Frame, Frames
from client.deid.streams import UnclearError

_TABLES = (0x00281201, 0x00281202, 0x00281203)
_WINDOW = (0x00281050, 0x00281051, 0x00281053, 0x00281052)  # center, width; rescale slope, intercept
_MOST_WINDOWS = 2
_DECIMAL = re.compile(r"[+-]?\d{1,12}(\.\d{0,12})?([eE][+-]?\d{1,2})?")
_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103)


def viewer(part10: Part10, frames: Frames) -> Callable[[Frame], list[Picture]]:
    """How to look at the frames of a file.

    Values of more than eight bits are looked at several times: over their whole range, as text is usually burned in at
    one of its ends; as the windows of the header show them; and, last, with each grey equally frequent, where text of
    any value stands out from what is around it.

    Raises:
        UnclearError: The colours are described in a way that is not understood.
    """
    photometric = frames.photometric
    if photometric == "PALETTE COLOR":
        palette = _palette(part10)
        return lambda frame: [_indexed(frame, palette)]
    if photometric in {"MONOCHROME1", "MONOCHROME2"}:
        turned = photometric == "MONOCHROME1"
        windows = _windows(part10) if frames.layout.allocated > 8 else []
        return lambda frame: [_grey(one, turned=turned) for one in _stretched(frame, windows)]
    if frames.layout.allocated != 8:
        raise UnclearError(DEEP_COLOURS)
    if photometric == "RGB":
        return lambda frame: [np.ascontiguousarray(frame)]
    if photometric in {"YBR_FULL", "YBR_FULL_422"}:
        return lambda frame: [_from_ybr(frame)]
    raise UnclearError(UNKNOWN_COLOURS)


def _stretched(frame: Frame, windows: list[tuple[float, float]]) -> list[NDArray[np.uint8]]:
    low, high = (float(one) for one in np.percentile(frame, (0.05, 99.95)))
    least, most = float(frame.min()), float(frame.max())
    if most > least and high - low < 0.02 * (most - least):
        low, high = least, most
    if high <= low:
        return [np.zeros(frame.shape, np.uint8)] if most <= least else [_scaled(frame, least, most)]
    views = [_scaled(frame, low, high)]
    # A window that shows most of the range shows nothing that the first view does not.
    views += [_scaled(frame, *one) for one in windows if one[1] - one[0] < 0.7 * (high - low)]
    if frame.dtype.itemsize > 1:
        views.append(_equalised(frame))
    return views


def _windows(part10: Part10) -> list[tuple[float, float]]:
    """The first windows of the header (PS3.3 C.11.2.1.2), lowest and highest stored value each."""
    centers, widths, slopes, intercepts = (_decimals(part10, tag) for tag in _WINDOW)
    slope, intercept = (slopes or [1.0])[0] or 1.0, (intercepts or [0.0])[0]
    found = []
    for center, width in zip(centers[:_MOST_WINDOWS], widths, strict=False):
        ends = sorted((center + side * width / 2 - intercept) / slope for side in (-1, 1))
        if ends[1] > ends[0]:
            found.append((ends[0], ends[1]))
    return found


def _decimals(part10: Part10, tag: int) -> list[float]:
    parts = [part.strip() for part in text_of(part10.dataset, tag).split("\\")]
    return [float(part) for part in parts if _DECIMAL.fullmatch(part)]


def _scaled(frame: Frame, low: float, high: float) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = np.clip((frame.astype(np.float32) - low) * (255.0 / (high - low)), 0, 255).astype(
        np.uint8
    )
    return scaled


def _equalised(frame: Frame) -> NDArray[np.uint8]:
    least = int(frame.min())
    shifted = frame.astype(np.int32) - least
    counts = np.bincount(shifted.ravel())
    counts[0] = 0  # an empty background would take half of the greys
    below = np.cumsum(counts)
    table = (below * (255.0 / max(int(below[-1]), 1))).astype(np.uint8)
    picture: NDArray[np.uint8] = table[shifted]
    return picture


def _grey(values: NDArray[np.uint8], *, turned: bool) -> Picture:
    return np.repeat((255 - values if turned else values)[..., None], 3, axis=2)


def _from_ybr(frame: Frame) -> Picture:
    """PS3.3 C.7.6.3.1.2, YBR_FULL."""
    luma, blue, red = (frame[..., channel].astype(np.float32) for channel in range(3))
    blue, red = blue - 128, red - 128
    mixed = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    picture: Picture = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return picture


def _palette(part10: Part10) -> tuple[int, NDArray[np.uint8]]:
    """The first mapped value, and the colours [entries, 3] (PS3.3 C.7.6.3.1.5 and .6)."""
    order = ">" if part10.encoding.big else "<"
    first, columns = 0, []
    for descriptor, table in zip(_DESCRIPTORS, _TABLES, strict=True):
        about, content = (part10.dataset.get(tag, ("", b""))[1] for tag in (descriptor, table))
        if not isinstance(about, bytes) or len(about) != 6 or not isinstance(content, bytes | memoryview):
            raise UnclearError(NO_PALETTE)
        entries, first, bits = (int(one) for one in np.frombuffer(about, f"{order}u2"))
        entries = entries or 1 << 16
        if len(content) >= 2 * entries:
            values = np.frombuffer(content, f"{order}u2", count=entries)
            columns.append((values >> 8 if bits == 16 else values & 0xFF).astype(np.uint8))
        elif len(content) >= entries:
            columns.append(np.frombuffer(content, np.uint8, count=entries))
        else:
            raise UnclearError(NO_PALETTE)
    return first, np.stack(columns, axis=-1)


def _indexed(frame: Frame, palette: tuple[int, NDArray[np.uint8]]) -> Picture:
    first, colours = palette
    picture: Picture = colours[np.clip(frame.astype(np.int32) - first, 0, len(colours) - 1)]
    return picture
