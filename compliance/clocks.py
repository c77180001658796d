"""Whom the laws want told of a breach, and by when.

Times are instants in UTC, so that no change to summer time moves a deadline. Days are 24 hours: a deadline of 60
calendar days falls at the time of day of the discovery, which is never later than the end of the sixtieth day anywhere.
Weekends and holidays extend nothing (Regulation (EEC, Euratom) No 1182/71 may; the earlier time is the safer one).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

AUTHORITY: Final = timedelta(hours=72)
"""GDPR Art. 33(1), from the moment of awareness."""
CALENDAR: Final = timedelta(days=60)
"""45 CFR 164.404(b), 164.406(b), 164.408, 164.410(b), from discovery."""
MANY: Final = 500
"""Individuals from which the Secretary is told at once (164.408(b)); media above it in one State (164.406(a))."""


class Law(StrEnum):
    """A law with duties after a breach."""

    GDPR = "gdpr"
    HIPAA = "hipaa"
    PIPL = "pipl"


class Role(StrEnum):
    """What the party is: who decides on the data (covered entity, handler), or who works for one that does."""

    CONTROLLER = "controller"
    PROCESSOR = "processor"


class Risk(StrEnum):
    """To people's rights and freedoms, as a person has judged it (GDPR Art. 33(1), 34(1))."""

    UNLIKELY = "unlikely"
    RISK = "risk"
    HIGH = "high"


@dataclass(frozen=True)
class Breach:
    """What the clocks need to know.

    Attributes:
        aware: When the party became aware of it (GDPR Art. 33(1), (2)).
        discovered: When it was discovered, or would have been by reasonable diligence (45 CFR 164.404(a)(2)).
        affected: People, by site; a site whose number is not known has None.
        residents: People by State or jurisdiction, as far as it is known.
        risk: As a person has judged it; None where nobody has.
        role: The party's.
        laws: Those that are followed here.
    """

    aware: datetime
    discovered: datetime
    affected: Mapping[str, int | None] = field(default_factory=dict)
    residents: Mapping[str, int] = field(default_factory=dict)
    risk: Risk | None = None
    role: Role = Role.CONTROLLER
    laws: frozenset[Law] = frozenset(Law)

    @property
    def total(self) -> int | None:
        """All that are affected; None where the number of a site, or every number, is not known."""
        numbers = list(self.affected.values())
        if not numbers or None in numbers:
            return None
        return sum(number for number in numbers if number is not None)


@dataclass(frozen=True)
class Duty:
    """Somebody to be told.

    Attributes:
        id: Stable, such as ``GDPR-33-authority``.
        source: Article or section.
        to: Who.
        due: The last moment; None where the law names none and wants it at once.
        words: What the time is, and on what condition.
    """

    id: str
    source: str
    to: str
    due: datetime | None
    words: str

    def overdue(self, now: datetime) -> bool:
        """Whether the last moment is over."""
        return self.due is not None and now > self.due


def duties(breach: Breach) -> tuple[Duty, ...]:
    """Everybody whom the laws may want told. Which of them is a duty in this case, a person decides."""
    found: list[Duty] = []
    if Law.GDPR in breach.laws:
        found += _gdpr(breach)
    if Law.HIPAA in breach.laws:
        found += _hipaa(breach)
    if Law.PIPL in breach.laws:
        whom = "the handler of the data" if breach.role is Role.PROCESSOR else "the authority and the people"
        source = "PIPL Art. 57, 59" if breach.role is Role.PROCESSOR else "PIPL Art. 57"
        found.append(Duty("PIPL-57", source, whom, None, "immediately; the law names no number of hours"))
    return tuple(found)


def _gdpr(breach: Breach) -> list[Duty]:
    if breach.role is Role.PROCESSOR:
        return [Duty("GDPR-33-2-controller", "GDPR Art. 33(2)", "the controller", None, "without undue delay")]
    aware = breach.aware.astimezone(UTC)
    unless = "72 hours after awareness, unless a risk to people is unlikely"
    found = [Duty("GDPR-33-authority", "GDPR Art. 33(1)", "the supervisory authority", aware + AUTHORITY, unless)]
    if breach.risk in {None, Risk.HIGH}:
        judged = "" if breach.risk else "; nobody has judged the risk yet"
        words = f"without undue delay where the risk to them is high{judged}"
        found.append(Duty("GDPR-34-people", "GDPR Art. 34(1)", "the people concerned", None, words))
    return found


def _hipaa(breach: Breach) -> list[Duty]:
    end = breach.discovered.astimezone(UTC) + CALENDAR
    days = "without unreasonable delay, 60 calendar days after discovery at the latest"
    if breach.role is Role.PROCESSOR:
        return [Duty("HIPAA-164.410-entity", "45 CFR 164.410", "the covered entity", end, days)]
    found = [Duty("HIPAA-164.404-individuals", "45 CFR 164.404", "each individual", end, days)]
    found += [
        Duty(f"HIPAA-164.406-media-{state}", "45 CFR 164.406", f"prominent media serving {state}", end, days)
        for state, number in sorted(breach.residents.items())
        if number > MANY
    ]
    if breach.total is None or breach.total - sum(breach.residents.values()) > MANY:
        words = f"{days}, where more than {MANY} live in one State; of some the State is not recorded"
        found.append(Duty("HIPAA-164.406-media", "45 CFR 164.406", "prominent media", end, words))
    if breach.total is not None and breach.total < MANY:
        year = "within 60 days after the end of the calendar year of discovery, for fewer than 500"
        found.append(
            Duty("HIPAA-164.408-secretary", "45 CFR 164.408(c)", "the Secretary", year_end(breach.discovered), year)
        )
    else:
        why = "" if breach.total is not None else "; how many is not known, so the shorter time counts"
        words = f"together with the notice to individuals, for {MANY} or more{why}"
        found.append(Duty("HIPAA-164.408-secretary", "45 CFR 164.408(b)", "the Secretary", end, words))
    return found


def year_end(discovered: datetime) -> datetime:
    """The last second of the sixtieth day after the end of the calendar year of a discovery (45 CFR 164.408(c)).

    1 March, or 29 February where the next year is a leap year. Around New Year the earlier of the year in UTC and that
    in the zone in which the discovery was recorded counts.
    """
    year = min(discovered.year, discovered.astimezone(UTC).year)
    return datetime(year + 1, 1, 1, tzinfo=UTC) + CALENDAR - timedelta(seconds=1)
