"""Profiles: which action applies to which attribute, and under whose authority.

A profile is the Basic Profile of PS3.15 Table E.1-1, options of that table, and a hospital's own overrides. It is
resolved once into a rule per attribute; the SHA-256 of what it was resolved from stands in every report, in every audit
entry and in every released file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

from client.deid.actions import FREE_TEXT_VRS, Action, Rule, row_rule
from client.deid.determination import Determination, read_determination
from client.deid.profile_file import SHIPPED, PixelRules, Written, read_profile
from client.deid.tables import (
    RELEASED,
    RULES,
    SAFE_PRIVATE,
    TABLE,
    VOCABULARY,
    Option,
    data_digest,
    definition,
    edition,
    show_tag,
    table,
)
from shared.errors import PolicyError, UsageError
from shared.files import canonical_json

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
        pixels: What it says of pixels.
        experts: Fingerprints of the keys whose determinations it accepts; any where empty.
        overrides: What its file, or the one that it extends, says instead of the table, by tag.
    """

    name: str
    title: str
    options: frozenset[Option]
    rules: Mapping[int, Rule] = field(repr=False)
    sha256: str
    needs_expert: bool
    determination: Determination | None = None
    pixels: PixelRules = field(default_factory=PixelRules)
    experts: frozenset[str] = frozenset()
    overrides: Mapping[int, Action] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, name: str, *, determination: Path | None = None, today: date | None = None) -> "Profile":
        """A shipped profile by name, or a hospital's own by the path of its TOML file.

        Args:
            name: ``basic``, ``safe-harbor``, ``research``, or a path.
            determination: The expert determination file (JSON), for a profile that needs one.
            today: The day on which the determination must hold; today where None.

        Raises:
            UsageError: There is no such profile, its file says something that is not understood, or a determination
                is named for a profile that needs none.
            PolicyError: The profile needs an expert determination, and there is none, or it is expired, for another
                profile, signed wrongly or by somebody whom the profile does not name.
        """
        profile = resolve(name)
        if not profile.needs_expert:
            if determination is not None:
                raise UsageError(
                    f"profile {profile.name} needs no expert determination",
                    hint=f"leave {determination} out, or name the profile that it is for",
                )
            return profile
        if determination is None:
            raise PolicyError(
                f"profile {profile.name} keeps what Safe Harbor counts as identifiers",
                hint="name the expert determination with --determination (45 CFR 164.514(b)(1)); "
                f"it must be for profile sha256 {profile.sha256}",
            )
        found = read_determination(determination)
        if found.profile_sha256 != profile.sha256:
            raise PolicyError(
                f"{determination} is for another profile, not for {profile.name} as it is now",
                hint=f"have the expert determine on profile sha256 {profile.sha256}",
            )
        if profile.experts and found.fingerprint not in profile.experts:
            raise PolicyError(
                f"{determination} is signed by an expert whom profile {profile.name} does not name",
                hint=f"compare the fingerprint {found.fingerprint} with the expert's, and add it to experts",
            )
        if found.expired(today):
            raise PolicyError(
                f"{determination} expired on {found.expires.isoformat()}",
                hint="have the expert renew the determination",
            )
        return replace(profile, determination=found)

    def has(self, option: Option) -> bool:
        """Whether the profile applies ``option``."""
        return option in self.options


def resolve(name: str) -> Profile:
    """The profile ``name`` without an expert determination: to be looked at, not to be used.

    Raises:
        UsageError: There is no such profile, or its file says something that is not understood.
    """
    written = read_profile(name)
    label = name if name in SHIPPED else Path(name).stem
    if sum(option in written.options for option in _DATE_OPTIONS) > 1:
        raise UsageError(
            f"profile {label} has more than one way with dates",
            hint="choose one of retain_long_full_dates, retain_long_modified_dates and retain_years",
        )
    resolved = {tag: row_rule(row, written.options) for tag, row in table().items()}
    for tag, action in written.overrides.items():
        resolved[tag] = Rule.always(action, f"override of profile {label}")
    digest = hashlib.sha256(
        canonical_json(
            {
                "edition": edition(),
                "tables": data_digest(TABLE, SAFE_PRIVATE, RULES, RELEASED, VOCABULARY),
                "options": sorted(written.options),
                "pixels": asdict(written.pixels),
                "experts": sorted(written.experts),
                "overrides": {show_tag(tag): action for tag, action in sorted(written.overrides.items())},
            }
        )
    ).hexdigest()
    return Profile(
        name=label,
        title=written.title,
        options=written.options,
        rules=resolved,
        sha256=digest,
        needs_expert=_needs_expert(written),
        pixels=written.pixels,
        experts=written.experts,
        overrides=written.overrides,
    )


def _needs_expert(written: Written) -> bool:
    """Whether a profile keeps what Safe Harbor counts as an identifier, or text that nobody cleaned."""
    if _NEEDS_EXPERT & written.options:
        return True
    for tag, action in written.overrides.items():
        row, known = table().get(tag), definition(tag)
        if action is Action.SHIFT:
            return True
        if action is Action.KEEP and row and _NEEDS_EXPERT & row.options.keys():
            return True
        if action is Action.KEEP and not row and known and known.vr in FREE_TEXT_VRS:
            return True
    return False
