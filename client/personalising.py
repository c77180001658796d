"""From a federated model to a hospital's own, on those of its training patients who may take part today."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.eligible import eligible
from client.enhance.model import open_model
from client.lineage import Lineage
from client.manifest import index_digest
from client.node import Node
from client.personal_models import PersonalModel, encoded, is_personal, keep, now, place_of
from client.policy import policy_of
from client.records import read_register, unchanging
from client.released import network_with
from client.splits import Split
from client.training.device import device
from client.training.loop import usable
from client.training.personal import Personal, personalise, rate_of
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import PolicyError, UsageError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Task
from shared.vector import State
from shared.weights import weights_of


@dataclass(frozen=True, eq=False)
class Base:
    """The model to begin with: what people call it, its task, its weights, and the SHA-256 of their file."""

    name: str
    task: Task
    state: State
    digest: str


@dataclass(frozen=True)
class Order:
    """How to personalise.

    Attributes:
        name: What the personal model is called: the name of its folder.
        steps: Optimiser steps of each of the two trainings.
        batch: Patches in a step.
        lr: Learning rate of the first step; None for the task's (:func:`client.training.personal.rate_of`).
        seed: Decides who is kept back, and the training.
        look_every: As in :func:`client.training.personal.personalise`; None takes all steps.
    """

    name: str
    steps: int
    batch: int
    lr: float | None
    seed: int
    look_every: int | None = None


def base_of(where: str, *, task: str | None, charter: str, quorum: int | None) -> Base:
    """The model to begin with: a release, which is checked, or a public starting point.

    Raises:
        UsageError: There is no such model, it is for another task, or it is a personal one.
        RecordError: The release does not hold.
        DataError: The weights are damaged, or not of this version of fedward.
    """
    if is_personal(Path(where)):
        raise UsageError(
            f"{where} is a personal model already", hint="begin with the release that it was made from, or a newer one"
        )
    opened = open_model(where, task=task, charter=charter, quorum=quorum, applied=False)
    return Base(opened.called(), opened.task, weights_of(opened.network), opened.digest)


def make_personal(
    node: Node, log: AuditLog, base: Base, order: Order, *, on_step: Callable[[int, int], None] | None = None
) -> tuple[Path, PersonalModel]:
    """Make a personal model and write it into the node. The audit log has it before an image is read.

    Args:
        node: The hospital's node.
        log: Its audit log, open.
        base: The model to begin with.
        order: How.
        on_step: Called with the steps done, and at most how many there will be.

    Returns:
        Its folder, and what it says of itself.

    Raises:
        UsageError: The name is taken, or is no name.
        DataError: Too few patients can be used.
        PolicyError: Whoever was trained on may not take part any more: nothing was written.
        RecordError: The register, the lineage or the log does not hold.
        OutputError: The disk does not take the model.
    """
    folder, task, index = place_of(node, order.name), base.task, index_digest(node)
    Lineage(node).check()
    listed = eligible(node.cohort.patients(Split.TRAIN), node, log=log)
    detail: dict[str, Scalar] = {
        "task": task.name,
        "patients": len(listed),
        "steps": order.steps,
        "records": read_register(node, log)[1],
        "dataset": index,
    }
    act = Entry(Action.PERSONALISE, Outcome.STARTED, subject=("model", base.digest), detail=detail)
    with log.act(act) as facts:
        people: list[PatientImages] = usable(task, [node.cohort.load(key) for key in listed])
        where = device(policy_of(node).device, virtual=node.virtual)
        network = network_with(task, base.state).to(where)
        done = personalise(
            task,
            network,
            people,
            steps=order.steps,
            batch=order.batch,
            lr=order.lr or rate_of(task.name),
            seed=order.seed,
            look_every=order.look_every,
            on_step=(lambda step: on_step(step, 2 * order.steps)) if on_step else None,
        )
        weights = encoded(weights_of(network))
        about = _about(base, done, weights, people, site=node.site, index=index)
        with unchanging(node):  # an erasure comes before this, and is seen, or after it, and finds the model
            if eligible(about.patients, node, log=log) != about.patients:
                raise PolicyError(
                    "a patient of this training may not take part any more, so the model was not written",
                    hint="run the same command again, without him",
                )
            keep(folder, about, weights)
        facts |= {"weights": about.weights_sha256, "mix": done.mix, "trained_on": len(people)}
    return folder, about


def _about(
    base: Base, done: Personal, weights: bytes, people: Sequence[PatientImages], *, site: str, index: str
) -> PersonalModel:
    return PersonalModel(
        task=base.task.name,
        base=base.name,
        base_sha256=base.digest,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        mix=done.mix,
        scores={f"{mix:g}": score for mix, score in done.scores.items()},
        steps=done.steps,
        site=site,
        dataset=index,
        time=now(),
        patients=tuple(one.key for one in people),
    )
