"""What stands in which table, what is marked as best, and what a drawing places where."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.record import ArmRecord
from simulation.report import charts, tables
from tests.simulation.report.example import DENOISE, SEGMENT, SUPERRES, overlap, quality

# Finite and not so close together that their difference vanishes in the digits of a float.
FIGURES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def marked(table: tables.Table) -> list[tuple[str, str, str]]:
    """Row, column and text of every cell that is marked as best."""
    return [
        (row.title, column, cell.text)
        for group in table.groups
        for row in group.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell.mark == "best"
    ]


def test_the_best_of_each_column_is_marked_and_less_error_is_better() -> None:
    assert marked(tables.quality(DENOISE)) == [
        ("Pooled", "PSNR, dB", "33.58"),
        ("Pooled", "SSIM", "0.906"),
        ("Pooled", "MSE × 10³", "0.439"),
    ]


def test_methods_stand_in_their_groups_and_the_best_classical_ones_are_named() -> None:
    table = tables.quality(DENOISE)
    groups = {group.title: [row.title for row in group.rows] for group in table.groups}
    assert groups["Before"] == ["Noisy input"]
    assert "Median 3×3" in groups["Classical methods of the survey"]
    assert "Non-local means, Rician bias corrected" in groups["Stronger classical comparators"]
    assert groups["Trained in this run"] == [
        "Local only",
        "Pooled",
        "Federated",
        "Public model",
        "Public, tuned without privacy",
        "Public, tuned under DP, local noise",
        "Public, tuned under DP, shared noise",
    ]
    champions = [row.title for group in table.groups for row in group.rows if row.remark]
    assert champions == ["Median 3×3", "Non-local means, Rician bias corrected"]


def test_the_untouched_input_is_never_the_best_classical_method() -> None:
    task = replace(DENOISE, classical={"noisy": quality(40.0), "mean": quality(26.0)})
    assert tables.best_classical(task, stronger=False) == "mean"
    assert tables.best_classical(task, stronger=True) is None


def test_three_numbers_per_arm_and_one_model_for_all_is_at_home_everywhere() -> None:
    rows = {row.title: [cell.text for cell in row.cells] for row in tables.three_numbers(DENOISE).groups[0].rows}
    assert rows["Local only"][:3] == ["33.62", "30.61", "30.14"]
    assert rows["Federated"][:3] == ["32.53", "32.53", "32.71"]
    assert rows["Public, tuned under DP, local noise"][3] == "\N{EN DASH}", "unknown work is no number"
    assert rows["Federated"][5] == "\N{EN DASH}"
    measured = replace(DENOISE, arms={"federated": replace(DENOISE.arms["federated"], cpu_seconds=90.0)})
    assert tables.three_numbers(measured).groups[0].rows[0].cells[5].text == "1.5"


def test_nothing_is_best_where_there_is_nothing_to_compare() -> None:
    assert marked(tables.three_numbers(SUPERRES)) == []


def test_without_an_unseen_site_its_column_is_empty_and_not_wrong() -> None:
    task = replace(SEGMENT, arms={"federated": ArmRecord(overlap(0.6))})
    assert tables.three_numbers(task).groups[0].rows[0].cells[2].text == "\N{EN DASH}"


def test_site_by_site_names_the_best_classical_method_of_that_site() -> None:
    row = tables.per_site(DENOISE, ["X1"]).groups[0].rows[-1]
    assert (row.title, row.remark) == ("X1", "never trained on")
    assert [cell.note for cell in row.cells[:2]] == ["Median 3×3", "Non-local means, Rician bias corrected"]
    assert row.cells[2].text == "\N{EN DASH}", "no model was trained at an unseen site"


def test_the_travel_of_local_models_is_framed_at_home() -> None:
    table = tables.travel(DENOISE)
    assert table is not None
    home = [(row.title, table.columns[i]) for row in table.groups[0].rows for i, c in enumerate(row.cells) if c.mark]
    assert home == [(site, site) for site in table.columns]
    assert tables.travel(SUPERRES) is None


def test_an_arm_nobody_heard_of_is_shown_under_its_name() -> None:
    task = replace(SUPERRES, arms={**SUPERRES.arms, "fine_tuned": ArmRecord(quality(31.0))})
    assert [row.title for row in tables.quality(task).groups[-1].rows] == ["Federated", "Fine tuned"]


@given(st.lists(FIGURES, min_size=1), FIGURES)
def test_a_scale_holds_its_values_and_clips_the_others(values: list[float], other: float) -> None:
    scale = charts.Scale.around(values)
    assert scale.low < scale.high
    assert all(0 <= scale.place(value) <= 1 for value in [*values, other])
    assert scale.place(max(values)) >= scale.place(min(values))


@given(FIGURES, st.floats(1e-2, 1e6))
def test_ticks_lie_on_the_axis_and_are_few(low: float, width: float) -> None:
    ticks = charts.Scale(low, low + width).ticks()
    slack = 1e-6 * (abs(low) + width)
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)


def test_a_scale_without_any_value_still_is_one() -> None:
    assert charts.Scale.around([None, math.nan, math.inf]) == charts.Scale(0.0, 1.0)


def test_a_curve_rises_where_quality_rises() -> None:
    drawing = charts.curves("Title", "psnr", [charts.Line("federated", ((0, 20.0), (5, 25.0), (10, 30.0)))], [])
    found = re.search(r'polyline points="([^"]+)"', drawing)
    assert found is not None
    points = [tuple(map(float, point.split(","))) for point in found[1].split()]
    assert points == sorted(points), "rounds go to the right"
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True), "SVG counts y downwards"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_strip_without_a_figure_is_empty(value: float | None) -> None:
    assert charts.strip(charts.Scale(0, 1), value, kind="federated") == ""


def test_a_figure_beyond_the_strip_is_an_arrow_and_not_a_dot_at_its_end() -> None:
    scale = charts.Scale(27.0, 33.0)
    assert 'class="beyond"' in charts.strip(scale, 11.0, kind="classical")
    assert 'class="marker"' in charts.strip(scale, 27.0, kind="classical")
