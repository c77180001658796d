"""The bridge between a torch network and the arrays of :mod:`shared.vector`, which knows nothing of torch."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from shared.vector import State


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The network's whole state as numpy arrays, in the order of its ``state_dict``; copies, on the CPU."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def travelling(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The part of the state that a federation agrees on: all but frozen parameters, which both ends have already."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: array for name, array in weights_of(network).items() if name not in frozen}


def load_weights(network: nn.Module, state: State) -> None:
    """Copy ``state``, all of the network's state or what of it travels, into the network."""
    wanted = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    network.load_state_dict({**network.state_dict(), **wanted})
