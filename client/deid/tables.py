"""The facts that de-identification is driven by: the standard's tables, and our own lists of what may stay.

Everything is looked up by tag and never by keyword: 25 attributes of Table E.1-1 are newer than pydicom's dictionary.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.datadict import get_entry

from shared.parsing import parse_json, parse_toml

TABLE = "ps3.15_e1-1.json"
SAFE_PRIVATE = "ps3.15_e3.10-1.json"
RULES = "rules.toml"
RELEASED = "released.toml"
VOCABULARY = "vocabulary.toml"


class Option(StrEnum):
    """The options of a profile: the columns of Table E.1-1, the two that act on pixels, and one of our own."""

    RETAIN_SAFE_PRIVATE = "retain_safe_private"
    RETAIN_UIDS = "retain_uids"
    RETAIN_DEVICE_IDENTITY = "retain_device_identity"
    RETAIN_INSTITUTION_IDENTITY = "retain_institution_identity"
    RETAIN_PATIENT_CHARACTERISTICS = "retain_patient_characteristics"
    RETAIN_LONG_FULL_DATES = "retain_long_full_dates"
    RETAIN_LONG_MODIFIED_DATES = "retain_long_modified_dates"
    CLEAN_DESCRIPTORS = "clean_descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean_structured_content"
    CLEAN_GRAPHICS = "clean_graphics"
    CLEAN_PIXEL_DATA = "clean_pixel_data"
    CLEAN_RECOGNIZABLE_VISUAL_FEATURES = "clean_recognizable_visual_features"
    RETAIN_YEARS = "retain_years"


@dataclass(frozen=True)
class Row:
    """One row of Table E.1-1: an attribute, its Basic Profile action and the actions of the options."""

    tag: int
    name: str
    vr: str
    basic: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Known:
    """Where a file says who the patient is; the values found there are searched for everywhere else."""

    names: frozenset[int]
    ids: frozenset[int]
    places: frozenset[int]
    dates: frozenset[int]
    uids: frozenset[int]


@dataclass(frozen=True)
class Rules:
    """Our own lists (``rules.toml``): what may stay outside Table E.1-1, and what is looked for everywhere."""

    image_groups: frozenset[int]
    never: frozenset[int]
    text: frozenset[int]
    dummy: frozenset[int]
    also: frozenset[int]
    schemes: frozenset[str]
    reference: frozenset[int]
    bulk: frozenset[int]
    known: Known


@dataclass(frozen=True)
class SopClass:
    """A SOP class that may be released, with the types of the attributes whose action depends on them.

    Where it is ``risky``, text is looked for in the pixels of every file.
    """

    uid: str
    name: str
    type_1: frozenset[int]
    type_2: frozenset[int]
    risky: bool = False


@dataclass(frozen=True)
class Definition:
    """What PS3.6 says of an attribute. ``most`` is the highest multiplicity, 0 where it is open."""

    vr: str
    most: int
    retired: bool


def parse_tag(text: str) -> int:
    """``"0010,0020"`` or ``"(0010,0020)"`` as a number.

    Raises:
        ValueError: The text is not a tag.
    """
    body = text.strip().removeprefix("(").removesuffix(")")
    group, comma, element = body.partition(",")
    if not comma or len(group) != 4 or len(element) != 4:
        raise ValueError(f"{text!r} is not a tag such as (0010,0020)")
    return int(group, 16) << 16 | int(element, 16)


def show_tag(tag: int) -> str:
    """``(0010,0020)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def data_text(name: str) -> str:
    """The text of one of the data files of this package."""
    return (files("client.deid") / "data" / name).read_text("utf-8")


def data_digest(*names: str) -> str:
    """The SHA-256 over data files, in the order given."""
    return hashlib.sha256(b"\0".join(data_text(name).encode() for name in names)).hexdigest()


@cache
def table() -> Mapping[int, Row]:
    """Table E.1-1 by tag; the repeating groups 50xx, 60xx and the private attributes are dealt with by group."""
    rows = {}
    for row in parse_json(data_text(TABLE))["rows"]:
        if row["tag"][:4] in {"priv", "50xx", "60xx"}:
            continue
        tag = parse_tag(row["tag"])
        rows[tag] = Row(tag, row["name"], row["vr"], row["basic"], row.get("options", {}))
    return rows


@cache
def method_codes() -> Mapping[str, tuple[str, str, str]]:
    """The codes of CID 7050 by option, and ``basic_profile``: code value, coding scheme designator, code meaning."""
    return {name: tuple(code) for name, code in parse_json(data_text(TABLE))["cid_7050"].items()}


def edition() -> str:
    """The edition of PS3.15 that the table was taken from."""
    return str(parse_json(data_text(TABLE))["edition"])


@cache
def safe_private() -> Mapping[tuple[str, int, int], str]:
    """Table E.3.10-1: the VR by private creator, group and the low byte of the element."""
    rows = parse_json(data_text(SAFE_PRIVATE))["rows"]
    return {(row["private_creator"], int(row["group"], 16), int(row["element"][2:], 16)): row["vr"] for row in rows}


def _tags(values: Mapping[str, Any] | list[str]) -> frozenset[int]:
    return frozenset(parse_tag(value) for value in values)


@cache
def rules() -> Rules:
    """``rules.toml``."""
    raw = parse_toml(data_text(RULES))
    return Rules(
        image_groups=frozenset(int(group, 16) for group in raw["image_groups"]),
        never=_tags(raw["never"]),
        text=_tags(raw["text"]),
        dummy=_tags(raw["dummy"]),
        also=_tags(raw["also"]),
        schemes=frozenset(raw["codes"]["schemes"]),
        reference=_tags(raw["reference"]),
        bulk=_tags(raw["bulk"]),
        known=Known(**{kind: _tags(tags) for kind, tags in raw["known"].items()}),
    )


@cache
def released() -> Mapping[str, SopClass]:
    """``released.toml``: the SOP classes that may be released, by UID."""
    classes = (
        SopClass(
            row["uid"], row["name"], _tags(row.get("type_1", [])), _tags(row.get("type_2", [])), bool(row.get("risky"))
        )
        for row in parse_toml(data_text(RELEASED))["class"]
    )
    return {one.uid: one for one in classes}


@cache
def quarantined() -> Mapping[str, str]:
    """``released.toml``: why a class is held back, by its UID or the root of its family."""
    reasons: dict[str, str] = parse_toml(data_text(RELEASED))["quarantined"]
    return reasons


@cache
def vocabulary() -> frozenset[str]:
    """The words that may stay in a cleaned description."""
    return frozenset(parse_toml(data_text(VOCABULARY))["words"].split())


@cache
def definition(tag: int) -> Definition | None:
    """What PS3.6 says of ``tag``, from pydicom's dictionary or from Table E.1-1; None for an unknown or private tag."""
    if tag >> 16 & 1:
        return None
    try:
        vr, multiplicity, _, retired, _ = get_entry(tag)
    except KeyError:
        row = table().get(tag)
        return Definition(row.vr, 0, retired=False) if row and row.vr else None
    last = multiplicity.rpartition("-")[2]
    return Definition(vr, int(last) if last.isdigit() else 0, retired == "Retired")


@cache
def vr_of(tag: int) -> str:
    """One VR for ``tag``, ``UN`` where it is unknown; of alternatives the one that holds both (PS3.5 Annex A)."""
    known = definition(tag)
    if known is None:
        return "UN"
    return known.vr if len(known.vr) == 2 else "OW" if "OW" in known.vr else "US"
