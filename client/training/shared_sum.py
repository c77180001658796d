"""A hospital's part of a step under shared noise: clipped gradients in integers, and a share of the noise.

What is made here has too little noise to be shown to anybody. It leaves masked only; the guarantee is that of the sum
(:mod:`shared.noise_shares`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from client.charge import Receipt
from client.training.accounting import Mechanism
from client.training.gradients import MicroBatch, accumulate_step, trained
from client.training.loop import TrainOutcome
from client.training.patient_dp import Clipping, PatientDPOptimizer
from client.training.rounded_normal import RoundedNormal
from client.training.rounded_normal import Words as Source
from client.training.sampling import PatientSampler
from shared.charter import PrivacyPlan, TaskPlan
from shared.errors import BudgetError, PolicyError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Task
from shared.noise_shares import NoisePlan, words
from shared.secagg.codec import Words
from shared.vector import Layout


@dataclass(frozen=True, eq=False)
class SharedSum:
    """What goes into the masks, and nowhere else.

    Attributes:
        words: Sum of the clipped gradients and this hospital's noise modulo 2^32, uint32 ``[d]``, by the layout.
        outcome: What the step did.
    """

    words: Words
    outcome: TrainOutcome


def shared_sum(
    task: Task,
    network: nn.Module,
    people: Sequence[PatientImages],
    plan: TaskPlan,
    *,
    privacy: PrivacyPlan,
    noise: NoisePlan,
    layout: Layout,
    receipt: Receipt | None,
    source: Source | None = None,
) -> SharedSum:
    """One Poisson draw over ``people``: the sum of their clipped gradients, and a share of the noise.

    Args:
        task: What is learnt.
        network: The global model of the round; its parameters stay as they are.
        people: Training patients with a study for the task.
        plan: Its precision and craft count here; the rate is the coordinator's business.
        privacy: Clip, way of clipping, sampling rate and patches.
        noise: The charter's plan of shares.
        layout: Of the model that travels: the trained parameters, and beside them nothing in floating point.
        receipt: Of the charge for this one step.
        source: Of the noise's random bits; a fresh key stream where left out. Tests, and only they, replay it.

    Raises:
        BudgetError: No charge pays for the step.
        PolicyError: The layout is of other numbers than those that train.
    """
    began = time.perf_counter()
    _check_layout(network, layout)
    if receipt is None or receipt.left != 1 or receipt.charge.mode != "distributed":
        raise BudgetError("a step of shared noise needs a charge of one such step", hint="charge each round once")
    optimizer = PatientDPOptimizer(
        torch.optim.SGD(trained(network), lr=1.0),  # holds the parameters; it never steps
        noise_multiplier=0.0,
        max_grad_norm=privacy.clip,
        expected_batch_size=noise.divisor,
        clipping=Clipping(privacy.clipping),
        unit=noise.unit,
    )
    drawn = RoundedNormal(noise.share(layout.size), source)
    network.train()
    (chosen,) = PatientSampler(len(people), privacy.sample_rate, 1)
    step = partial(accumulate_step, task, network, people, plan=plan, privacy=privacy, rng=np.random.default_rng())
    unusable = step(chosen, optimizer, micro=(micro := MicroBatch()))
    receipt.take(noise.noise_multiplier, privacy.sample_rate)
    outcome = TrainOutcome(
        loss_sum=None,
        samples=round(privacy.sample_rate * len(people) * privacy.slices_per_patient),
        steps=1,
        seconds=time.perf_counter() - began,
        patients=len(people),
        history=(Mechanism(noise.noise_multiplier, privacy.sample_rate, 1),),
        noise=drawn.kind,
        unusable=unusable,
        micro_batch=micro.size,
        drawn={people[number].key: 1 for number in chosen},
    )
    return SharedSum(words(optimizer.lattice_sum.cpu().numpy() + drawn.draw(layout.size)), outcome)


def _check_layout(network: nn.Module, layout: Layout) -> None:
    """The sum has a place for each trained parameter, in order, and none for anything else."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    places = [slot.name for slot in layout.slots if not slot.exact]
    if names != places:
        other = next(iter(set(names) ^ set(places)), "their order")
        raise PolicyError(
            f"under shared noise nothing travels but what trains, and here they differ in {other}",
            hint="use a network whose buffers are integers, and the same release at both ends",
        )
