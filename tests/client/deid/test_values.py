"""Dates move by whole days, in every form that files hold them in, and what is no date does not pass for one."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.deid.values import (
    CODE,
    NUMBER,
    capped_age,
    fits,
    shift_date,
    shift_datetime,
    valid_time,
    valid_zone,
    year_of_date,
    year_of_datetime,
)

DAYS = st.dates(min_value=date(1000, 1, 1), max_value=date(9000, 1, 1))


@given(first=DAYS, second=DAYS, days=st.integers(-1461, -1))
def test_a_shift_keeps_intervals_and_moves_every_date(first: date, second: date, days: int) -> None:
    moved = [shift_date(one.strftime("%Y%m%d"), days) for one in (first, second)]
    back = [date(int(one[:4]), int(one[4:6]), int(one[6:])) for one in moved if one]
    assert back[1] - back[0] == second - first
    assert back[0] == first + timedelta(days=days)


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        ("20200301", "20200229"),
        ("2020.03.01", "20200229"),
        ("20200301 ", "20200229"),
        ("20200301-20200302", "20200229-20200301"),
        ("-20200302", "-20200301"),
        ("20200301-", "20200229-"),
        ("20200301\\20210301", "20200229\\20210228"),
        ("", ""),
    ],
)
def test_forms_of_dates(written: str, moved: str) -> None:
    assert shift_date(written, -1) == moved


@pytest.mark.parametrize(
    "written", ["20201301", "20200230", "00000000", "1999-07-21", "199907", "today", "20200301x", "-"]
)
def test_what_is_no_date_is_not_shifted(written: str) -> None:
    assert shift_date(written, -1) is None
    assert year_of_date(written) is None


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        ("20200301112233.123456+0100", "20200229112233.123456+0100"),
        ("202003011122", "202002291122"),
        ("20200301-0500", "20200229-0500"),
        ("202003", "202003"),
        ("2020", "2020"),
        ("", ""),
    ],
)
def test_date_times_keep_time_zone_and_precision(written: str, moved: str) -> None:
    assert shift_datetime(written, -1) == moved


def test_partial_date_times_move_by_their_middle() -> None:
    assert shift_datetime("202003", -100) == "201912"
    assert shift_datetime("2020", -400) == "2019"


@pytest.mark.parametrize("written", ["20201301112233", "2020030199", "x", "20200301112233.1234567", "2020-03-01"])
def test_what_is_no_date_time_is_not_shifted(written: str) -> None:
    assert shift_datetime(written, -1) is None


@pytest.mark.control("HIPAA-164.514-b2-C-dates")
def test_years_alone() -> None:
    assert year_of_date("20200317") == "20200101"
    assert year_of_date("1999.07.21") == "19990101"
    assert year_of_datetime("20200317112233+0100") == "2020"


@pytest.mark.parametrize(
    ("written", "kept"), [("112233", "112233"), ("11:22:33.5", "112233.5"), ("11", "11"), ("1122-1133", "1122-1133")]
)
def test_times(written: str, kept: str) -> None:
    assert valid_time(written) == kept


@pytest.mark.parametrize("written", ["240000", "1160", "noon", "11:2233"])
def test_what_is_no_time(written: str) -> None:
    assert valid_time(written) is None


def test_zones() -> None:
    assert valid_zone("+0100 ") == "+0100"
    assert valid_zone("Berlin") is None


@pytest.mark.control("HIPAA-164.514-b2-C-dates")
@pytest.mark.parametrize(
    ("age", "kept"),
    [
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("091Y", "090Y"),
        ("104Y", "090Y"),
        ("033D", "033D"),
        ("999M", "999M"),
        ("", ""),
    ],
)
def test_ages_over_89_are_one_category(age: str, kept: str) -> None:
    assert capped_age(age) == kept


@pytest.mark.parametrize("age", ["91", "ninety", "91Y", "0091Y"])
def test_what_is_no_age(age: str) -> None:
    assert capped_age(age) is None


def test_numbers_and_codes() -> None:
    assert fits(b"1.5e-3\\2 ", NUMBER, 32, 2)
    assert not fits(b"1\\2\\3", NUMBER, 32, 2)
    assert not fits(b"12 Elm Street", NUMBER, 32, 0)
    assert fits(b"ORIGINAL\\PRIMARY\\M_FFE", CODE, 16, 0)
    assert not fits(b"THIS IS LONGER THAN A CODE", CODE, 16, 0)
    assert not fits(b"Erika", CODE, 16, 0)
