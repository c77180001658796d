"""DP-SGD whose unit is the patient: one ordinary backward per patient, the whole gradient clipped, noise once per step.

A patient contributes many slices. Clipping slices, as Opacus' engine does, lets a patient with k slices move the sum
by k times the bound. Here all slices of a patient go into one loss, and its gradient is clipped as a whole. No hooks,
no wrapped module and no per-sample gradients are needed, and whatever couples slices in a loss stays in the patient.

Sources: Abadi et al. 2016 (DP-SGD); Bu et al. 2023 (automatic clipping); Mironov 2012 (floating-point attacks).
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import numpy as np
import torch
from opacus.optimizers import DPOptimizer

from client.training.secure_noise import NoiseSource, SecureNoise

_LATTICE_BITS: Final = 40  # of a gradient below the bound; float32 itself has 24
_MARGIN: Final = 1.0 - 2.0**-22  # above the rounding of a float64 norm over up to 2**31 parameters
_CLIPS: Final = (1e-9, 1e9)
_LARGEST_NOISE: Final = 1e5  # noise and sum stay far inside int64


class Clipping(StrEnum):
    """How a patient's gradient g is brought below the bound C.

    ``automatic`` scales every gradient to g * C / (|g| + gamma) (Bu et al. 2023, AUTO-S); ``flat`` scales only those
    that are longer than C (Abadi et al. 2016).
    """

    AUTOMATIC = "automatic"
    FLAT = "flat"


class PatientDPOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """An optimiser that sees patients one at a time only, and steps on their clipped, noisy sum.

    One patient more or less changes the sum by at most C, *exactly*: a clipped gradient is truncated towards zero onto
    the lattice of multiples of :attr:`unit`, a power of two near C * 2**-40, and summed in integers, so that no
    rounding depends on who else is in the sum. The noise is rounded to the same lattice; for a sum on the lattice that
    equals rounding the sum with Gaussian noise, as exact as float64 has it, which is post-processing. The lowest bits
    of the result therefore tell nothing of the summands (Mironov 2012).

    Use::

        optimizer.zero_grad()
        for patient in sampled:               # may be empty: the step still adds noise and is still charged
            optimizer.backward(loss_of(patient))
        optimizer.step()

    Args:
        optimizer: The optimiser to feed; only its parameters that require a gradient are trained.
        noise_multiplier: Standard deviation of the noise on the sum in units of C, in [0, 1e5]; 0 gives no privacy.
        max_grad_norm: Bound C on the L2 norm of what one patient adds, in [1e-9, 1e9].
        expected_batch_size: The sum is divided by it: q * N patients, whoever was drawn.
        noise: Source of the noise; a fresh :class:`SecureNoise` where left out.
        clipping: See :class:`Clipping`.
        gamma: The constant of automatic clipping, above 0.
        unit: Step of the lattice, a power of two; None takes the finest that there is, near C * 2**-40.

    Raises:
        ValueError: A number is out of its range, or nothing can be trained.
    """

    accumulated_iterations = 1  # Opacus scales by it and multiplies the sampling rate with it

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        noise: NoiseSource | None = None,
        clipping: Clipping = Clipping.AUTOMATIC,
        gamma: float = 0.01,
        unit: float | None = None,
    ) -> None:
        if not 0 <= noise_multiplier <= _LARGEST_NOISE:
            raise ValueError(f"the noise multiplier must lie in [0, {_LARGEST_NOISE:g}], not {noise_multiplier}")
        if not _CLIPS[0] <= max_grad_norm <= _CLIPS[1]:
            raise ValueError(f"the clipping bound must lie in [{_CLIPS[0]:g}, {_CLIPS[1]:g}], not {max_grad_norm}")
        if not (0 < expected_batch_size < math.inf and 0 < gamma < math.inf):
            raise ValueError(
                f"expected_batch_size ({expected_batch_size}) and gamma ({gamma}) must be above 0 and finite"
            )
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )
        self._trained: list[torch.nn.Parameter] = list(self.params)
        if not self._trained:
            raise ValueError("the optimiser has no parameter that requires a gradient")
        self.noise: NoiseSource = noise if noise is not None else SecureNoise()
        self.clipping, self.gamma = clipping, gamma
        finest = 2.0 ** (math.floor(math.log2(max_grad_norm)) - _LATTICE_BITS)
        self.unit = finest if unit is None else unit
        if not (math.isfinite(self.unit) and self.unit >= finest and math.frexp(self.unit)[0] == 0.5):
            raise ValueError(f"the step of the lattice must be a power of two from {finest:g} up, not {unit}")
        size = sum(parameter.numel() for parameter in self._trained)
        self._sum = torch.zeros(size, dtype=torch.int64, device=self._trained[0].device)

    @property
    def lattice_sum(self) -> torch.Tensor:
        """Sum of the clipped gradients since :meth:`zero_grad`, int64 ``[parameters]``, in multiples of ``unit``."""
        return self._sum

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one patient, clipped.

        Args:
            loss: Scalar loss of this patient's slices *only*. One that does not depend on the parameters adds nothing.

        Raises:
            ValueError: The loss is not a scalar.
        """
        if loss.numel() != 1:
            raise ValueError(f"the loss of a patient must be a scalar, not of shape {tuple(loss.shape)}")
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss.reshape(()), self._trained, allow_unused=True, materialize_grads=True)
            self.accumulate(gradients)

    @torch.no_grad()
    def accumulate(self, gradients: Sequence[torch.Tensor]) -> None:
        """Add one patient's gradient, clipped as a whole; one that is not finite adds nothing.

        A single NaN would destroy the model, and would itself tell that the patient was in the step.

        Args:
            gradients: One tensor for each trained parameter, in their order and shapes.

        Raises:
            ValueError: Number or sizes do not match the parameters.
        """
        if [g.numel() for g in gradients] != [p.numel() for p in self._trained]:
            raise ValueError("the gradients do not match the parameters")
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).to(torch.float64)  # both are exact
        norm = float(torch.linalg.vector_norm(flat))
        if math.isfinite(norm):
            flat.mul_(self._factor(norm) / self.unit)  # dividing by a power of two is exact
            self._sum.add_(flat.to(torch.int64))  # the conversion truncates towards zero: no coordinate grows

    def _factor(self, norm: float) -> float:
        bound = self.max_grad_norm * _MARGIN
        if self.clipping is Clipping.AUTOMATIC:
            return float(bound / (norm + self.gamma))
        return 1.0 if norm <= bound else float(bound / norm)

    @torch.no_grad()
    def add_noise(self) -> None:
        """Put the noisy sum into ``p.grad`` of every trained parameter, and forget the sum: it is used once."""
        total = self._sum
        if self.noise_multiplier > 0:
            spread = self.noise_multiplier * self.max_grad_norm / self.unit
            noise = np.rint(self.noise.normal(total.numel()) * spread).astype(np.int64)
            total = total + torch.from_numpy(noise).to(total.device)
        noisy = total.to(torch.float64) * self.unit
        parts = torch.split(noisy, [parameter.numel() for parameter in self._trained])
        for parameter, part in zip(self._trained, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        self._sum = torch.zeros_like(self._sum)

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise, division by the expected number of patients, and the step hook (the accountant), in this order."""
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the sum and the gradients."""
        self._sum.zero_()
        self.original_optimizer.zero_grad(set_to_none)
