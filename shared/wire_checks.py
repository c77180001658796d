"""What the numbers in a message must be; :mod:`shared.wire` refuses others on arrival."""

import math
import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from shared.records import MAX_PARAMETERS, bad_message, printable
from shared.vector import Vector

MAX_METRICS: Final = 64
_METRIC: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def check_vector(name: str, vector: Vector) -> None:
    """Refuse what is no finite float32 vector.

    Raises:
        ProtocolError: It is none.
    """
    if vector.dtype != np.float32 or vector.ndim != 1 or not 0 < vector.size <= MAX_PARAMETERS:
        raise bad_message(f"its {name} is not a vector of 1 to {MAX_PARAMETERS} float32 numbers")
    if not np.isfinite(vector).all():
        raise bad_message(
            f"its {name} has numbers that are not finite", "leave this hospital out and look at its training"
        )


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Refuse metrics that cannot enter a sum.

    Raises:
        ProtocolError: They cannot.
    """
    if len(metrics) > MAX_METRICS:
        raise bad_message(f"it has more than {MAX_METRICS} metrics")
    for name, value in metrics.items():
        if not _METRIC.fullmatch(name):
            raise bad_message(f"'{printable(name)}' is not the name of a metric")
        if not (math.isfinite(value) and abs(value) <= 1e15):
            raise bad_message(f"its metric '{name}' is {value!r}")
