"""Text in pictures: where a neural detector sees it, and how sure a recogniser is that it is text.

The networks are PP-OCRv6 small (Apache-2.0), detection and recognition, as the ``rapidocr`` wheel carries them. Only
the weights are taken from there: nothing is ever downloaded, and another file under their names is refused. Detection
is differentiable binarization (Liao et al., AAAI 2020, arXiv:1911.08947): a map of how likely each pixel lies in the
core of a line of text. Recognition serves to tell text from what only looks like it; nobody gets to see what it reads.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from client.deid.pixels.box import Box, Mask, Picture, clipped, tightened
from shared.errors import DataError

_DETECTION = ("PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f")
_RECOGNITION = ("PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884")

CORE = 0.2
"""Probability from which a pixel belongs to the core of a line of text; PP-OCR's own is 0.3."""
SCORE = 0.3
"""Mean probability of a core from which it is looked at at all; PP-OCR's own is 0.5."""
LINES = ((3.0, 0.6), (5.0, 0.5))
"""How slender a core must be, and how probable, to be a line of text."""
SURE, LONG = 0.8, 10.0
LEGIBLE, UNSURE_LEGIBLE = 0.4, 0.6
"""Mean confidence of the recogniser below which a line is none: anatomy is long and probable at times, hardly legible.

The lower bound holds for lines of probability ``SURE`` and for those more slender than ``LONG``.
"""
HARDLY_LEGIBLE = 0.2
"""Confidence from which what is as slender as a line leaves a doubt: in grain and edges hardly a sign is read."""
READABLE = 0.9
"""Confidence from which a core that is no line by its shape is text all the same: a lone sign, a short word."""
LARGE, THICKEST = 0.06, 0.25
"""Shares of the picture's shorter side, of the core of a line: letters are about twice as high.

Beyond the first a line counts only where the recogniser reads it, since organs are as large; beyond the second nothing
does.
"""
LOWEST = 7
"""Pixels of a line's box, grown, below which nobody could read what stands in it; grain makes lines as thin."""
CROOKED = 1.3
"""How many times its own thickness a line may bend aside: text stands in a row, the edge of an organ does not."""
LONE = 0.15
"""Share of the picture's shorter side beyond which what is no line is no sign either."""
FINE_LETTER = 75
"""Pixels of core thickness, enlarged, above which letters are left to the coarse look."""
COVERED = 0.95
"""Share of a core from which on it is not blanked once more."""
FINEST, FINE_SIDE = 3.0, 2304
"""How much a picture is enlarged at most for small text, and the longer side beyond which it is enlarged less."""
COARSE_SIDES = (960, 320)
"""The longer sides of the small pictures in which large text is looked for, upright and turned by a quarter."""
_TILE, _OVERLAP = 1536, 256  # pixels of the enlarged picture
_LEAST, _MULTIPLE = 64, 32
_GROW, _ENDS, _PAD = 0.6, 1.0, 1.0
_LINE = 48  # pixels of height that the recogniser takes
_WIDEST = 960


@dataclass(frozen=True)
class _Core:
    """A connected piece of the probability map.

    Attributes:
        boxes: What to blank: one box, or several that follow a slanted line.
        inner: The same without what they are grown by.
        whole: Around all of them.
        score: Its mean probability.
        slender: Its length over its thickness.
        bend: How far it reaches to the sides of its axis, over its thickness; 1 for a straight bar.
        large: Whether it is so thick that only what is read counts.
        small: Whether it is small enough for a lone sign or a short word.
    """

    boxes: tuple[Box, ...]
    inner: tuple[Box, ...]
    whole: Box
    score: float
    slender: float
    bend: float
    large: bool
    small: bool

    @property
    def line(self) -> bool:
        """Whether it has the shape and the probability of a line of text."""
        return self._straight and any(self.slender >= slender and self.score >= score for slender, score in LINES)

    @property
    def slim(self) -> bool:
        """Whether it has the shape of a line of small text, however improbable."""
        return self._straight and not self.large and self.slender >= LINES[-1][0]

    @property
    def _straight(self) -> bool:
        rows, columns = self.whole.bottom - self.whole.top, self.whole.right - self.whole.left
        return self.bend <= CROOKED and min(rows, columns) >= LOWEST

    @property
    def longer(self) -> Iterator[Box]:
        """Its boxes, each reaching further along the line by about a letter: the last ones may have lost their ink."""
        wide = self.whole.right - self.whole.left >= self.whole.bottom - self.whole.top
        for box in self.boxes:
            more = min(box.right - box.left, box.bottom - box.top)
            down, aside = (0, more) if wide else (more, 0)
            yield Box(box.top - down, box.left - aside, box.bottom + down, box.right + aside)

    @property
    def sign(self) -> bool:
        """Whether it may be a lone sign or a short word: small, but no speck as grain makes them."""
        rows, columns = self.whole.bottom - self.whole.top, self.whole.right - self.whole.left
        speck = self.score < SURE and min(rows, columns) < 9 and max(rows, columns) < 25
        return self.small and not speck and self.bend <= 1.5 * CROOKED

    def needed(self, *, doubtful: bool, window: bool) -> float:
        """The recogniser's confidence from which it is text; infinite where none is enough."""
        if self.line and not self.large:
            sure = doubtful and (self.score >= SURE or self.slender >= LONG)
            return LEGIBLE if sure else UNSURE_LEGIBLE
        return READABLE if doubtful and (self.line or (self.sign and not window)) else np.inf


@dataclass(frozen=True)
class Seen:
    """What was seen in a picture.

    Attributes:
        text: Boxes to blank.
        doubts: In a window of greys, boxes around lines that are too hard to read to be blanked, and too much like text
            to be passed over.
    """

    text: list[Box]
    doubts: list[Box]


class Detector:
    """Both networks, on one thread each.

    Raises:
        DataError: The weights are missing, or are not those that this was tested with.
    """

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415  # most commands never look at a picture

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # give memory back after a large picture
        options.log_severity_level = 4
        self._detection, self._recognition = (
            onnxruntime.InferenceSession(_weights(*file), options, providers=["CPUExecutionProvider"])
            for file in (_DETECTION, _RECOGNITION)
        )

    def find(self, picture: Picture, blanked: Mask | None = None, *, doubtful: bool = True) -> list[Box]:
        """Boxes that cover the text in a picture: what :meth:`search` is sure of."""
        return self.search(picture, blanked, doubtful=doubtful).text

    def search(
        self, picture: Picture, blanked: Mask | None = None, *, doubtful: bool = True, window: bool = False
    ) -> Seen:
        """Look for text in a picture, upright, turned by a quarter either way, or slightly slanted.

        Args:
            picture: uint8, [rows, columns, 3].
            blanked: What was blanked already, bool, [rows, columns]: no text is looked for there, and the bar itself,
                which looks like a line of text in grain, is painted over with what is around it.
            doubtful: Whether what is no text at first sight counts: a lone sign, a line that is hardly legible.
            window: Whether the picture is but a window of greys, in which bright edges are much like lone signs, and
                letters lose their smooth edges, or all of their ink: the former do not count, boxes reach further.
        """
        rows, columns = picture.shape[:2]
        gone = np.zeros((rows, columns), bool) if blanked is None else blanked
        if gone.any():
            picture = _painted_over(picture, gone)
        fine = min(max(FINE_SIDE / max(rows, columns), 1.0), FINEST)
        found: list[tuple[Box, Box]] = []
        doubts: list[Box] = []
        covered = gone.copy()

        def take(cores: Iterable[_Core]) -> None:
            for core in cores:
                boxes = [clipped(box, rows, columns) for box in (core.longer if window else core.boxes)]
                # A coarser look finds most lines again, less exactly: it counts for what the finer one left.
                inner = [covered[clipped(box, rows, columns).slices()] for box in core.inner]
                if sum(part.sum() for part in inner) >= COVERED * sum(part.size for part in inner):
                    continue
                needed = core.needed(doubtful=doubtful, window=window)
                confidence = self._confidence(picture, core.whole) if needed <= 1 or (window and core.slim) else 0.0
                if confidence >= needed:
                    found.extend(zip(boxes, (clipped(box, rows, columns) for box in core.inner), strict=True))
                    for box in boxes:
                        covered[box.slices()] = True
                elif window and core.slim and confidence >= HARDLY_LEGIBLE:
                    doubts.append(clipped(core.whole, rows, columns))

        for tile in _tiles(rows, columns, fine):
            take(self._cores(picture, gone, tile, fine, FINE_LETTER))
        for side, most in zip(COARSE_SIDES, (0.5 * fine, 0.25 * fine), strict=True):
            scale = min(side / max(rows, columns), most)
            take(self._cores(picture, gone, Box(0, 0, rows, columns), scale))
            turned = self._cores(np.rot90(picture), np.rot90(gone), Box(0, 0, columns, rows), scale)
            take(_turned_back(core, columns) for core in turned)
        text = {box if window else tightened(picture, box, inner, covered) for box, inner in found}
        return Seen(sorted(text), sorted(set(doubts)))

    def _cores(self, whole: Picture, gone: Mask, tile: Box, scale: float, thickest: float = np.inf) -> list[_Core]:
        """Cores in one tile of a picture, in coordinates of the picture; none where something is gone already."""
        picture = whole[tile.slices()]
        rows, columns = picture.shape[:2]
        height, width = (max(_LEAST, round(size * scale / _MULTIPLE) * _MULTIPLE) for size in (rows, columns))
        [output] = self._detection.run(None, {"x": _normal(_resized(picture, width, height))})
        chances = np.asarray(output, np.float32)[0, 0]
        if gone.any():
            inside = Image.fromarray(gone[tile.slices()]).resize((width, height), Image.Resampling.NEAREST)
            chances = np.where(np.asarray(inside), np.float32(0), chances)
        side = scale * min(whole.shape[:2])
        limits = min(thickest, THICKEST * side), LARGE * side, LONE * side
        step, at = (rows / height, columns / width), (tile.top, tile.left)
        grown = (_grown(mask, score, step, at, limits) for mask, score in _pieces(chances))
        return [core for core in grown if core is not None]

    def _confidence(self, picture: Picture, box: Box) -> float:
        """The recogniser's mean confidence in the signs in the box, upright or turned by a quarter; 0 without any."""
        crop = picture[clipped(box, *picture.shape[:2]).slices()]
        if not crop.size:
            return 0.0
        turns = [0] * (crop.shape[1] >= 0.8 * crop.shape[0]) + [1, 3] * (crop.shape[0] >= 0.8 * crop.shape[1])
        return max(self._read(np.rot90(crop, turn)) for turn in turns)

    def _read(self, line: Picture) -> float:
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


def _painted_over(picture: Picture, gone: Mask) -> Picture:
    """The picture with a smooth continuation of its surroundings where something is gone."""
    width = 4.0 + float(ndimage.distance_transform_edt(gone).max())
    kept = (~gone).astype(np.float32)
    weight = ndimage.gaussian_filter(kept, width)[..., None]
    smooth = ndimage.gaussian_filter(picture * kept[..., None], (width, width, 0)) / np.maximum(weight, 1e-6)
    painted: Picture = np.where(gone[..., None], np.clip(smooth, 0, 255).astype(np.uint8), picture)
    return painted


def _tiles(rows: int, columns: int, scale: float) -> Iterator[Box]:
    """A picture's overlapping pieces, small enough for bounded memory once they are enlarged."""
    side, overlap = int(_TILE / scale), int(_OVERLAP / scale)
    for top in _starts(rows, side, overlap):
        for left in _starts(columns, side, overlap):
            yield Box(top, left, min(top + side, rows), min(left + side, columns))


def _starts(size: int, side: int, overlap: int) -> Iterable[int]:
    if size <= side:
        return (0,)
    count = -(-(size - overlap) // (side - overlap))
    return [round(number * (size - side) / (count - 1)) for number in range(count)]


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


def _grown(
    mask: Mask, score: float, step: tuple[float, float], at: tuple[int, int], limits: tuple[float, float, float]
) -> _Core | None:
    """A core, grown from the middle of its line to the height of its signs; slanted ones in pieces that follow them.

    None where it is thicker than the first of the ``limits``; beyond the second it is large, up to the third it may be
    a lone sign. Lengths are pixels of the map, ``step`` is how many of the picture's one of them is, ``at`` where the
    map begins.
    """
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    height, width = bottom - top, right - left
    # The thickness of the core, whatever its slant: twice the largest distance from its inside to its edge.
    patch = np.pad(mask[top:bottom, left:right], 1)
    thick = min(2 * float(ndimage.distance_transform_edt(patch).max()), float(min(height, width)))
    if thick > limits[0]:
        return None
    grow = _GROW * thick
    # The first and last letters of a line are the least probable ones.
    ahead = _ENDS * thick, grow
    beyond_rows, beyond_columns = ahead if height > width else ahead[::-1]

    def box(piece: tuple[float, float, float, float], much: float = 1.0) -> Box:
        rows_more, columns_more, pad = much * beyond_rows, much * beyond_columns, much * _PAD
        return Box(
            int(np.floor((piece[0] - rows_more) * step[0] - pad)) + at[0],
            int(np.floor((piece[1] - columns_more) * step[1] - pad)) + at[1],
            int(np.ceil((piece[2] + rows_more) * step[0] + pad)) + at[0],
            int(np.ceil((piece[3] + columns_more) * step[1] + pad)) + at[1],
        )

    whole = float(top), float(left), float(bottom), float(right)
    upright = len(rows) >= 0.7 * height * width
    pieces = [whole] if upright else list(_along(rows, columns, max(4, round(thick))))
    across = float(np.linalg.eigvalsh(np.cov(rows, columns))[0]) if len(rows) > 1 else 0.0
    return _Core(
        boxes=tuple(box(piece) for piece in pieces),
        inner=tuple(box(piece, 0.0) for piece in pieces),
        whole=box(whole),
        score=score,
        slender=float(np.hypot(height, width)) / thick,
        bend=float(np.sqrt(12 * max(across, 0.0))) / thick,  # a bar of thickness t has a variance of t^2 / 12
        large=thick > limits[1],
        small=max(height, width) <= limits[2],
    )


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


def _turned_back(core: _Core, columns: int) -> _Core:
    """A core found in a picture that was turned by a quarter to the left, in the coordinates of the picture itself."""

    def back(box: Box) -> Box:  # row r, column c went to row columns - 1 - c, column r
        return Box(box.left, columns - box.bottom, box.right, columns - box.top)

    boxes, inner = (tuple(back(box) for box in some) for some in (core.boxes, core.inner))
    return replace(core, boxes=boxes, inner=inner, whole=back(core.whole))
