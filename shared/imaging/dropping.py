"""Dropout that every network has and none must be built for: whole channels, before the last layer.

A channel of a row is left out with a chance, and the others are made larger by as much (Tompson et al. 2015,
arXiv:1411.4280). Before the last layer is where it helps networks that restore images instead of harming them (Kong
et al. 2022, "Reflash dropout in image super-resolution", arXiv:2112.12089). Parameters, their names and the network
when applied stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from shared.imaging.trained import HEADS


@contextmanager
def dropping(network: nn.Module, share: float, rng: np.random.Generator) -> Iterator[None]:
    """Within the block, ``network`` drops channels before its last layer, or before each of several, while it trains.

    In evaluation mode it drops nothing and throws no coin: whoever looks at it on the way sees the network itself.

    Args:
        network: Its last layer, at any depth, is called as :data:`shared.imaging.trained.HEADS` says.
        share: Chance of each channel of each row, in [0, 1); 0 does nothing, and draws nothing from ``rng``.
        rng: The coins; every row has its own.

    Raises:
        ValueError: The share is out of its range, or there is no last layer of that name.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the chance of a channel to be dropped must lie in [0, 1), not {share}")
    last = [
        module
        for name, module in network.named_modules()
        if HEADS & set(name.split(".")) and not any(module.children()) and any(True for _ in module.parameters())
    ]
    if share and not last:
        raise ValueError(f"a {type(network).__name__} has no layer called {' or '.join(sorted(HEADS))}")

    def drop(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not layer.training:
            return arguments
        (features,) = arguments
        kept = torch.from_numpy(rng.random(tuple(features.shape[:2])) >= share).to(features.device, features.dtype)
        return (features * kept.view(*kept.shape, *[1] * (features.ndim - 2)) / (1 - share),)

    hooks = [module.register_forward_pre_hook(drop) for module in last] if share else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
