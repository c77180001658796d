"""A patient's second contrast on the grid of the first: rigid or affine, by mutual information.

Mutual information after Mattes, Haynor, Vesselle, Lewellen and Eubank (IEEE Trans. Med. Imaging 22 (2003) 120-128) as
in SimpleITK, from coarse to fine; resolution is reduced within slices only, since there are few of them. One thread and
a fixed seed of the samples: the same images give the same result.

Coordinates are those of the patient, mm (PS3.3 C.7.6.2.1.1). Where the two series have one frame of reference (Frame of
Reference UID, C.7.4.1) the search begins at no move at all; the patient may still have moved between them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from shared.errors import DataError

Kind = Literal["rigid", "affine"]
SEED: Final = 20260201
SAMPLES: Final = 0.3
"""Share of the voxels that are looked at in a step."""
LEVELS: Final = (4, 2, 1)
"""Edge of the pixels within a slice that are taken together, from coarse to fine."""
STEPS: Final = 60
"""Of the search at each level, at most."""
MOST_DISAGREEMENT: Final = 2.0
"""mm that two searches from different starts may differ; where the first two do, a third one decides."""
LEAST_INFORMATION: Final = 0.1
"""Mutual information at the end, nats."""
LEAST_EDGE: Final = 16
"""Rows and columns that a series must have: the coarsest level has a quarter of them."""
MOST_CROOKED: Final = 0.01
"""By which the axes of a slice may fail to be unit vectors at a right angle (PS3.3 C.7.6.2.1.1)."""
FARTHEST: Final = 1e5
"""mm from the origin of the coordinates."""
SMALLEST, LARGEST = 1e-3, 1e3
"""Edge of a pixel, mm."""
_AWAY: Final = (0.05, -0.05, 0.05, 5.0, -5.0, 5.0)  # rad and mm: where the second search starts, and the third opposite
_SLICE: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one series, evenly apart.

    Attributes:
        values: ``[n, rows, columns]``, any unit.
        affine: From indices (column, row, slice) to the patient's coordinates, mm, ``[4, 4]``.
        frame: Frame of Reference UID; empty where it is not told.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    frame: str = ""

    @classmethod
    def of(cls, values: NDArray[np.float32], headers: Sequence[Dataset]) -> "Series":
        """The series of DICOM slices.

        Args:
            values: ``[n, rows, columns]``, in the order of ``headers``.
            headers: One a slice, from one end of the stack to the other.

        Raises:
            DataError: They do not tell where their pixels lie, or are not evenly apart.
        """
        if len(headers) < 2 or not all(one.get(name) for one in headers for name in _SLICE):
            raise DataError(
                "a series does not tell where its slices lie", hint="two slices or more with position and orientation"
            )
        turned = np.asarray(headers[0].ImageOrientationPatient, float)
        places = np.array([one.ImagePositionPatient for one in headers], float)
        rows, columns = (float(one) for one in headers[0].PixelSpacing)
        _require_sound(turned, places, (rows, columns))
        step = (places[-1] - places[0]) / (len(places) - 1)
        wanted = places[0] + np.arange(len(places))[:, None] * step
        apart, normal = np.linalg.norm(step), np.cross(turned[:3], turned[3:])
        if apart < 1e-3 or np.abs(places - wanted).max() > 0.1 * apart or abs(normal @ step) < 0.999 * apart:
            raise DataError(
                "the slices of a series are not a stack of even distances",
                hint="take one without gaps and without tilt",
            )
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1], affine[:3, 2] = turned[:3] * columns, turned[3:] * rows, step
        affine[:3, 3] = places[0]
        return cls(values, affine, str(headers[0].get("FrameOfReferenceUID", "")))

    def points(self) -> NDArray[np.float64]:
        """The corners and the middle of the stack, mm, ``[9, 3]``."""
        slices, rows, columns = self.values.shape
        ends = [(0, columns - 1), (0, rows - 1), (0, slices - 1)]
        corners = np.array(np.meshgrid(*ends, indexing="ij"), float).reshape(3, -1).T
        index = np.vstack([corners, corners.mean(axis=0)])
        found: NDArray[np.float64] = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        return found


def _require_sound(turned: NDArray[np.float64], places: NDArray[np.float64], spacing: tuple[float, float]) -> None:
    """Refuse headers that place pixels nowhere: the library would search there without end, or give up on the study."""
    axes = turned.reshape(2, 3)
    if not (
        np.isfinite(axes).all()
        and np.abs(axes @ axes.T - np.eye(2)).max() < MOST_CROOKED
        and np.abs(places).max() < FARTHEST
        and all(SMALLEST <= one <= LARGEST for one in spacing)
    ):
        raise DataError(
            "a series tells a position, orientation or spacing of slices that no scanner has",
            hint="leave it out, or send it anew from the scanner",
        )


_Found = tuple[NDArray[np.float64], NDArray[np.float64], float]
"""Matrix, shift and mutual information."""


@dataclass(frozen=True, eq=False)
class Registered:
    """Where points of the first series lie in the second: ``matrix @ p + shift``.

    Attributes:
        matrix: ``[3, 3]``.
        shift: ``[3]``, mm.
        information: Mutual information of the two, nats.
        before: The same without registration, as the series' own coordinates have them.
        disagreement: mm that the corners of the middle half of the stack differ at most between the best search and
            that of the others which comes nearest: the quality figure, since it is high where the images do not say
            where they belong.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    information: float
    before: float
    disagreement: float

    @property
    def certain(self) -> bool:
        """Whether the result may be used without a person who looks at it."""
        return self.disagreement <= MOST_DISAGREEMENT and self.information >= max(self.before, LEAST_INFORMATION)

    def where(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points ``[n, 3]`` of the first series lie in the second, mm."""
        found: NDArray[np.float64] = points @ self.matrix.T + self.shift
        return found


def register(first: Series, second: Series, *, kind: Kind = "rigid") -> Registered:
    """Find where the second series lies over the first.

    Args:
        first: Whose grid is kept.
        second: Another contrast of the same patient.
        kind: ``rigid`` for one head at one visit; ``affine`` for stretch and shear besides, such as of the gradients of
            another scanner.

    Raises:
        DataError: The two do not overlap, or one of them is blank.
    """
    search = _Search(first, second)
    start = np.zeros(6) if first.frame and first.frame == second.frame else search.centred()
    inner = first.points().mean(axis=0) + 0.5 * (first.points() - first.points().mean(axis=0))
    away, found, disagreement = np.array(_AWAY), list[_Found](), np.inf
    for begin in (start, start + away, start - away):
        if disagreement > MOST_DISAGREEMENT and (one := search.run(begin, kind)):
            found.append(one)
            found.sort(key=lambda one: -one[2])
            best, *others = (inner @ matrix.T + shift for matrix, shift, _ in found)
            disagreement = min((float(np.linalg.norm(best - other, axis=1).max()) for other in others), default=np.inf)
    if not found and search.information(start) is None:
        raise DataError("two series of a patient do not overlap", hint="check that they are of one part")
    matrix, shift, information = found[0] if found else (np.eye(3), np.zeros(3), 0.0)
    return Registered(matrix, shift, information, search.information(np.zeros(6)) or 0.0, disagreement)


def resampled(second: Series, first: Series, found: Registered) -> NDArray[np.float32]:
    """The second series on the grid of the first, interpolated linearly, 0 where it has no values; float32."""
    import SimpleITK as sitk  # noqa: PLC0415, N813  # slow to load

    transform = sitk.AffineTransform(3)
    transform.SetMatrix(found.matrix.ravel().tolist())
    transform.SetTranslation(found.shift.tolist())
    made = sitk.Resample(_image(sitk, second), _image(sitk, first), transform, sitk.sitkLinear, 0.0)
    return np.asarray(sitk.GetArrayFromImage(made), np.float32)


def met(second: Series, first: Series, found: Registered) -> tuple[range, ...]:
    """For each slice of the first series, the slices of the second that :func:`resampled` may take its values from.

    Counted from 0; empty where the slice lies beyond the second series.
    """
    slices, rows, columns = first.values.shape
    corners = np.array([(column, row) for column in (0, columns - 1) for row in (0, rows - 1)], float)
    back, last = np.linalg.inv(second.affine), len(second.values) - 1
    result = []
    for index in range(slices):
        places = np.column_stack([corners, np.full(4, index)]) @ first.affine[:3, :3].T + first.affine[:3, 3]
        depths = found.where(places) @ back[2, :3] + back[2, 3]
        low, high = float(depths.min()), float(depths.max())
        if high < -0.5 or low > last + 0.5:  # half a slice beyond the last one the last one is repeated
            result.append(range(0))
        else:
            result.append(range(max(0, math.floor(low)), min(last, math.ceil(high)) + 1))
    return tuple(result)


class _Search:
    """The two images, and searches from as many starts as wanted."""

    def __init__(self, first: Series, second: Series) -> None:
        import SimpleITK as sitk  # noqa: PLC0415, N813  # slow to load

        for series in (first, second):
            if not np.isfinite(series.values).all() or series.values.min() == series.values.max():
                raise DataError("a series is blank, or has values that are no numbers", hint="leave it out")
            if min(series.values.shape[1:]) < LEAST_EDGE:
                raise DataError(f"a series has fewer than {LEAST_EDGE} rows or columns", hint="leave it out")
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        self._sitk = sitk
        pair = [_image(sitk, one) for one in (first, second)]
        self._levels = {level: [sitk.BinShrink(one, [level, level, 1]) for one in pair] for level in LEVELS}
        self._middle = first.points()[-1]

    def centred(self) -> NDArray[np.float64]:
        """Rotation and translation that lay the middles of what is bright over each other."""
        sitk = self._sitk
        how = sitk.CenteredTransformInitializerFilter.MOMENTS
        made = sitk.CenteredTransformInitializer(*self._levels[1], sitk.Euler3DTransform(), how)
        return np.array([0.0, 0.0, 0.0, *sitk.Euler3DTransform(made).GetTranslation()])

    def run(self, start: NDArray[np.float64], kind: Kind) -> _Found | None:
        """What a search from ``start`` reaches; None where it lost the one series while it looked for the other."""
        sitk = self._sitk
        rigid = self._at(start)
        found: Any = rigid
        try:
            for level in LEVELS:
                value = self._optimise(rigid, level)
            if kind == "affine":
                stretched = sitk.AffineTransform(3)
                stretched.SetCenter(rigid.GetCenter())
                stretched.SetMatrix(rigid.GetMatrix())
                stretched.SetTranslation(rigid.GetTranslation())
                found, value = stretched, self._optimise(stretched, LEVELS[-1], line=True)
        except RuntimeError:  # ITK's: too few samples of the one lie in the other
            return None
        matrix = np.array(found.GetMatrix()).reshape(3, 3)
        shift = np.array(found.GetTranslation()) + self._middle - matrix @ self._middle
        return matrix, shift, -value

    def information(self, start: NDArray[np.float64]) -> float | None:
        """Mutual information at ``start``; None where the series do not overlap there."""
        method = self._method(1)
        method.SetInitialTransform(self._at(start))
        try:
            return -float(method.MetricEvaluate(*self._levels[1]))
        except RuntimeError:
            return None

    def _at(self, start: NDArray[np.float64]) -> Any:
        """A rigid transform: rotation in rad and translation in mm."""
        rigid = self._sitk.Euler3DTransform()
        rigid.SetCenter([float(one) for one in self._middle])
        rigid.SetParameters([float(one) for one in start])
        return rigid

    def _optimise(self, transform: Any, level: int, *, line: bool = False) -> float:
        """Move ``transform`` to where the mutual information at one resolution is greatest; its negative.

        With ``line`` along conjugate gradients, which never gets worse: from a near start, as for a stretch, plain
        descent was measured to leave the optimum.
        """
        method = self._method(level)
        step = self._levels[level][0].GetSpacing()[0] / 2
        if line:
            method.SetOptimizerAsConjugateGradientLineSearch(1.0, STEPS, maximumStepSizeInPhysicalUnits=step)
        else:
            method.SetOptimizerAsRegularStepGradientDescent(
                1.0, 1e-3, STEPS, 0.6, estimateLearningRate=method.EachIteration, maximumStepSizeInPhysicalUnits=step
            )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(*self._levels[level])
        return float(method.GetMetricValue())

    def _method(self, level: int) -> Any:
        method = self._sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, SAMPLES * level), SEED)
        method.SetInterpolator(self._sitk.sitkLinear)
        return method


def _image(sitk: Any, series: Series) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(series.values, np.float32))
    spacing = np.linalg.norm(series.affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((series.affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(series.affine[:3, 3].tolist())
    return image
