"""How a learning rate falls over a training: one curve for hospitals, coordinator and the arms beside them."""

import math
from typing import Final

FLOOR: Final = 0.05


def cosine(done: float) -> float:
    """Factor of the learning rate when the share ``done`` in [0, 1] of the training is over: from 1 down to 0.05.

    Half a cosine (Loshchilov and Hutter 2017, without restarts) above a floor, so that the last steps still move.
    """
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
