"""``ingest.html``: the report of an ingest for people, beside ``ingest.json``, in the look of ``deid.html``."""

import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from client.deid.page import MOST_FILES, MOST_REASONS, filled
from client.deid.profile import Profile
from client.deid.profile_file import SHIPPED
from shared.errors import DataError
from shared.files import write_bytes
from shared.parsing import load_json

NAME = "ingest.html"


def write_ingest_page(report: Path, profile: Profile) -> Path:
    """Write the page of a report that is in place, readable by its owner alone.

    Args:
        report: ``ingest.json``.
        profile: The profile that the files were de-identified under.

    Returns:
        Where the page is.

    Raises:
        OutputError: It cannot be written.
    """
    path = report.with_name(NAME)
    write_bytes(path, render(report, profile).encode(), mode=0o600)
    return path


def render(report: Path, profile: Profile) -> str:
    """The page as one HTML document without script (see :func:`client.deid.page.render`)."""
    told = load_json(report, error=DataError, hint="run the ingest again: it writes the report anew")
    counts: dict[str, int] = told["counts"]
    rows: list[dict[str, str]] = told["files"]
    reasons = Counter((row["status"], row["reason"]) for row in rows).most_common()
    waiting = Counter(row["reason"] for row in told["waiting"]).most_common()
    return filled(
        "ingest.html",
        profile,
        counts=counts,
        kind=told["source"],
        complete=told["complete"],
        made=datetime.now(UTC),
        lines=len(rows),
        facts=(
            ("Released", counts["released"], "each read again by an independent checker"),
            ("Quarantined", counts["quarantined"], "to be read, but not to be released unseen"),
            ("Refused", counts["refused"] + counts["unreadable"], "not to be read, or not without guessing"),
            ("Missing", counts["missing"], "named by the source, and not sent"),
        ),
        reasons=[(status, reason, number) for (status, reason), number in reasons[:MOST_REASONS]],
        more_reasons=max(len(reasons) - MOST_REASONS, 0),
        waiting=waiting[:MOST_REASONS],
        more_waiting=max(len(waiting) - MOST_REASONS, 0),
        all_waiting=len(told["waiting"]),
        review=_review(report, profile),
        listed=[(_name(row), row["status"], row["reason"]) for row in rows[:MOST_FILES]],
        unlisted=max(len(rows) - MOST_FILES, 0),
    )


def review_command(node: Path, profile: str, determination: Path | None = None) -> str:
    """The command with which a person looks at what waits in a node, its options as an ingest was given them."""
    words = ["fedward", "node", "review", str(node / "reports"), str(node / "released"), "--node", str(node)]
    words += ["--profile", profile] if profile != "basic" else []
    words += ["--determination", str(determination)] if determination else []
    return shlex.join([*words, "--reviewer", "NAME"])


def _review(report: Path, profile: Profile) -> str:
    """The command as far as the report knows it: where files of the hospital's own lie it does not say."""
    name = profile.name if profile.name in SHIPPED else "PROFILE.toml"
    return review_command(
        report.resolve().parents[1], name, Path("DETERMINATION.json") if profile.needs_expert else None
    )


def _name(row: dict[str, str]) -> str:
    """Whatever a line names its file by: study and instance, or where it lies."""
    return " / ".join(value for key, value in row.items() if key not in {"status", "reason"})
