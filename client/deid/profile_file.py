"""Profile files as people write them, checked where they come in."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.deid.actions import DATE_VRS, FREE_TEXT_VRS, PSEUDONYMS, Action
from client.deid.tables import Option, data_text, definition, parse_tag, rules, show_tag, table
from shared.errors import UsageError
from shared.faults import first_fault
from shared.parsing import parse_toml

SHIPPED = ("basic", "safe-harbor", "research")

# What the engine itself writes into every file, or cannot name the file without.
_FIXED = PSEUDONYMS | {0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00120062, 0x00120063, 0x00120064, 0x00280303}


class FaceRule(StrEnum):
    """What is done with a CT or MR of a head, from which a face could be rendered."""

    FLAG = "flag"
    HOLD = "hold"
    DEFACE = "deface"


@dataclass(frozen=True)
class PixelRules:
    """What a profile says of pixels, beyond that risky and suspect images are looked at.

    Attributes:
        every_image: Whether the pixels of all images are looked at.
        only_regions: Whether an ultrasound picture is blanked outside its regions (0018,6011), unseen.
        faces: What is done with heads.
    """

    every_image: bool = False
    only_regions: bool = False
    faces: FaceRule = FaceRule.FLAG


@dataclass(frozen=True)
class Written:
    """A profile file and the shipped profile that it extends, flattened.

    ``experts`` are the fingerprints of the keys whose determinations it accepts; empty where any is.
    """

    title: str
    options: frozenset[Option]
    overrides: Mapping[int, Action]
    pixels: PixelRules
    experts: frozenset[str]


class _Pixels(BaseModel):
    """The table ``[pixels]`` of a profile file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    examine: Literal["suspect", "all"] | None = None
    outside_regions: Literal["examine", "blank"] | None = None
    faces: Literal["flag", "hold", "deface"] | None = None


class _Overlay(BaseModel):
    """A profile file as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    extends: Literal["basic", "safe-harbor", "research"] | None = None
    title: str | None = None
    options: list[str] = Field(default_factory=list)
    overrides: dict[str, str] = Field(default_factory=dict)
    pixels: _Pixels = Field(default_factory=_Pixels)
    experts: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=list)


def read_profile(name: str) -> Written:
    """Read a shipped profile by name, or a file by its path, with the shipped one that it extends.

    Raises:
        UsageError: There is none, or it says something that is not understood.
    """
    source, text = _text_of(name)
    try:
        raw = _Overlay.model_validate(parse_toml(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}", hint="correct that line") from error
    except ValidationError as error:
        raise UsageError(
            f"{source}: {first_fault(error)}",
            hint="it has extends, title, options, overrides, pixels and experts",
        ) from error
    base = read_profile(raw.extends) if raw.extends is not None else None
    if base is None and name not in SHIPPED:
        raise UsageError(f"{source} does not say what it extends", hint='add extends = "basic" as its first line')
    overrides = dict(base.overrides) if base else {}
    for tag_text, action in raw.overrides.items():
        tag, checked = _override(tag_text, action, source)
        overrides[tag] = checked
    options = frozenset(_option(option, source) for option in raw.options) | (base.options if base else frozenset())
    pixels = _pixels(raw.pixels, base.pixels if base else PixelRules())
    options, pixels = _agreed(options, pixels, raw, source)
    return Written(
        title=raw.title or (base.title if base else name),
        options=options,
        overrides=overrides,
        pixels=pixels,
        experts=frozenset(raw.experts) or (base.experts if base else frozenset()),
    )


def _pixels(written: _Pixels, base: PixelRules) -> PixelRules:
    return PixelRules(
        every_image=base.every_image if written.examine is None else written.examine == "all",
        only_regions=base.only_regions if written.outside_regions is None else written.outside_regions == "blank",
        faces=base.faces if written.faces is None else FaceRule(written.faces),
    )


def _agreed(
    options: frozenset[Option], pixels: PixelRules, raw: _Overlay, source: str
) -> tuple[frozenset[Option], PixelRules]:
    """Options and rules of pixels that say the same of faces: the option alone holds heads, as it always did.

    Raises:
        UsageError: They contradict each other.
    """
    option = Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES
    if option in options and pixels.faces is FaceRule.FLAG:
        if raw.pixels.faces is not None:
            raise UsageError(
                f'{source}: faces = "flag" contradicts the option {option}',
                hint='write faces = "hold" or "deface", or leave the option out',
            )
        pixels = replace(pixels, faces=FaceRule.HOLD)
    return (options if pixels.faces is FaceRule.FLAG else options | {option}), pixels


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
    if tag in _FIXED:
        raise UsageError(f"{source}: {show_tag(tag)} cannot be overridden", hint="it is always set by the engine")
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
        case _ if vr in DATE_VRS:
            allowed |= {Action.SHIFT, Action.YEAR}
        case "TM":
            allowed.add(Action.SHIFT)
        case "AS":
            allowed.add(Action.AGE)
        case _ if vr in FREE_TEXT_VRS:
            allowed.add(Action.CLEAN)
    if row is None or "K" in row.options.values():
        allowed.add(Action.KEEP)
    return {str(one) for one in allowed}
