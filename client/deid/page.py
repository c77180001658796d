"""``deid.html``: a report of a batch for people, one file that asks nobody, beside ``deid.json``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from client.deid import page_words
from client.deid.explain import explained, safe_harbor
from client.deid.profile import Profile
from client.deid.quarantine import may_be_lifted, sha256_of
from client.deid.report import DeidReport, FileRecord, Status
from client.deid.tables import edition
from shared import page
from shared.files import write_bytes

NAME = "deid.html"
MOST_FILES = 500
"""Held files that the page names; the report beside it names all."""
MOST_REASONS = 100


@dataclass(frozen=True)
class Reason:
    """Why files were held back: how many, and whether a person who looks at the picture may lift it."""

    status: Status
    text: str
    files: int
    liftable: bool


@dataclass
class _Tally:
    """What one pass over the lines of a report comes to; long batches are not held in memory by path."""

    reasons: Counter[tuple[Status, str]] = field(default_factory=Counter)
    held: Mapping[Status, list[FileRecord]] = field(
        default_factory=lambda: {Status.QUARANTINED: [], Status.REFUSED: []}
    )
    frames: int = 0
    boxes: int = 0
    looked: int = 0

    def add(self, record: FileRecord) -> None:
        self.frames += record.frames
        self.looked += record.frames > 0
        if record.status is Status.RELEASED:
            self.boxes += record.boxes
            return
        self.reasons[record.status, record.reason] += 1
        listed = self.held[record.status]
        if len(listed) < MOST_FILES:
            listed.append(record)

    def listed(self) -> Sequence[FileRecord]:
        """Those that are named: first the ones that a person can still do something about."""
        return (self.held[Status.QUARANTINED] + self.held[Status.REFUSED])[:MOST_FILES]

    def by_reason(self) -> Sequence[Reason]:
        order = sorted(self.reasons.items(), key=lambda item: (item[0][0] is Status.REFUSED, -item[1], item[0][1]))
        return [
            Reason(status, text, files, status is Status.QUARANTINED and may_be_lifted(text))
            for (status, text), files in order
        ]


def write_page(report: DeidReport, profile: Profile, *, source: Path) -> Path:
    """Write the page of a finished report, readable by its owner alone, since input paths may name patients.

    Args:
        report: The report, whose file is in place.
        profile: The profile that it was made under.
        source: The input folder, as it was named.

    Returns:
        Where the page is.

    Raises:
        OutputError: It cannot be written.
    """
    path = report.path.with_name(NAME)
    write_bytes(path, render(report, profile, source=source).encode(), mode=0o600)
    return path


def render(report: DeidReport, profile: Profile, *, source: Path, made: datetime | None = None) -> str:
    """The page as one HTML document without script; its policy lets in nothing but its own style.

    Whatever comes from outside (paths, reasons, a profile's title) is text: markup in it is escaped, and what would
    hide or turn other text is spelt out (:func:`shared.page.visible`).
    """
    tally = _Tally()
    for record in report.records():
        tally.add(record)
    reasons, listed = tally.by_reason(), tally.listed()
    held = report.quarantined + report.refused
    return filled(
        "deid.html",
        profile,
        report=report,
        source=str(source),
        made=made or datetime.now(UTC),
        report_sha256=sha256_of(report.path),
        tally=tally,
        held=held,
        reasons=reasons[:MOST_REASONS],
        more_reasons=max(len(reasons) - MOST_REASONS, 0),
        listed=listed,
        unlisted=held - len(listed),
        liftable=sum(one.files for one in reasons if one.liftable),
        rules=_rules(report.rules),
        bar=_bar(report),
    )


def filled(template: str, profile: Profile, **values: object) -> str:
    """A page of this room: a template with its own values and with what pages about a profile have in common."""
    templates = page.environment("client.deid")
    templates.globals.update(count=page.count, plural=page.plural)
    templates.filters["visible"] = page.visible
    style, style_hash = page.style((files("client.deid") / "templates" / "deid.css").read_text("utf-8"))
    return templates.get_template(template).render(
        profile=profile,
        told=explained(profile),
        safe_harbor=safe_harbor(profile),
        options=[page_words.OPTIONS[option] for option in sorted(profile.options)],
        edition=edition(),
        style=style,
        style_hash=style_hash,
        **values,
    )


def _rules(counts: Mapping[str, int]) -> Sequence[tuple[page_words.RuleNote, int]]:
    """Rule counts, what the checker found last, else the most frequent first."""
    order = sorted(counts.items(), key=lambda item: (item[0].startswith("check_"), -item[1], item[0]))
    return [(page_words.rule(name), number) for name, number in order]


@dataclass(frozen=True)
class Part:
    """A part of the bar over all files: its name (a CSS class), and start and width in thousandths."""

    name: str
    start: float
    width: float


def _bar(report: DeidReport) -> Sequence[Part]:
    counts = {
        "released": report.released - report.redacted,
        "redacted": report.redacted,
        "quarantined": report.quarantined,
        "refused": report.refused,
    }
    parts, start = [], 0.0
    for name, number in counts.items():
        width = 1000 * number / max(report.files, 1)
        if number:
            parts.append(Part(name, round(start, 2), round(width, 2)))
        start += width
    return parts
