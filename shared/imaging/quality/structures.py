"""What an output shows and nobody measured, what it lost, and whether it contradicts the image that it was made from.

Two questions, since an answer to one does not answer the other (Bhadra, Kelkar, Brooks and Anastasio 2021, "On
hallucinations in tomographic image reconstruction": parts of an error that the measurement could see, and parts that
it could not):

1. Does the output, measured again, give the input? Super-resolution is taken back through the same window in k-space;
   a denoised image and its input are compared after a Gaussian of 2 pixels, which averages noise away and leaves
   structures. The largest residual is divided by that of the reference, which has nothing in it but noise:
   :func:`consistency`.
2. Are there spots in the output without a counterpart in the reference or in the input, or spots of the reference that
   the output lacks? Spots are extrema of the scale-normalised Laplacian of a Gaussian (Lindeberg 1998, "Feature
   detection with automatic scale selection") that stand out of the noise: :class:`Truth`.

Neither shows: texture without a spot in it; structures smaller than 1.5 or larger than about 12 pixels across; a spot
of the right place and the wrong contrast, within a factor of two; lines, but for their ends; what the reference itself
lacks, or has as an artefact. A count of 0 is no proof that nothing was invented.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.imaging.degrade import kspace_downsample

Slice = NDArray[np.float32]
_Plane = NDArray[np.float64]

FACTORS: Final = (1, 2, 4)
"""Pixels of an output to one of the input, along rows and columns."""
SIZES: Final = (1.5, 2.5, 4.0)
"""Standard deviations of the spots that are looked for, pixels; a spot looks about three of them across."""
LEAST_CONTRAST: Final = 0.10
"""Contrast of the faintest spot that counts, as a share of the grey scale."""
_ABOVE_NOISE: Final = 5.0
_COUNTERPART: Final = 0.5
# The norm of 2 s^2 times the Laplacian of a Gaussian is 2 / (sqrt(2 pi) s): so much of white noise comes through.
_NOISE_GAIN: Final = 2 / np.sqrt(2 * np.pi)
_SMOOTH: Final = 2.0
_LEAST_RESIDUAL: Final = 0.001


@dataclass(frozen=True)
class Spot:
    """One bright (``contrast`` above 0) or dark spot: its pixel, its standard deviation in pixels, its contrast."""

    row: int
    column: int
    size: float
    contrast: float


@dataclass(frozen=True)
class Compared:
    """The spots of one slice.

    Attributes:
        added: In the output, and neither in the reference nor in the input.
        lost: In the reference, and not in the output.
        reference: How many the reference has.
    """

    added: tuple[Spot, ...]
    lost: tuple[Spot, ...]
    reference: int


@dataclass(frozen=True, eq=False)
class Truth:
    """A slice's reference and input, looked at once for all that is compared with them."""

    noise: float
    reference: list[_Plane]
    source: list[_Plane]
    spots: tuple[Spot, ...]

    @classmethod
    def of(cls, reference: Slice, source: Slice, *, noise: float = 0.0) -> "Truth":
        """Look at one slice.

        Args:
            reference: ``[h, w]`` in [0, 1], as it should be.
            source: As it was measured, at the same matrix: for super-resolution the zero-filled one.
            noise: Standard deviation of the noise of the reference.

        Raises:
            ValueError: The shapes differ.
        """
        if reference.shape != source.shape:
            raise ValueError(f"reference {reference.shape} and source {source.shape} differ in shape")
        responses = _responses(reference)
        return cls(noise, responses, _responses(source), tuple(_spots(responses, noise)))

    def compare(self, output: Slice) -> Compared:
        """Spots that came, and spots that went.

        A spot counts from a contrast of :data:`LEAST_CONTRAST`, and of five times what the reference's noise makes of
        the filter. It has a counterpart where the other image has, within its size (and one pixel), a response of the
        same sign and of half its strength, at this size or a neighbouring one.

        Args:
            output: ``[h, w]`` in [0, 1].

        Raises:
            ValueError: It has another shape than the reference.
        """
        if output.shape != self.reference[0].shape:
            raise ValueError(f"output {output.shape} and reference {self.reference[0].shape} differ in shape")
        ours = _responses(output)
        added = [
            spot
            for spot in _spots(ours, self.noise)
            if not _has_counterpart(spot, self.reference) and not _has_counterpart(spot, self.source)
        ]
        lost = [spot for spot in self.spots if not _has_counterpart(spot, ours)]
        return Compared(tuple(added), tuple(lost), len(self.spots))


def consistency(output: Slice, reference: Slice, source: Slice) -> float:
    """The largest residual of one slice's output, taken back to what was measured, over that of the reference.

    The largest and not the mean, since a lesion is small. 1 is as consistent with the measurement as the reference is.
    Well above 1 the output says something else somewhere than what was measured; below 1 it keeps noise of the input.
    A residual of the reference below a thousandth of the grey scale counts as that.

    Args:
        output: ``[h, w]``.
        reference: ``[h, w]``.
        source: What the network was given: ``[h, w]``, or ``[ceil(h / f), ceil(w / f)]`` for super-resolution by f.

    Raises:
        ValueError: The source has another shape.
    """
    factor = finer(output.shape, source.shape)
    if factor == 1:
        pair = [_smoothed(image.astype(np.float64) - source) for image in (output, reference)]
    else:
        pair = [_measured(image, factor) - source for image in (output, reference)]
    ours, floor = (float(np.abs(plane).max()) for plane in pair)
    return ours / max(floor, _LEAST_RESIDUAL)


def finer(output: tuple[int, ...], source: tuple[int, ...]) -> int:
    """How many times finer an output ``[h, w]`` is than what it was made of: one of :data:`FACTORS`.

    Raises:
        ValueError: None of them.
    """
    for factor in FACTORS:
        if source == tuple(-(-edge // factor) for edge in output):
            return factor
    raise ValueError(f"an input of {source} is none for an output of {output}")


def _measured(image: Slice, factor: int) -> _Plane:
    height, width = image.shape
    whole = np.pad(image, ((0, -height % factor), (0, -width % factor)), mode="edge")
    return np.asarray(kspace_downsample(whole[None], factor)[0], dtype=np.float64)


def _smoothed(image: _Plane) -> _Plane:
    return np.asarray(ndimage.gaussian_filter(image, _SMOOTH), dtype=np.float64)


def _responses(image: Slice) -> list[_Plane]:
    """For each size the contrast that a Gaussian spot of that size would need to give this response."""
    # At the centre of a spot of contrast A and of its own size, the normalised Laplacian is -A / 2.
    return [-2 * size**2 * ndimage.gaussian_laplace(image.astype(np.float64), size) for size in SIZES]


def _spots(responses: list[_Plane], noise: float) -> list[Spot]:
    """Extrema over places and sizes that stand out, strongest first; none within the size of another."""
    stack = np.abs(np.stack(responses))
    least = np.maximum(LEAST_CONTRAST, _ABOVE_NOISE * _NOISE_GAIN * noise / np.array(SIZES))
    peaks = (stack == ndimage.maximum_filter(stack, size=3)) & (stack >= least[:, None, None])
    found: list[Spot] = []
    centres, near = np.zeros((2, *stack.shape[1:]), dtype=bool)
    for index, row, column in sorted(zip(*np.nonzero(peaks), strict=True), key=lambda place: -stack[place]):
        around = _around(row, column, round(SIZES[index]))
        if near[row, column] or centres[around].any():
            continue
        centres[row, column] = near[around] = True
        found.append(Spot(int(row), int(column), SIZES[index], float(responses[index][row, column])))
    return found


def _has_counterpart(spot: Spot, responses: list[_Plane]) -> bool:
    index, reach = SIZES.index(spot.size), round(spot.size) + 1
    around, sign = _around(spot.row, spot.column, reach), np.sign(spot.contrast)
    near = responses[max(index - 1, 0) : index + 2]
    return any(float((sign * plane[around]).max()) >= _COUNTERPART * abs(spot.contrast) for plane in near)


def _around(row: int, column: int, reach: int) -> tuple[slice, slice]:
    return slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
