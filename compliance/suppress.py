"""Small numbers of patients are not shown: a group of three is nearly a list of them.

Numbers below a least number, ten patients unless the policy says more, are suppressed and said to be so; nought is
nought and stays. What is counted are patients, never files or slices. A total is suppressed too where it would give one
suppressed number away by subtraction (45 CFR 164.514(b)(1), the methods of an expert; GDPR recital 26).
"""

from collections.abc import Mapping
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

    Where exactly one part is suppressed, the whole is as well: with it, the part could be computed.

    Args:
        parts: Numbers of patients by group; no patient is in two.
        least: The smallest number that is shown.
    """
    whole, hidden = sum(parts.values()), sum(suppressed(number, least) for number in parts.values())
    words = f"suppressed (it would tell a number below {least})" if hidden == 1 else shown(whole, least)
    return {name: shown(number, least) for name, number in parts.items()}, words


def belonging(number: int, patients: int, least: int = LEAST) -> str:
    """A number of studies or files, suppressed where it belongs to too few patients."""
    return f"suppressed (of fewer than {least} patients)" if suppressed(patients, least) else str(number)
