"""Poisson sampling of patients: in each step every patient takes part with chance q, independently of all others.

Opacus' ``UniformWithReplacementSampler`` does the same with a ``torch.Generator``. It is not used, because that
generator keeps 32 bits of its seed: who knows which other patients were in a step could try all seeds, and learn
whether a given patient was. Amplification by sampling needs coins that nobody can guess. Here they
come from an AES key stream (:class:`client.training.secure_noise.KeyStream`).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from scipy.stats import binom

from client.training.key_stream import FRACTION_BITS, KeyStream
from shared.errors import DataError, UsageError

OVERFLOW: Final = 1e-12
"""Largest chance, in one step, that the cap takes hold. The accountant gives it away from delta."""


class PatientSampler:
    """The patients of each of ``steps`` steps; iterate to get lists of indices in [0, patients), some of them empty.

    A step never has more than :attr:`cap` patients, which bounds the time that it takes (memory is that of one patient
    in any case). Where more were drawn, a random subset stays.

    What the cap costs: a patient who takes part in a full step pushes another one out, so that the sum changes by up to
    2C instead of C. Whether a step can be full is decided by the *other* patients' coins, which are the same with and
    without the patient; so with probability 1 - steps * OVERFLOW the capped run equals the uncapped one on
    both sides, and the guarantee holds with delta raised by steps * OVERFLOW and with no change of epsilon.
    The cap is therefore twice the expected number of patients *or more*, as small sites need: twice the expected number
    alone is exceeded in 1.7% of the steps at 16 patients and q = 1/4, far more often than delta.

    How many slices of a sampled patient are used costs no privacy: the patient's gradient is clipped as a whole.

    Args:
        patients: Number N of patients of the site.
        sample_rate: Chance q in (0, 1] of each patient to be in a step.
        steps: Number of steps.

    Raises:
        DataError: There is no patient.
        UsageError: ``sample_rate`` is not in (0, 1], or ``steps`` is below one.
    """

    def __init__(self, patients: int, sample_rate: float, steps: int) -> None:
        if patients < 1:
            raise DataError("no patient to sample from", hint="build the cohort first")
        if not 0 < sample_rate <= 1 or steps < 1:
            raise UsageError(
                f"cannot sample {steps} steps at a rate of {sample_rate} per patient",
                hint="use a rate in (0, 1] and at least one step",
            )
        self.patients, self.sample_rate, self.steps = patients, sample_rate, steps
        self.cap = cap(patients, sample_rate)
        self._stream = KeyStream()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        # k < q * 2**53 for uniform integers k: the chance is q rounded down to a multiple of 2**-53, never above q.
        limit = np.uint64(int(self.sample_rate * 2**FRACTION_BITS))
        for _ in range(self.steps):
            chosen = np.flatnonzero(self._stream.integers(self.patients) < limit)
            if len(chosen) > self.cap:
                order = np.argsort(self._stream.integers(len(chosen)))
                chosen = np.sort(chosen[order[: self.cap]])
            yield chosen.tolist()


def cap(patients: int, sample_rate: float) -> int:
    """The most patients in one step: twice the expected number, or more where that is exceeded too often.

    It is the smallest number that is at least 2 q N and that the other N - 1 patients reach with a chance of at most
    :data:`OVERFLOW`.
    """
    double = min(patients, int(np.ceil(2 * patients * sample_rate)))
    candidates = np.arange(double, patients + 1)
    reached = binom.sf(candidates - 1, patients - 1, sample_rate)
    return int(candidates[np.flatnonzero(reached <= OVERFLOW)[0]])
