"""What a person tells a command by hand."""

import pytest

from compliance.told import charter_digits
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("told", "digits"),
    [
        (None, ""),
        ("ab" * 32, "ab" * 32),
        ("AB" * 32, "ab" * 32),
        (" abcd " * 8, "abcd" * 8),
        ("0f" * 16 + "\n", "0f" * 16),
    ],
)
def test_digits_are_read_as_people_copy_them(told, digits):
    assert charter_digits(told) == digits


@pytest.mark.parametrize("told", ["", "   ", "ab" * 15, "ab" * 33, "g" * 64, "٣" * 64])
def test_anything_else_is_refused(told):
    with pytest.raises(UsageError, match="32 to 64 hexadecimal digits"):
        charter_digits(told)
