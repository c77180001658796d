"""The optimiser within a hospital's round, and the term that keeps it near the model that the round began with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from client.training.gradients import trained
from shared.errors import CharterError


def local_optimizer(
    name: str, network: nn.Module, rate: float, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The optimiser ``name`` of ``torch.optim`` over what of ``network`` trains.

    Args:
        name: Class name.
        network: Its trained parameters are those of the optimiser.
        rate: Learning rate.
        weight_decay: What the optimiser takes under this name; None for its own default.

    Raises:
        CharterError: There is no such optimiser.
    """
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise CharterError(f"there is no optimiser '{name}' in torch.optim", hint="SGD and Adam are usual")
    decay: dict[str, Any] = {} if weight_decay is None else {"weight_decay": weight_decay}
    made: torch.optim.Optimizer = kind(trained(network), lr=rate, **decay)  # type: ignore[call-arg]
    return made


def proximal_pull(network: nn.Module, mu: float) -> Callable[[], None]:
    """What adds the gradient of mu/2 |w - w_round|^2 (FedProx, Li et al. 2020) to the parameters' gradients."""
    parameters = trained(network)
    anchors = [parameter.detach().clone() for parameter in parameters] if mu > 0 else []

    @torch.no_grad()
    def pull() -> None:
        for parameter, anchor in zip(parameters, anchors, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=mu)

    return pull
