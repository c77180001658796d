"""Lays the mean head over a patient's: rigid from several starts, then affine, by mutual information; and judges it.

Mutual information: Mattes, Haynor, Vesselle, Lewellen, Eubank: PET-CT image registration in the chest using free-form
deformations, IEEE Trans. Med. Imaging 22 (2003) 120-128, as in SimpleITK. One thread and all voxels of the grid: the
same images give the same result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from client.deid.faces.atlas import AIR, BRAIN_BOX, LANDMARKS, WEDGES, inside, load_atlas
from client.deid.faces.volume import SPACING, Volume
from client.deid.streams import UnclearError

NO_HEAD = "a head by its header, in which no head was found whose face could be taken out"
UNSURE = "a head whose face was not found with certainty"
PARTIAL = "a head of which the series shows too little to find the face"

LEAST_OVERLAP = 0.8
"""Dice coefficient of the patient's head and the mean head laid over it, where both images reach."""
LEAST_INFORMATION = 0.25
"""Mutual information of the two, nats, at the end."""
MOST_DISAGREEMENT = 6.0
"""mm that points of the face may move when the search is started from elsewhere."""
SCALES = (0.78, 1.28)
"""Stretch of the mean head along any direction: heads of adults and children from about three years on."""
MOST_UNEVEN = 1.3
"""Ratio of the largest stretch to the smallest: more is a nod, or part of a head, taken for a shape."""
MOST_TILT = 50.0
"""Degrees that a head may be turned or nodded in the scanner."""
LEAST_BRAIN = 0.55
"""Share of the upper brain that the images must reach."""
_SIZES = (0.8, 0.9, 1.0, 1.12)  # of the mean head's millimetres to the patient's
_NODS = (-0.35, 0.0, 0.35)  # radians about the axis from ear to ear
_COARSE = 2 * SPACING
_LOWEST = -64.0  # mm, in the mean head: under the cerebellum
_NEAR = 16.0  # mm around the head that are looked at


@dataclass(frozen=True)
class Fit:
    """Where the mean head lies over a patient's: a point p of the patient is ``matrix @ p + shift`` of the mean head.

    Attributes:
        matrix: ``[3, 3]``.
        shift: ``[3]``, mm.
        information: Mutual information, nats.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    information: float

    def to_patient(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the mean head, ``[n, 3]``, where they lie in the patient."""
        return np.asarray(np.linalg.solve(self.matrix, (points - self.shift).T).T, np.float64)


def fit(volume: Volume) -> Fit:
    """Lay the mean head over a patient's.

    Raises:
        UnclearError: There is no head, too little of one, or the two do not fit well enough.
    """
    head = foreground(volume.values, volume.reach)
    if not head.any():
        raise UnclearError(NO_HEAD)
    search = _Search(volume, head)
    metric, start = min((search.rigid(one) for one in search.starts()), key=lambda one: one[0])
    if min(search.rigid(one)[0] for one in search.turned(start)) <= metric:
        raise UnclearError(UNSURE)  # it fits no worse when it lies otherwise than the header says
    best, second = search.affine(start), search.affine(_elsewhere(start))
    _judge(best, volume, head)
    moved = np.linalg.norm(best.to_patient(LANDMARKS) - second.to_patient(LANDMARKS), axis=1)
    if moved.max() > MOST_DISAGREEMENT:
        raise UnclearError(UNSURE)
    return best


def foreground(values: NDArray[np.float32], reach: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is no air: above Otsu's threshold of the logarithm, the largest piece, holes filled, ``[z, y, x]``."""
    from skimage.filters import threshold_otsu  # noqa: PLC0415  # slow to load, and few batches have heads

    if not reach.any() or np.ptp(values[reach]) == 0:
        return np.zeros(values.shape, bool)
    soft = np.sqrt(values)
    found = (soft > 0.8 * threshold_otsu(soft[reach])) & reach
    pieces, count = ndimage.label(ndimage.binary_opening(found))
    if not count:
        return np.zeros(values.shape, bool)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(largest, iterations=3) | largest), bool)


def _judge(found: Fit, volume: Volume, head: NDArray[np.bool_]) -> None:
    """Whether a fit is one of a head that is all there.

    Raises:
        UnclearError: It is not.
    """
    left, stretch, right = np.linalg.svd(found.matrix)
    rotation = np.asarray(left @ right)
    sound = np.linalg.det(rotation) > 0 and 1 / SCALES[1] < stretch.min() and stretch.max() < 1 / SCALES[0]
    sound = sound and stretch.max() < MOST_UNEVEN * stretch.min()
    if not sound or np.degrees(Rotation.from_matrix(rotation).magnitude()) > MOST_TILT:
        raise UnclearError(NO_HEAD)
    atlas = load_atlas()
    to_index = np.linalg.inv(volume.affine)
    mean = foreground(atlas.values.astype(np.float32), np.ones(atlas.values.shape, bool))
    places = np.stack(np.meshgrid(*(np.arange(size) for size in volume.values.shape), indexing="ij"), -1)
    points = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    there = (points @ found.matrix.T + found.shift - atlas.origin) / atlas.spacing  # x, y, z
    common = volume.reach & np.all((there >= 0) & (there <= np.array(mean.shape[::-1]) - 1), axis=-1)
    laid = ndimage.map_coordinates(mean.astype(np.float32), np.moveaxis(there[..., ::-1], -1, 0), order=1) > 0.5
    dice = 2 * (head & laid & common).sum() / max(((head & common).sum() + (laid & common).sum()), 1)
    low, high = (np.array(corner) for corner in BRAIN_BOX)
    box = np.stack(np.meshgrid(*(np.linspace(a, b, 12) for a, b in zip(low, high, strict=True))), -1).reshape(-1, 3)
    index = (found.to_patient(box) @ to_index[:3, :3].T + to_index[:3, 3]).T
    seen = float(ndimage.map_coordinates(volume.reach.astype(np.float32), index, order=0).mean())
    if dice < LEAST_OVERLAP or found.information < LEAST_INFORMATION:
        raise UnclearError(NO_HEAD)
    if seen < LEAST_BRAIN:
        raise UnclearError(PARTIAL)


def _elsewhere(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """A start 12 mm and 8 degrees away from another, along and about all axes at once."""
    moved: NDArray[np.float64] = np.add(parameters, (0.08, -0.08, 0.08, 7.0, -7.0, 7.0))
    return moved


class _Search:
    """Registration of one volume, from as many starts as wanted."""

    def __init__(self, volume: Volume, head: NDArray[np.bool_]) -> None:
        import SimpleITK as sitk  # noqa: PLC0415, N813  # slow to load, and few batches have heads

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        self._sitk, self._volume, self._head = sitk, volume, head
        atlas = load_atlas()
        self._moving = self._image(atlas.values.astype(np.float32), atlas.origin, atlas.spacing)
        near = ndimage.distance_transform_edt(~head) * SPACING <= _NEAR
        corner = tuple(float(one) for one in volume.affine[:3, 3])
        self._fixed = self._image(volume.values, corner, SPACING)
        self._mask = self._image((near & volume.reach).astype(np.uint8), corner, SPACING)
        places = np.stack(np.meshgrid(*(np.arange(size) for size in atlas.values.shape), indexing="ij"), -1)
        points = places[..., ::-1] * atlas.spacing + np.array(atlas.origin)
        upper = ~inside(WEDGES, points) & (points[..., 2] > _LOWEST)
        self._upper = self._image(upper.astype(np.uint8), atlas.origin, atlas.spacing)
        self._coarse = [sitk.Shrink(one, [2] * 3) for one in (self._fixed, self._mask, self._moving)]
        self._centre = tuple(float(one) for one in self._middle())

    def starts(self) -> list[NDArray[np.float64]]:
        """Rotations and translations to start from: nods of the head, laid over its middle or under its top."""
        atlas = load_atlas()
        mean = np.argwhere(atlas.values > AIR)[:, ::-1] * atlas.spacing + np.array(atlas.origin)
        centre, top = mean.mean(0), np.percentile(mean[:, 2], 99.8)
        places = np.argwhere(self._head) @ self._volume.affine[:3, :3].T + self._volume.affine[:3, 3]
        crown = np.percentile(places[:, 2], 99.8)
        upper = places[places[:, 2] > crown - 120].mean(0)
        shifts = [centre - places.mean(0), np.append((centre - upper)[:2], top - crown)]
        return [np.array([nod, 0, 0, *shift]) for nod in _NODS for shift in shifts]

    def turned(self, start: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """A start turned by half about each axis: head down, back to front, and front to back with left and right."""
        return [np.add(start, (*(np.pi * np.eye(3)[axis]), 0, 0, 0)) for axis in range(3)]

    def rigid(self, start: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The metric (less is better) and the rotation and translation that a rough search reaches."""
        sitk = self._sitk
        transform = sitk.Euler3DTransform()
        transform.SetCenter(self._centre)
        transform.SetParameters([float(one) for one in start])
        metric = self._run(transform, *self._coarse, steps=60)
        return metric, np.array(transform.GetParameters())

    def affine(self, start: NDArray[np.float64]) -> Fit:
        """The fit that a fine search reaches from a rotation and translation."""
        sitk = self._sitk
        _, alike = min((self._alike(start, size) for size in _SIZES), key=lambda one: one[0])
        transform = sitk.AffineTransform(3)
        transform.SetCenter(self._centre)
        transform.SetMatrix(alike.GetMatrix())
        transform.SetTranslation(alike.GetTranslation())
        self._run(transform, *self._coarse, steps=200)
        metric = self._run(transform, self._fixed, self._mask, self._moving, steps=60)
        # Last by the skull and the brain alone: they are what must stay, and faces and necks differ most.
        self._run(transform, self._fixed, self._mask, self._moving, steps=60, within=self._upper)
        matrix = np.array(transform.GetMatrix()).reshape(3, 3)
        shift = np.array(transform.GetTranslation()) + self._centre - matrix @ np.array(self._centre)
        return Fit(matrix, shift, -metric)

    def _alike(self, start: NDArray[np.float64], size: float) -> tuple[float, Any]:
        """Metric and transform of a search for one size in all directions: a nod and a stretch look much alike."""
        sitk = self._sitk
        rigid = sitk.Euler3DTransform()
        rigid.SetParameters([float(one) for one in start])
        alike = sitk.Similarity3DTransform()
        alike.SetCenter(self._centre)
        alike.SetMatrix(rigid.GetMatrix())
        alike.SetTranslation(rigid.GetTranslation())
        alike.SetScale(size)
        return self._run(alike, *self._coarse, steps=80), alike

    def _run(self, transform: Any, fixed: Any, mask: Any, moving: Any, *, steps: int, within: Any = None) -> float:
        sitk = self._sitk
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(mask)
        if within is not None:
            method.SetMetricMovingMask(within)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            1.0, 1e-3, steps, 0.7, estimateLearningRate=method.EachIteration,
            maximumStepSizeInPhysicalUnits=fixed.GetSpacing()[0],
        )  # fmt: skip
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, moving)
        except RuntimeError as error:  # the two images came to lie apart
            raise UnclearError(NO_HEAD) from error
        return float(method.GetMetricValue())

    def _middle(self) -> NDArray[np.float64]:
        middle = np.argwhere(self._head).mean(0)
        return np.asarray(self._volume.affine[:3, :3] @ middle + self._volume.affine[:3, 3], np.float64)

    def _image(self, values: NDArray[Any], origin: tuple[float, ...], spacing: float) -> Any:
        image = self._sitk.GetImageFromArray(np.ascontiguousarray(values))
        image.SetOrigin(origin)
        image.SetSpacing([spacing] * 3)
        return image
