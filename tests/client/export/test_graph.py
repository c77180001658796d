"""A graph does what its network does, or is refused."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from client.export import graph as module
from client.export.graph import (
    OnnxNetwork,
    channels_in,
    convolutions,
    deployed,
    described,
    parity,
    require_parity,
    to_onnx,
)
from shared.errors import FedwardError
from shared.imaging.networks import DnCNN, UNet
from shared.imaging.tasks import get_task, task_names

NETWORKS = [(task, name) for task in task_names() for name in get_task(task).networks]


def stirred(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights without the zeros that residual networks start with: those would hide whatever a graph does."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIZES", ((1, 16, 24), (2, 40, 32)))


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_the_graph_of_every_network_does_the_same_at_any_size(task: str, name: str) -> None:
    network = deployed(stirred(get_task(task).network(0, name)))
    made = to_onnx(network)
    model = onnx.load_from_string(made)
    assert [one.version for one in model.opset_import] == [17]
    assert [len(one.type.tensor_type.shape.dim) for one in (*model.graph.input, *model.graph.output)] == [4, 4]
    real = [np.random.default_rng(3).normal(size=(1, channels_in(network), 72, 56)).astype(np.float32)]
    found = parity(network, made, real)
    assert found.holds, found
    assert found.shapes == ((1, 16, 24), (2, 40, 32), (1, 72, 56))
    assert found.real is not None


def test_an_output_of_zeros_is_not_what_was_compared() -> None:
    network = deployed(stirred(UNet(1, (4, 8), residual=True)))
    image = torch.rand(1, 1, 16, 16)
    assert (network(image) - image).abs().max() > 0.01


@pytest.mark.parametrize("by", [1e-2, float("nan")])
def test_a_graph_of_other_weights_is_refused(by: float) -> None:
    network = deployed(stirred(DnCNN(3, 4)))
    other = deployed(network)
    with torch.no_grad():
        next(other.parameters())[0] += by
    found = parity(network, to_onnx(other))
    assert not found.holds
    with pytest.raises(FedwardError, match="differs from torch") as error:
        require_parity("the model", found)
    assert error.value.exit_code == 1


def test_a_graph_that_differs_on_real_slices_alone_is_refused_too() -> None:
    """A network that knows one intensity only: noise in [-1, 2] never meets it."""

    class Late(nn.Module):
        def __init__(self, size: float) -> None:
            super().__init__()
            self.size = size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.size * torch.relu(x - 4)

    real = np.full((1, 1, 16, 16), 5.0, np.float32)
    found = parity(Late(0.1), to_onnx(Late(0.2)), [real])
    assert found.random == 0
    assert found.real is not None
    assert not found.holds


def test_a_file_says_what_it_is() -> None:
    made = to_onnx(deployed(stirred(DnCNN(2, 4))))
    model = onnx.load_from_string(described(made, {"fedward.task": "denoise"}, "RESEARCH"))
    assert {one.key: one.value for one in model.metadata_props} == {"fedward.task": "denoise"}
    assert (model.producer_name, model.doc_string) == ("fedward", "RESEARCH")
    assert described(made, {"a": "b"}, "c") == described(made, {"a": "b"}, "c")


def test_a_graph_stands_where_a_network_is_wanted() -> None:
    network = deployed(stirred(UNet(4, (4, 8))))
    made = to_onnx(network)
    image = torch.rand(2, 1, 24, 16)
    torch.testing.assert_close(OnnxNetwork(made)(image), network(image), atol=1e-4, rtol=0)
    assert len(convolutions(made)) == sum(isinstance(one, nn.Conv2d) for one in network.modules())
