"""Spent and forecast privacy in words and plain values: what the terminal, ``--json`` and the page say alike."""

import dataclasses
import math
from typing import Any

from client.budget import Forecast, Standing, promise
from client.ledger_rows import BudgetChange
from client.room import Room
from client.training.accounting import NOT_COVERED
from shared.charter import Charter
from shared.console import plural

UNIT = "the unit is the patient, with all slices and studies at this hospital; one patient is added or removed"
ACCOUNTANT = (
    "epsilon is an upper bound by the PRV accountant, or by Renyi DP where that one fails; never by Gaussian DP"
)
NO_BUDGET = (
    "no budget is set: a real hospital trains nothing under differential privacy before 'fedward node budget set'"
)
NOTHING_FITS = "nothing fits"


def figure(value: float) -> str:
    """An epsilon as people read it: two decimals, rounded up, since it is a bound."""
    return "infinite" if math.isinf(value) else f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def rounds_left(standing: Standing) -> str:
    """What the budget still covers, by the last round that was charged; empty where nobody can say."""
    if standing.further is None:
        return ""
    if standing.further.rounds == 0 and standing.further.exact:
        return f"{NOTHING_FITS}: the budget covers no further round like the last one"
    verb = "fits" if standing.further.rounds == 1 else "fit"
    return f"{at_least(standing.further)}{plural(standing.further.rounds, 'more round')} of the last settings {verb}"


def at_least(room: Room | None) -> str:
    """What goes before a number of rounds of which nobody has found out whether more fit; empty where it is exact."""
    return "" if room is None or room.exact else "at least "


def without_privacy(standing: Standing) -> str:
    """What epsilon does not cover here, in a sentence; empty where all was trained under differential privacy."""
    count = standing.uncovered
    verb, those = ("was", "it") if count == 1 else ("were", "them")
    rounds = f"{plural(count, 'round')} {verb} trained without differential privacy on these patients"
    return f"{rounds}, and no epsilon covers {those}" if count else ""


def standing_lines(standing: Standing) -> list[str]:
    """What a hospital has spent, line by line."""
    book, change = standing.book, standing.change
    lines = _spent(standing)
    if change is not None:
        budget = change.budget
        lines.append(
            f"budget: epsilon {budget.epsilon:g} at delta {budget.delta:g}, {budget.patients} patients declared; "
            f"set {change.time[:10]} by {change.who}: {change.why}"
        )
    else:
        lines.append(NO_BUDGET)
    lines += [text for text in (rounds_left(standing),) if text]
    lines += [
        f"  {run.federation}, run {run.run}, {run.task}: {plural(run.charges, 'round')}, {plural(run.steps, 'step')}"
        for run in standing.runs
    ]
    lines += [f"{UNIT}", ACCOUNTANT]
    if shared := sum(charge.mode == "distributed" for charge in book.charges):
        lines.append(
            f"{plural(shared, 'round')} of these under shared noise: there epsilon is that of the masked sum, "
            "against as many hospitals in league with the coordinator as their charter names"
        )
    if book.rows:
        lines.append(f"ledger: {plural(book.rows, 'line')}, head {book.head}; it has all that the audit log knows")
    return lines


def forecast_lines(charter: Charter, forecast: Forecast | None, standing: Standing) -> list[str]:
    """What a charter would cost, line by line, with a table of its tasks."""
    if forecast is None:
        refused = "; a hospital with a budget takes no part" if standing.budget else ""
        off = f"{charter.id}: mode off, no differential privacy and no finite epsilon{refused}"
        return [*_spent(standing), off] if standing.uncovered else [off]
    standing = forecast.standing
    rows = [("task", "rounds", "steps", "epsilon after it", "rounds that fit")]
    rows += [
        (
            task.name,
            str(task.rounds),
            str(task.steps),
            figure(task.epsilon),
            "-" if task.fits is None else f"{at_least(forecast.room)}{task.fits} of {task.rounds}",
        )
        for task in forecast.tasks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [
        *_spent(standing),
        f"{charter.id}: {settings(charter)}",
        *table,
        verdict(forecast),
        *advice(forecast),
        *caveats(forecast),
    ]


def settings(charter: Charter) -> str:
    """What a charter's privacy is set to."""
    plan = charter.privacy
    return f"mode {plan.mode}, sampling rate {plan.sample_rate:g}, noise multiplier {plan.noise_multiplier:g}"


def verdict(forecast: Forecast) -> str:
    """Whether the charter fits, in a sentence."""
    budget = forecast.standing.budget
    moves = f"the whole charter takes epsilon from {figure(forecast.standing.spent)} to {figure(forecast.epsilon)}"
    if budget is None or forecast.fits is None:
        return f"{moves} at delta {forecast.delta:g}; {NO_BUDGET}"
    if forecast.covered:
        covered = f"{moves}; the budget of {budget.epsilon:g} covers all of its {plural(forecast.rounds, 'round')}"
        return covered + ("" if forecast.repeated <= budget.epsilon else ", but not if all of them are repeated")
    some = f"{at_least(forecast.room)}{forecast.fits} of its {plural(forecast.rounds, 'round')} fit"
    part = some if forecast.fits or at_least(forecast.room) else NOTHING_FITS
    return f"{moves}; the budget is {budget.epsilon:g}: {part}"


def advice(forecast: Forecast) -> list[str]:
    """What would make the charter fit; nothing where it does."""
    if forecast.covered is not False:
        return []
    given = forecast.charter.privacy.noise_multiplier
    if forecast.noise is None:
        return ["no noise makes it fit: what was spent before, or a small delta, leaves too little of the budget"]
    return [f"with a noise multiplier of {forecast.noise:g} instead of {given:g} the whole charter would fit"]


def caveats(forecast: Forecast) -> list[str]:
    """What belongs to every figure of a forecast."""
    lines = [
        f"{UNIT}; delta is {forecast.delta:g}",
        ACCOUNTANT,
        f"if every round is repeated and charged three times, epsilon comes to {figure(forecast.repeated)}",
        f"a patient whose images are at two hospitals of this charter: {figure(forecast.alone)} for the charter "
        f"becomes at most {figure(forecast.twice)}",
    ]
    if forecast.charter.privacy.mode == "distributed":
        lines.append(
            "the noise is shared: the guarantee is that of the masked sum over the hospitals, and holds for as long as "
            "no more of them than the charter says work with the coordinator"
        )
    return [*lines, f"not covered: {'; '.join(promise(forecast.charter)[1])}"]


def standing_json(standing: Standing) -> dict[str, Any]:
    """Stable keys of ``fedward node budget show --json``; null stands for an infinite epsilon and for what is not."""
    return {
        "site": standing.site,
        "unit": "patient",
        "relation": "add or remove one patient",
        "budget": _change(standing.change),
        "delta": standing.delta,
        "spent": _finite(standing.spent),
        "further_rounds": standing.further.rounds if standing.further else None,
        "further_rounds_exact": standing.further.exact if standing.further else None,
        "rounds_without_privacy": standing.uncovered,
        "charges": [dataclasses.asdict(run) for run in standing.runs],
        "changes": [_change(change) for change in standing.book.changes],
        "ledger": {"rows": standing.book.rows, "head": standing.book.head},
        "not_covered": list(NOT_COVERED),
    }


def forecast_json(charter: Charter, forecast: Forecast | None, standing: Standing) -> dict[str, Any]:
    """Stable keys of ``fedward node budget plan --json``; ``forecast`` is null without differential privacy."""
    told: dict[str, Any] | None = None
    if forecast is not None:
        standing = forecast.standing
        told = {
            "delta": forecast.delta,
            "rounds": forecast.rounds,
            "epsilon": _finite(forecast.epsilon),
            "epsilon_alone": _finite(forecast.alone),
            "epsilon_at_two_hospitals": _finite(forecast.twice),
            "epsilon_if_repeated": _finite(forecast.repeated),
            "covered": forecast.covered,
            "rounds_that_fit": forecast.fits,
            "rounds_that_fit_exact": forecast.room.exact if forecast.room else None,
            "noise_multiplier": charter.privacy.noise_multiplier,
            "noise_multiplier_that_fits": forecast.noise,
            "tasks": [
                {
                    "name": task.name,
                    "rounds": task.rounds,
                    "steps": task.steps,
                    "epsilon": _finite(task.epsilon),
                    "rounds_that_fit": task.fits,
                }
                for task in forecast.tasks
            ],
            "curve": [[point.round, _finite(point.epsilon)] for point in (*forecast.before, *forecast.curve)],
        }
    about = {"id": charter.id, "sha256": charter.sha256, "mode": charter.privacy.mode}
    return {**standing_json(standing), "charter": about, "forecast": told}


def _spent(standing: Standing) -> list[str]:
    budget = standing.budget
    of = f" of {budget.epsilon:g}" if budget else ""
    charged = plural(len(standing.book.charges), "round")
    spent = f"{standing.site}: epsilon {figure(standing.spent)}{of} is spent at delta {standing.delta:g}, {charged}"
    return [text for text in (spent, without_privacy(standing)) if text]


def _change(change: BudgetChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {**dataclasses.asdict(change.budget), "who": change.who, "why": change.why, "time": change.time}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
