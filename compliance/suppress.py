"""Small numbers of patients are not shown: a group of three is nearly a list of them.

Numbers below a least number, ten patients unless the policy says more, are suppressed and said to be so; nought is
nought and stays. What is counted are patients, never files or slices. A total is suppressed too where it would give
suppressed numbers away: by subtraction where there is one, and where there are more if only one set of numbers fits
(45 CFR 164.514(b)(1), the methods of an expert; GDPR recital 26).
"""

from collections.abc import Mapping, Sequence
from typing import Final

LEAST: Final = 10
"""Patients."""


def suppressed(number: int, least: int = LEAST) -> bool:
    """Whether a number of patients is too small to be shown."""
    return 0 < number < least


def shown(number: int, least: int = LEAST) -> str:
    """A number of patients for people: itself, or that it is suppressed."""
    return f"suppressed (fewer than {least})" if suppressed(number, least) else str(number)


def split(parts: Mapping[str, int], least: int = LEAST) -> tuple[dict[str, str], str]:
    """Parts of a whole, each as it may be shown, and the whole.

    The whole is shown only where it leaves at least two numbers open for each part that is suppressed.

    Args:
        parts: Numbers of patients by group; no patient is in two.
        least: The smallest number that is shown.
    """
    whole, hidden = sum(parts.values()), [number for number in parts.values() if suppressed(number, least)]
    words = f"suppressed (it would tell a number below {least})" if _told(hidden, whole, least) else shown(whole, least)
    return {name: shown(number, least) for name, number in parts.items()}, words


def _told(hidden: Sequence[int], whole: int, least: int) -> bool:
    """Whether the whole would tell one of the hidden parts: between the least and the most they can come to, it does
    not. That it is small would tell as well, where they are several.
    """
    if len(hidden) < 2:
        return len(hidden) == 1 and not suppressed(whole, least)
    return suppressed(whole, least) or not len(hidden) < sum(hidden) < len(hidden) * (least - 1)


def belonging(number: int, patients: int, least: int = LEAST) -> str:
    """A number of studies or files, suppressed where it belongs to too few patients."""
    return f"suppressed (of fewer than {least} patients)" if suppressed(patients, least) else str(number)
