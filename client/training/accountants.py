"""The two accountants of Opacus as this house asks them: what depends on the settings alone is computed once.

Importing this brings torch, which takes seconds; :mod:`client.training.accounting` does so where it asks for a figure.
"""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import Domain, PoissonSubsampledGaussianPRV
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

MOST_CELLS: Final = 1 << 22
"""Of the grid of a privacy loss: more would take tens of seconds and gigabytes, and Renyi DP stands in."""
LEAST_NOISE: Final = 1e-3
"""Noise below has no epsilon that means anything, and far below the series of Renyi DP never ends or divides by 0."""
_MOST_NOISE: Final = 1e4
_LEAST_RATE: Final = 1e-12
_ORDERS: Final = list(RDPAccountant.DEFAULT_ALPHAS)
_Setting = tuple[float, float, int]


def renyi(history: Sequence[_Setting], delta: float) -> float:
    """Epsilon by Renyi DP of (noise multiplier, sampling rate, steps); infinite where none can be shown.

    More noise and a smaller rate cost no more: at the edge of what floats hold the cost is that of tamer settings.
    """
    total = sum(_step(min(noise, _MOST_NOISE), max(rate, _LEAST_RATE)) * steps for noise, rate, steps in history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns that its Renyi orders are few: a looser bound, still a bound
        value = float(get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)[0])
    return value if value >= 0 else math.inf


@functools.lru_cache(maxsize=1024)
def _step(noise: float, rate: float) -> NDArray[np.float64]:
    """The cost of one step at each Renyi order: 0.1 s, once for each pair of settings; steps add up.

    It is infinite where the arithmetic gives out.
    """
    if not noise >= LEAST_NOISE:
        return np.full(len(_ORDERS), math.inf)
    try:
        with np.errstate(all="ignore"):
            cost = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_ORDERS)
    except (ArithmeticError, ValueError):
        return np.full(len(_ORDERS), math.inf)
    found = np.asarray(cost, np.float64)
    return np.where(np.isnan(found), math.inf, np.maximum(found, 0.0))  # below 0 is what rounding left of next to none


def prv(history: Sequence[_Setting], delta: float) -> float:
    """Epsilon by privacy loss random variables, an upper bound; infinite where the accountant fails."""
    accountant = _Accountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, ArithmeticError, MemoryError):
        return math.inf
    return value if value >= 0 else math.inf


class _Accountant(PRVAccountant):  # type: ignore[misc]  # Opacus has no types
    """Opacus' own, which computes Renyi DP anew in each call to know how far its grid must reach."""

    def _get_domain(
        self,
        prvs: Sequence[PoissonSubsampledGaussianPRV],
        num_self_compositions: Sequence[int],
        eps_error: float,
        delta_error: float,
    ) -> Domain:
        """The same reach and mesh (Gopi, Lee and Wutschitz 2021, remark 5.6) from what is known already.

        Raises:
            ValueError: The grid would have more than ``MOST_CELLS`` cells.
        """
        total = sum(num_self_compositions)
        settings = [(one.noise_multiplier, one.sample_rate) for one in prvs]
        whole = [(*pair, steps) for pair, steps in zip(settings, num_self_compositions, strict=True)]
        reach = max(
            renyi(whole, delta_error / 4), *(renyi([(*pair, 1)], delta_error / (8 * total)) for pair in settings)
        )
        reach = max(reach, eps_error) + 3
        mesh = eps_error / math.sqrt(total * math.log(12 / delta_error) / 2)
        if not 2 * reach / mesh <= MOST_CELLS:
            raise ValueError("the grid has too many cells")
        return Domain.create_aligned(-reach, reach, mesh)
