"""Names are found however they are written, and words of imaging are not taken for names."""

import pytest

from client.deid.text import Identifiers, cleaned, decode, encodings, printable, telltale


def known(**values: str) -> Identifiers:
    return Identifiers.of(**{kind: [value] for kind, value in values.items()})


@pytest.mark.parametrize("text", ["LEE", "Lee, Ann", "tse_lee", "TseLee", "ANN LEE 3", "annlee", "lee-ann"])
def test_short_names_as_words(text: str) -> None:
    assert known(names="Lee^Ann").found_in(text)


@pytest.mark.parametrize("text", ["SLEEP STUDY", "ANNOTATION", "FLEECE", "HEAD"])
def test_short_names_inside_other_words_are_no_hit(text: str) -> None:
    assert not known(names="Lee^Ann").found_in(text)


def test_two_letter_names_count_together() -> None:
    found = known(names="Wu^Bo")
    assert found.found_in("seq for WU BO")
    assert found.found_in("wubo")
    assert found.found_in("Bo Wu")
    assert not found.found_in("bowel")


@pytest.mark.parametrize("text", ["4711", "no. 4711", "x-4711-y"])
def test_short_numbers_as_words(text: str) -> None:
    assert known(ids="4711").found_in(text)


@pytest.mark.parametrize("text", ["47115", "VB47110"])
def test_short_numbers_inside_longer_ones_are_no_hit(text: str) -> None:
    assert not known(ids="4711").found_in(text)


def test_places_are_not_searched_for_by_common_words() -> None:
    place = known(places="Saint Elsewhere General Hospital Chest Clinic")
    assert place.found_in("from Elsewhere")
    assert not place.found_in("general chest")


def test_numbers_are_compared_as_numbers() -> None:
    found = known(ids="00123456")
    assert found.is_number(b"123456")
    assert found.is_number(b"1\\123456.0 ")
    assert not found.is_number(b"1234567")


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29",
        "29.02.2024",
        "2/29/24",
        "20240229",
        "call +44 20 7946 0123",
        "me@here.org",
        "http://x",
        "Dr. House",
        "Mrs Roe",
    ],
)
def test_telltale(text: str) -> None:
    assert telltale(text)


@pytest.mark.parametrize("text", ["syngo CT VA48A", "VB19A 1.5.2.1", "MR Brain", "3.0.2", "12345", "T1 2024", "B30f"])
def test_not_telltale(text: str) -> None:
    assert not telltale(text)


def test_cleaned_descriptions() -> None:
    assert cleaned("T2 FLAIR ax 5mm, Smith") == "T2 FLAIR ax 5mm"
    assert cleaned("Smith") == ""
    assert cleaned("93 year old, MRN 4711, call +44 20 7946 0123") == ""
    assert cleaned("3T 1.5mm 200ms") == "3T 1.5mm 200ms"


def test_undecodable_text_is_no_text() -> None:
    assert decode(b"\xff\xfe", encodings("ISO_IR 192")) is None
    assert decode(b"M\xfcller ", encodings("ISO_IR 100")) == "Müller"
    assert encodings("KLINGON") == encodings("")


def test_control_characters_are_no_text() -> None:
    assert printable("two\r\nlines")
    assert not printable("a\0b")
