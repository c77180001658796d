"""Which parameters of a network train, and so which ones travel: all, or the few that bend a public model.

Under differential privacy the noise's length grows with the number of parameters while the bound on the signal stays.
From a good public start a few hundred parameters can reach what all of them reach, at a fraction of the noise: biases
and the last layer (Ben Zaken, Goldberg and Ravfogel 2022, arXiv:2106.10199; under privacy Bu et al. 2022,
arXiv:2210.00036), and the affine parameters of normalisation layers (Frankle, Schwab and Morcos 2021,
arXiv:2003.00152).
"""

from typing import Final

from torch import nn

from shared.charter_plans import Trained

HEADS: Final = frozenset({"head", "score"})
"""What the shipped networks call their last layer; ``score`` is the FCN's, one convolution for each scale."""


def freeze(network: nn.Module, which: Trained) -> None:
    """Set ``requires_grad`` on what trains and clear it on everything else, in place.

    Parameters are chosen by name and shape alone, never by value: both ends choose the same ones.

    Args:
        network: Any network whose last layer, at any depth, is called ``head`` (or ``score``).
        which: ``all``; ``biases_norms_head``: parameters with one dimension (biases, and gain and offset of
            normalisation layers), and the last layer; ``head``: the last layer.

    Raises:
        ValueError: The network has no last layer of that name.
    """
    parameters = dict(network.named_parameters())
    last = {name for name in parameters if HEADS & set(name.split("."))}
    if which != "all" and not last:
        raise ValueError(f"a {type(network).__name__} has no layer called {' or '.join(sorted(HEADS))}")
    for name, parameter in parameters.items():
        few = name in last or (which == "biases_norms_head" and parameter.ndim == 1)
        parameter.requires_grad_(which == "all" or few)
