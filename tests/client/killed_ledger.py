"""Kills a process that works on a ledger before each call that it makes to the system; run by ``test_mask_ledger.py``.

A program of its own, since it forks: ``python -m tests.client.killed_ledger FOLDER``.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from client.mask_ledger import LEDGER, MARK, MaskLedger
from shared.errors import PolicyError
from tests.deaths import dies
from tests.shared.secagg.test_ledger import STATE

HOME = bytes(range(32))
SEED = b"s" * 32
CONTEXT, ALL = b"c" * 32, (1, 2, 3)
Step = Callable[[MaskLedger], object]

STEPS: list[Step] = [
    lambda ledger: ledger.seed(1),
    lambda ledger: ledger.pin(1, STATE),
    lambda ledger: ledger.claim(1, 2, CONTEXT, ALL),
    lambda ledger: ledger.confirm(1, 2, ALL),
    lambda ledger: ledger.unmask(1, 2, ALL),
    lambda ledger: ledger.forget(1, 2),
    lambda ledger: ledger.seed(2),
]


def opened(folder: Path) -> MaskLedger:
    return MaskLedger(folder, HOME, lambda _: SEED)


def told(folder: Path) -> tuple[bytes | None, bytes]:
    """What the files hold after a look at the ledger, which ends what was begun."""
    opened(folder).state(1)
    path = folder / LEDGER
    return path.read_bytes() if path.exists() else None, (folder / MARK).read_bytes()


def try_step(before: Path, step: Step, work: Path) -> int:
    """Kill ``step`` everywhere; gives the number of places."""
    after = work / "after"
    shutil.copytree(before, after)
    step(opened(after))
    allowed = [told(before), told(after)]
    calls, seen = 0, set()
    while True:
        folder = work / f"killed-{calls}"
        shutil.copytree(before, folder)
        if not dies(lambda folder=folder: step(opened(folder)), calls):
            return calls if seen == {0, 1} else -1
        seen.add(allowed.index(told(folder)))
        assert {path.name for path in folder.iterdir()} <= {LEDGER, MARK}, "a part with secrets is left"
        try:
            step(opened(folder))
        except PolicyError as error:
            assert "is used up" in error.message, error
            assert told(folder) == allowed[1], "used up, and yet as before"
        assert told(folder) == allowed[1]
        shutil.rmtree(folder)
        calls += 1


def a_child_does_not_keep_the_lock(folder: Path) -> None:
    children = []

    def draw(size: int) -> bytes:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        children.append(child)
        return bytes(size)

    MaskLedger(folder, HOME, draw).seed(1)
    MaskLedger(folder, HOME).seed(1)
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)


def main(place: Path) -> None:
    # What survives a kill is what was written; only a power cut asks whether it was synced. A cheap call stands in.
    os.fsync = os.fstat  # type: ignore[assignment]
    folder = place / "ledger"
    opened(folder).state(1)
    for number, step in enumerate(STEPS):
        work = place / str(number)
        work.mkdir()
        places = try_step(folder, step, work)
        assert places > 20, f"step {number}: the process was killed in {places} places only"
        print(f"step {number}: killed in {places} places")  # noqa: T201
        step(opened(folder))
    a_child_does_not_keep_the_lock(place / "forked")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
