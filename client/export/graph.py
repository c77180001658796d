"""A network as an ONNX graph: written, checked, held against torch, and run.

Every graph has one input ``image`` ``[n, c, h, w]`` and one output ``result``, float32, for any number of images of any
height and width that are multiples of eight. What comes before and after (scaling, padding, clipping) stays outside:
``docs/export.md`` says what a caller does.
"""

import copy
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import FedwardError
from shared.imaging.denoise_volume import SLICES
from shared.imaging.inference import MULTIPLE
from shared.imaging.networks import AdversarialPair, ConvGRU, UNet25D

OPSET: Final = 17
INPUT, OUTPUT = "image", "result"
TOLERANCE: Final = 1e-4
"""Largest difference of ONNX Runtime from torch, over the larger of 1 and the largest output of torch."""
_SIZES: Final = ((1, 64, 64), (3, 72, 104), (2, 160, 128), (1, 256, 320))

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far a graph is from the network that it was made from.

    Attributes:
        random: Largest difference on random images, over the larger of 1 and the largest output.
        real: The same on real slices, or on phantoms; None where there were none.
        shapes: Shapes ``[n, h, w]`` that were tried.
        tolerance: What is allowed.
    """

    random: float
    real: float | None
    shapes: tuple[tuple[int, ...], ...]
    tolerance: float = TOLERANCE

    @property
    def worst(self) -> float:
        """The larger of both; not a number where an output was none."""
        return float(np.max([self.random, *([] if self.real is None else [self.real])]))

    @property
    def holds(self) -> bool:
        """Whether the graph does what the network does."""
        return self.worst <= self.tolerance


def deployed(network: nn.Module) -> nn.Module:
    """What of a network is applied, as a copy on the CPU in evaluation mode: of an adversarial pair the generator."""
    applied = network.generator if isinstance(network, AdversarialPair) else network
    return copy.deepcopy(applied).cpu().eval()


def channels_in(network: nn.Module) -> int:
    """How many channels the network's images have."""
    if isinstance(network, UNet25D | ConvGRU):
        return SLICES
    first = next((one for one in network.modules() if isinstance(one, nn.Conv2d)), None)
    return first.in_channels if first is not None else 1


def to_onnx(network: nn.Module) -> bytes:
    """The network as an ONNX graph that ``onnx.checker`` takes.

    Raises:
        FedwardError: It has an operation that ONNX has not.
    """
    example = torch.zeros(1, channels_in(network), 8 * MULTIPLE, 8 * MULTIPLE)
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The exporter that torch recommends now needs onnxscript and writes the sizes of the example into some of
            # these graphs; it warns of the one that does not.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                stream,  # type: ignore[arg-type]  # it writes to streams too
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={
                    INPUT: {0: "images", 2: "height", 3: "width"},
                    OUTPUT: {0: "images", 2: "out_height", 3: "out_width"},
                },
            )
        onnx.checker.check_model(onnx.load_from_string(stream.getvalue()), full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as error:
        first = str(error).splitlines()[0]
        raise FedwardError(
            f"a {type(network).__name__} cannot be written as ONNX: {first}", hint="please report it"
        ) from error
    return stream.getvalue()


def described(graph: bytes, facts: Mapping[str, str], note: str) -> bytes:
    """The same graph that says what it is, checked again.

    Args:
        graph: An ONNX file.
        facts: Its ``metadata_props``; those that it has stay.
        note: Its ``doc_string``.
    """
    model = onnx.load_from_string(graph)
    model.producer_name, model.doc_string = "fedward", note
    onnx.helper.set_model_props(model, {one.key: one.value for one in model.metadata_props} | dict(facts))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class OnnxNetwork(nn.Module):
    """An ONNX graph where a network is wanted: ONNX Runtime computes.

    Args:
        graph: An ONNX file.
        threads: Threads of one operation.
        gpu: Run on a GPU of this machine; ONNX Runtime must have been built for it.
    """

    def __init__(self, graph: bytes, *, threads: int = 1, gpu: bool = False) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        providers = (["CUDAExecutionProvider"] if gpu else []) + ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to the graph's output."""
        result: Tensor = torch.from_numpy(self._session.run(None, {INPUT: x.cpu().numpy()})[0])
        return result


def gpu_here() -> bool:
    """Whether ONNX Runtime has a GPU on this machine."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def parity(network: nn.Module, graph: bytes, real: Sequence[Images] = ()) -> Parity:
    """Hold a graph against the network that it was made from.

    Args:
        network: In evaluation mode, on the CPU.
        graph: Its ONNX file.
        real: Inputs ``[n, c, h, w]`` as the network gets them, height and width multiples of eight.
    """
    rng = np.random.default_rng(0)
    channels, other = channels_in(network), OnnxNetwork(graph)
    shapes = [(count, channels, height, width) for count, height, width in _SIZES]
    # Beyond the grey scale too: standardised images are from -5 to 5.
    noise = [rng.uniform(-1, 2, size=shape).astype(np.float32) for shape in shapes]
    seen = [(one.shape[0], *one.shape[2:]) for one in (*noise, *real)]
    found = [max((_difference(network, other, one) for one in some), default=None) for some in (noise, real)]
    return Parity(found[0] if found[0] is not None else 0.0, found[1], tuple(seen))


def _difference(network: nn.Module, other: nn.Module, images: Images) -> float:
    """Largest absolute difference; infinite where one of both is no number."""
    with torch.inference_mode():
        tensor = torch.from_numpy(images)
        ours, theirs = network(tensor).numpy(), other(tensor).numpy()
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))


def require_parity(what: str, found: Parity) -> None:
    """Refuse a graph that does something else than its network.

    Raises:
        FedwardError: It does.
    """
    if not found.holds:
        raise FedwardError(
            f"{what} as ONNX differs from torch by {found.worst:.2g}, more than {found.tolerance:g}; "
            "nothing is written",
            hint="please report it with the versions of torch, onnx and onnxruntime",
        )


def convolutions(graph: bytes) -> list[str]:
    """Names of the graph's convolutions, in its order."""
    return [node.name for node in onnx.load_from_string(graph).graph.node if node.op_type == "Conv"]


def parameters(network: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(one.numel() for one in network.parameters())


def widths(network: nn.Module) -> dict[str, Any]:
    """What the network is: its kind, and the shape of each convolution's weights by name."""
    return {
        "network": type(network).__name__,
        "convolutions": {
            name: list(one.weight.shape) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)
        },
    }
