"""Eight-bit graphs: static quantisation of convolutions, and a search for those that must stay in float32.

QDQ form, weights per channel (Krishnamoorthi 2018, arXiv:1806.08342), by ``onnxruntime.quantization``. Weights take
seven of the eight bits: on processors without VNNI the instruction that sums up 8-bit products saturates, and the
figures measured here would not hold there (ONNX Runtime, "Quantize ONNX models", on ``reduce_range``).
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from client.export.graph import INPUT, Images, convolutions

LIMITS: Final[Mapping[str, float]] = {"psnr": 0.1, "dice": 0.005}
"""What a model may lose by quantisation, by the figure that decides: dB of PSNR, or Dice."""
SHARE: Final = 0.5
"""Of the limit, what the search allows itself on the slices that it sees: it is others that decide."""

Score = Callable[[bytes], float]


@dataclass(frozen=True)
class Quantised:
    """An eight-bit graph.

    Attributes:
        graph: The ONNX file.
        convolutions: How many it has.
        kept: Names of those that stay in float32.
        loss: What it loses on the slices of the search.
        tried: How many graphs were made.
    """

    graph: bytes
    convolutions: int
    kept: tuple[str, ...]
    loss: float
    tried: int


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, images: Sequence[Images]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """The next input, or None."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def quantise(graph: bytes, calibration: Sequence[Images], score: Score, limit: float) -> Quantised:
    """The graph with as many convolutions in eight bits as lose at most :data:`SHARE` of ``limit``.

    First and last convolution stay in float32: their inputs and outputs are the image itself. Where all others together
    lose too much, each is tried alone, and they are taken from the most harmless on, by bisection (after the layer-wise
    sensitivity of Wu et al. 2020, arXiv:2004.09602, section 5.2). Where even the first loses too much, the result is
    the graph with that one, and it is the caller who refuses it.

    Args:
        graph: The float32 ONNX file.
        calibration: Inputs ``[n, c, h, w]`` that set the ranges of activations.
        score: The figure of a graph on the slices of the search; more is better.
        limit: What may be lost of it.
    """
    names = convolutions(graph)
    inner = names[1:-1] or names
    allowed, whole, tried = SHARE * limit, score(graph), 0

    def attempt(chosen: Sequence[str]) -> Quantised:
        nonlocal tried
        tried += 1
        kept = tuple(name for name in names if name not in chosen)
        made = _quantised(graph, calibration, kept)
        return Quantised(made, len(names), kept, whole - score(made), tried)

    found = attempt(inner)
    if found.loss <= allowed or len(inner) == 1:
        return found
    alone = {name: attempt([name]) for name in inner}
    order = sorted(inner, key=lambda name: alone[name].loss)
    best, low, high = alone[order[0]], 1, len(order)
    while high - low > 1:  # the first `low` are tried and the best so far; the first `high` lose too much
        middle = (low + high) // 2
        found = attempt(order[:middle])
        if found.loss <= allowed:
            best, low = found, middle
        else:
            high = middle
    return Quantised(best.graph, best.convolutions, best.kept, best.loss, tried)


def _quantised(graph: bytes, calibration: Sequence[Images], kept: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fedward-int8-") as name, _quiet():
        source, target = Path(name) / "float.onnx", Path(name) / "int8.onnx"
        source.write_bytes(graph)
        options: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": True}
        quantize_static(
            source,
            target,
            _Reader(calibration),
            op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(kept),
            **options,
        )
        return target.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """The library recommends a preprocessing that cannot fold a group normalisation into a convolution anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
