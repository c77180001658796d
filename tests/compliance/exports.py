"""A log with every act and outcome in it, and the command as it is called."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import Result
from hypothesis import strategies as st
from typer.testing import CliRunner

from compliance.cli import app
from compliance.export.reading import Reader, Record
from compliance.log import Action, AuditLog, Entry, Outcome

KEY = bytes(range(32))
ORIGIN = "fedward/H1/0123456789abcdef"
NOTE = f"{ORIGIN}\n42\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— {ORIGIN} AAAA\n"
_TEXT = st.text(max_size=12)
ROWS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "v": st.just(1),
        "seq": st.just(7),
        "time": st.just("2026-11-01T08:00:00.000000Z"),
        "site": _TEXT,
        "actor": st.fixed_dictionaries({"type": _TEXT, "id": _TEXT}),
        "action": _TEXT,
        "outcome": _TEXT,
        "purpose": _TEXT,
        "run": _TEXT,
        "round": st.none() | st.integers(0, 9),
        "subject": st.none() | st.fixed_dictionaries({"kind": _TEXT, "digest": _TEXT}),
        "detail": st.dictionaries(_TEXT, _TEXT | st.integers(-9, 9) | st.none() | st.booleans(), max_size=3),
        "prev": st.just("0" * 64),
    }
)
"""Rows with anything in them that a log can hold, as a later version or another hand may write them."""


def filled(folder: Path, *, actions: Sequence[Action] = tuple(Action)) -> Path:
    """A log with each of ``actions`` in each outcome, with and without what is optional."""
    path = folder / "audit" / "log.jsonl"
    with AuditLog(path, site="H1", actor="fedward", purpose="research on enhancement", subject_key=KEY) as log:
        for action in actions:
            for number, outcome in enumerate(Outcome):
                subject = (("patient", "study", "model", "file")[number], log.digest(f"{action}{number}"))
                detail = {"patients": 3, "masked": True, "why": 'a <b> & "c"', "none": None, "share": 0.5}
                log.append(Entry(action, outcome, f"run-{number % 2}", number, subject, detail))
            log.append(Entry(action, Outcome.OK))
    return path


def records(path: Path) -> list[Record]:
    return list(Reader(path))


def record(row: dict[str, Any]) -> Record:
    return Record.of(row)


def named(action: str) -> Record:
    """An entry of an act that this version may not know."""
    head = {"v": 1, "seq": 0, "time": "2026-11-01T08:00:00.000000Z", "site": "H1", "action": action, "outcome": "ok"}
    who = {"actor": {"type": "software", "id": "fedward"}, "purpose": "research", "run": "", "round": None}
    return record(head | who | {"subject": {"kind": "patient", "digest": "ab"}, "detail": {}, "prev": "0" * 64})


def export(*words: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def beside(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(f"{path}.leaves.jsonl").read_bytes().splitlines()]
