"""One value, one encoding; one encoding, one value; anything else is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg.encoding import MAX_BYTES, Reader, encode

items = st.recursive(
    st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=20), st.text(st.characters(codec="utf-8"), max_size=8)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
fields = st.lists(items, max_size=4)


@given(
    one=st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), fields),
    other=st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), fields),
)
def test_different_values_have_different_encodings(one: tuple[str, list[Any]], other: tuple[str, list[Any]]) -> None:
    assert (encode(one[0], *one[1]) == encode(other[0], *other[1])) == (one == other)


def read(reader: Reader, like: Any) -> Any:
    match like:
        case int():
            return reader.integer()
        case bytes():
            return reader.data()
        case str():
            return reader.text()
        case _:
            places = iter(like)
            return list(reader.fields(lambda one: read(one, next(places)), len(like)))


@given(values=fields)
def test_what_was_written_is_read(values: list[Any]) -> None:
    reader = Reader(encode("d", *values), "d")
    assert [read(reader, value) for value in values] == values
    reader.end()


@given(values=fields, cut=st.integers(1, 40))
def test_a_shortened_or_lengthened_encoding_is_refused(values: list[Any], cut: int) -> None:
    raw = encode("d", *values)
    for bad in (raw[:-cut], raw + bytes(cut)):
        with pytest.raises(ProtocolError):
            reader = Reader(bad, "d")
            for value in values:
                read(reader, value)
            reader.end()


@given(raw=st.binary(max_size=200))
def test_noise_is_refused_with_an_error_of_ours(raw: bytes) -> None:
    for start in (b"", encode("d")):
        reader = None
        try:
            reader = Reader(start + raw, "d")
            reader.many(lambda one: one.integer())
            reader.end()
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"fwsa",
        b"fwsb" + encode("d")[4:],
        b"fwsa\x02" + encode("d")[5:],
        encode("e"),
        encode("d", -0, 1)[:-1],
        encode("d", b"1"),
        encode("d", "1"),
        encode("d", [1]),
    ],
)
def test_another_version_domain_or_type_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="the message 'd' of hospital-1 cannot be read"):
        reader = Reader(raw, "d", party="hospital-1")
        reader.integer(0, 5)
        reader.integer(0, 5)


def test_limits() -> None:
    with pytest.raises(ProtocolError, match="7 is not between 0 and 5"):
        Reader(encode("d", 7), "d").integer(0, 5)
    with pytest.raises(ProtocolError, match="3 bytes instead of 2"):
        Reader(encode("d", b"abc"), "d").data(2)
    with pytest.raises(ProtocolError, match="length 3 is longer than 2"):
        Reader(encode("d", [1, 2, 3]), "d").many(lambda one: one.integer(), 2)
    for wrong in ([2, 1], [1, 1], [0, 1]):
        with pytest.raises(ProtocolError):
            Reader(encode("d", wrong), "d").indices()
    with pytest.raises(ProtocolError, match="not UTF-8"):
        Reader(encode("d", "z").replace(b"z", b"\xff"), "d").text()
    with pytest.raises(ProtocolError, match="more than"):
        Reader(bytes(MAX_BYTES + 1), "d")
    for impossible in (-1, 2**64, True, "x" * 257):
        with pytest.raises(ValueError, match="encoding"):
            encode("d", impossible)
