"""The lawful basis of a data set or of one patient, as the laws number it.

GDPR asks for a letter of Art. 6(1) and, for data on health, one of Art. 9(2); PIPL for an item of Art. 13(1), and for
sensitive data a separate consent where consent is the basis (Art. 28, 29); HIPAA for an authorization (45 CFR
164.508), a waiver (164.512(i)) or a limited data set (164.514(e)). Consent is one basis of several. Nothing here judges
whether a basis is the right one: that is the hospital's decision, and stands in its record with who took it.
"""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from shared.errors import UsageError

FORMS: Final = "'GDPR 6(1)(e), 9(2)(j)', 'PIPL 13(1)(2)' or 'HIPAA 164.512(i)'"
"""What a basis looks like, for people."""
_AND: Final = r"[\s,;+]+(?:and\s+)?"
_ART: Final = r"(?:art\.?\s*)?"
_GDPR: Final = re.compile(
    rf"(?:gdpr\s+)?{_ART}6\s?\(1\)\s?\(([a-f])\){_AND}{_ART}9\s?\(2\)\s?\(([a-j])\)", re.IGNORECASE | re.ASCII
)
_PIPL: Final = re.compile(rf"pipl\s+{_ART}13\s?\(1\)\s?\(([1-7])\)(?:{_AND}{_ART}(29))?", re.IGNORECASE | re.ASCII)
_HIPAA: Final = re.compile(r"hipaa\s+(?:45\s+cfr\s+)?(164\.508|164\.512\(i\)|164\.514\(e\))", re.IGNORECASE | re.ASCII)
_CONSENTS: Final = frozenset({"6(1)(a)", "9(2)(a)", "13(1)(1)", "29", "164.508"})


@dataclass(frozen=True)
class Basis:
    """A lawful basis.

    Attributes:
        law: ``GDPR``, ``PIPL`` or ``HIPAA``.
        articles: Its provisions, such as ``6(1)(e)`` and ``9(2)(j)``.
    """

    law: str
    articles: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Basis":
        """The basis that a person wrote, as in :data:`FORMS`.

        Raises:
            UsageError: It is none, or not enough of one: data on health needs Art. 9(2) as well as Art. 6(1).
        """
        words = text.strip()
        if found := _GDPR.fullmatch(words):
            return cls("GDPR", (f"6(1)({found[1].lower()})", f"9(2)({found[2].lower()})"))
        if found := _PIPL.fullmatch(words):
            if found[1] == "1" and found[2] is None:
                raise UsageError(
                    f"'{words}' lacks the separate consent to sensitive data", hint="write 'PIPL 13(1)(1), 29'"
                )
            return cls("PIPL", (f"13(1)({found[1]})", *([found[2]] if found[2] else [])))
        if found := _HIPAA.fullmatch(words):
            return cls("HIPAA", (found[1].lower(),))
        shown = words if words.isprintable() and len(words) <= 60 else "this text"
        raise UsageError(f"'{shown}' is no lawful basis for data on health", hint=f"write {FORMS}")

    def __str__(self) -> str:
        return f"{self.law} {', '.join(self.articles)}"

    @property
    def consent(self) -> bool:
        """Whether it rests on the patient's own consent, so that nobody has it but those who gave one."""
        return bool(_CONSENTS & set(self.articles))


CONSENT: Final = Basis("GDPR", ("6(1)(a)", "9(2)(a)"))
"""What a recorded consent is where nobody says more."""


@dataclass(frozen=True)
class DefaultBasis:
    """The basis of everybody in the data set who has no record of his own (GDPR Art. 6, 9; PIPL Art. 13).

    Attributes:
        basis: Never one that rests on consent: that is each patient's own.
        purposes: For which purposes, word for word as charters have them.
        since: First day, UTC.
        until: Last day, UTC, still covered until its end; None while nobody ends it.
        act: The national law, the approval or the agreement that it rests on, in the hospital's words.
        who: Who decided.
        why: Why.
    """

    basis: Basis
    purposes: tuple[str, ...]
    since: date
    until: date | None
    act: str
    who: str
    why: str

    def __post_init__(self) -> None:
        """Refuse what covers nobody or nothing.

        Raises:
            UsageError: It rests on consent, is for nothing, or ends before it begins.
        """
        if self.basis.consent:
            raise UsageError(
                f"{self.basis} rests on consent, which each patient gives for himself",
                hint="record it with 'fedward node consent import'",
            )
        if not self.purposes:
            raise UsageError("a basis without a purpose covers nothing", hint="name it with --purpose")
        if self.until is not None and self.until < self.since:
            raise UsageError(f"the basis ends ({self.until}) before it begins ({self.since})", hint="mend --until")

    def refuses(self, purpose: str, day: date) -> str:
        """Why it does not cover ``purpose`` on ``day`` (UTC); empty where it does."""
        if purpose not in self.purposes:
            return "basis for another purpose"
        if day < self.since:
            return "basis not begun"
        return "basis expired" if self.until is not None and day > self.until else ""
