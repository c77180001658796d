"""Where a hospital's networks run, and how: the ``[device]`` table of its policy."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import torch

from client.policy_file import DevicePlan
from shared.errors import UsageError

_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"


class DeviceError(UsageError):
    """The device that was chosen is not there, or its memory does not hold what is to be computed."""


def device(plan: DevicePlan = DevicePlan(), *, virtual: bool) -> torch.device:  # noqa: B008  # it is frozen
    """The device that ``plan`` names; ``auto`` takes the GPU of this machine, or the processor where there is none.

    Virtual hospitals take the processor unless told otherwise: many of them share a machine, and their runs can be
    repeated bit for bit.

    Raises:
        DeviceError: A GPU is named that this process does not see.
    """
    if plan.use == "auto":
        return torch.device("cuda" if not virtual and torch.cuda.is_available() else "cpu")
    chosen = torch.device(plan.use)
    if chosen.type == "cuda" and not (torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count()):
        raise DeviceError(
            f"policy.toml says use = '{plan.use}', and there is no such GPU for this process",
            hint="look with nvidia-smi, install a build of torch with CUDA, or say use = 'auto'",
        )
    return chosen


def describe(plan: DevicePlan = DevicePlan(), *, virtual: bool = False) -> str:  # noqa: B008  # it is frozen
    """One line that says what is used, for ``fedward node status`` and ``check``.

    Raises:
        DeviceError: As :func:`device`.
    """
    chosen = device(plan, virtual=virtual)
    how = ", deterministic" if plan.deterministic else ""
    if chosen.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' * (threads != 1)}, torch {torch.__version__}{how}"
    found = torch.cuda.get_device_properties(chosen)
    memory = found.total_memory / 2**30
    return f"GPU {chosen.index or 0}: {found.name}, {memory:.1f} GiB, torch {torch.__version__}{how}"


@contextlib.contextmanager
def computing(plan: DevicePlan) -> Iterator[None]:
    """Compute as ``plan`` says within the block: with ``deterministic``, the same numbers from the same input.

    What has no deterministic form on a GPU is computed all the same, with a warning of torch: an error would count as
    one of the patient's images under differential privacy, and the patient as nothing. What is random, such as noise
    and who is drawn, stays random.
    """
    if not plan.deterministic:
        yield
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # cuBLAS reads it when this process first uses it
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
