"""Small numbers of patients are suppressed, and cannot be computed from what is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.suppress import LEAST, belonging, shown, split

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1)


@pytest.mark.control("GDPR-30-record")
@given(st.integers(0, 30), st.integers(2, 20))
def test_a_small_number_is_suppressed_and_nought_is_nought(number: int, least: int) -> None:
    assert (shown(number, least) == str(number)) is (number == 0 or number >= least)
    assert shown(3) != "0"


@given(COUNTS)
def test_no_suppressed_number_follows_from_what_is_shown(parts: dict[str, int]) -> None:
    words, whole = split(parts)
    hidden = [name for name, text in words.items() if text.startswith("suppressed")]
    assert hidden == [name for name, number in parts.items() if 0 < number < LEAST]
    if len(hidden) == 1:
        assert whole.startswith("suppressed")
    elif whole.isdigit():
        assert int(whole) == sum(parts.values())


def test_files_of_too_few_patients_are_suppressed_however_many_they_are() -> None:
    assert belonging(5000, 3).startswith("suppressed")
    assert belonging(5000, 10) == "5000"
    assert belonging(0, 0) == "0"
