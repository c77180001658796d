"""Noise that is shared over the hospitals: what each one adds, so that the masked sum is differentially private.

Nobody sees more of a round than the sum over an included set of at least ``quorum`` hospitals
(:attr:`shared.secagg.federation.Federation.quorum`); every hospital refuses to unmask a smaller one. Whoever works
against the patients of one hospital knows, and subtracts, what up to ``colluding`` hospitals added. One hospital alone
knows its own share and sees the next model, so that at least one is counted. That leaves the shares of

    h = quorum - max(colluding, 1)

hospitals, at least two, which together must hide one patient.

**The guarantee, with every rounding in it.** A patient's clipped gradient is an integer vector x of d elements, in
multiples of ``unit`` (u), with |x| <= C / u. Hospital i sends X_i + rint(g_i), all elements of all g_i independent
N(0, s^2), and the sum over h of them is ``X + rint(g_1) + ... + rint(g_h)``. For any integers a_1 + ... + a_h = X it
equals ``rint(a_1 + g_1) + ... + rint(a_h + g_h)``, because an integer passes through rint. So it is computed from a
Gaussian mechanism with the h d outputs a_i + g_i. Without the patient let a_1 = X and the others 0; with the patient,
add x split as evenly as integers allow. An element with r = x_j mod h then adds (x_j^2 + r (h - r)) / h to the squared
distance between the two, which is therefore at most

    D^2 = (C / u)^2 / h + d floor(h^2 / 4) / h.

With s = sigma D, one round is a step of the Poisson-subsampled Gaussian mechanism with noise multiplier sigma, as the
accountants take it, and no allowance is needed for a sum that was rounded in parts. The second term is what that costs:
for the networks here less than a part in 10^6 of the noise. Shares beyond h, of an included set above the quorum or
with fewer hospitals working against it, are independent of the data and change nothing.

The sum is formed modulo 2^32, which is a function of the sum. No element of a single hospital is cut off: that would
not be one. ``unit`` is so coarse that the sum does not leave the ring in practice (12 standard deviations of the
largest noise, and twice the expected number of patients with all of C in one element); if it did, the round would be
spoilt and nobody less protected.

How shares are drawn is in :mod:`client.training.rounded_normal`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import CharterError

if TYPE_CHECKING:
    from shared.charter import Charter

LEAST_STEPS: Final = 2.0**16
"""Fewer lattice steps to a share's standard deviation than this would make the law of the shares inexact."""
_RING: Final = 2.0**31
_SIGMAS: Final = 12.1
_FINEST: Final = 2.0**-40  # of the bound; clipped gradients are summed in 64 bits


@dataclass(frozen=True)
class NoisePlan:
    """What both ends compute from a charter whose privacy mode is ``distributed``.

    Attributes:
        noise_multiplier: Sigma: the noise that hides a patient has sigma C or more.
        clip: C, the bound on the L2 norm of one patient's gradient.
        honest: H, the hospitals whose shares count.
        members: N, the most hospitals in a sum.
        unit: U, the step of the lattice; a power of two.
        divisor: Q P, the expected number of patients in a step by the agreed public constant P.
    """

    noise_multiplier: float
    clip: float
    honest: int
    members: int
    unit: float
    divisor: float

    @classmethod
    def of(cls, charter: "Charter") -> "NoisePlan":
        """The plan of a charter.

        Raises:
            CharterError: Its noise is not shared, or its numbers leave the noise too few steps of a ring of 32 bits.
        """
        privacy = charter.privacy
        if privacy.mode != "distributed" or privacy.patients is None:
            raise CharterError(f"the charter {charter.id} shares no noise", hint="say privacy.mode = 'distributed'")
        federation = charter.federation
        members, honest = len(federation.peers), federation.quorum - max(federation.colluding, 1)
        divisor = privacy.sample_rate * privacy.patients
        reach = privacy.clip * (_SIGMAS * privacy.noise_multiplier * math.sqrt(members / honest) + 2 * divisor)
        unit = 2.0 ** math.ceil(math.log2(max(reach / _RING, privacy.clip * _FINEST)))
        plan = cls(privacy.noise_multiplier, privacy.clip, honest, members, unit, divisor)
        if plan.share(1) < LEAST_STEPS:
            raise CharterError(
                f"sums over {privacy.patients} patients leave the noise of a hospital {plan.share(1):.0f} steps of a "
                f"ring of 32 bits, fewer than {LEAST_STEPS:.0f}",
                hint="take a larger noise_multiplier or a smaller sample_rate, or mode = 'patient'",
            )
        return plan

    def share(self, size: int) -> float:
        """S: the standard deviation of a hospital's noise in multiples of ``unit``, for a sum of ``size`` elements."""
        h = self.honest
        distance = math.sqrt(((self.clip / self.unit) ** 2 + size * (h * h // 4)) / h)
        return self.noise_multiplier * distance * (1 + 2.0**-50)  # above the roundings of this line and the one before

    def spread(self, size: int, included: int) -> float:
        """The standard deviation of the noise in the sum over ``included`` hospitals, in the units of the gradient."""
        return self.unit * self.share(size) * math.sqrt(included)

    def update(self, total: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
        """The step that a noisy sum asks for: new weights minus old ones at learning rate ``rate``.

        Args:
            total: The sum of a round in multiples of ``unit``, float64 ``[d]``.
            rate: Learning rate of the round.
        """
        return total * (-self.unit * rate / self.divisor)


def words(total: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Integers modulo 2^32, ``[d]``, as they enter the ring."""
    return (total & 0xFFFFFFFF).astype(np.uint32)
