"""Does the training code keep the promise that the accountant makes for it? An audit in one run, by canaries.

Source: Steinke, Nasr and Jagielski 2023 (arXiv:2305.08846), with gradient canaries in white-box access. A canary is a
patient whose loss is a steep slope along one parameter of its own, so that clipping must bring its gradient down to
the bound. Half of the canaries take part, by coins of the operating system. They go through the very code that a
hospital trains with: charge, receipt, Poisson sampling, one gradient per patient, clipping, noise, step, round for
round, beside other patients. Under SGD at a constant rate a parameter moves by the sum of its noisy gradients; whose
parameter moved most down its slope is guessed to have been in, whose moved least to have been out.

What comes out is a lower bound on the epsilon of the code as it runs. Above the claim it shows a fault. Below the claim
it is consistent with the claim, and no proof: one attack with the canaries at hand gives it, and it says nothing of
what it does not attack. It finds faults that multiply what a patient can do, such as clipping slices instead of
patients. Noise that is halved would slip through, since the bound stays far below the claim; the tests measure noise
directly.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.ledger import Ledger
from client.training.accounting import Mechanism, PrivacyStatement, default_delta, epsilon
from client.training.gradients import trained
from client.training.key_stream import KeyStream
from client.training.loop import price, train_round
from shared.charter import PrivacyPlan, TaskPlan
from shared.errors import BudgetError, UsageError
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, Objective, Task
from simulation.privacy_bound import guessed, lower_bound, most_telling

CONFIDENCE: Final = 0.95
FRACTIONS: Final = (0.05, 0.1, 0.25, 0.5)
"""Of the canaries that are guessed at: chosen here, before any outcome is seen, and paid for by a union bound."""
LOOKS: Final = 2
"""Moments at which guesses are made, at most; paid for likewise."""

_STEEP: Final = 1e4  # slope of a canary's loss, in units of the clipping bound, or of 1 where that is smaller
_WALK: Final = 0.01  # standard deviation of the noise's walk in a parameter over the whole run
_FEWEST: Final = 40  # canaries, so that the smallest fraction is a pair
_REHEARSALS: Final = 200


@dataclass(frozen=True)
class Look:
    """Guesses at one moment of the run, and what they say.

    Attributes:
        steps: Steps taken and charged so far.
        claim: Epsilon that the accountant claims for them, an upper bound.
        lower: Lower bound on epsilon from the guesses, at :data:`CONFIDENCE` for all looks together.
        guesses: Canaries that were guessed at; the others were abstained from.
        correct: Guesses that were right.
        expected: The lower bound that correct code is expected to give here.
        ceiling: The lower bound if every guess were right: no fault, however gross, shows above it.
    """

    steps: int
    claim: float
    lower: float
    guesses: int
    correct: int
    expected: float
    ceiling: float

    @property
    def violated(self) -> bool:
        """Whether the guesses refute the claim."""
        return self.lower > self.claim

    @property
    def blind(self) -> bool:
        """Whether no outcome could have refuted the claim."""
        return self.ceiling <= self.claim


@dataclass(frozen=True)
class PrivacyAudit:
    """An audit's outcome.

    Attributes:
        task: Name of the task whose network was trained.
        canaries: Number of canaries.
        canaries_in: How many of them took part.
        others: Patients beside them.
        clip: Bound on a patient's gradient.
        slices: Patches of a patient in a step.
        confidence: Of all lower bounds together.
        looks: In the order of steps; the last is at the end of the run.
        statement: What the ledger states for the whole run.
        seconds: Wall-clock time.
    """

    task: str
    canaries: int
    canaries_in: int
    others: int
    clip: float
    slices: int
    confidence: float
    looks: tuple[Look, ...]
    statement: PrivacyStatement
    seconds: float

    @property
    def violated(self) -> bool:
        """Whether any look refutes its claim."""
        return any(look.violated for look in self.looks)

    def to_json(self) -> dict[str, object]:
        """The audit as plain values."""
        looks = [{**asdict(look), "violated": look.violated, "blind": look.blind} for look in self.looks]
        return {**asdict(self), "looks": looks, "statement": self.statement.to_json(), "violated": self.violated}


def audit(
    task: Task,
    plan: TaskPlan,
    privacy: PrivacyPlan,
    *,
    seed: int = 0,
    canaries: int = 1000,
    others: int = 4,
    on_round: Callable[[int, int], None] = lambda done, rounds: None,
) -> PrivacyAudit:
    """Train with canaries under a plan's rounds, steps and privacy; bound epsilon from below by guessing who was in.

    Optimisers and rates are the audit's own, since they have no part in the guarantee. All of the noise is added here,
    also where the plan lets hospitals share it: shares and masks are not audited.

    Args:
        task: Its network is trained, all parameters of it.
        plan: Rounds, steps in a round, and precision count.
        privacy: Everything but the public number of patients counts.
        seed: Of the network's weights and the other patients' images; coins, samples and noise are never seeded.
        canaries: At most so many; a network with fewer parameters gets one canary a parameter.
        others: Patients beside the canaries, with random images.
        on_round: Called after each round with the rounds done and their number.

    Raises:
        UsageError: There is no privacy to audit, or there would be fewer than 40 canaries.
        BudgetError: No finite epsilon is claimed for these settings.
    """
    require_privacy(privacy)
    began = time.perf_counter()
    game = _Game(task, privacy.clip, seed, canaries, others)
    delta = default_delta(game.canaries) if privacy.delta is None else privacy.delta
    private = replace(privacy, mode="patient", delta=delta, patients=None)
    shown = _moments(plan, private, game.canaries, delta)
    looks, charged = _play(game, _settings(plan, private, game.constant), private, shown, on_round)
    return PrivacyAudit(
        task=task.name,
        canaries=game.canaries,
        canaries_in=int(game.inside.sum()),
        others=others,
        clip=privacy.clip,
        slices=privacy.slices_per_patient,
        confidence=CONFIDENCE,
        looks=looks,
        statement=charged,
        seconds=time.perf_counter() - began,
    )


def require_privacy(privacy: PrivacyPlan) -> None:
    """See that there is something to audit.

    Raises:
        UsageError: There is no differential privacy.
    """
    if privacy.mode == "off" or privacy.noise_multiplier <= 0:
        raise UsageError(
            "there is no differential privacy to audit", hint="choose a charter with [privacy] mode and noise"
        )


def _play(
    game: "_Game", plan: TaskPlan, privacy: PrivacyPlan, shown: frozenset[int], on_round: Callable[[int, int], None]
) -> tuple[tuple[Look, ...], PrivacyStatement]:
    """All rounds, each charged before it is trained, and guesses after those in ``shown``."""
    task, looks, start = cast(Task, game), list[Look](), game.weights()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.jsonl") as ledger:
        for number in range(1, plan.rounds + 1):
            charge = price(task, game.patients, plan, privacy, round_number=number, constant=game.constant)
            train_round(
                task,
                game.network,
                game.patients,
                plan,
                round_number=number,
                privacy=privacy,
                seed=None,
                receipt=ledger.reserve(charge),
            )
            if number in shown:
                stated = ledger.statement(privacy.delta)
                looks.append(_look(start - game.weights(), game.inside, stated))
            on_round(number, plan.rounds)
    return tuple(looks), stated


class _Game:
    """A task and a network with canaries among the patients; all that the task does for the others is as it was."""

    def __init__(self, task: Task, clip: float, seed: int, canaries: int, others: int) -> None:
        self._task = task
        self.network = _Marked(task.network(seed), _STEEP * max(clip, 1.0))
        parameters = trained(self.network)
        sizes = np.array([parameter.numel() for parameter in parameters])
        self.canaries = min(canaries, int(sizes.sum()))
        if self.canaries < _FEWEST:
            raise UsageError(f"an audit needs at least {_FEWEST} canaries, not {self.canaries}", hint="take about 1000")
        self._places = np.random.default_rng().choice(sizes.sum(), self.canaries, replace=False)
        # The public number of patients, which divides noisy sums: nobody's coin may change it.
        self.constant = self.canaries // 2 + others
        coins = KeyStream().integers(self.canaries)
        self.inside: NDArray[np.bool_] = (coins & np.uint64(1)).astype(bool)
        self._marks = {f"canary-{number}": int(self._places[number]) for number in np.flatnonzero(self.inside)}
        images = _study(task, np.random.default_rng(seed), 0)
        self.patients = [PatientImages(key, (images,)) for key in self._marks] + [
            PatientImages(f"patient-{number}", (_study(task, np.random.default_rng([seed, number]), 96),))
            for number in range(others)
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """A canary's batch has a row for each patch as well, of the place of its parameter instead of pixels."""
        if patient.key in self._marks:
            place = torch.full((count,), self._marks[patient.key])
            return place, place
        return self._task.draw(patient, count, rng)

    def objectives(self, network: "_Marked", batch: Batch) -> tuple[Objective, ...]:
        """The mean of the rows' losses for a canary, as for anybody."""
        if batch[0].dtype == torch.int64:
            return (Objective(network(batch[0]).mean(), network),)
        return self._task.objectives(network.network, batch)

    def weights(self) -> NDArray[np.float64]:
        """The canaries' parameters, those of the canaries that were left out included; float64 ``[canaries]``."""
        whole = torch.cat([parameter.detach().reshape(-1) for parameter in trained(self.network)])
        return whole[torch.from_numpy(self._places)].double().numpy()


class _Marked(nn.Module):
    """A network that also gives the loss of canaries: ``slope * w[place]`` for each row of an int64 batch of places."""

    def __init__(self, network: nn.Module, slope: float) -> None:
        super().__init__()
        self.network, self.slope = network, slope
        for parameter in network.parameters():
            parameter.requires_grad_()
        self._targets = trained(network)
        self._starts = np.cumsum([0, *(parameter.numel() for parameter in self._targets)])

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n]`` places, all of one canary, to ``[n]`` losses."""
        place = int(inputs[0])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.slope * self._targets[number].reshape(-1)[inputs - int(self._starts[number])]


def _study(task: Task, rng: np.random.Generator, size: int) -> StudyImages:
    """Noise that the task takes for a study; of one pixel for a canary, whose images are never looked at."""
    shape = (2, size, size) if size else (1, 1, 1)
    noisy, reference = rng.random((2, *shape), dtype=np.float32)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    second = rng.random(shape, dtype=np.float32)
    return StudyImages(max(task.modalities), noisy, reference, label, (1.0, 1.0), second)


def _settings(plan: TaskPlan, privacy: PrivacyPlan, patients: int) -> TaskPlan:
    """SGD at a constant rate, small enough that float32 does not round a step away and large networks stay finite."""
    walk = privacy.noise_multiplier * privacy.clip * math.sqrt(plan.rounds * plan.local_steps)
    rate = _WALK * privacy.sample_rate * patients / walk
    return replace(
        plan, local_optimizer="SGD", local_lr=rate, server_optimizer="Adam", proximal=0.0, start="fresh", trained="all"
    )


def _moments(plan: TaskPlan, privacy: PrivacyPlan, canaries: int, delta: float) -> frozenset[int]:
    """Rounds after which guesses are made: the last, and an early one whose claim is small enough to be refuted.

    It depends on the settings alone. A thousand canaries cannot refute an epsilon of 8, and 320 steps of a charter may
    well cost that; after a part of the steps the claim is smaller, and a fault that multiplies it shows.
    """
    early, most = plan.rounds, _ceiling(canaries, delta) / 2
    while early > 1:
        steps = early * plan.local_steps
        if _claimed(Mechanism(privacy.noise_multiplier, privacy.sample_rate, steps), delta) <= most:
            break
        early //= 2
    return frozenset({early, plan.rounds})


@cache
def _claimed(mechanism: Mechanism, delta: float) -> float:
    try:
        return epsilon([mechanism], delta)[0]
    except BudgetError:  # none that is finite: certainly too many steps
        return math.inf


def _ceiling(canaries: int, delta: float) -> float:
    share = (1 - CONFIDENCE) / (LOOKS * len(FRACTIONS))
    return max(lower_bound(canaries, r, r, delta, share) for r in _guesses(canaries))


def _guesses(canaries: int) -> tuple[int, ...]:
    return tuple(2 * round(fraction * canaries / 2) for fraction in FRACTIONS)


def _look(moved: NDArray[np.float64], inside: NDArray[np.bool_], stated: PrivacyStatement) -> Look:
    count, delta = len(inside), stated.delta
    right = [(r, guessed(moved, inside, r)) for r in _guesses(count)]
    lower, guesses, correct = most_telling(count, right, delta, (1 - CONFIDENCE) / LOOKS)
    return Look(
        steps=stated.steps,
        claim=stated.epsilon,
        lower=lower,
        guesses=guesses,
        correct=correct,
        expected=most_telling(count, _rehearse(count, stated.history), delta, (1 - CONFIDENCE) / LOOKS)[0],
        ceiling=_ceiling(count, delta),
    )


def _rehearse(canaries: int, history: Sequence[Mechanism]) -> list[tuple[int, int]]:
    """Guesses, and how many are right on average where the code does what it says: canaries alone, simulated."""
    rng = np.random.default_rng(0)
    right = np.zeros(len(FRACTIONS))
    for _ in range(_REHEARSALS):
        inside = rng.random(canaries) < 0.5
        moved = np.zeros(canaries)
        for noise, rate, steps in history:
            moved += inside * rng.binomial(steps, rate, canaries)
            moved += rng.normal(scale=noise * math.sqrt(steps), size=canaries)
        right += [guessed(moved, inside, r) for r in _guesses(canaries)]
    return [(r, int(v)) for r, v in zip(_guesses(canaries), right / _REHEARSALS, strict=True)]
