"""The table of the specification, and messages that say which threshold would do."""

import pytest

from shared.errors import CharterError
from shared.secagg.parameters import TABLE, Thresholds, check_parameters


def test_the_table() -> None:
    assert [(row.members, row.drops, row.threshold, row.colluding) for row in TABLE] == [
        (3, 0, 3, 1),
        (4, 1, 3, 1),
        (5, 1, 4, 2),
        (7, 1, 6, 4),
        (10, 2, 8, 5),
        (16, 3, 13, 9),
        (32, 4, 28, 23),
        (50, 5, 45, 39),
    ]


@pytest.mark.parametrize("members", range(3, 101))
def test_the_greatest_collusion_is_allowed_and_one_more_is_not(members: int) -> None:
    for threshold in range(1, members + 1):
        most = Thresholds(members, threshold).colluding
        allowed = [c for c in range(members) if 2 * threshold > members + c and threshold - c >= 2]
        assert most == max(allowed, default=most)
        for c in (c for c in (most, most + 1) if c >= 0):
            if c in allowed:
                check_parameters(members, threshold, c)
            else:
                with pytest.raises(CharterError):
                    check_parameters(members, threshold, c)


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ((5, 3, 1), "two groups of 3 among 5 may share only 1.*at least 4 is needed; 1 may then drop"),
        ((3, 3, 2), "subtract their own and be left with one.*3 hospitals cannot withstand 2"),
        ((2, 2, 0), "for 3 to 100 hospitals, not 2.*each reads the other's"),
        ((101, 90, 1), "for 3 to 100 hospitals, not 101"),
        ((5, 6, 1), "impossible among 5"),
        ((5, 4, -1), "impossible among 5"),
    ],
)
def test_the_message_teaches(numbers: tuple[int, int, int], what: str) -> None:
    with pytest.raises(CharterError, match=what):
        check_parameters(*numbers)
