"""The coordinator's step: an optimiser of ``torch.optim`` that takes the averaged update for a gradient.

With D the weighted average of the hospitals' updates (local minus global model), the pseudo-gradient is g = -D, without
any other scale (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2). ``SGD`` at rate 1 therefore moves
the model to w + D, the weighted average of the local models: federated averaging (McMahan et al. 2017).
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.charter import TaskPlan
from shared.errors import CharterError
from shared.schedule import cosine
from shared.vector import Vector

# Those that need one gradient and nothing else; LBFGS wants a closure, SparseAdam sparse gradients, Muon matrices.
OPTIMISERS: Final = ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax")


class ServerOptimiser:
    """The global model as one flat parameter, and the optimiser that moves it.

    Args:
        vector: The initial model, float32 ``[d]``; copied.
        name: One of :data:`OPTIMISERS`.
        rate: Learning rate.
        rounds: Length of the half cosine along which the rate falls; None keeps it as it is.

    Raises:
        CharterError: There is no such optimiser.
    """

    def __init__(self, vector: Vector, *, name: str, rate: float, rounds: int | None = None) -> None:
        if name not in OPTIMISERS:
            raise CharterError(f"the coordinator has no optimiser '{name}'", hint=f"use one of {', '.join(OPTIMISERS)}")
        self._parameter = nn.Parameter(torch.from_numpy(vector.astype(np.float32)))
        self._optimiser: torch.optim.Optimizer = getattr(torch.optim, name)([self._parameter], lr=rate)
        self._rate, self._rounds, self._done = rate, rounds, 0

    @classmethod
    def of(cls, plan: TaskPlan, vector: Vector) -> "ServerOptimiser":
        """The optimiser that ``plan`` asks for.

        ``SGD`` keeps its rate: updates shrink with the hospitals' own falling rates, and rate 1 stays federated
        averaging in every round. The others make steps of one size however small the updates, so their rate falls, and
        the hospitals' does not (:func:`client.training.loop.train_round`).
        """
        rounds = None if plan.server_optimizer == "SGD" else plan.rounds
        return cls(vector, name=plan.server_optimizer, rate=plan.server_lr, rounds=rounds)

    def step(self, average: Vector) -> Vector:
        """Move the model by the averaged update, float32 ``[d]``, and return it (see :attr:`vector`)."""
        if self._rounds:
            self._optimiser.param_groups[0]["lr"] = self._rate * cosine(self._done / self._rounds)
        self._parameter.grad = torch.from_numpy(-average)
        self._optimiser.step()
        self._parameter.grad = None
        self._done += 1
        return self.vector

    def state(self) -> dict[str, NDArray[Any]]:
        """What :meth:`restore` needs beside the model; not copied."""
        kept = self._optimiser.state_dict()["state"].get(0, {})
        arrays = {name: value.numpy() for name, value in kept.items() if isinstance(value, torch.Tensor)}
        return arrays | {"rounds done": np.asarray(self._done)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`state` gave, at an optimiser of the same kind with the model of that moment."""
        arrays = {name: torch.from_numpy(array.copy()) for name, array in state.items() if name != "rounds done"}
        whole = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**whole, "state": {0: arrays} if arrays else {}})
        self._done = int(state["rounds done"])

    @property
    def vector(self) -> Vector:
        """A copy of the model, float32 ``[d]``."""
        copy: Vector = self._parameter.detach().numpy().copy()
        return copy
