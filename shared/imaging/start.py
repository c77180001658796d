"""The network that a task begins with: random or public weights, and what of it trains."""

from torch import nn

from shared.charter_plans import TaskPlan
from shared.errors import CharterError
from shared.imaging.public import load_public
from shared.imaging.tasks import Task
from shared.imaging.trained import freeze
from shared.vector import State
from shared.weights import load_weights, weights_of


def prepared(task: Task, plan: TaskPlan, seed: int) -> nn.Module:
    """The network of ``task`` as every party has it before the first round.

    Frozen parameters (``plan.trained``) never travel: both ends take them from here.

    Args:
        task: The task.
        plan: How it begins and what trains.
        seed: Seed of random weights.

    Raises:
        UsageError: The task has no such network.
        CharterError: There are no public weights for the task, or for this network of it.
        FedwardError: The public weights of this installation are damaged.
    """
    network = task.network(seed, plan.network)
    if plan.start != "fresh":
        public = load_public(plan.start, task.name)
        if _shapes(public) != _shapes(weights_of(network)):
            raise CharterError(
                f"{plan.start} has no weights for the network {plan.network} of the task {task.name}",
                hint='set start = "fresh", or leave out network',
            )
        load_weights(network, public)
    freeze(network, plan.trained)
    return network


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.items()}
