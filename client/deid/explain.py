"""A profile in plain words: what it does to dates, ages, descriptions and pixels, and to what Safe Harbor lists."""

from collections import Counter

from pydicom.datadict import keyword_for_tag

from client.deid.actions import Action
from client.deid.profile import Profile, resolve
from client.deid.profile_file import FaceRule
from client.deid.tables import Option, show_tag

_AGE = 0x00101010
_REMOVED = "removed or replaced"
_HEADS_HELD = "head CT and MR are held back; photographs are searched for text alone"
_HEADS_FLAGGED = "not removed: head CT and MR are released and flagged, photographs are searched for text alone"
_HEADS_DEFACED = (
    "eyes, nose and mouth are taken out of head CT and MR, or the file is held back; ears and forehead stay; "
    "photographs are searched for text alone"
)
_FACES = {FaceRule.FLAG: _HEADS_FLAGGED, FaceRule.HOLD: _HEADS_HELD, FaceRule.DEFACE: _HEADS_DEFACED}


def explain(name: str) -> dict[str, object]:
    """What a profile does, for people and, as JSON, for programs.

    Args:
        name: A shipped profile, or the path of a hospital's own.

    Raises:
        UsageError: There is no such profile, or its file says something that is not understood.
    """
    return explained(resolve(name))


def explained(profile: Profile) -> dict[str, object]:
    """What a profile that is loaded already does (:func:`explain`)."""
    return {
        "name": profile.name,
        "title": profile.title,
        "sha256": profile.sha256,
        "needs_expert_determination": profile.needs_expert,
        "options": sorted(profile.options),
        "dates": _dates(profile),
        "descriptions": "reduced to words of imaging" if profile.has(Option.CLEAN_DESCRIPTORS) else "removed",
        "private": "only those of PS3.15 Table E.3.10-1" if profile.has(Option.RETAIN_SAFE_PRIVATE) else "removed",
        "ages": _ages(profile),
        "pixels": pixels(profile),
        "experts": sorted(profile.experts) or ["any"],
        "overrides": {_named(tag): action.value for tag, action in sorted(profile.overrides.items())},
        "safe_harbor": safe_harbor(profile),
        "rules": dict(sorted(Counter(rule.required.value for rule in profile.rules.values()).items())),
    }


def pixels(profile: Profile) -> dict[str, str]:
    """The table ``[pixels]`` of a profile in its own words."""
    return {
        "examine": "all" if profile.pixels.every_image else "suspect",
        "outside_regions": "blank" if profile.pixels.only_regions else "examine",
        "faces": str(profile.pixels.faces),
    }


def _named(tag: int) -> str:
    """``(0018,1020) SoftwareVersions``."""
    return f"{show_tag(tag)} {keyword_for_tag(tag)}".strip()


def _ages(profile: Profile) -> str:
    match profile.rules[_AGE].required:
        case Action.KEEP | Action.AGE:
            return "kept up to 89, then 090Y"
        case Action.REMOVE:
            return "removed"
        case action:
            return f"set by the action {action}"


def _dates(profile: Profile) -> str:
    if profile.has(Option.RETAIN_LONG_FULL_DATES):
        return "kept as they are"
    if profile.has(Option.RETAIN_LONG_MODIFIED_DATES):
        return "moved by a number of days per patient; intervals stay"
    return "cut to the year" if profile.has(Option.RETAIN_YEARS) else "removed, emptied, or a dummy date"


def safe_harbor(profile: Profile) -> dict[str, str]:
    """What happens to each identifier of 45 CFR 164.514(b)(2)(i); attributes that an override keeps stay."""
    devices = "kept" if profile.has(Option.RETAIN_DEVICE_IDENTITY) else _REMOVED
    places = "institutions kept" if profile.has(Option.RETAIN_INSTITUTION_IDENTITY) else _REMOVED
    numbers = "UIDs kept" if profile.has(Option.RETAIN_UIDS) else "replaced by keyed pseudonyms"
    faces = _FACES[profile.pixels.faces]
    return {
        "(A) names": _REMOVED, "(B) places": places, "(C) dates, ages over 89": _dates(profile),
        "(D) telephone": _REMOVED, "(E) fax": _REMOVED, "(F) e-mail": _REMOVED, "(G) social security": _REMOVED,
        "(H) medical record": "replaced by a keyed pseudonym", "(I) health plan": _REMOVED, "(J) account": _REMOVED,
        "(K) certificate or license": _REMOVED, "(L) vehicles": _REMOVED, "(M) devices": devices,
        "(N) web addresses": _REMOVED, "(O) IP addresses": _REMOVED, "(P) biometrics": faces,
        "(Q) full-face photographs": faces, "(R) other unique numbers": numbers,
    }  # fmt: skip
