"""Profiles: which action applies to which attribute, and under whose authority.

A profile is the Basic Profile of PS3.15 Table E.1-1, options of that table, and a hospital's own overrides. It is
resolved once into a rule per attribute; the SHA-256 of what it was resolved from stands in every report, in every audit
entry and in every released file.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.deid.tables import (
    RELEASED,
    RULES,
    SAFE_PRIVATE,
    TABLE,
    VOCABULARY,
    Option,
    Row,
    data_digest,
    data_text,
    definition,
    edition,
    parse_tag,
    rules,
    show_tag,
    table,
)
from shared.errors import PolicyError, UsageError
from shared.files import canonical_json

SHIPPED = ("basic", "safe-harbor", "research")

# What Safe Harbor lists as identifiers, so that retaining it needs an expert: (B) places, (C) dates, (M) device
# identifiers, (R) other unique numbers. 45 CFR 164.514(b)(2)(i).
_NEEDS_EXPERT = frozenset(
    {
        Option.RETAIN_LONG_FULL_DATES,
        Option.RETAIN_LONG_MODIFIED_DATES,
        Option.RETAIN_UIDS,
        Option.RETAIN_DEVICE_IDENTITY,
        Option.RETAIN_INSTITUTION_IDENTITY,
    }
)
_DATE_OPTIONS = (Option.RETAIN_LONG_FULL_DATES, Option.RETAIN_LONG_MODIFIED_DATES, Option.RETAIN_YEARS)
_TEMPORAL = {"DA", "DT", "TM"}
_ZONE = 0x00080201
_PSEUDONYMS = {0x00100010, 0x00100020}
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


@dataclass(frozen=True)
class Determination:
    """An expert's determination that the risk is very small (45 CFR 164.514(b)(1)), bound to one profile.

    Attributes:
        expert: Who determined it.
        scope: Which data and recipients it covers.
        profile_sha256: The profile that it was made for.
        expires: The last day on which it holds.
    """

    expert: str
    scope: str
    profile_sha256: str
    expires: date


@dataclass(frozen=True)
class Profile:
    """A resolved profile.

    Attributes:
        name: As it is called in reports.
        title: For people.
        options: The options that it applies.
        rules: The rule of every attribute of Table E.1-1 and of every override, by tag.
        sha256: Over everything that it was resolved from, 64 hexadecimal digits.
        needs_expert: Whether it keeps what Safe Harbor counts as an identifier.
        determination: The expert determination that it is used under, if any.
    """

    name: str
    title: str
    options: frozenset[Option]
    rules: Mapping[int, Rule] = field(repr=False)
    sha256: str
    needs_expert: bool
    determination: Determination | None = None

    @classmethod
    def load(cls, name: str, *, determination: Path | None = None, today: date | None = None) -> "Profile":
        """A shipped profile by name, or a hospital's own by the path of its TOML file.

        Args:
            name: ``basic``, ``safe-harbor``, ``research``, or a path.
            determination: The expert determination file (JSON), for a profile that needs one.
            today: The day on which the determination must hold; today where None.

        Raises:
            UsageError: There is no such profile, or its file says something that is not understood.
            PolicyError: The profile needs an expert determination, and there is none, or it is expired or for another.
        """
        profile = _resolve(name)
        if not profile.needs_expert:
            return profile
        if determination is None:
            raise PolicyError(
                f"profile {profile.name} keeps what Safe Harbor counts as identifiers",
                hint="name the expert determination with --determination (45 CFR 164.514(b)(1)); "
                f"it must be for profile sha256 {profile.sha256}",
            )
        found = _read_determination(determination)
        if found.profile_sha256 != profile.sha256:
            raise PolicyError(
                f"{determination} is for another profile, not for {profile.name} as it is now",
                hint=f"have the expert determine on profile sha256 {profile.sha256}",
            )
        if found.expires < (today or datetime.now(UTC).date()):
            raise PolicyError(
                f"{determination} expired on {found.expires.isoformat()}",
                hint="have the expert renew the determination",
            )
        return Profile(
            profile.name, profile.title, profile.options, profile.rules, profile.sha256, needs_expert=True,
            determination=found,
        )  # fmt: skip

    def has(self, option: Option) -> bool:
        """Whether the profile applies ``option``."""
        return option in self.options


class _Overlay(BaseModel):
    """A profile file as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    extends: str | None = None
    title: str | None = None
    options: list[str] = Field(default_factory=list)
    overrides: dict[str, str] = Field(default_factory=dict)


class _DeterminationFile(BaseModel):
    """An expert determination as it is written."""

    model_config = ConfigDict(extra="forbid")

    expert: Annotated[str, Field(min_length=1)]
    scope: Annotated[str, Field(min_length=1)]
    profile_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: date


def _read_determination(path: Path) -> Determination:
    try:
        text = path.read_text("utf-8")
        raw = _DeterminationFile.model_validate_json(text)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the expert's file") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is no expert determination: {_first_fault(error)}",
            hint="it is JSON with expert, scope, profile_sha256 and expires (YYYY-MM-DD)",
        ) from error
    return Determination(raw.expert, raw.scope, raw.profile_sha256, raw.expires)


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        return f"{place}: {fault['msg']}" if place else fault["msg"]
    return str(error)


@dataclass(frozen=True)
class _Written:
    """A profile file and those that it extends, flattened."""

    title: str
    options: frozenset[Option]
    overrides: Mapping[int, Action]


def _resolve(name: str) -> Profile:
    written = _read(name, seen=())
    label = name if name in SHIPPED else Path(name).stem
    if sum(option in written.options for option in _DATE_OPTIONS) > 1:
        raise UsageError(
            f"profile {label} has more than one way with dates",
            hint="choose one of retain_long_full_dates, retain_long_modified_dates and retain_years",
        )
    resolved = {tag: _row_rule(row, written.options) for tag, row in table().items()}
    for tag, action in written.overrides.items():
        resolved[tag] = Rule.always(action, f"override of profile {label}")
    digest = hashlib.sha256(
        canonical_json(
            {
                "edition": edition(),
                "tables": data_digest(TABLE, SAFE_PRIVATE, RULES, RELEASED, VOCABULARY),
                "options": sorted(written.options),
                "overrides": {show_tag(tag): action for tag, action in sorted(written.overrides.items())},
            }
        )
    ).hexdigest()
    kept = any(action in {Action.SHIFT, Action.KEEP} for action in written.overrides.values())
    return Profile(
        name=label,
        title=written.title,
        options=written.options,
        rules=resolved,
        sha256=digest,
        needs_expert=kept or bool(_NEEDS_EXPERT & written.options),
    )


def _read(name: str, *, seen: tuple[str, ...]) -> _Written:
    if name in seen:
        raise UsageError(f"profile {name} extends itself", hint="let it extend basic, safe-harbor or research")
    source, text = _text_of(name)
    try:
        raw = _Overlay.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}", hint="correct that line") from error
    except ValidationError as error:
        raise UsageError(
            f"{source}: {_first_fault(error)}", hint="a profile has extends, title, options and overrides"
        ) from error
    base = _read(raw.extends, seen=(*seen, name)) if raw.extends is not None else None
    if base is None and name not in SHIPPED:
        raise UsageError(f"{source} does not say what it extends", hint='add extends = "basic" as its first line')
    overrides = dict(base.overrides) if base else {}
    for tag_text, action in raw.overrides.items():
        tag, checked = _override(tag_text, action, source)
        overrides[tag] = checked
    options = frozenset(_option(option, source) for option in raw.options)
    return _Written(
        title=raw.title or (base.title if base else name),
        options=options | (base.options if base else frozenset()),
        overrides=overrides,
    )


def _text_of(name: str) -> tuple[str, str]:
    if name in SHIPPED:
        return f"profile {name}", data_text(f"{name}.toml")
    path = Path(name)
    if not path.suffix and not path.exists():
        raise UsageError(f"there is no profile {name}", hint=f"choose {', '.join(SHIPPED)}, or name a TOML file")
    try:
        return str(path), path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the profile {path}: {error.strerror}",
            hint=f"choose {', '.join(SHIPPED)}, or name a TOML file",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not TOML: it is not UTF-8", hint="save it as UTF-8") from error


def _option(text: str, source: str) -> Option:
    try:
        return Option(text)
    except ValueError as error:
        raise UsageError(f"{source}: there is no option {text}", hint="options are " + ", ".join(Option)) from error


def _override(tag_text: str, action_text: str, source: str) -> tuple[int, Action]:
    try:
        tag = parse_tag(tag_text)
    except ValueError as error:
        raise UsageError(f"{source}: {tag_text} is not a tag", hint='write tags as "0010,0020"') from error
    known = definition(tag)
    if known is None:
        raise UsageError(
            f"{source}: {show_tag(tag)} is not an attribute of PS3.6",
            hint="private attributes stay only by retain_safe_private; unknown ones are always removed",
        )
    allowed = _allowed(tag, known.vr)
    if action_text not in allowed:
        raise UsageError(
            f"{source}: {show_tag(tag)} cannot be set to {action_text}",
            hint="it may be " + ", ".join(sorted(allowed)),
        )
    return tag, Action(action_text)


def _allowed(tag: int, vr: str) -> set[str]:
    """The actions that a hospital may choose for an attribute: those that fit its VR and do not undo the profile."""
    allowed = {Action.REMOVE, Action.EMPTY}
    row = table().get(tag)
    if tag in rules().bulk or vr == "SQ":
        return {str(one) for one in allowed} | ({"keep"} if row is None else set())
    allowed.add(Action.DUMMY)
    match vr:
        case "UI":
            allowed.add(Action.UID)
        case "DA" | "DT":
            allowed |= {Action.SHIFT, Action.YEAR}
        case "TM":
            allowed.add(Action.SHIFT)
        case "AS":
            allowed.add(Action.AGE)
        case "LO" | "SH" | "ST" | "LT" | "UT" | "UC":
            allowed.add(Action.CLEAN)
    if tag in _PSEUDONYMS:
        allowed.add(Action.PSEUDONYM)
    if row is None or "K" in row.options.values():
        allowed.add(Action.KEEP)
    return {str(one) for one in allowed}


def _row_rule(row: Row, options: frozenset[Option]) -> Rule:
    """The rule that Table E.1-1 gives an attribute under ``options``; among several, the one that says least."""
    if row.tag in _PSEUDONYMS:
        return Rule.always(Action.PSEUDONYM, f"PS3.15 {row.basic}, with a keyed pseudonym as the dummy value")
    if Option.RETAIN_YEARS in options and Option.RETAIN_LONG_MODIFIED_DATES in row.options and row.vr in {"DA", "DT"}:
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
    if row.vr in _TEMPORAL or row.tag == _ZONE:
        return Action.SHIFT
    if row.vr == "SQ":
        return Action.KEEP  # entered, and its content cleaned
    if row.vr in {"LO", "SH", "ST", "LT", "UT", "UC"}:
        return Action.CLEAN
    return _BASIC[row.basic][2]  # an AE title or a code that cannot be cleaned is treated as without the option
