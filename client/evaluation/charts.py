"""The drawings of the report as inline SVG: patient by patient, and reliability. Colours come from the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from client.evaluation import words
from shared.imaging.quality.calibration import Bin
from shared.imaging.quality.measures import MEASURES

SIDE: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 52.0, 290.0, 10.0, 252.0


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    place: float
    label: str


@dataclass(frozen=True)
class Scatter:
    """Patients as dots: across the classical method, up the model; above the diagonal the model is better.

    Attributes:
        dots: ``(x, y)`` of each patient.
        across: Ticks of the lower axis.
        up: Ticks of the left axis.
    """

    dots: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@dataclass(frozen=True)
class Curve:
    """Reliability: accuracy over confidence.

    Attributes:
        bars: For each bin that has pixels: x, y, width, height, and the y at which it would lie on the diagonal.
        points: The middles, as a polyline takes them.
        axis: Ticks of both axes, as shares.
    """

    bars: tuple[tuple[float, float, float, float, float], ...]
    points: str
    axis: tuple[tuple[Tick, Tick], ...]


@dataclass(frozen=True)
class Sparsification:
    """The error that is left, over the share of pixels taken away.

    Attributes:
        points: By uncertainty, as a polyline takes them.
        oracle: By the error itself.
        axis: Ticks of both axes, as shares.
    """

    points: str
    oracle: str
    axis: tuple[tuple[Tick, Tick], ...]


def scatter(name: str, pairs: Sequence[tuple[float, float]]) -> Scatter | None:
    """The main figure ``name`` of each patient under the classical method and the model; None without patients."""
    scale = MEASURES[name].scale
    values = [value * scale for pair in pairs for value in pair if math.isfinite(value)]
    if not values:
        return None
    margin = 0.06 * (max(values) - min(values)) or 0.5
    low, high = min(values) - margin, max(values) + margin
    steps = _steps(low, high)
    decimals = max(0, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9)) if len(steps) > 1 else 2
    labels = [words.signed(f"{step:.{decimals}f}") for step in steps]

    def place(value: float, start: float, end: float) -> float:
        return round(start + (end - start) * (value - low) / (high - low), 1)

    return Scatter(
        tuple((place(x * scale, LEFT, RIGHT), place(y * scale, BOTTOM, TOP)) for x, y in pairs),
        tuple(Tick(place(step, LEFT, RIGHT), label) for step, label in zip(steps, labels, strict=True)),
        tuple(Tick(place(step, BOTTOM, TOP), label) for step, label in zip(steps, labels, strict=True)),
    )


def reliability(bins: Sequence[Bin | None]) -> Curve:
    """The curve of some bins."""
    width, x, y = (RIGHT - LEFT) / len(bins), _across, _up
    there = [(index, one) for index, one in enumerate(bins) if one is not None]
    return Curve(
        tuple(
            (
                x(index / len(bins)) + 1,
                y(one.accuracy),
                round(width - 2, 1),
                BOTTOM - y(one.accuracy),
                y(one.confidence),
            )
            for index, one in there
        ),
        " ".join(f"{x(one.confidence)},{y(one.accuracy)}" for _, one in there),
        _shares(),
    )


def sparsification(curve: Sequence[float], oracle: Sequence[float]) -> Sparsification:
    """A sparsification curve, and the best that can be; what lies above 1.25 is drawn there."""

    def line(values: Sequence[float]) -> str:
        top = 1.25
        return " ".join(
            f"{_across(index / len(values))},{_up(min(value, top) / top)}" for index, value in enumerate(values)
        )

    marks = tuple(
        (Tick(_across(share), f"{share:g}"), Tick(_up(share), f"{share * 1.25:.2f}"))
        for share in (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    )
    return Sparsification(line(curve), line(oracle), marks)


def _up(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _across(share: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * share, 1)


def _shares() -> tuple[tuple[Tick, Tick], ...]:
    return tuple(
        (Tick(_across(share), f"{share:g}"), Tick(_up(share), f"{share:g}")) for share in (0, 0.25, 0.5, 0.75, 1.0)
    )


def _steps(low: float, high: float) -> list[float]:
    """Round figures within an axis, four or so."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]
