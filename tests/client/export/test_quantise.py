"""Which convolutions become eight-bit, and what that costs."""

import json

import onnx
import pytest

from client.export import quantise as module
from client.export.graph import OnnxNetwork, convolutions, deployed, to_onnx
from client.export.quantise import LIMITS, quantise
from client.export.run import figures, inputs
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from shared.weights import load_weights
from tests.shared.imaging.phantoms import study


def test_a_public_model_in_eight_bits_loses_less_than_is_allowed() -> None:
    task = get_task("superres")
    network = task.network(0)
    load_weights(network, load_public("public-1", "superres"))
    studies = [study(64, 64, sigma=0.03, seed=number) for number in range(4)]
    graph = to_onnx(deployed(network))

    def psnr(made: bytes, some: slice) -> float:
        return figures(task, OnnxNetwork(made), studies[some])["psnr"]

    seen, held_out = slice(0, 2), slice(2, 4)
    found = quantise(graph, inputs(task, studies[seen], 4), lambda made: psnr(made, seen), LIMITS["psnr"])
    assert psnr(graph, held_out) - psnr(found.graph, held_out) < LIMITS["psnr"]
    names = convolutions(graph)
    assert {names[0], names[-1]} <= set(found.kept)
    assert len(found.kept) < len(names) / 2
    model = onnx.load_from_string(found.graph)
    made = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            eight = made.get(node.input[1]) is not None and made[node.input[1]].op_type == "DequantizeLinear"
            assert eight == (node.name not in found.kept)
    scales = [one for one in model.graph.initializer if one.name.endswith("weight_scale")]
    assert scales
    assert all(one.dims[0] > 1 for one in scales)  # one for each channel
    assert len(found.graph) < len(graph) / 2


# --- the search -------------------------------------------------------------------------------------------------------

NAMES = ["first", "a", "b", "c", "d", "e", "last"]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that only say which convolutions stay."""
    monkeypatch.setattr(module, "convolutions", lambda _: NAMES)
    monkeypatch.setattr(module, "_quantised", lambda _graph, _images, kept: json.dumps(kept).encode())


def costing(**costs: float) -> module.Score:
    def score(graph: bytes) -> float:
        kept = json.loads(graph) if graph else NAMES
        return 30 - sum(cost for name, cost in costs.items() if name not in kept)

    return score


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("costs", "kept", "tried"),
    [
        ({}, {"first", "last"}, 1),
        ({"c": 0.06}, {"first", "c", "last"}, 9),
        ({"a": 0.5, "b": 0.01, "d": 0.02, "e": 0.04}, {"first", "a", "e", "last"}, 8),
        (dict.fromkeys("abcde", 0.2), {"first", "b", "c", "d", "e", "last"}, 8),
    ],
)
def test_what_loses_most_stays_in_float32(costs: dict[str, float], kept: set[str], tried: int) -> None:
    found = quantise(b"", [], costing(**costs), 0.1)
    assert set(found.kept) == kept
    assert found.tried <= tried
    assert found.loss == pytest.approx(sum(cost for name, cost in costs.items() if name not in kept))
