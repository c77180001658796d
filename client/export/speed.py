"""How long a slice takes: every runtime in turn, round by round, so that all see the same machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from client.export.graph import OnnxNetwork, channels_in, gpu_here

SIDE: Final = 512
"""Height and width of the slice that comes out."""
THREADS: Final = (1, 2)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one slice.

    Attributes:
        median: Of all rounds.
        low: First quartile.
        high: Third quartile.
        rounds: How many.
    """

    median: float
    low: float
    high: float
    rounds: int


Work = Callable[[], object]


def timed(works: Mapping[str, Work], rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Timing]:
    """Do everything once to warm up, then ``rounds`` times in turns, and tell the time of each.

    Args:
        works: What to do, by name.
        rounds: At least 1.
        clock: In seconds; ``time.process_time`` counts what the processor did, whoever else it works for.
    """
    for work in works.values():
        work()
    spent: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds):
        # Another one begins each round: what follows a heavy neighbour finds its caches cold and the clock low.
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            begun = clock()
            works[name]()
            spent[name].append(1e3 * (clock() - begun))
    found = {}
    for name, values in spent.items():
        low, median, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
        found[name] = Timing(median, low, high, rounds)
    return found


def works(
    networks: Mapping[str, nn.Module], graphs: Mapping[str, bytes], *, scale: int, side: int = SIDE
) -> dict[str, Work]:
    """One slice of ``side`` by ``side`` that comes out, under every runtime: ``name/runtime/where``.

    Args:
        networks: In torch, one at least.
        graphs: In ONNX Runtime.
        scale: Pixels out to one pixel in.
        side: Multiple of ``8 scale``.
    """
    found: dict[str, Work] = {}

    # An eight-bit graph has no network of its own; all that comes out of one model takes the same images.
    channels = channels_in(next(iter(networks.values())))

    def images() -> torch.Tensor:
        rng = np.random.default_rng(1)
        return torch.from_numpy(rng.random((1, channels, side // scale, side // scale), dtype=np.float32))

    for threads in THREADS:
        where = f"{threads} thread{'s' * (threads > 1)}"
        for name, network in networks.items():
            found[f"{name}/torch/{where}"] = _in_torch(network, images(), threads)
        for name, graph in graphs.items():
            session, image = OnnxNetwork(graph, threads=threads), images()
            found[f"{name}/ONNX Runtime/{where}"] = lambda session=session, image=image: session(image)  # type: ignore[misc]
    if torch.cuda.is_available():
        for name, network in networks.items():
            found[f"{name}/torch/GPU"] = _on_gpu(network, images())
    if gpu_here():
        for name, graph in graphs.items():
            session, image = OnnxNetwork(graph, gpu=True), images()
            found[f"{name}/ONNX Runtime/GPU"] = lambda session=session, image=image: session(image)  # type: ignore[misc]
    return found


def _in_torch(network: nn.Module, image: torch.Tensor, threads: int) -> Work:
    def work() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            network(image)

    return work


def _on_gpu(network: nn.Module, image: torch.Tensor) -> Work:
    import copy  # noqa: PLC0415  where there is a GPU

    there, data = copy.deepcopy(network).cuda(), image.cuda()

    def work() -> None:
        with torch.inference_mode():
            there(data).cpu()

    return work
