"""Kills a process that works on the privacy ledger before each call that it makes to the system.

A program of its own, since it forks: ``python -m tests.client.killed_budget FOLDER``; run by ``test_ledger_file.py``.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from client.charge import Budget, Charge
from client.ledger import Ledger
from client.ledger_file import read_book
from client.training import accounting
from tests.deaths import dies

CHARGE = Charge("run", "federation", "denoise", 1, "patient", 4.0, 0.25, 4, 16)
Step = Callable[[Ledger], object]

STEPS: list[Step] = [
    lambda ledger: ledger.set_budget(Budget(5.0, 1e-5, 16), who="Ada", why="a study"),
    lambda ledger: ledger.reserve(CHARGE),
    lambda ledger: ledger.set_budget(Budget(6.0, 1e-5, 16), who="Ada", why="more"),
    lambda ledger: ledger.reserve(replace(CHARGE, round=2)),
]


def done(path: Path, step: Step) -> None:
    with Ledger(path) as ledger:
        step(ledger)


def content(path: Path) -> tuple[object, ...]:
    """What counts in a ledger, without the times at which it was written."""
    book = read_book(path)
    return (*[(change.budget, change.why) for change in book.changes], *book.charges)


def try_step(before: Path, step: Step, work: Path) -> int:
    """Kill ``step`` everywhere; gives the number of places."""
    after = work / "after"
    shutil.copytree(before.parent, after)
    done(after / before.name, step)
    allowed = [content(before), content(after / before.name)]
    calls, seen = 0, set()
    while True:
        folder = work / f"killed-{calls}"
        shutil.copytree(before.parent, folder)
        path = folder / before.name
        if not dies(lambda path=path: done(path, step), calls):
            return calls if seen == {0, 1} else -1
        found = allowed.index(content(path))  # all that was acknowledged, and at most this step besides
        seen.add(found)
        assert [one.name for one in folder.iterdir()] in ([], [before.name])
        done(path, step)  # it opens, and goes on
        assert len(content(path)) == len(allowed[1]) + found, "what was written before the kill was lost"
        shutil.rmtree(folder)
        calls += 1


def main(place: Path) -> None:
    path = place / "privacy" / "ledger.jsonl"
    path.parent.mkdir(mode=0o700)
    accounting.within = lambda *_: True  # what it costs is not the question here, and Opacus makes a fork slow
    for number, step in enumerate(STEPS):
        work = place / str(number)
        work.mkdir()
        places = try_step(path, step, work)
        assert places > 10, f"step {number}: the process was killed in {places} places only"
        print(f"step {number}: killed in {places} places")  # noqa: T201
        done(path, step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
