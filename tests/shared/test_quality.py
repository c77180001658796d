"""No figure over few patients leaves, and none that would give one away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.quality import HIDDEN, LEAST, SUPPRESSED, Cell, read_quality, suppressed


def cells(*counts: int, grouping: str = "sex", task: str = "toy") -> list[Cell]:
    return [Cell(task, grouping, f"g{place}", n, (("psnr", float(n)),)) for place, n in enumerate(counts)]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ((30, 20), (30, 20)),
        ((30, 9), (HIDDEN, SUPPRESSED)),
        ((30, 20, 9), (30, HIDDEN, SUPPRESSED)),
        ((30, 20, 9, 1), (30, 20, SUPPRESSED, SUPPRESSED)),
        ((30, 0), (HIDDEN, SUPPRESSED)),
        ((9, 9, 20), (SUPPRESSED, SUPPRESSED, HIDDEN)),
        ((0, 10, 30), (SUPPRESSED, HIDDEN, HIDDEN)),
        ((9,), (SUPPRESSED,)),
        ((10,), (10,)),
        ((), ()),
    ],
)
def test_small_cells_and_what_would_give_them_away_are_left_out(
    counts: tuple[int, ...], shown: tuple[object, ...]
) -> None:
    assert tuple(one.n for one in suppressed(cells(*counts))) == shown


def test_groupings_and_tasks_are_judged_by_themselves() -> None:
    found = suppressed([*cells(30, 20), *cells(30, 3, grouping="age"), *cells(12, task="segment")])
    assert [one.n for one in found] == [30, 20, HIDDEN, SUPPRESSED, 12]


@given(st.lists(st.integers(0, 60), max_size=12))
def test_whatever_the_counts_nothing_small_can_be_read_or_computed(counts: list[int]) -> None:
    found = suppressed(cells(*counts))
    left_out = [count for count, one in zip(counts, found, strict=True) if not one.shown]
    assert all(count >= LEAST for count, one in zip(counts, found, strict=True) if one.shown)
    assert all(not one.metrics and not one.compared for one in found if not one.shown)
    assert not left_out or sum(left_out) >= LEAST or len(left_out) == len(counts)
    assert [one.group for one in found] == [f"g{place}" for place in range(len(counts))]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"cells": {}}',
        b'{"cells": [{}]}',
        b'{"cells": [], "more": 1}',
        b'{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": -1}]}',
        b'{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": 20},'
        b'{"task": "toy", "grouping": "a", "group": "b", "n": 20}]}',
        b" " * 70000,
    ],
)
def test_what_is_no_file_of_figures_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(UsageError) as met:
        read_quality(raw, "quality.json")
    assert met.value.hint
