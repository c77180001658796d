"""How a learning rate falls over a training: one curve for hospitals, coordinator and the arms beside them."""

import math
from typing import Final

from shared.charter_plans import TaskPlan

FLOOR: Final = 0.05


def cosine(done: float) -> float:
    """Factor of the learning rate when the share ``done`` in [0, 1] of the training is over: from 1 down to 0.05.

    Half a cosine (Loshchilov and Hutter 2017, without restarts) above a floor, so that the last steps still move.
    """
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


def local_rate(plan: TaskPlan, number: int) -> float:
    """The learning rate of the steps of round ``number``, from 1.

    Where the coordinator averages (``SGD``) it falls along the half cosine, from the first round on; where the
    coordinator's own optimiser sets the step, that one's rate falls instead.
    """
    return plan.local_lr * (cosine((number - 1) / plan.rounds) if plan.server_optimizer == "SGD" else 1.0)
