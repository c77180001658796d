"""Where a hospital's networks run."""

import torch


def device(*, virtual: bool) -> torch.device:
    """The GPU of this machine, or the processor where there is none.

    Virtual hospitals take the processor in any case: many of them share a machine, and their runs can be repeated bit
    for bit.
    """
    return torch.device("cuda" if torch.cuda.is_available() and not virtual else "cpu")
