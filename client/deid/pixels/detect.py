"""Text in pictures: where a neural detector sees it, and how sure a recogniser is that it is text.

The networks are PP-OCRv6 small (Apache-2.0), detection and recognition, as the ``rapidocr`` wheel carries them. Only
the weights are taken from there: nothing is ever downloaded, and another file under their names is refused. Detection
is differentiable binarization (Liao et al., AAAI 2020, arXiv:1911.08947): a map of how likely each pixel lies in the
core of a line of text. Recognition serves to tell text from what only looks like it; nobody gets to see what it reads.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from shared.errors import DataError

Picture = NDArray[np.uint8]
"""What a person would see: [rows, columns, 3]."""

_DETECTION = ("PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f")
_RECOGNITION = ("PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884")

CORE = 0.2
"""Probability from which a pixel belongs to the core of a line of text; PP-OCR's own is 0.3."""
SCORE = 0.3
"""Mean probability of a core from which it counts; PP-OCR's own is 0.5."""
SURE = 0.8
"""From this score on, nobody asks the recogniser."""
READABLE = 0.9
"""Mean confidence of the recogniser below which a doubtful core is no text."""
THICKEST = 0.12
"""Share of the picture's shorter side beyond which a core is no line of text; letters are about twice as high."""
LARGE = 0.06
"""Share from which on a core counts only where the recogniser can read it."""
FINE_SIDE = 1024
COARSE_SIDE = 640
_TILE, _OVERLAP = 1536, 192
_LEAST, _MULTIPLE = 64, 32
_GROW, _PAD = 0.7, 1.5
_SLENDER = 3.0
_LINE = 48  # pixels of height that the recogniser takes
_WIDEST = 960


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle of pixels, half open: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in it."""
        return (self.bottom - self.top) * (self.right - self.left)

    def slices(self) -> tuple[slice, slice]:
        """As an index into a frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class _Core:
    """A connected piece of the probability map: its pieces as boxes, its score, and how slender it is."""

    boxes: tuple[Box, ...]
    whole: Box
    score: float
    slender: float

    @property
    def sure(self) -> bool:
        """Whether it is text without asking further: probable, and longer than high as lines are."""
        return self.score >= SURE and self.slender >= _SLENDER

    @property
    def speck(self) -> bool:
        """Whether it is too small and too doubtful for a sign; grain makes such specks."""
        rows, columns = self.whole.bottom - self.whole.top, self.whole.right - self.whole.left
        return self.score < SURE and min(rows, columns) < 9 and max(rows, columns) < 25


class Detector:
    """Both networks, on one thread each.

    Raises:
        DataError: The weights are missing, or are not those that this was tested with.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # give memory back after a large picture
        options.log_severity_level = 4
        self._detection, self._recognition = (
            onnxruntime.InferenceSession(_weights(*file), options, providers=["CPUExecutionProvider"])
            for file in (_DETECTION, _RECOGNITION)
        )

    def find(self, picture: Picture, *, doubtful: bool = True) -> list[Box]:
        """Boxes that cover the text in a picture, upright, turned by a quarter either way, or slightly slanted.

        Args:
            picture: uint8, [rows, columns, 3].
            doubtful: Whether what is no text at first sight counts where the recogniser can read it.
        """
        rows, columns = picture.shape[:2]
        cores = [core for top, left, tile in _tiles(picture) for core in self._cores(tile, FINE_SIDE, top, left)]
        for turns in (1, 3):
            turned = self._cores(np.rot90(picture, turns), COARSE_SIDE, 0, 0)
            cores += (_turned_back(core, turns, rows, columns) for core in turned)
        found = [
            core for core in cores if core.sure or (doubtful and not core.speck and self._reads(picture, core.whole))
        ]
        return sorted({_clipped(box, rows, columns) for core in found for box in core.boxes})

    def _cores(self, picture: Picture, side: int, top: int, left: int) -> Iterator[_Core]:
        """Cores in one picture, in coordinates of the picture that it was cut out of at ``top``, ``left``."""
        rows, columns = picture.shape[:2]
        scale = min(max(side / min(rows, columns), 1.0), 2.0, 2 * side / max(rows, columns))
        height, width = (max(_LEAST, round(size * scale / _MULTIPLE) * _MULTIPLE) for size in (rows, columns))
        [output] = self._detection.run(None, {"x": _normal(_resized(picture, width, height))})
        chances = np.asarray(output, np.float32)[0, 0]
        for mask, score in _pieces(chances):
            core = _grown(mask, score, (rows / height, columns / width), (top, left))
            if core is not None:
                yield core

    def _reads(self, picture: Picture, box: Box) -> bool:
        """Whether the recogniser is confident of a sign in the box, upright or turned by a quarter."""
        box = _clipped(box, *picture.shape[:2])
        crop = picture[box.slices()]
        if not crop.size:
            return False
        upright = crop.shape[1] >= 0.8 * crop.shape[0]
        sideways = crop.shape[0] >= 0.8 * crop.shape[1]
        turns = [0] * upright + [1, 3] * sideways
        return any(self._confidence(np.rot90(crop, turn)) >= READABLE for turn in turns)

    def _confidence(self, line: Picture) -> float:
        width = min(max(_LINE, round(line.shape[1] * _LINE / line.shape[0])), _WIDEST)
        [output] = self._recognition.run(None, {"x": _normal(_resized(line, width, _LINE))})
        steps = np.asarray(output, np.float32)[0]
        best, likely = steps.argmax(axis=1), steps.max(axis=1)
        signs = best != 0  # class 0 is "no sign here" (connectionist temporal classification)
        return float(likely[signs].mean()) if signs.any() else 0.0


@cache
def detector() -> Detector:
    """The detector of this process; loading it takes a moment."""
    return Detector()


def _weights(name: str, sha256: str) -> str:
    # find_spec does not run the package, which would load its own downloader.
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise DataError("the text detector is not installed", hint="install fedward[client], which brings rapidocr")
    path = Path(spec.origin).parent / "models" / name
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"the text detector has no weights: {error.strerror}", hint="install rapidocr 3.10") from error
    if digest != sha256:
        raise DataError(f"{name} is not the file that was tested", hint="install rapidocr 3.10")
    return str(path)


def _resized(picture: Picture, width: int, height: int) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _normal(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[rows, columns, 3] of 0 to 255 as [1, 3, rows, columns] of -1 to 1."""
    return np.ascontiguousarray((picture.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None])


def _tiles(picture: Picture) -> Iterator[tuple[int, int, Picture]]:
    """The picture in overlapping pieces that are small enough for bounded memory, with their places."""
    rows, columns = picture.shape[:2]
    for top in _starts(rows):
        for left in _starts(columns):
            yield top, left, picture[top : top + _TILE, left : left + _TILE]


def _starts(size: int) -> Iterable[int]:
    if size <= _TILE:
        return (0,)
    count = -(-(size - _OVERLAP) // (_TILE - _OVERLAP))
    return [round(number * (size - _TILE) / (count - 1)) for number in range(count)]


def _pieces(chances: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """Connected cores that count: a mask over the whole map, and the mean probability."""
    labels, count = ndimage.label(chances > CORE, np.ones((3, 3)))
    for number, place in enumerate(ndimage.find_objects(labels, count), start=1):
        mask = labels[place] == number
        if min(mask.shape) < 2 or mask.sum() < 12:
            continue
        score = float(chances[place][mask].mean())
        if score >= SCORE:
            whole = np.zeros(chances.shape, bool)
            whole[place] = mask
            yield whole, score


def _grown(mask: NDArray[np.bool_], score: float, scale: tuple[float, float], at: tuple[int, int]) -> _Core | None:
    """A core, grown from the middle of its line to the height of its signs; slanted ones in pieces that follow them.

    None where it is too thick to be a line of text.
    """
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    height, width = bottom - top, right - left
    # The thickness of the core, whatever its slant: twice the largest distance from its inside to its edge.
    patch = np.pad(mask[top:bottom, left:right], 1)
    thick = min(2 * float(ndimage.distance_transform_edt(patch).max()), float(min(height, width)))
    if thick > THICKEST * min(mask.shape):
        return None
    grow, slender = _GROW * thick, float(np.hypot(height, width)) / thick
    if thick > LARGE * min(mask.shape):
        slender = 0.0  # an organ can be as long as a line; letters as large as that are readable

    def box(rows_from: float, columns_from: float, rows_to: float, columns_to: float) -> Box:
        return Box(
            int(np.floor((rows_from - grow) * scale[0] - _PAD)) + at[0],
            int(np.floor((columns_from - grow) * scale[1] - _PAD)) + at[1],
            int(np.ceil((rows_to + grow) * scale[0] + _PAD)) + at[0],
            int(np.ceil((columns_to + grow) * scale[1] + _PAD)) + at[1],
        )

    whole = box(top, left, bottom, right)
    if len(rows) >= 0.7 * height * width:
        return _Core((whole,), whole, score, slender)
    return _Core(tuple(box(*piece) for piece in _along(rows, columns, max(4, round(2 * thick)))), whole, score, slender)


def _along(rows: NDArray[np.intp], columns: NDArray[np.intp], step: int) -> Iterator[tuple[float, float, float, float]]:
    """Bounding boxes of pieces of ``step`` along the longer side of a core."""
    wide = np.ptp(columns) >= np.ptp(rows)
    along, across = (columns, rows) if wide else (rows, columns)
    for start in range(int(along.min()), int(along.max()) + 1, step):
        inside = (along >= start) & (along < start + step)
        if not inside.any():
            continue
        low, high = float(across[inside].min()), float(across[inside].max()) + 1
        first, last = float(along[inside].min()), float(along[inside].max()) + 1
        yield (low, first, high, last) if wide else (first, low, last, high)


def _turned_back(core: _Core, turns: int, rows: int, columns: int) -> _Core:
    """A core found in a picture that was turned by quarters to the left, in the coordinates of the picture itself."""

    def back(box: Box) -> Box:
        if turns == 1:  # row r, column c went to row columns - 1 - c, column r
            return Box(box.left, columns - box.bottom, box.right, columns - box.top)
        return Box(rows - box.right, box.top, rows - box.left, box.bottom)

    return _Core(tuple(back(box) for box in core.boxes), back(core.whole), core.score, core.slender)


def _clipped(box: Box, rows: int, columns: int) -> Box:
    return Box(max(box.top, 0), max(box.left, 0), min(box.bottom, rows), min(box.right, columns))
