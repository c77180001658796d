"""One round of training at a hospital, and the ordinary training that federated runs are compared with."""

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from opacus.accountants import PRVAccountant
from torch import nn

from client.charge import Charge, ChargeMode, Receipt
from client.training.accounting import Mechanism
from client.training.craft import Craft
from client.training.gradients import MicroBatch, accumulate_step, gradients, trained
from client.training.local_optimizer import local_optimizer, proximal_pull
from client.training.patient_dp import Clipping, PatientDPOptimizer
from client.training.sampling import PatientSampler
from client.training.secure_noise import NoiseSource, SecureNoise
from client.training.stopping import EarlyStopping
from shared.charter import PrivacyPlan, TaskPlan
from shared.errors import BudgetError, DataError, PolicyError, UsageError
from shared.imaging.dropping import dropping
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Batch, Task
from shared.schedule import cosine, local_rate

GRADIENT_NORM: Final = 5.0  # without privacy; keeps one odd batch from undoing a round


@dataclass(frozen=True)
class TrainOutcome:
    """What a round of training did; the network was changed in place.

    Attributes:
        loss_sum: Sum of the loss over all patches; None under differential privacy, where the exact losses are
            withheld: the guarantee covers the update, not them.
        samples: Patches used; under differential privacy their expected number, which tells nothing of who was drawn.
        steps: Optimiser steps.
        seconds: Wall-clock time; under differential privacy it depends on how many patients were drawn.
        patients: Patients of the site that the task can use.
        history: The mechanisms that the accountant saw, step by step; empty without differential privacy.
        noise: Source of the noise, for the record; empty without differential privacy.
        unusable: How often a drawn patient's images could not be used under differential privacy, where that is no
            reason to fail: for the hospital's own record.
        micro_batch: Patches that went through the network at once, where the device's memory did not hold more; 0
            where it held them all: for the hospital's own record.
        drawn: Under differential privacy, in how many steps each patient was; those in none are left out. The guarantee
            rests on its being secret: for the hospital's own record alone.
    """

    loss_sum: float | None
    samples: int
    steps: int
    seconds: float
    patients: int
    history: tuple[Mechanism, ...] = ()
    noise: str = ""
    unusable: int = 0
    micro_batch: int = 0
    drawn: Mapping[str, int] = field(default_factory=dict, repr=False)


def usable(task: Task, patients: Sequence[PatientImages]) -> list[PatientImages]:
    """The patients with the studies that ``task`` can use, without those that have none."""
    kept = [replace(p, studies=tuple(s for s in p.studies if task.eligible(s))) for p in patients]
    return [patient for patient in kept if patient.studies]


def price(
    task: Task,
    patients: Sequence[PatientImages],
    plan: TaskPlan,
    privacy: PrivacyPlan,
    *,
    round_number: int,
    constant: int | None = None,
    run: str = "",
    federation: str = "",
) -> Charge:
    """The charge that pays for :func:`train_round` with the same arguments.

    Args:
        task: What is learnt.
        patients: The site's training patients.
        plan: Gives the steps.
        privacy: Gives the mode, the noise and the rate; mode ``distributed`` also the public number of patients.
        round_number: From 1.
        constant: The public number of patients that the hospital declared with its budget; None takes the number of
            patients here, as a virtual hospital may at its first charge.
        run: Id of the run.
        federation: Id of the federation.

    Raises:
        DataError: No patient has a study that the task can use.
        UsageError: The mode is ``off``, which no charge pays for.
    """
    here = len(_people(task, patients))
    if privacy.mode == "off":
        raise UsageError("training without differential privacy has no price", hint="charge private rounds only")
    mode: ChargeMode = privacy.mode
    return Charge(
        run=run,
        federation=federation,
        task=task.name,
        round=round_number,
        mode=mode,
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=privacy.sample_rate,
        steps=plan.local_steps,
        patients=(privacy.patients if mode == "distributed" else constant) or here,
    )


def train_round(
    task: Task,
    network: nn.Module,
    patients: Sequence[PatientImages],
    plan: TaskPlan,
    *,
    round_number: int,
    privacy: PrivacyPlan | None,
    seed: int | None,
    receipt: Receipt | None = None,
) -> TrainOutcome:
    """Train ``network`` in place for ``plan.local_steps`` steps on the patients of one site.

    Args:
        task: What is learnt.
        network: The global model of the round.
        patients: The site's training patients; those without a study for the task are left out.
        plan: Steps, batch, optimiser and rate.
        round_number: From 1 to ``plan.rounds``; the rate follows (:func:`shared.schedule.local_rate`).
        privacy: None or mode ``off`` for ordinary training; mode ``distributed`` takes no step here.
        seed: Ordinary training is the same for the same seed and round; None takes the operating system's randomness.
            Under privacy it must be None: randomness that somebody else knows protects nobody.
        receipt: Under privacy, the receipt of the charge for exactly this round's steps
            (``ledger.reserve(price(...))``).

    Raises:
        DataError: No patient has a study that the task can use.
        BudgetError: Training under privacy without a charge that pays for it.
        PolicyError: Training under privacy with a seed, or of a network that keeps statistics of its inputs; or under
            noise that is shared (:mod:`client.training.shared_sum`).
        UsageError: The round is not one of the plan's.
    """
    if not 1 <= round_number <= plan.rounds:
        raise UsageError(f"round {round_number} is not one of 1 to {plan.rounds}", hint="count rounds from 1")
    people = _people(task, patients)
    if privacy is not None and privacy.mode == "distributed":
        raise PolicyError(
            "a step of shared noise is taken by the coordinator", hint="see client/training/shared_sum.py"
        )
    rate = local_rate(plan, round_number)
    if privacy is None or privacy.mode == "off":
        return _ordinary_round(task, network, people, plan, rate=rate, rng=_generator(seed, round_number))
    if seed is not None:
        raise PolicyError("training under differential privacy takes no seed", hint="pass seed=None")
    return _private_round(task, network, people, plan, rate=rate, privacy=privacy, receipt=receipt, noise=SecureNoise())


def train_centrally(
    task: Task,
    network: nn.Module,
    patients_by_site: Mapping[str, Sequence[PatientImages]],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    craft: Craft = Craft(),  # noqa: B008  # it is frozen
    stopping: EarlyStopping | None = None,
    last: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> TrainOutcome:
    """Train ``network`` in place as one hospital alone, or one that held everybody's images, would.

    These are the arms that federated training is compared with. Adam with the rate on a half cosine (AdamW where there
    is weight decay); batches are drawn over all sites in proportion to their slices.

    Args:
        task: What is learnt.
        network: Changed in place.
        patients_by_site: Training patients; one site for local training, all for pooled training.
        steps: Optimiser steps.
        batch: Patches in a step.
        lr: Learning rate at the first step.
        seed: The same seed gives the same network.
        craft: How patches are chosen and altered, dropout and weight decay.
        stopping: Looks at the network on the way, may end the training, and at its end puts back the best weights.
        last: End after so many steps, with the rate as if all of ``steps`` followed; None takes all of them.
        on_step: Called with the steps done, after each.

    Raises:
        DataError: No patient has a study that the task can use.
    """
    people = _people(task, [patient for patients in patients_by_site.values() for patient in usable(task, patients)])
    began = time.perf_counter()
    rng = np.random.default_rng([seed, 0])
    kind = "AdamW" if craft.weight_decay else "Adam"
    optimizer = local_optimizer(kind, network, lr, craft.weight_decay)
    network.train()
    loss_sum, done = 0.0, 0
    with dropping(network, craft.dropout, rng):
        for done in range(1, (last or steps) + 1):
            optimizer.param_groups[0]["lr"] = lr * cosine((done - 1) / steps)
            loss_sum += batch * _ordinary_step(task, network, optimizer, craft.batch(task, people, batch, rng))
            if on_step:
                on_step(done)
            if stopping and stopping.enough(network, done):
                break
    if stopping:
        stopping.restore(network)
    return TrainOutcome(loss_sum, done * batch, done, time.perf_counter() - began, len(people))


def _ordinary_round(
    task: Task,
    network: nn.Module,
    people: Sequence[PatientImages],
    plan: TaskPlan,
    *,
    rate: float,
    rng: np.random.Generator,
) -> TrainOutcome:
    began = time.perf_counter()
    optimizer = local_optimizer(plan.local_optimizer, network, rate, plan.weight_decay)
    pull = proximal_pull(network, plan.proximal)
    network.train()
    loss_sum, micro, craft = 0.0, MicroBatch(), Craft.of(plan)
    with dropping(network, craft.dropout, rng):
        for _ in range(plan.local_steps):
            batch = craft.batch(task, people, plan.batch, rng)
            loss = _ordinary_step(task, network, optimizer, batch, pull, plan=plan, micro=micro)
            loss_sum += plan.batch * loss
    seconds, samples = time.perf_counter() - began, plan.local_steps * plan.batch
    return TrainOutcome(loss_sum, samples, plan.local_steps, seconds, len(people), micro_batch=micro.size)


def _ordinary_step(
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    pull: Callable[[], None] | None = None,
    *,
    plan: TaskPlan | None = None,
    micro: MicroBatch | None = None,
) -> float:
    parameters, size = trained(network), micro or MicroBatch()
    precision, adversarial = (plan.precision, plan.adversarial) if plan else (TaskPlan.precision, None)

    def work() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return gradients(task, network, batch, precision=precision, at_once=size.size, adversarial=adversarial)

    loss, found = size.fit(len(batch[0]), work)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient
    # Of all objectives together, as in a private step: the two differ by their privacy alone.
    norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
    if not bool(torch.isfinite(norm)):
        return 0.0  # a batch without a usable gradient changes nothing
    if pull:
        pull()
    optimizer.step()
    return float(loss)


def _private_round(
    task: Task,
    network: nn.Module,
    people: Sequence[PatientImages],
    plan: TaskPlan,
    *,
    rate: float,
    privacy: PrivacyPlan,
    receipt: Receipt | None,
    noise: NoiseSource,
) -> TrainOutcome:
    """As :func:`train_round`; ``noise`` is a parameter so that tests, and only they, can replay it."""
    paid = _paid(receipt, privacy, plan.local_steps)
    began = time.perf_counter()
    optimizer = PatientDPOptimizer(
        local_optimizer(plan.local_optimizer, network, rate, plan.weight_decay),
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.clip,
        expected_batch_size=privacy.sample_rate * paid.charge.patients,  # public: the divisor tells nobody's presence
        noise=noise,
        clipping=Clipping(privacy.clipping),
    )
    accountant = PRVAccountant()
    account = accountant.get_optimizer_hook_fn(sample_rate=privacy.sample_rate)
    pull = proximal_pull(network, plan.proximal)

    def after_noise(stepping: PatientDPOptimizer) -> None:
        paid.take(stepping.noise_multiplier, privacy.sample_rate)
        account(stepping)
        pull()  # depends on earlier noisy steps only, so adding it after the noise is post-processing

    optimizer.attach_step_hook(after_noise)
    rng, unusable, micro, drawn = _generator(None, 0), 0, MicroBatch(), Counter[str]()
    step = functools.partial(accumulate_step, task, network, people, plan=plan, privacy=privacy, rng=rng, micro=micro)
    with _Buffers(network):
        network.train()
        for chosen in PatientSampler(len(people), privacy.sample_rate, plan.local_steps):
            unusable += step(chosen, optimizer)
            optimizer.step()
            drawn.update(people[number].key for number in chosen)
    return TrainOutcome(
        loss_sum=None,
        samples=round(plan.local_steps * privacy.sample_rate * len(people) * privacy.slices_per_patient),
        steps=plan.local_steps,
        seconds=time.perf_counter() - began,
        patients=len(people),
        history=tuple(Mechanism(*entry) for entry in accountant.history),
        noise=noise.kind,
        unusable=unusable,
        micro_batch=micro.size,
        drawn=drawn,
    )


def _paid(receipt: Receipt | None, privacy: PrivacyPlan, steps: int) -> Receipt:
    if receipt is None:
        raise BudgetError("training under differential privacy needs a charge", hint="reserve it in the ledger first")
    paid = receipt.charge
    if (paid.mode, paid.noise_multiplier, paid.sample_rate, receipt.left) != (
        "patient",
        privacy.noise_multiplier,
        privacy.sample_rate,
        steps,
    ):
        raise BudgetError(
            f"the charge ({receipt.left} steps left of {paid}) does not pay for {steps} steps",
            hint="charge each round once, with the plan's own figures",
        )
    return receipt


class _Buffers:
    """Fail closed where a network keeps statistics of images beside its parameters, as batch normalisation does.

    Buffers leave with the model but carry no noise; a changed one is put back, and the round is refused.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._before = {name: value.clone() for name, value in network.named_buffers()}

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        now = dict(self._network.named_buffers())
        changed = [name for name, value in self._before.items() if not torch.equal(now[name], value)]
        for name in changed:
            now[name].copy_(self._before[name])
        if changed and kind is None:
            raise PolicyError(
                f"the network keeps statistics of the images in {changed[0]}, which carry no noise",
                hint="use a network without batch normalisation (GroupNorm instead)",
            )


def _people(task: Task, patients: Sequence[PatientImages]) -> list[PatientImages]:
    people = usable(task, patients)
    if not people:
        raise DataError(f"no patient here has a study for the task {task.name}", hint="leave this site out of the task")
    return people


def _generator(seed: int | None, round_number: int) -> np.random.Generator:
    entropy = [int.from_bytes(os.urandom(16), "big")] if seed is None else [seed, round_number]
    return np.random.default_rng(entropy)
