"""Actions and rules: what Table E.1-1 and its options say is done to an attribute."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from client.deid.tables import Option, Row, table

DATE_VRS = frozenset({"DA", "DT"})
FREE_TEXT_VRS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC"})
PSEUDONYMS = frozenset({0x00100010, 0x00100020})
TEMPORAL_VRS = DATE_VRS | {"TM"}
_ZONE = 0x00080201
_AGE = 0x00101010
# Sequences of references: "U*" replaces the UIDs inside; losing them would break every link between instances.
_REFERENCES = {0x00081140, 0x00082112}


class Action(StrEnum):
    """What is done to an attribute."""

    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    PSEUDONYM = "pseudonym"
    UID = "uid"
    SHIFT = "shift"
    YEAR = "year"
    AGE = "age"
    CLEAN = "clean"
    KEEP = "keep"
    REFERENCES = "references"


@dataclass(frozen=True)
class Rule:
    """The action on an attribute, by the type that the IOD gives it (PS3.15 E.1-1a, compound codes such as X/Z/D).

    Attributes:
        optional: Where the attribute is type 3.
        empty: Where it is type 2.
        required: Where it is type 1, or where its type is not known.
        source: Where the rule comes from, for people.
    """

    optional: Action
    empty: Action
    required: Action
    source: str

    @classmethod
    def always(cls, action: Action, source: str) -> "Rule":
        """The same action for every type."""
        return cls(action, action, action, source)

    def by_type(self, type_of: int) -> Action:
        """The action where the IOD gives the attribute type 1, 2 or 3 (PS3.5 7.4)."""
        return {1: self.required, 2: self.empty, 3: self.optional}[type_of]


_BASIC: Mapping[str, tuple[Action, Action, Action]] = {
    "X": (Action.REMOVE, Action.REMOVE, Action.REMOVE),
    "Z": (Action.EMPTY, Action.EMPTY, Action.EMPTY),
    "D": (Action.DUMMY, Action.DUMMY, Action.DUMMY),
    "U": (Action.UID, Action.UID, Action.UID),
    "Z/D": (Action.EMPTY, Action.EMPTY, Action.DUMMY),
    "X/Z": (Action.REMOVE, Action.EMPTY, Action.EMPTY),
    "X/D": (Action.REMOVE, Action.DUMMY, Action.DUMMY),
    "X/Z/D": (Action.REMOVE, Action.EMPTY, Action.DUMMY),
    "X/Z/U*": (Action.REMOVE, Action.EMPTY, Action.REFERENCES),
}


def row_rule(row: Row, options: frozenset[Option]) -> Rule:
    """The rule that Table E.1-1 gives an attribute under ``options``; among several, the one that says least."""
    if row.tag in PSEUDONYMS:
        return Rule.always(Action.PSEUDONYM, f"PS3.15 {row.basic}, with a keyed pseudonym as the dummy value")
    if Option.RETAIN_YEARS in options and Option.RETAIN_LONG_MODIFIED_DATES in row.options and row.vr in DATE_VRS:
        return Rule.always(Action.YEAR, "years only, 45 CFR 164.514(b)(2)(i)(C)")
    codes = {option: code for option, code in row.options.items() if option in options}
    for option, code in codes.items():
        if code == "C":
            return Rule.always(_clean(row), f"PS3.15 {option}: C")
    for option, code in codes.items():
        if code == "K":
            action = Action.AGE if row.tag == _AGE else Action.KEEP
            return Rule.always(action, f"PS3.15 {option}: K")
    optional, empty, required = _BASIC[row.basic]
    source = f"PS3.15 Basic Profile: {row.basic}"
    if row.tag in _REFERENCES:
        return Rule.always(Action.REFERENCES, source + ", with the UIDs inside replaced")
    if row.vr == "SQ" and row.basic == "X/Z/D":
        required = Action.EMPTY
    return Rule(optional, empty, required, source)


def basic_actions(tag: int) -> Rule:
    """What the Basic Profile does to ``tag``, for values that an option cannot be applied to."""
    row = table().get(tag)
    code = row.basic if row else "X"
    return Rule(*_BASIC[code], f"PS3.15 Basic Profile: {code}")


def _clean(row: Row) -> Action:
    if row.vr in TEMPORAL_VRS or row.tag == _ZONE:
        return Action.SHIFT
    if row.vr == "SQ":
        return Action.KEEP  # entered, and its content cleaned
    if row.vr in FREE_TEXT_VRS:
        return Action.CLEAN
    return _BASIC[row.basic][2]  # an AE title or a code that cannot be cleaned is treated as without the option
