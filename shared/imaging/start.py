"""The network that a task begins with: random or public weights, and what of it trains."""

from torch import nn

from shared.charter_plans import TaskPlan
from shared.imaging.public import load_public
from shared.imaging.tasks import Task
from shared.imaging.trained import freeze
from shared.weights import load_weights


def prepared(task: Task, plan: TaskPlan, seed: int) -> nn.Module:
    """The network of ``task`` as every party has it before the first round.

    Frozen parameters (``plan.trained``) never travel: both ends take them from here.

    Args:
        task: The task.
        plan: How it begins and what trains.
        seed: Seed of random weights.

    Raises:
        UsageError: There are no public weights for the task.
        FedwardError: The public weights of this installation are damaged.
    """
    network = task.network(seed)
    if plan.start != "fresh":
        load_weights(network, load_public(plan.start, task.name))
    freeze(network, plan.trained)
    return network
