"""Who is timed, and in which order."""

import pytest
import torch
from torch import nn

from client.export.graph import deployed, to_onnx
from client.export.run import FLOAT
from client.export.speed import timed, works
from shared.imaging.networks import DnCNN, UNet25D


def test_all_take_turns_and_another_begins_each_round() -> None:
    done: list[str] = []
    found = timed({name: lambda name=name: done.append(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(done) == "abc" + "abc" + "bca" + "cab"
    assert all(one.rounds == 3 and 0 <= one.low <= one.median <= one.high for one in found.values())


@pytest.mark.parametrize("made", [DnCNN(2, 4), UNet25D(3, (4, 8))], ids=["one slice", "several"])
def test_every_runtime_is_timed_with_one_and_two_threads(made: nn.Module) -> None:
    network = deployed(made)
    threads = torch.get_num_threads()
    try:
        found = works({FLOAT: network}, {FLOAT: to_onnx(network), "int8": to_onnx(network)}, scale=1, side=16)
        for work in found.values():
            work()
        on_cpu = [name for name in found if "GPU" not in name]
        assert on_cpu == [
            f"{name}/{runtime}/{where}"
            for where in ("1 thread", "2 threads")
            for name, runtime in ((FLOAT, "torch"), (FLOAT, "ONNX Runtime"), ("int8", "ONNX Runtime"))
        ]
    finally:
        torch.set_num_threads(threads)
