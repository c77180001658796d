"""Any t shares give the secret; fewer give none; nothing but field elements is a share (Shamir 1979)."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg.field import PRIME, combine, element, from_bytes, split, to_bytes

elements = st.integers(0, PRIME - 1)


@settings(max_examples=30)
@given(secret=elements, coefficients=st.lists(elements, max_size=3), extra=st.integers(0, 2))
def test_any_t_shares_give_the_secret(secret: int, coefficients: list[int], extra: int) -> None:
    t = len(coefficients) + 1
    shares = split(secret, coefficients, range(1, t + extra + 1))
    assert {len(share) for share in shares.values()} == {32}
    for chosen in itertools.combinations(shares, t):
        assert combine({x: shares[x] for x in chosen}, t) == to_bytes(secret)


@given(secret=elements, other=elements)
def test_one_share_too_few_fits_every_secret(secret: int, other: int) -> None:
    share = split(secret, [5], [2])[2]
    # The line through (0, other) and that share is another polynomial that the dealer might have drawn.
    slope = (from_bytes(share) - other) * pow(2, -1, PRIME) % PRIME
    assert split(other, [slope], [2])[2] == share


def test_too_few_shares_are_refused() -> None:
    shares = split(1, [2, 3], [1, 2, 3])
    with pytest.raises(ProtocolError, match="2 shares are fewer than the threshold of 3"):
        combine({1: shares[1], 2: shares[2]}, 3)


@pytest.mark.parametrize("raw", [bytes(31), bytes(33), to_bytes(PRIME), b"\xff" * 32])
def test_only_the_canonical_form_of_a_field_element_is_read(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a field element"):
        combine({1: raw}, 1)


@pytest.mark.parametrize("indices", [[0], [1, 1], [1001], [-1]])
def test_no_share_is_dealt_at_zero_or_twice(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="not an index"):
        split(1, [2], indices)
    if indices not in ([1, 1],):
        with pytest.raises(ProtocolError, match="impossible index"):
            combine(dict.fromkeys(indices, bytes(32)), 1)


def test_numbers_outside_the_field_are_refused() -> None:
    with pytest.raises(ValueError, match="not a field element"):
        split(PRIME, [], [1])
    with pytest.raises(ValueError, match="64 bytes"):
        element(bytes(32))
    assert element(to_bytes(0) + to_bytes(5)) == 5
