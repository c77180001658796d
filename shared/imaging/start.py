"""The network that a task begins with: random or public weights, or those of a release, and what of it trains."""

from dataclasses import replace

import numpy as np
from torch import nn

from shared.charter_plans import TaskPlan
from shared.errors import CharterError
from shared.imaging.public import load_public
from shared.imaging.tasks import Task
from shared.imaging.trained import freeze
from shared.vector import State
from shared.weights import load_weights, weights_of


def prepared(task: Task, plan: TaskPlan, seed: int, *, release: State | None = None) -> nn.Module:
    """The network of ``task`` as every party has it before the first round.

    Frozen parameters (``plan.trained``) never travel: both ends take them from here.

    Args:
        task: The task.
        plan: How it begins and what trains.
        seed: Seed of random weights.
        release: The weights of ``plan.release``, which whoever holds it has checked
            (:func:`compliance.bundle_start.start_weights`).

    Raises:
        UsageError: The task has no such network.
        CharterError: There are no public weights for the task, or for this network of it; or the release is not there,
            or has nothing for this network.
        FedwardError: The public weights of this installation are damaged.
    """
    network = task.network(seed, plan.network)
    if plan.start == "release":
        _transfer(network, task, plan, release)
    elif plan.start != "fresh":
        public = load_public(plan.start, task.name)
        if _shapes(public) != _shapes(weights_of(network)):
            raise CharterError(
                f"{plan.start} has no weights for the network {plan.network} of the task {task.name}",
                hint='set start = "fresh", or leave out network',
            )
        load_weights(network, public)
    freeze(network, plan.trained)
    return network


def shaped(task: Task, plan: TaskPlan, seed: int) -> nn.Module:
    """A network like that of :func:`prepared`, whose shapes and frozen parts count and whose weights do not."""
    return prepared(task, plan if plan.start != "release" else replace(plan, start="fresh", release=None), seed)


def _transfer(network: nn.Module, task: Task, plan: TaskPlan, release: State | None) -> None:
    """Load what matches by name and shape (Yosinski et al. 2014, arXiv:1411.1792); the rest keeps its random weights.

    The last layer of a network for another number of classes begins anew in this way.
    """
    if release is None:
        raise CharterError(
            f"the task {task.name} starts from the release {plan.release}, which is not at hand here",
            hint="virtual hospitals hold no releases: start fresh, or in a federation of nodes",
        )
    own = weights_of(network)
    wanted, given = _shapes(own), _shapes(release)
    shared = {name: release[name] for name, shape in wanted.items() if given.get(name) == shape}
    if not all(np.isfinite(array).all() for array in shared.values()):
        raise CharterError(
            f"the weights of the release {plan.release} are not finite (NaN or infinite)",
            hint="its training went wrong: choose another release",
        )
    if not shared:
        raise CharterError(
            f"the release {plan.release} shares no layer with the network of the task {task.name}",
            hint="it was trained for another network: choose another release or another network",
        )
    load_weights(network, {**own, **shared})


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.items()}
