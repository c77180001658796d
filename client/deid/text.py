"""Text in files: decoding it whatever its character set, and finding identifiers in it however they are written."""

import contextlib
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import pairwise

from pydicom.charset import convert_encodings, decode_bytes

from client.deid.tables import vocabulary

_DELIMITERS = {ord(one) for one in "\n\r\t\f"}

# Letters that Unicode does not decompose although readers write them with plain ones.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŋ": "n", "ə": "a"}
)
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-Z])")
_TOKEN = re.compile(r"[^\W_]+")
_PART = re.compile(r"[^\W\d_]+|\d+")
_NAME_PART = re.compile(r"[^\W_]+(?:['’`-][^\W_]+)*")

# Written forms of dates, telephone numbers, e-mail and web addresses, and titles before a name, in free text.
_TELLTALE = re.compile(
    r"@\w|https?:|www\."
    r"|(?<!\d)(19|20)\d\d[-./ ]?(0[1-9]|1[0-2])[-./ ]?(0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)(0?[1-9]|[12]\d|3[01])[-./](0?[1-9]|[12]\d|3[01])[-./](19|20)?\d\d(?!\d)"
    r"|(?<![\d.])\+?\d(?:[ ()/-]{0,2}\d){8,}(?![\d.])"
    r"|\b(?:Dr|Prof|Mr|Mrs|Ms|Herr|Frau|Mme|Sr|Sra)\.? +[A-Z]"
)

# A number with its unit describes an acquisition; a number alone may be a piece of a telephone number or an age.
_MEASURE = re.compile(r"\d{1,4}([.,]\d{1,3})?(mm|cm|t|tesla|ms|s|sec|min|kv|kvp|ma|mas|hz|mhz|%|deg|hu|ml|slices?)")
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?(?:mm|cm)?|%", re.UNICODE)

SHORTEST_INSIDE = 5
"""Letters that a name needs to be looked for inside longer words; a shorter one must stand as a word of its own."""
SHORTEST_NAME = 3
SHORTEST_ID_INSIDE = 6
SHORTEST_ID = 3


@cache
def encodings(character_set: str) -> tuple[str, ...]:
    """The Python encodings for a Specific Character Set (0008,0005); the default where it is unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the declaration is wrong is dealt with in readings()
        try:
            return tuple(convert_encodings([one.strip() for one in character_set.split("\\")] if character_set else ""))
        except (LookupError, ValueError):
            return ("iso8859",)


def decode(value: bytes, codecs: Sequence[str]) -> str | None:
    """``value`` as text without padding; None where it is not text in these encodings."""
    try:
        if b"\x1b" not in value:
            return value.decode(codecs[0]).rstrip(" \0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(value, list(codecs), _DELIMITERS)
    except (UnicodeError, LookupError, ValueError):
        return None
    return None if "\ufffd" in text or "\x1b" in text else text.rstrip(" \0")


def readings(value: bytes, codecs: Sequence[str]) -> set[str]:
    """Every text that ``value`` may stand for: as declared, as UTF-8 and as Latin-1; declarations are often wrong."""
    if value.isascii() and b"\x1b" not in value:
        return {value.decode("ascii").rstrip(" \0")}
    texts = {decode(value, codecs) or "", value.decode("latin-1").rstrip(" \0")}
    with contextlib.suppress(UnicodeError):
        texts.add(value.decode("utf-8").rstrip(" \0"))
    return texts


def printable(text: str) -> bool:
    """Whether ``text`` holds no control characters but line ends and tabs."""
    return all(ord(one) >= 32 or ord(one) in _DELIMITERS for one in text)


def fold(text: str) -> str:
    """``text`` without case, accents and width, so that two spellings of one name meet."""
    flat = "".join(one for one in unicodedata.normalize("NFKD", text) if unicodedata.category(one) != "Mn")
    return unicodedata.normalize("NFKC", flat.casefold().translate(_PLAIN))


def spellings(text: str) -> set[str]:
    """``text`` folded, and folded with umlauts spelt out (``Müller``: ``muller`` and ``mueller``)."""
    composed = unicodedata.normalize("NFKC", text).casefold()
    return {fold(text), fold(composed.translate(_SPELT_OUT))}


def squeeze(folded: str) -> str:
    """The letters and digits of a folded text, without anything between them."""
    return "".join(_TOKEN.findall(folded))


def telltale(text: str) -> bool:
    """Whether free text holds what looks like a date, a telephone number or an address."""
    return bool(_TELLTALE.search(text))


def cleaned(text: str) -> str:
    """A description reduced to the words of the vocabulary and to measures (PS3.15 E.3.5, Clean Descriptors)."""
    allowed = vocabulary()
    kept = [word for word in _WORD.findall(text) if fold(word) in allowed or _MEASURE.fullmatch(fold(word))]
    return " ".join(kept)


def _dense(text: str) -> bool:
    """Whether the script writes a syllable or a word per sign, so that two signs are already a name."""
    return any(ord(one) > 0x2E7F for one in text)


@dataclass(frozen=True)
class Identifiers:
    """What is known of the patient of one file, and of those who treated them, in the forms that are searched for.

    Attributes:
        inside: Folded strings that must not occur anywhere in the letters and digits of a value.
        words: Folded strings that must not stand as a word.
        numbers: Digits that must not be the whole of a number.
    """

    inside: frozenset[str]
    words: frozenset[str]
    numbers: frozenset[bytes]

    @classmethod
    def of(
        cls,
        *,
        names: Iterable[str] = (),
        ids: Iterable[str] = (),
        places: Iterable[str] = (),
        dates: Iterable[str] = (),
        uids: Iterable[str] = (),
    ) -> "Identifiers":
        """Collect the search terms from decoded values."""
        inside: set[str] = set()
        words: set[str] = set()
        for name in names:
            _name_terms(name, inside, words)
        for value in ids:
            _id_terms(value, inside, words)
        for place in places:
            _place_terms(place, inside, words)
        for value in dates:
            _date_terms(value, inside, words)
        inside.update(squeeze(uid) for uid in uids if len(uid) > 8)
        numbers = {term.lstrip("0").encode() for term in inside | words if term.isdigit() and term.isascii()}
        return cls(frozenset(inside), frozenset(words), frozenset(one for one in numbers if len(one) > SHORTEST_INSIDE))

    def found_in(self, text: str) -> bool:
        """Whether any identifier stands in ``text``."""
        for folded in {fold(text), *spellings(_CAMEL.sub(" ", text))}:
            tokens = _TOKEN.findall(folded)
            squeezed = "".join(tokens)
            if any(term in squeezed for term in self.inside):
                return True
            if self.words:
                pairs = [first + second for first, second in pairwise(tokens)]
                if not self.words.isdisjoint(tokens + _PART.findall(folded) + pairs):
                    return True
        return False

    def found_in_bytes(self, value: bytes) -> bool:
        """Whether any identifier stands in the printable runs of a binary value."""
        runs = re.findall(rb"[\x20-\x7e]{4,}", value)
        return bool(runs) and self.found_in(b" ".join(runs).decode("ascii"))

    def is_number(self, value: bytes) -> bool:
        """Whether a decimal or integer string is one of the identifiers."""
        return any(one.strip(b" +\0").partition(b".")[0].lstrip(b"0") in self.numbers for one in value.split(b"\\"))


def _name_terms(name: str, inside: set[str], words: set[str]) -> None:
    for part in _NAME_PART.findall(name.replace("^", " ").replace("=", " ").replace("\\", " ")):
        for spelling in spellings(part):
            for term in {squeeze(spelling), *_TOKEN.findall(spelling)}:
                if _dense(term):
                    (inside if len(term) >= 2 else words).add(term)
                elif len(term) >= SHORTEST_INSIDE:
                    inside.add(term)
                elif len(term) >= SHORTEST_NAME:
                    words.add(term)
    # A full name run together (WUBO, 山田太郎) counts even where its parts are too short to be searched for.
    for group in re.split(r"[=\\]", name):
        first, _, rest = group.partition("^")
        second = rest.partition("^")[0]
        for whole in {squeeze(one) for text in (group, first + second, second + first) for one in spellings(text)}:
            if len(whole) >= (2 if _dense(whole) else SHORTEST_INSIDE):
                inside.add(whole)
            elif len(whole) >= SHORTEST_NAME:
                words.add(whole)


def _id_terms(value: str, inside: set[str], words: set[str]) -> None:
    for one in value.split("\\"):
        term = squeeze(fold(one))
        if len(term) >= SHORTEST_ID_INSIDE:
            inside.add(term)
            if term.isdigit() and len(term.lstrip("0")) >= SHORTEST_ID_INSIDE:
                inside.add(term.lstrip("0"))
        elif len(term) >= SHORTEST_ID and any(sign.isdigit() for sign in term):
            words.add(term)


def _place_terms(value: str, inside: set[str], words: set[str]) -> None:
    """Places are made of common words as well: those of the vocabulary of imaging are no identifiers."""
    common = vocabulary() | _COMMON
    whole = squeeze(fold(value))
    if whole in common:
        return
    if len(whole) >= SHORTEST_ID_INSIDE:
        inside.add(whole)
    elif len(whole) >= SHORTEST_ID and any(sign.isdigit() for sign in whole):
        words.add(whole)
    for spelling in spellings(value):
        for term in _TOKEN.findall(spelling):
            if len(term) > SHORTEST_INSIDE and not term.isdigit() and term not in common:
                inside.add(term)


_COMMON_WORDS = """
    avenue canon center central centre clinic clinical college county department general health healthcare hitachi
    hospital institute klinik medical medicine national north nuclear philips radiology regional research scanner school
    services siemens street system systems toshiba united university
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def _date_terms(value: str, inside: set[str], words: set[str]) -> None:
    digits = re.sub(r"\D", "", value)[:8]
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return
    inside.update(day.strftime(form) for form in ("%Y%m%d", "%d%m%Y", "%m%d%Y"))
    words.update(day.strftime(form) for form in ("%y%m%d", "%d%m%y", "%m%d%y"))
    month = day.strftime("%b").casefold()
    inside.update({f"{day.day}{month}{day.year}", f"{day.day:02d}{month}{day.year}", f"{month}{day.day}{day.year}"})
