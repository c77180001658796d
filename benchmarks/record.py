"""What the record costs: to append, to publish, to verify, and on disk.

    python -m benchmarks.record [--entries 1000000] [--appends 2000] [--folder DIR]

Appends are measured one entry and one fsync at a time, beside a bare write and fsync of the same bytes to another file
of the same folder, in turns, so that both see the same disk. The rest is measured on a log of so many entries, which is
written without fsync (the rate of that is printed too, and is no rate of the record).
"""

import argparse
import hashlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import verify
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.note import Signer
from compliance.trail import Trail

MEAN = Entry(
    Action.TRAIN, Outcome.OK, "run-20261123-100000", 7, detail={"slices": 1234, "seconds": 12.75, "epsilon": 0.5}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--appends", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="record-", dir=asked.folder) as name:
        appends(Path(name) / "appends", asked.appends)
        million(Path(name) / "audit", asked.entries)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"greatest memory      {peak:.0f} MiB")


def appends(folder: Path, count: int) -> None:
    folder.mkdir()
    raw = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ours: list[float] = []
    bare: list[float] = []
    with AuditLog(folder / "log.jsonl", site="H1", subject_key=bytes(32)) as log:
        for _ in range(count):
            before = os.stat(folder / "log.jsonl").st_size  # noqa: PTH116
            ours.append(timed(lambda: log.append(MEAN)))
            line = bytes(os.stat(folder / "log.jsonl").st_size - before)  # noqa: PTH116
            bare.append(timed(lambda line=line: (os.write(raw, line), os.fsync(raw))))
    os.close(raw)
    for what, times in (("append with fsync", ours), ("bare write and fsync", bare)):
        print(f"{what:<21}{1 / statistics.mean(times):8.0f} a second, median {1e6 * statistics.median(times):.0f} us")


def million(folder: Path, count: int) -> None:
    folder.mkdir()
    signer = Signer("fedward/H1/0123456789abcdef", Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"H1").digest()))
    path, trail = folder / "log.jsonl", Trail(folder, signer)
    fsync, os.fsync = os.fsync, lambda _: None
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        spent = timed(lambda: [log.append_many([MEAN] * 1000) for _ in range(count // 1000)])
    os.fsync = fsync
    print(f"written without sync {count / spent:8.0f} a second")
    print(
        f"log                  {path.stat().st_size / 2**20:8.1f} MiB, {path.stat().st_size / count:.0f} bytes an entry"
    )
    print(f"first checkpoint     {timed(trail.checkpoint):8.2f} s for {count} entries")
    tiles = sum(one.stat().st_size for one in (folder / "tiles").rglob("*") if one.is_file())
    print(f"tiles                {tiles / 2**20:8.1f} MiB")
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        log.append_many([MEAN] * 256)
        print(f"next checkpoint      {1e3 * timed(trail.checkpoint):8.1f} ms for 256 more entries")
        log.append(MEAN)
        print(f"and                  {1e3 * timed(trail.checkpoint):8.1f} ms for 1 more")
    newest = trail.newest()
    assert newest is not None
    print(f"inclusion proof      {1e3 * timed(lambda: trail.inclusion(count // 3, newest.size)):8.2f} ms")
    print(f"consistency proof    {1e3 * timed(lambda: trail.consistency(count, newest.size)):8.2f} ms")
    checkpoint = (folder / "checkpoint").read_bytes()
    spent = timed(lambda: verify.verify(path, checkpoint, signer.log_key, [], 0))
    print(f"verify, whole log    {spent:8.2f} s, {newest.size / spent:.0f} entries a second")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
