"""Evidence that a log of the federation does not go on from what was seen of it, and its entries in the own log."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compliance.log import Action, Entry, Outcome, Scalar
from compliance.verify import Checkpoint, Note
from shared.errors import RecordError
from shared.parsing import parse_json


def read_evidence(path: Path) -> dict[str, Any]:
    """One file of evidence, to be shown.

    Raises:
        RecordError: It cannot be read.
    """
    try:
        found: dict[str, Any] = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read the evidence {path}", hint="check the folder") from error
    return found


def evidence_entry(raw: Mapping[str, Any], number: str) -> Entry:
    """What the audit log says of kept evidence.

    Args:
        raw: The file (:func:`read_evidence`).
        number: The last part of its name.
    """
    given = Checkpoint.parse(Note.parse(str(raw["given"]).encode()).text)
    seen = Checkpoint.parse(Note.parse(str(raw["seen"]).encode()).text) if raw["seen"] else None
    detail: dict[str, Scalar] = {"alert": "two histories" if raw["proven"] else "no proof", "origin": given.origin}
    detail |= {"size": given.size, "root": given.root.hex(), "seen_size": seen.size if seen else 0}
    detail |= {"seen_root": seen.root.hex() if seen else "", "evidence": number}
    return Entry(Action.WITNESS, Outcome.REFUSED, detail=detail)


def unrecorded(folder: Path, rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """What must still be appended to the site's log: alerts whose evidence is kept in ``folder``, and that it lacks.

    A process may be killed, or a disk be full, between the evidence and the entry.

    Raises:
        RecordError: A file of evidence cannot be read.
    """
    there = {path.stem.rpartition("-")[2]: path for path in sorted((folder / "evidence").glob("*.json"))}
    if not there:
        return []
    for row in rows:
        if row.get("action") == Action.WITNESS and row.get("outcome") == Outcome.REFUSED:
            there.pop(str((row.get("detail") or {}).get("evidence")), None)
    return [evidence_entry(read_evidence(path), number) for number, path in there.items()]
