"""The arms that show what privacy costs: the public model, the same training without noise, and noise of both kinds.

All of them begin at the same public weights and train the same parameters over the same rounds, by the tasks and the
privacy of one charter; what differs is what privacy asks for. ``tuned`` draws patches in proportion to
slices and weights hospitals by them; the others draw patients, clip each one's gradient, weight all hospitals alike, or
with shared noise all patients, and add noise.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from opacus.accountants.utils import get_noise_multiplier

from client.training.accounting import LARGEST_DELTA, default_delta
from client.training.sampling import OVERFLOW
from shared.charter import Charter, PrivacyMode, PrivacyPlan, TaskPlan
from shared.errors import UsageError

Kind = Literal["tuned", "local", "shared", "scratch"]
NAMES: Final[dict[Kind, str]] = {
    "tuned": "tuned",
    "local": "federated_dp",
    "shared": "federated_shared",
    "scratch": "scratch",
}
"""How the first repeat at the largest epsilon is called in tables."""
TITLES: Final[dict[Kind, str]] = {
    "tuned": "from public",
    "local": "local noise",
    "shared": "shared noise",
    "scratch": "from nothing, shared noise",
}
LEVELS: Final = (0.05, 100.0)
MODES: Final[dict[Kind, PrivacyMode]] = {"local": "patient", "shared": "distributed", "scratch": "distributed"}


@dataclass(frozen=True)
class PrivateArm:
    """One training of a task.

    Attributes:
        task: What is trained.
        kind: ``tuned`` without noise, ``local`` with all of the noise at every hospital, ``shared`` with a share;
            ``scratch`` is ``shared`` from random weights, all of which train.
        epsilon: The guarantee aimed at; None for ``tuned``, and where the charter's own noise is taken.
        repeat: From 0; each begins with another seed, and noise never repeats.
        name: What it is called in tables and folders.
    """

    task: TaskPlan
    kind: Kind
    epsilon: float | None
    repeat: int
    name: str

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        level = "" if self.epsilon is None else f", epsilon {self.epsilon:g}"
        again = f", repeat {self.repeat + 1}" if self.repeat else ""
        return f"{TITLES[self.kind]}{level}{again}"


def arms(charter: Charter, epsilons: tuple[float, ...], repeats: int, *, masks: bool) -> Iterator[PrivateArm]:
    """All arms of all tasks of ``charter``; without ``epsilons`` with its own noise.

    Shared noise needs masks, and is left out where there are none. Where several guarantees are compared, training of
    everything from nothing under the weakest of them stands beside them.
    """
    levels: tuple[float | None, ...] = tuple(sorted(epsilons, reverse=True)) or (None,)
    for task in charter.tasks:
        for repeat in range(repeats):
            for kind, level in _settings(levels, masks=masks, scratch=bool(epsilons) and task.start != "fresh"):
                first = repeat == 0 and level in (None, levels[0])
                text = "" if level is None else f"-{level:g}"
                name = NAMES[kind] if first else f"{kind}{text}-{repeat}"
                plan = task if kind != "scratch" else dataclasses.replace(task, start="fresh", trained="all")
                yield PrivateArm(plan, kind, level, repeat, name)


def _settings(levels: tuple[float | None, ...], *, masks: bool, scratch: bool) -> Iterator[tuple[Kind, float | None]]:
    yield "tuned", None
    for level in levels:
        yield "local", level
    for level in levels if masks else ():
        yield "shared", level
    if scratch and masks:
        yield "scratch", levels[0]


def charter_of(base: Charter, arm: PrivateArm, privacy: PrivacyPlan, patients: int) -> Charter:
    """The charter that the hospitals of ``arm`` pin.

    Args:
        base: A charter of these hospitals without privacy, with their masks, and its consent to scores.
        arm: What is trained, and how privately.
        privacy: The settings of all private arms; the arm sets the mode and, where it aims at an epsilon, the noise.
        patients: Training patients of all these hospitals: of virtual ones everybody may know the number.
    """
    tasks, seed = (arm.task,), base.seed + arm.repeat
    if arm.kind == "tuned":
        return dataclasses.replace(base, tasks=tasks, seed=seed)
    agreed = privacy.patients or patients
    delta = privacy.delta or default_delta(agreed)
    sigma = privacy.noise_multiplier
    if arm.epsilon is not None:
        sigma = noise_for(arm.epsilon, delta, privacy.sample_rate, arm.task.rounds * arm.task.local_steps)
    chosen = dataclasses.replace(
        privacy, mode=MODES[arm.kind], noise_multiplier=sigma, delta=delta, patients=agreed, scores=base.privacy.scores
    )
    return dataclasses.replace(base, tasks=tasks, privacy=chosen, seed=seed)


def reachable(charter: Charter, epsilons: tuple[float, ...]) -> None:
    """See that noise gives each of ``epsilons`` for each task of ``charter``.

    Raises:
        UsageError: None does.
    """
    for task in charter.tasks:
        for level in epsilons:
            delta = charter.privacy.delta or LARGEST_DELTA
            noise_for(level, delta, charter.privacy.sample_rate, task.rounds * task.local_steps)


@lru_cache
def noise_for(target: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier found whose epsilon for ``steps`` steps is at most ``target`` (PRV accountant).

    Raises:
        UsageError: No noise reaches it.
    """
    if not LEVELS[0] <= target <= LEVELS[1]:  # further out the search takes hours, and epsilon says nothing
        raise UsageError(f"epsilon {target:g} is not from {LEVELS[0]:g} to {LEVELS[1]:g}", hint="aim at 1 to 10")
    try:
        sigma: float = get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta - OVERFLOW * steps,
            sample_rate=sample_rate,
            steps=steps,
            accountant="prv",
        )
    except (ValueError, RuntimeError, ArithmeticError) as error:  # what its search meets at its ends
        raise UsageError(
            f"no noise is found that gives epsilon {target:g} in {steps} steps",
            hint="aim at 0.1 to 100",
        ) from error
    return sigma
