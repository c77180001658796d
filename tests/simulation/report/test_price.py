"""What privacy costs, on the page: every training stands there, with its spread, and nothing is made up."""

from dataclasses import replace

from simulation.report import price
from simulation.report.page import render
from tests.simulation.report.example import DENOISE, SUPERRES, example


def test_every_setting_has_a_row_with_mean_and_range() -> None:
    table = price.table(DENOISE)
    assert table is not None
    (group,) = table.groups
    assert [(row.title, row.remark) for row in group.rows] == [
        ("Public model", ""),
        ("Public, tuned without privacy", ""),
        *(
            (f"Public, tuned under DP, {noise} noise", f"\N{GREEK SMALL LETTER EPSILON} = {level}")
            for noise in ("local", "shared")
            for level in (1, 3, 8)
        ),
    ]
    tuned = group.rows[1].cells
    assert tuned[0].text == "32.46 (32.41 to 32.51)"
    assert tuned[-1].text == "3"


def test_a_task_without_private_arms_has_no_such_section() -> None:
    assert price.table(SUPERRES) is None
    assert price.chart(SUPERRES) is None
    alone = replace(example(), tasks=(SUPERRES,), privacy=())
    assert "What privacy costs" not in render(alone)


def test_one_epsilon_is_a_table_and_no_curve() -> None:
    one = replace(DENOISE, sweep=tuple(point for point in DENOISE.sweep if point.epsilon in (None, 8.0)))
    assert price.table(one) is not None
    assert price.chart(one) is None


def test_the_curve_has_a_bar_for_every_spread_and_a_level_for_what_has_no_noise() -> None:
    drawn = price.chart(DENOISE)
    assert drawn is not None
    assert drawn.count('class="bar"') == 6
    assert drawn.count('class="level"') == 2
