"""The pages of ``fedward compliance``: the evidence report and the matrix, in light, dark and on A4."""

import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Final

from compliance.evidence import NOT_RECORDED, Evidence
from compliance.matrix import Matrix, counts
from compliance.party import Kind, Topic
from shared import page
from shared.errors import UsageError
from shared.files import private_folder, write_bytes, write_json

PAGE: Final = "evidence.html"
JSON: Final = "evidence.json"
PRIVATE: Final = 0o600
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KINDS: Final = {
    Kind.HOSPITAL: "a hospital's node",
    Kind.COORDINATOR: "a coordinator",
    Kind.SIMULATION: "a simulation",
}


def write_report(out: Path, found: Evidence, *, overwrite: bool = False) -> Path:
    """Write ``evidence.html`` and ``evidence.json`` to a folder, for their owner alone.

    Returns:
        The page.

    Raises:
        UsageError: There is a report already.
        OutputError: It cannot be written.
    """
    if (out / PAGE).exists() and not overwrite:
        raise UsageError(f"{out} has a report already", hint="name another folder, or give --overwrite")
    private_folder(out)
    write_json(out / JSON, found.to_json(), mode=PRIVATE)
    write_bytes(out / PAGE, render(found).encode(), mode=PRIVATE)
    return out / PAGE


def write_matrix(path: Path, found: Matrix) -> None:
    """Write the matrix as a page.

    Raises:
        OutputError: It cannot be written.
    """
    write_bytes(path, render_matrix(found).encode())


def render(found: Evidence) -> str:
    """The report as one HTML document without script; its policy lets in nothing but its own style."""
    return _render(
        "evidence.html",
        found=found,
        topics=Topic,
        kind=_KINDS[found.party.kind],
        whose=_whose(found),
        matrix=found.matrix,
        counts=counts(found.matrix.rows),
        entries=sum(log.entries or 0 for log in found.logs),
        verified=sum(not log.fault for log in found.logs),
        witnessed=sum(seen) if (seen := [log.witnessed for log in found.logs if log.witnessed is not None]) else None,
        split=sum(len(log.split) for log in found.logs),
        open=[one for one in found.incidents if one.state == "open"],
        overdue=sum(one.overdue for one in found.incidents),
        made=found.made.astimezone(UTC),
    )


def render_matrix(found: Matrix, *, made: datetime | None = None) -> str:
    """The matrix as a page of its own."""
    when = (made or datetime.now(UTC)).astimezone(UTC)
    return _render("matrix.html", matrix=found, counts=counts(found.rows), made=when)


def _whose(found: Evidence) -> str:
    name, kind = found.party.name, found.party.kind
    if kind is Kind.HOSPITAL:
        return name
    return f"this {kind}" if kind is Kind.SIMULATION or name == kind else f"the coordinator {name}"


def _render(name: str, **values: object) -> str:
    templates = page.environment("compliance")
    templates.globals.update(count=page.count, plural=page.plural, not_recorded=NOT_RECORDED)
    templates.filters["visible"] = page.visible
    templates.tests["digest"] = lambda value: _DIGEST.fullmatch(str(value)) is not None
    templates.tests["match_law"] = lambda name, law: str(name).startswith(f"{law}-")
    style, style_hash = page.style((files("compliance") / "templates" / "evidence.css").read_text("utf-8"))
    return templates.get_template(name).render(style=style, style_hash=style_hash, **values)
