"""kill -9 at every call to the system, a full disk, and the order in which things get onto it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compliance.log import AuditLog, verify
from compliance.trail import Trail
from tests.compliance.recording import fill, signer, trail_of

HOUSE = Path(__file__).parents[3]


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize("what", ["trail", "witness"])
def test_killed_anywhere_it_never_signs_two_heads_of_one_size(tmp_path: Path, what: str) -> None:
    command = [sys.executable, "-m", "tests.attacks.record.killed", what, str(tmp_path)]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "killed in" in done.stdout


def test_killed_between_write_and_fsync_an_entry_is_whole_or_cut_and_a_head_over_it_is_synced_first(
    tmp_path: Path,
) -> None:
    """The writer dies right before its fsync; what it wrote may stand there, and nobody was told that it does."""
    path = fill(tmp_path, 2)
    code = f"""
import os, signal
from pathlib import Path
from compliance.log import *
log = AuditLog(Path({str(path)!r}), site="H1", subject_key=bytes(32))
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
log.append(Entry(Action.TRAIN, Outcome.STARTED))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=HOUSE)
    assert done.returncode == -9
    assert verify(path).entries == 3
    assert Trail(tmp_path, signer()).checkpoint().size == 3
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        assert len(log) == 3


@pytest.mark.system("strace")
def test_the_log_is_synced_before_a_head_is_signed_and_the_head_before_anybody_gets_it(tmp_path: Path) -> None:
    trail_of(tmp_path, 3)
    fill(tmp_path, 2)
    code = f"""
import os
from pathlib import Path
from compliance.trail import Trail
from tests.compliance.recording import signer
signed = Trail(Path({str(tmp_path)!r}), signer()).checkpoint()
os.write(1, b"GIVEN")
"""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2,write", "-o", str(trace)]
    subprocess.run([*command, sys.executable, "-c", code], check=True, cwd=HOUSE, stdout=subprocess.DEVNULL)
    calls = trace.read_text(encoding="utf-8").splitlines()

    def first(pattern: str, after: int = -1) -> int:
        return next(n for n, line in enumerate(calls) if n > after and re.search(pattern, line))

    log = first(r"fsync\(\d+<[^>]*/log\.jsonl>")
    written = first(r"fsync\(\d+<[^>]*/checkpoints/\.5\.")
    renamed = first(r"rename.*/checkpoints/5\"")
    folder = first(r"fsync\(\d+<[^>]*/checkpoints>", renamed)
    given = first(r"GIVEN")
    assert log < written < renamed < folder < given


@pytest.mark.parametrize("room", [0, 40, 100, 8192])
def test_on_a_full_disk_nothing_is_published_and_nothing_cosigned(tmp_path: Path, room: int) -> None:
    """A limit on the size of files stands for the full disk."""
    trail_of(tmp_path, 3)
    fill(tmp_path, 400)
    code = f"""
import resource, signal, sys
from pathlib import Path
from compliance.trail import Trail
from compliance.witness import Witness
from shared.errors import OutputError
from tests.compliance.recording import Twofaced, signer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log, folder = Twofaced(), Path({str(tmp_path)!r})
witness = Witness(folder / "witness", signer(), {{log.signer.name: log.signer.log_key}})
witness.submit(0, (), log.head(5))
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    Trail(folder, signer()).checkpoint()
except OutputError:
    published = False
else:
    published = True
try:
    witness.submit(5, log.proof(5, 9), log.head(9))
except OutputError:
    cosigned = False
else:
    cosigned = True
sys.exit(10 * published + cosigned)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, cwd=HOUSE)
    assert done.returncode == (11 if room > 8000 else 0), done.stderr.decode()
    trail = Trail(tmp_path, signer())
    assert trail.sizes() == ([3, 403] if room > 8000 else [3])
    assert trail.checkpoint().size == 403, "with room again it goes on"
