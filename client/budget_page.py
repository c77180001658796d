"""The page of ``fedward node budget plan``: epsilon over rounds, spent and planned, against the budget; asks nobody."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Final

from client import budget_words
from client.budget import Forecast, Point, Standing, promise
from shared import page
from shared.charter import Charter
from shared.files import write_bytes

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 740, 16, 280
TALLEST: Final = 3.0
"""Times the budget: what is above leaves the picture, since nobody could read the budget at its foot."""


@dataclass(frozen=True)
class Tick:
    """A figure at an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Plot:
    """What the picture draws, in its own units.

    Attributes:
        before: Points of the line of what is spent.
        curve: Points of the line of the charter on top.
        area: The same, closed along the foot.
        budget: Height of the budget's line; None without one.
        fits: Place of the last round that fits, where that is not the last round; None else.
        now: Place of the first round of the charter.
        across: Ticks of rounds.
        up: Ticks of epsilon.
        tasks: Ends of tasks with their names, where there is more than one.
        cut: Whether the curve leaves the picture.
    """

    before: str
    curve: str
    area: str
    budget: float | None
    fits: float | None
    now: float
    across: Sequence[Tick]
    up: Sequence[Tick]
    tasks: Sequence[Tick]
    cut: bool


def write_page(path: Path, charter: Charter, forecast: Forecast | None, standing: Standing) -> None:
    """Write the page to ``path``, readable by its owner alone: what a hospital has spent is its own affair.

    Raises:
        OutputError: It cannot be written.
    """
    write_bytes(path, render(charter, forecast, standing).encode(), mode=0o600)


def render(charter: Charter, forecast: Forecast | None, standing: Standing, *, made: datetime | None = None) -> str:
    """The page as one HTML document without script; its policy lets in nothing but its own style."""
    now = standing if forecast is None else forecast.standing
    templates = page.environment("client")
    templates.globals.update(count=page.count, plural=page.plural, figure=budget_words.figure)
    templates.filters["visible"] = page.visible
    style, style_hash = page.style((files("client") / "templates" / "budget.css").read_text("utf-8"))
    return templates.get_template("budget.html").render(
        charter=charter,
        forecast=forecast,
        standing=now,
        settings=budget_words.settings(charter),
        verdict=budget_words.verdict(forecast) if forecast else "",
        advice=budget_words.advice(forecast) if forecast else [],
        left=budget_words.rounds_left(now),
        without=budget_words.without_privacy(now),
        at_least=budget_words.at_least(forecast.room if forecast else None),
        plot=plot(forecast) if forecast else None,
        covers=promise(charter)[0],
        not_covered=promise(charter)[1],
        made=made or datetime.now(UTC),
        style=style,
        style_hash=style_hash,
    )


def plot(forecast: Forecast) -> Plot | None:
    """The picture; None where no point of it is finite."""
    points = [*forecast.before, *forecast.curve]
    highest = max((point.epsilon for point in points if math.isfinite(point.epsilon)), default=0.0)
    budget = forecast.standing.budget
    if budget is not None:
        highest = min(max(highest, budget.epsilon), TALLEST * budget.epsilon)
    if highest <= 0:
        return None
    last = forecast.curve[-1].round
    up, across = _steps(highest * 1.08), _steps(last, whole=True)
    top = max(highest * 1.08, up[-1])

    def x(rounds: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * rounds / last, 1)

    def y(epsilon: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * min(epsilon, 2 * top) / top, 1)

    def line(some: Sequence[Point]) -> str:
        return " ".join(f"{x(one.round)},{y(one.epsilon)}" for one in some)

    start = forecast.curve[0].round
    ends, done = [], start
    for task in forecast.tasks:
        done += task.rounds
        ends.append(Tick(x(done), task.name))
    return Plot(
        before=line(forecast.before),
        curve=line(forecast.curve),
        area=f"{x(start)},{BOTTOM} {line(forecast.curve)} {x(last)},{BOTTOM}",
        budget=None if budget is None else y(budget.epsilon),
        fits=x(start + forecast.fits) if forecast.fits and not forecast.covered else None,
        now=x(start),
        across=[Tick(x(value), f"{value:g}") for value in across],
        up=[Tick(y(value), f"{value:g}") for value in up],
        tasks=ends if len(ends) > 1 else (),
        cut=any(point.epsilon > top for point in points),
    )


def _steps(highest: float, *, whole: bool = False) -> list[float]:
    """Round figures from 0 up to ``highest``, six or so."""
    rough = highest / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    return [index * step for index in range(math.floor(highest / step + 1e-9) + 1)]
