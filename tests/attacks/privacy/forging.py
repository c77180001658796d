"""What somebody does to a privacy ledger who can write to the disk, knows its format and can compute SHA-256."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from client.charge import Budget, Charge
from client.ledger import Ledger
from shared.files import canonical_json

Row = dict[str, Any]

BUDGET = Budget(30.0, 1e-5, 10)


def charge(number: int = 1, **changes: Any) -> Charge:
    """Ten steps that cost an epsilon of about 0.14 at delta 1e-5."""
    values = {"run": "r", "federation": "f", "task": "t", "round": number, "mode": "patient"}
    values |= {"noise_multiplier": 8.0, "sample_rate": 0.1, "steps": 10, "patients": 10}
    return Charge(**(values | changes))


def written(path: Path, charges: int = 3, budget: Budget | None = BUDGET) -> Path:
    """An honest ledger: an opening, a budget, and some charges."""
    with Ledger(path) as ledger:
        if budget is not None:
            ledger.set_budget(budget, who="Ada", why="a test")
        for number in range(1, charges + 1):
            ledger.reserve(charge(number))
    return path


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def chained(rows: Sequence[Row], dump: Callable[[object], bytes] = canonical_json) -> bytes:
    """The lines of a ledger with these rows whose numbers, hashes and checks are all as they should be."""
    previous, lines = "0" * 64, []
    for number, row in enumerate(rows):
        bare = {key: value for key, value in row.items() if key != "check"} | {"prev": previous}
        bare.setdefault("seq", number)
        bare["check"] = hashlib.sha256(canonical_json(bare)).hexdigest()
        lines.append(dump(bare) + b"\n")
        previous = hashlib.sha256(lines[-1]).hexdigest()
    return b"".join(lines)


def forged(path: Path, line: int, **values: Any) -> bytes:
    """The ledger at ``path`` with other values in one line (0 is the opening), chained anew from there on."""
    rows = rows_of(path)
    rows[line] |= values
    return chained(rows)


def renumbered(rows: Sequence[Row]) -> bytes:
    """Lines that were removed, doubled or moved, numbered and chained anew."""
    return chained([{key: value for key, value in row.items() if key != "seq"} for row in rows])
