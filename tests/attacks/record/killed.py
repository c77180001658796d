"""Kills a process before each call to the system, while it publishes or cosigns; run by ``test_killed.py``.

A program of its own, since it forks: ``python -m tests.attacks.record.killed trail|witness FOLDER``.
"""

import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from compliance.checkpoint import Signed
from compliance.trail import Trail
from compliance.verify import Note, NotVerifiedError
from compliance.witness import ConflictError, Witness
from shared.errors import RecordError
from tests.compliance.recording import Twofaced, fill, signer, trail_of
from tests.deaths import dies

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
GIVEN = "given"
"""What the process had got before it was killed."""


def visible(folder: Path) -> dict[int, bytes]:
    """Every tree head that anybody could have got, by size: in the files, and from the call that was killed."""
    found: dict[int, bytes] = {}
    names = [folder / "checkpoint", folder / GIVEN, *(folder / "checkpoints").glob("*")]
    for path in names:
        if path.is_file() and not path.name.startswith(".") and (path.name != GIVEN or path.stat().st_size):
            try:
                one = Signed.read(path.read_bytes(), signer().log_key)
            except RecordError as error:
                raise AssertionError(f"{path} was half written") from error
            assert found.setdefault(one.size, one.root) == one.root, f"two heads of {one.size}"
    return found


def publish(folder: Path) -> None:
    signed = Trail(folder, signer()).checkpoint()
    handle = os.open(folder / GIVEN, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(handle, signed.raw)


def kill_trail(place: Path) -> int:
    """Kill ``checkpoint`` everywhere; then go on with the same log, and with another one of the same length."""
    begin = place / "begin"
    trail_of(begin, 3)
    fill(begin, 4)
    calls, stored = 0, set()
    while True:
        folder = place / f"killed-{calls}"
        shutil.copytree(begin, folder)
        killed = dies(lambda folder=folder: publish(folder), calls)
        seen = visible(folder)
        stored.add(7 in seen)
        another = place / f"another-{calls}"
        shutil.copytree(folder, another)

        signed = Trail(folder, signer()).checkpoint()
        assert signed.size == 7
        assert seen.get(7, signed.root) == signed.root
        Trail(folder, signer()).inclusion(6, 7)

        # The log was lost behind what was published, and goes on differently: as many entries, other ones.
        lines = (another / "log.jsonl").read_bytes().splitlines(keepends=True)
        (another / "log.jsonl").write_bytes(b"".join(lines[:3]))
        fill(another, 4, "another")
        try:
            other = Trail(another, signer()).checkpoint()
        except RecordError:
            assert 7 in seen, "nothing was published of that size, so it may be"
        else:
            assert 7 not in seen, "two heads of one size"
            assert other.root != signed.root
        shutil.rmtree(folder)
        shutil.rmtree(another)
        if not killed:
            return calls if stored == {False, True} else -1
        calls += 1


def cosign(folder: Path, log: Twofaced, branch: str) -> None:
    line = Witness(folder, signer(), {log.signer.name: log.signer.log_key}, clock=lambda: NOW).submit(
        10, log.proof(10, 20, branch), log.head(20, branch)
    )
    handle = os.open(folder.parent / GIVEN, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(handle, line.encode())


def kill_witness(place: Path) -> int:
    """Kill ``submit`` everywhere; then submit the same head, and one of another history."""
    log = Twofaced(common=15)
    begin = place / "begin" / "witness"
    keys = {log.signer.name: log.signer.log_key}
    Witness(begin, signer(), keys).submit(0, (), log.head(10))
    calls, sizes = 0, set()
    while True:
        folder = place / f"killed-{calls}" / "witness"
        shutil.copytree(begin.parent, folder.parent)
        killed = dies(lambda folder=folder: cosign(folder, log, "a"), calls)
        witness = Witness(folder, signer(), keys, clock=lambda: NOW)
        size = witness.size(log.signer.name)
        sizes.add(size)
        if (folder.parent / GIVEN).exists() and (folder.parent / GIVEN).stat().st_size:
            assert size == 20, "it gave a cosignature away and does not know of it"
        if size == 20:
            try:
                witness.submit(10, log.proof(10, 20), log.head(20))
            except ConflictError as error:
                assert error.size == 20
            line = witness.submit(20, (), log.head(20))
        else:
            line = witness.submit(10, log.proof(10, 20), log.head(20))
        try:
            assert Note.parse(log.head(20) + line.encode()).of(signer().witness_key)
        except NotVerifiedError as error:
            raise AssertionError("the cosignature does not hold") from error
        try:
            witness.submit(20, (), log.head(20, "b"))
        except RecordError:
            pass
        else:
            raise AssertionError("two heads of one size are cosigned")
        shutil.rmtree(folder.parent)
        if not killed:
            return calls if sizes == {10, 20} else -1
        calls += 1


def main(what: str, place: Path) -> None:
    # What survives a kill is what was written; only a power cut asks whether it was synced. A cheap call stands in.
    os.fsync = os.fstat  # type: ignore[assignment]
    calls = {"trail": kill_trail, "witness": kill_witness}[what](place)
    assert calls > 20, f"killed in {calls} places only"
    print(f"killed in {calls} places")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
