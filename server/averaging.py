"""The moving average of the coordinator's models: what is evaluated and released where the charter asks for it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.vector import Vector


class MovingAverage:
    """Exponential moving average of the models after each round, without a bias to the first ones.

    After t models w_1 .. w_t it is sum_i d^(t-i) w_i / sum_i d^(t-i), in float64: the correction of Kingma and Ba 2015
    (arXiv:1412.6980, section 3), so that a model from before the first round has no part in it. It is computed from
    models that have left the hospitals already, and costs no privacy (post-processing).

    Args:
        decay: D in [0, 1); 0 gives the last model, bit for bit.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay must lie in [0, 1), not {decay}")
        self._decay, self._weight = decay, 0.0
        self._sum: NDArray[np.float64] | None = None

    def add(self, model: Vector) -> Vector:
        """Take the model of one more round, float32 ``[d]``, and return the average, float32 ``[d]``."""
        if self._decay == 0:
            return model
        before = np.zeros(model.size) if self._sum is None else self._sum
        self._sum = self._decay * before + model
        self._weight = self._decay * self._weight + 1.0
        average: Vector = (self._sum / self._weight).astype(np.float32)
        return average

    def state(self) -> dict[str, NDArray[Any]]:
        """What :meth:`restore` needs; not copied."""
        return {} if self._sum is None else {"sum": self._sum, "weight": np.asarray(self._weight)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`state` gave."""
        if state:
            self._sum, self._weight = np.asarray(state["sum"], np.float64), float(state["weight"])
