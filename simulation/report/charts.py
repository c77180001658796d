"""The page's drawings as inline SVG: curves over rounds, and the strip that places one figure among the others.

Nothing here carries a colour: an element says which arm it belongs to (``class="arm-pooled"``) and the page's style
sheet gives the colour for light and dark. Lines also differ in dashes and in the shape of their markers, so that the
drawing survives a monochrome print and every form of colour blindness.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from simulation.record import ARM_ORDER
from simulation.report import words

_WIDTH, _HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_STRIP_WIDTH, _STRIP_HEIGHT = 200, 14
_LEVELS = 6
# The two kinds of classical method that the curves are held against.
CLASSICAL = ("classical", "stronger")


@dataclass(frozen=True)
class Scale:
    """A linear axis from ``low`` to ``high``, ends included."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float | None]) -> "Scale":
        """The axis that just holds all finite values; one of width 1 where they are all the same or none is there."""
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if not finite:
            return cls(0.0, 1.0)
        low, high = min(finite), max(finite)
        return cls(low, high) if high > low else cls(low - 0.5, high + 0.5)

    def place(self, value: float) -> float:
        """Where ``value`` lies, from 0 to 1, clipped to the axis."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def level(self, value: float | None) -> int | None:
        """One of the steps of shading, 0 for the lowest; None where there is no value."""
        if value is None or not math.isfinite(value):
            return None
        return min(int(self.place(value) * _LEVELS), _LEVELS - 1)

    def ticks(self, about: int = 4) -> list[float]:
        """Round positions on the axis: 1, 2 or 5 times a power of ten apart."""
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def caption(self, metric: str) -> str:
        """What the ends of the axis mean."""
        return f"{words.number(metric, self.low)} to {words.number(metric, self.high)}"


@dataclass(frozen=True)
class Line:
    """One curve: the arm's name, its points (round, value), and ranges (round, lowest, highest) where it has them."""

    name: str
    points: tuple[tuple[float, float], ...]
    ranges: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line for what was not followed over rounds: a classical method, or an arm's final figure."""

    name: str
    value: float


def strip(scale: Scale, value: float | None, *, kind: str) -> Markup:
    """A dot on a line from the lowest to the highest figure of the table; screen readers skip it.

    Args:
        scale: The table's axis.
        value: The figure; nothing is drawn where it is missing or not finite.
        kind: Name of the arm, or ``"classical"``.
    """
    if value is None or not math.isfinite(value):
        return Markup("")
    x = 7 + scale.place(value) * (_STRIP_WIDTH - 14)
    middle = _STRIP_HEIGHT / 2
    beyond = value < scale.low or value > scale.high
    marker = _beyond(x, middle, left=value < scale.low) if beyond else _marker(kind, x, middle, 4.5)
    return Markup(
        '<svg class="strip {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
        '<line class="rail" x1="7" x2="{end}" y1="{middle}" y2="{middle}"/>{marker}</svg>'
    ).format(
        kind=style(kind),
        width=_STRIP_WIDTH,
        height=_STRIP_HEIGHT,
        end=_STRIP_WIDTH - 7,
        middle=f"{middle:g}",
        marker=marker,
    )


def _beyond(x: float, y: float, *, left: bool) -> Markup:
    """An open arrow head: the figure lies outside the strip."""
    way = 5 if left else -5
    return Markup('<polyline class="beyond" points="{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}"/>').format(
        x + way, y - 4.5, x, y, x + way, y + 4.5
    )


def curves(title: str, metric: str, lines: Sequence[Line], levels: Sequence[Level], *, unit: str = "round") -> Markup:
    """Quality over rounds, or over what else has a number.

    Args:
        title: The drawing's name for whoever cannot see it.
        metric: The metric's key, for the axis' numbers.
        lines: One curve per arm, at least one point in all.
        levels: Horizontal lines of comparison.
        unit: What the horizontal axis counts.

    Returns:
        An ``svg`` element that scales to the width of its box.
    """
    factor = words.metric_note(metric).scale
    values = [value for line in lines for _, value in line.points] + [level.value for level in levels]
    values += [value for line in lines for _, *ends in line.ranges for value in ends]
    axis = _padded(Scale.around(value * factor for value in values))
    rounds = Scale.around(float(x) for line in lines for x, _ in line.points)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + rounds.place(x) * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (1 - axis.place(y * factor)) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_grid(axis, rounds, unit)]
    for level in levels:
        _, y = at(rounds.low, level.value)
        parts.append(
            Markup('<g class="{}"><line class="level" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>{}</g>').format(
                style(level.name), _LEFT, _WIDTH - _RIGHT, y, y, _level_mark(level.name, _WIDTH - _RIGHT, y)
            )
        )
    for line in lines:
        places = [at(x, y) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        bars = Markup("").join(_bar(at(x, low), at(x, high)) for x, low, high in line.ranges)
        markers = bars + Markup("").join(_marker(line.name, x, y, 3.6) for x, y in places)
        parts.append(
            Markup('<g class="{}"><polyline points="{}"{}/>{}</g>').format(
                style(line.name), path, _dashes(line.name), markers
            )
        )
    return Markup('<svg class="curves" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("").join(parts)
    )


def _bar(low: tuple[float, float], high: tuple[float, float]) -> Markup:
    return Markup('<line class="bar" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
        low[0], high[0], low[1], high[1]
    )


def key(name: str, *, level: bool = False) -> Markup:
    """The sample of a line for the legend: its colour, dashes and marker; ``level`` for a horizontal line."""
    if level:
        body = Markup('<line class="level" x1="1" x2="29" y1="7" y2="7"/>{}').format(_level_mark(name, 24, 7))
    else:
        body = Markup('<polyline points="1,7 29,7"{}/>{}').format(_dashes(name), _marker(name, 15, 7, 3.6))
    return Markup('<svg class="key {}" viewBox="0 0 30 14" width="30" height="14" aria-hidden="true">{}</svg>').format(
        style(name), body
    )


def _level_mark(name: str, x: float, y: float) -> Markup:
    return Markup("") if name in CLASSICAL else _marker(name, x, y, 3.6)


def _grid(axis: Scale, rounds: Scale, unit: str) -> Markup:
    parts = []
    bottom = _HEIGHT - _BOTTOM
    ticks = axis.ticks()
    decimals = _decimals(ticks)
    for tick in ticks:
        y = _TOP + (1 - axis.place(tick)) * (bottom - _TOP)
        label = words.signed(f"{tick:.{decimals}f}")
        parts.append(
            Markup(
                '<line class="rail" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text x="{}" y="{:.1f}" class="tick end">{}</text>'
            ).format(_LEFT, _WIDTH - _RIGHT, y, y, _LEFT - 7, y + 4, label)
        )
    for tick in rounds.ticks(5):
        if tick != round(tick):
            continue
        x = _LEFT + rounds.place(tick) * (_WIDTH - _LEFT - _RIGHT)
        parts.append(Markup('<text x="{:.1f}" y="{}" class="tick middle">{:.0f}</text>').format(x, bottom + 17, tick))
    parts.append(Markup('<text x="{}" y="{}" class="tick end">{}</text>').format(_WIDTH - _RIGHT, _HEIGHT - 3, unit))
    return Markup("").join(parts)


def _padded(scale: Scale) -> Scale:
    margin = 0.06 * (scale.high - scale.low)
    return Scale(scale.low - margin, scale.high + margin)


def _decimals(ticks: Sequence[float]) -> int:
    if len(ticks) < 2:
        return 2
    return max(0, -math.floor(math.log10(abs(ticks[1] - ticks[0])) + 1e-9))


def _dashes(name: str) -> Markup:
    dashes = {"federated_dp": "7 3", "federated_shared": "4 2", "pooled": "2 3", "local": "8 3 2 3"}.get(name)
    return Markup(' stroke-dasharray="{}"').format(dashes) if dashes else Markup("")


def _marker(name: str, x: float, y: float, radius: float) -> Markup:
    """A circle, square, triangle or diamond; the shape is fixed by the arm's name."""
    if name == "federated_dp":
        return Markup('<rect class="marker" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8
        )
    corners = {
        "pooled": ((0, -1.25), (1.1, 0.85), (-1.1, 0.85)),
        "local": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "personal": ((-1.2, -1.2), (1.2, -1.2), (0, 0), (1.2, 1.2), (-1.2, 1.2), (0, 0)),
        "federated_shared": ((0, 1.25), (1.1, -0.85), (-1.1, -0.85)),
        "public": ((-1.3, -0.45), (1.3, -0.45), (1.3, 0.45), (-1.3, 0.45)),
        "tuned": ((-0.45, -1.3), (0.45, -1.3), (0.45, 1.3), (-0.45, 1.3)),
    }.get(name)
    if corners is None:
        return Markup('<circle class="marker" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, radius)
    points = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
    return Markup('<polygon class="marker" points="{}"/>').format(points)


def style(name: str) -> str:
    """The CSS class of an arm; an unknown arm shares the plain one, so that no name from a file becomes a class."""
    return f"arm-{name}" if name in (*ARM_ORDER, *CLASSICAL) else "arm-other"
