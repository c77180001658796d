"""Values of PS3.5 section 6.2 as they stand in files: dates, times, ages, numbers and codes, valid or not."""

import re
from collections.abc import Callable
from datetime import date, timedelta

OLDEST_AGE = 89  # 45 CFR 164.514(b)(2)(i)(C): all ages over 89 are one category, "90 or older"
AGGREGATED = "090Y"

_DA = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)")
_TM = re.compile(r"([01]\d|2[0-3])(:?)([0-5]\d(\2([0-5]\d|60)(\.\d{1,6})?)?)?")
_DT = re.compile(
    r"(?P<year>\d{4})((?P<month>\d\d)((?P<day>\d\d)"
    r"(?P<time>([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?)?)?)?(?P<zone>[+-]\d{4})?"
)
_ZONE = re.compile(r"[+-]\d{4}")
_AS = re.compile(r"(\d{3})([DWMY])")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}

NUMBER = re.compile(rb"[0-9+\-.eE \\]*\0?")
"""Characters of DS and IS (PS3.5 Table 6.2-1), with any number of values."""
CODE = re.compile(rb"[A-Z0-9_ \\]*\0?")
"""Characters of CS, with any number of values."""
LONGEST_CODE = 16
LONGEST_NUMBER = 32  # the standard says 16; many writers give more digits, and losing a position loses the image


def _each(text: str, change: Callable[[str], str | None]) -> str | None:
    """Apply ``change`` to every value and both ends of every range; None as soon as one is invalid."""
    values = []
    for value in text.split("\\"):
        changed = change(value.strip())
        if changed is None:
            return None
        values.append(changed)
    return "\\".join(values)


def _ranged(change: Callable[[str], str | None]) -> Callable[[str], str | None]:
    def both(value: str) -> str | None:
        first, dash, second = value.partition("-")
        if not dash:
            return change(value) if value else ""
        ends = [change(end) if end else "" for end in (first.strip(), second.strip())]
        return None if None in ends or not any(ends) else "-".join(end or "" for end in ends)

    return both


def _date(value: str) -> date | None:
    match = _DA.fullmatch(value)
    if not match:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def _moved(day: date, days: int) -> date | None:
    try:
        return day + timedelta(days=days)
    except OverflowError:
        return None


def shift_date(text: str, days: int) -> str | None:
    """A DA value, several, or ranges of them, moved by ``days``; the legacy ``1999.07.21`` comes out as ``19990721``.

    Returns:
        The moved value, or None where any part of it is not a date.
    """

    def change(value: str) -> str | None:
        day = _date(value)
        moved = _moved(day, days) if day else None
        return moved.strftime("%Y%m%d").rjust(8, "0") if moved else None

    return _each(text, _ranged(change))


def year_of_date(text: str) -> str | None:
    """A DA value cut to its year, written as the first of January, since DA has no shorter form."""

    def change(value: str) -> str | None:
        day = _date(value)
        return f"{day.year:04d}0101" if day else None

    return _each(text, _ranged(change))


def shift_datetime(text: str, days: int) -> str | None:
    """A DT value, or several, moved by ``days``, with its precision, time of day and zone as they were.

    A value without a day is moved from the middle of its month or year and cut back to its precision.
    """

    def change(value: str) -> str | None:
        match = _DT.fullmatch(value)
        if not match:
            return None
        year, month, day = int(match["year"]), int(match["month"] or 7), int(match["day"] or 15)
        try:
            moved = _moved(date(year, month, day), days)
        except ValueError:
            return None
        if not moved:
            return None
        full = moved.strftime("%Y%m%d").rjust(8, "0")
        kept = 8 if match["day"] else 6 if match["month"] else 4
        return full[:kept] + (match["time"] or "") + (match["zone"] or "")

    return _each(text, lambda value: change(value) if value else "")


def year_of_datetime(text: str) -> str | None:
    """A DT value cut to its year, a form that DT has."""

    def change(value: str) -> str | None:
        match = _DT.fullmatch(value)
        return match["year"] if match else None

    return _each(text, lambda value: change(value) if value else "")


def valid_time(text: str) -> str | None:
    """A TM value, several, or ranges of them, with the colons of the legacy form removed; None where it is none."""

    def change(value: str) -> str | None:
        return value.replace(":", "") if _TM.fullmatch(value) else None

    return _each(text, _ranged(change))


def valid_zone(text: str) -> str | None:
    """A Timezone Offset From UTC such as ``+0100``, or None."""
    return text.strip() if _ZONE.fullmatch(text.strip()) else None


def capped_age(text: str) -> str | None:
    """An AS value; above 89 years it becomes ``090Y``. None where it is no age."""

    def change(value: str) -> str | None:
        match = _AS.fullmatch(value)
        if not match:
            return None if value else ""
        return AGGREGATED if int(match[1]) / _PER_YEAR[match[2]] >= OLDEST_AGE + 1 else value

    return _each(text, change)


def fits(value: bytes, pattern: re.Pattern[bytes], longest: int, most: int) -> bool:
    """Whether ``value`` has the characters of ``pattern``, none longer than ``longest``, and at most ``most`` values.

    ``most`` of 0 leaves the number of values open.
    """
    if not pattern.fullmatch(value):
        return False
    if len(value) <= longest and b"\\" not in value:
        return True
    values = value.split(b"\\")
    return (not most or len(values) <= most) and all(len(one.strip(b" \0")) <= longest for one in values)
