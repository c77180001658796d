"""Who a file is about: collected from its own header, at every depth, before anything is removed."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from client.deid.codec import Dataset
from client.deid.tables import rules
from client.deid.text import Identifiers, decode, encodings, readings

_CHARACTER_SET = 0x00080005
_NAME, _ID, _BIRTH, _STUDY = 0x00100010, 0x00100020, 0x00100030, 0x0020000D

Found = tuple[str, bytes, str]
"""What kind of identifier, its bytes, and the character set they stand in."""


@dataclass(frozen=True)
class Collected:
    """What a file says about its patient.

    Attributes:
        patient: What tells patients apart: the Patient ID; where that is empty, name and birth date; else the study.
        found: The identifying values, sorted, so that all slices of a series have equal ones.
    """

    patient: str
    found: tuple[Found, ...]

    def identifiers(self) -> Identifiers:
        """The terms to search the remaining values for."""
        texts: dict[str, set[str]] = {"names": set(), "ids": set(), "places": set(), "dates": set(), "uids": set()}
        for kind, value, character_set in self.found:
            texts[kind] |= readings(value, encodings(character_set))
        return Identifiers.of(**{kind: sorted(values) for kind, values in texts.items()})


def collect(dataset: Dataset, kinds: Mapping[int, str]) -> Collected:
    """Walk a whole data set for the values that say who the patient is and who treated them.

    Args:
        dataset: The data set as it came.
        kinds: Which attributes hold which kind of identifier (:func:`kinds_of_identifiers`).
    """
    found: set[Found] = set()
    _walk(dataset, "", kinds, found)
    return Collected(_patient(dataset), tuple(sorted(found)))


def kinds_of_identifiers() -> dict[int, str]:
    """Which attributes hold ``names``, ``ids``, ``places``, ``dates`` and ``uids`` (``data/rules.toml``)."""
    known = rules().known
    kinds = {"names": known.names, "ids": known.ids, "places": known.places, "dates": known.dates, "uids": known.uids}
    return {tag: kind for kind, tags in kinds.items() for tag in tags}


def _walk(dataset: Dataset, character_set: str, kinds: Mapping[int, str], found: set[Found]) -> None:
    declared = dataset.get(_CHARACTER_SET)
    if declared is not None and isinstance(declared[1], bytes):
        character_set = declared[1].decode("ascii", "replace").strip(" \0")
    for tag, (vr, value) in dataset.items():
        if isinstance(value, list):
            for item in value:
                _walk(item, character_set, kinds, found)
            continue
        kind = kinds.get(tag) or ("names" if vr == "PN" else None)
        if kind and isinstance(value, bytes) and value.strip(b" \0"):
            found.add((kind, value, character_set))


def _patient(dataset: Dataset) -> str:
    declared = dataset.get(_CHARACTER_SET)
    character_set = declared[1].decode("ascii", "replace") if declared and isinstance(declared[1], bytes) else ""
    codecs = encodings(character_set.strip(" \0"))

    def text(tag: int) -> str:
        element = dataset.get(tag)
        if element is None or not isinstance(element[1], bytes):
            return ""
        decoded = decode(element[1], codecs)
        return unicodedata.normalize("NFC", element[1].decode("latin-1") if decoded is None else decoded).strip(" \0")

    if number := text(_ID):
        return f"id:{number}"
    if name := text(_NAME):
        return f"name:{name}|{text(_BIRTH)}"
    return f"study:{text(_STUDY)}"
