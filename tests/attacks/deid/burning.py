"""Burning text into pictures, and eyes that look whether it is still there.

Written from PS3.3 and PS3.5 alone: how the engine looks for text is not known here. The text is drawn by Pillow, so
which pixels carry ink is known exactly, and a picture is judged by that ink instead of by reading it.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, JPEGBaseline8Bit
from scipy import ndimage

from tests.attacks.deid.planting import ct

Plane = NDArray[np.float64]
Colour = float | tuple[float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONTS = Path("/usr/share/fonts/truetype")
STORAGE = "1.2.840.10008.5.1.4.1.1."
CLASSES = {
    "US": "6.1",
    "US film": "3.1",
    "OT": "7",
    "OT bytes": "7.2",
    "OT words": "7.3",
    "OT colour film": "7.4",
    "CR": "1",
    "DX": "1.1",
    "MG": "1.2",
    "XA": "12.1",
    "RF": "12.2",
    "NM": "20",
    "ES": "77.1.1",
    "CT": "2",
    "MR": "4",
    "PT": "128",
}
SHAPE = (256, 320)
NEAR = 2  # pixels within which an outline of ink differs from what is around it
LEAST_GONE = 0.95
FAR = 1.5  # text heights


@dataclass(frozen=True)
class Writing:
    """A line of text and how it is drawn.

    Attributes:
        text: What is written.
        size: Height of the font in pixels.
        at: Top and left of its box; where negative, how far its bottom or right is from the other border, from -1 on.
        ink: From 0 to 1, or red, green and blue.
        font: A file below ``FONTS``; Pillow's own where it is empty or missing.
        turn: Degrees, counterclockwise.
        outline: Colour of an outline of one pixel.
        shadow: Colour of a shadow two pixels down and to the right.
        plate: Colour of a box behind the text.
    """

    text: str
    size: int = 18
    at: tuple[int, int] = (5, 6)
    ink: Colour = 1.0
    font: str = ""
    turn: float = 0
    outline: Colour | None = None
    shadow: Colour | None = None
    plate: Colour | None = None


@dataclass(frozen=True)
class Ink:
    """Which pixels of a frame carry a text, whose font is ``height`` pixels high."""

    frame: int
    mask: NDArray[np.bool_]
    height: int
    text: str


@dataclass(frozen=True)
class Case:
    """A file with text in its picture.

    Attributes:
        dataset: The file.
        inks: Where the text is; none in a clean picture.
        exact: Whether the codec gives back what went in.
        clearable: Whether a machine can be expected to clear it, instead of leaving it to a person.
    """

    dataset: FileDataset
    inks: tuple[Ink, ...]
    exact: bool = True
    clearable: bool = True


@cache
def _font(name: str, size: int) -> Font:
    path = FONTS / name
    return ImageFont.truetype(path, size) if name and path.exists() else ImageFont.load_default(size)


def _coverage(writing: Writing, shape: tuple[int, int], stroke: int = 0, shift: int = 0) -> Plane:
    """How much ink each pixel gets, 0 to 1."""
    font = _font(writing.font, writing.size)
    left, top, right, bottom = font.getbbox(writing.text)
    stamp = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(stamp).text((2 - left, 2 - top), writing.text, 255, font, stroke_width=stroke)
    if writing.turn:
        stamp = stamp.rotate(writing.turn, Image.Resampling.BICUBIC, expand=True)
    canvas = Image.new("L", shape[::-1])
    row, column = writing.at
    y = row if row >= 0 else shape[0] + 1 + row - stamp.height
    x = column if column >= 0 else shape[1] + 1 + column - stamp.width
    canvas.paste(stamp, (x + shift, y + shift))
    return np.asarray(canvas, np.float64) / 255


def burn(plane: Plane, writings: Iterable[Writing], frame: int = 0) -> tuple[Plane, list[Ink]]:
    """The picture with all of it written on, and the ink of each."""
    inks = []
    for writing in writings:
        shape = (plane.shape[0], plane.shape[1])
        fill = _coverage(writing, shape)
        layers: list[tuple[Plane, Colour]] = [(fill, writing.ink)]
        if writing.outline is not None:
            layers.insert(0, (_coverage(writing, shape, stroke=1), writing.outline))
        if writing.shadow is not None:
            layers.insert(0, (_coverage(writing, shape, shift=2), writing.shadow))
        if writing.plate is not None:
            box = ndimage.binary_closing(fill > 0, iterations=writing.size)
            layers.insert(0, (ndimage.binary_dilation(box, iterations=3).astype(np.float64), writing.plate))
        for cover, colour in layers:
            share = cover if plane.ndim == 2 else cover[..., np.newaxis]
            plane = plane * (1 - share) + np.asarray(colour) * share
        inks.append(Ink(frame, fill > 0.5, writing.size, writing.text))
    return plane, inks


def ramp(low: float, high: float, shape: tuple[int, int] = SHAPE) -> Plane:
    """Brighter from top left to bottom right."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    return low + (high - low) * (rows + columns) / (sum(shape) - 2)


def clouds(seed: int, low: float, high: float, shape: tuple[int, int] = SHAPE, width: float = 14) -> Plane:
    """Smooth and irregular, as soft tissue is."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), width, mode="reflect")
    return low + (high - low) * (noise - noise.min()) / (noise.max() - noise.min())


def fan(seed: int = 0, shape: tuple[int, int] = SHAPE, grain: float = 1.8) -> Plane:
    """A sector of ultrasound with speckle of about ``grain`` pixels on black; the corners are empty."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    y, x = rows - 0.12 * shape[0], columns - shape[1] / 2
    distance, angle = np.hypot(y, x) / shape[0], np.abs(np.arctan2(x, y))
    inside = (distance > 0.1) & (distance < 0.75) & (angle < 0.7)
    speckle = clouds(seed, 0, 1, shape, grain)
    return np.where(inside, np.clip((speckle - 0.2) * (1.1 - distance), 0, 1), 0.0)


def chest(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Plane:
    """Two dark lungs in a brighter body on a dark film."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    y, x = rows / shape[0] - 0.5, columns / shape[1] - 0.5
    body = np.exp(-((x / 0.34) ** 4) - (y / 0.47) ** 4)
    lungs = sum(np.exp(-(((x - side) / 0.11) ** 2) - (y / 0.26) ** 2) for side in (-0.17, 0.17))
    return np.clip(0.08 + 0.75 * body - 0.45 * lungs + clouds(seed, -0.04, 0.04, shape, 5), 0, 1)


def mucosa(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Plane:
    """Red, with paler patches, as endoscopes see it."""
    pale = clouds(seed, 0, 1, shape, 18)
    return np.stack([0.55 + 0.3 * pale, 0.2 + 0.3 * pale, 0.15 + 0.25 * pale], axis=-1)


def image(
    kind: str,
    stored: NDArray[np.integer],
    *,
    bits: int,
    number: int = 1,
    photometric: str = "MONOCHROME2",
    planar: int = 0,
) -> FileDataset:
    """An uncompressed file of ``kind`` around stored values (frames, rows, columns[, samples])."""
    dataset = ct(number)
    for keyword in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient"):
        if kind not in {"CT", "MR", "PT"}:
            delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(STORAGE + CLASSES[kind])
    dataset.Modality = kind.split(maxsplit=1)[0]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    frames, dataset.Rows, dataset.Columns = stored.shape[:3]
    if frames > 1 or "film" in kind or " " in kind or kind in {"XA", "NM"}:
        dataset.NumberOfFrames = frames
    if frames > 1:
        dataset.FrameTime = "40"
    colour = stored.ndim == 4
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = photometric
    if colour:
        dataset.PlanarConfiguration = planar
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.PixelRepresentation = int(stored.min() < 0)
    words = stored.astype(("<i" if stored.min() < 0 else "<u") + ("1" if bits <= 8 else "2"))
    body = (words.transpose(0, 3, 1, 2) if colour and planar else words).tobytes()
    dataset.PixelData = body + b"\0" * (len(body) % 2)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    return dataset


def jpeg(dataset: FileDataset, planes: Sequence[NDArray[np.uint8]]) -> FileDataset:
    """The same as baseline JPEG, one stream per frame."""
    streams = []
    for plane in planes:
        buffer = io.BytesIO()
        Image.fromarray(plane).save(buffer, "JPEG", quality=92, subsampling=1 if plane.ndim == 3 else 0)
        streams.append(buffer.getvalue())
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.LossyImageCompression = "01"
    if dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_FULL_422", 0
    return dataset


def stored(dataset: FileDataset, *, raw: bool = True) -> NDArray[np.int64]:
    """The values as stored, or as colours: frames, rows, columns, samples."""
    values = pixel_array(dataset, raw=raw).astype(np.int64)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    return values.reshape(frames, dataset.Rows, dataset.Columns, -1)


def looks(dataset: FileDataset, *, exact: bool) -> list[NDArray[np.int64]]:
    """All that a reader can see in the file: its values, and what a palette makes of them."""
    values = stored(dataset, raw=exact)
    if dataset.PhotometricInterpretation != "PALETTE COLOR":
        return [values]
    return [values, np.asarray(apply_color_lut(values[..., 0], dataset)).astype(np.int64)]


def left(before: NDArray[np.int64], after: NDArray[np.int64], ink: Ink) -> float:
    """The share of the ink's edge that still differs from its surroundings as it did: 0 is blanked, 1 is untouched.

    A pixel of ink is held against the one that differed most from it within ``NEAR`` pixels.
    """
    old, new = (np.pad(one[ink.frame], ((NEAR, NEAR), (NEAR, NEAR), (0, 0)), "edge") for one in (before, after))
    rows, columns = np.nonzero(ink.mask)
    rows, columns = rows + NEAR, columns + NEAR
    most, still = np.zeros(rows.size), np.zeros(rows.size)
    steps = range(-NEAR, NEAR + 1)
    for down, right in ((down, right) for down in steps for right in steps):
        was = (old[rows, columns] - old[rows + down, columns + right]).astype(np.float64)
        now = (new[rows, columns] - new[rows + down, columns + right]).astype(np.float64)
        size = (was**2).sum(-1)
        better = size > most
        still[better] = ((was * now).sum(-1)[better]) / size[better]
        most[better] = size[better]
    edge = most > 0.25 * most.max(initial=0) if most.max(initial=0) else most < 0
    return float((still[edge] >= 0.5).mean()) if edge.any() else 0.0


def far(inks: Iterable[Ink], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that are further from every text than ``FAR`` heights: frames, rows, columns."""
    clear = np.ones(shape[:3], bool)
    for ink in inks:
        if ink.mask.any():
            clear[ink.frame] &= ndimage.distance_transform_edt(~ink.mask) > FAR * ink.height
    return clear
