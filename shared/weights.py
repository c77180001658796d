"""The bridge between a torch network and the arrays of :mod:`shared.vector`, which knows nothing of torch."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from shared.vector import State


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The network's state as numpy arrays, in the order of its ``state_dict``; copies, on the CPU."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def load_weights(network: nn.Module, state: State) -> None:
    """Copy ``state`` into the network; names and shapes must be those of its ``state_dict``."""
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
