"""The sum of a round, one reply at a time: float64, O(d) memory however many hospitals answer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.vector import Vector
from shared.wire import PlainBody


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What the coordinator knows after a round.

    Attributes:
        average: Weighted average of the updates, float32 ``[d]``.
        weight: Sum of the weights.
        metrics: Sums of the hospitals' sums, by name.
        norm: Euclidean length of the average.
    """

    average: Vector
    weight: float
    metrics: Mapping[str, float]
    norm: float


class PlainTally:
    """Streaming weighted sum of :class:`~shared.wire.PlainBody`; sum_i w_i u_i in float64, in the order of arrival.

    Args:
        size: Length d of an update.
        max_weight: The largest weight that one hospital may have.
        fixed_weight: The weight that every hospital must have, or None. Under differential privacy it is 1: a count of
            slices is not covered by the guarantee.
    """

    def __init__(self, size: int, *, max_weight: float, fixed_weight: float | None = None) -> None:
        self._sum: NDArray[np.float64] = np.zeros(size)
        self._scratch: NDArray[np.float64] = np.empty(size)
        self._max, self._fixed = max_weight, fixed_weight
        self._weight = 0.0
        self._metrics: dict[str, float] = {}

    def add(self, body: PlainBody) -> None:
        """Take one hospital's update into the sum, or refuse it as a whole.

        Raises:
            ProtocolError: Its length or weight is not what this round allows; nothing was added.
        """
        if body.update.shape != self._sum.shape:
            raise ProtocolError(f"the update has {body.update.size} numbers, not {self._sum.size}")
        if body.weight > self._max:
            raise ProtocolError(f"the weight {body.weight:g} is above {self._max:g}")
        if self._fixed is not None and body.weight != self._fixed:
            raise ProtocolError(f"the weight {body.weight:g} is not {self._fixed:g}, as it must be under this charter")
        np.multiply(body.update, body.weight, out=self._scratch, dtype=np.float64)
        self._sum += self._scratch
        self._weight += body.weight
        add_sums(self._metrics, body.metrics)

    def close(self) -> Aggregate:
        """The average of what was added.

        Raises:
            ProtocolError: Nothing was.
        """
        if self._weight == 0:
            raise ProtocolError("nobody's update was taken", hint="look at what was refused in history.json")
        self._sum /= self._weight
        average = self._sum.astype(np.float32)
        return Aggregate(average, self._weight, dict(self._metrics), float(np.linalg.norm(self._sum)))


def add_sums(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add ``more`` to ``total`` in place, name by name."""
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value
