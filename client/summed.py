"""Of which sums this hospital has been a part, so that it is never in two sums over one round.

Whoever has a sum with this hospital and one without it, over the same round of the same task, has its update: it is the
difference. So a hospital that has helped to unmask a round under its charter signs no other included set for that round
again, in whatever run, attempt or epoch; the same set again gives nothing new.

One file per charter, ``NODE/sums/<charter>.jsonl`` (0600), one canonical JSON line (RFC 8785) for each masked
answer and each reveal, fsynced before the answer leaves. A last line without its newline was never acknowledged, so
nothing left after it: it is cut off.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PolicyError, RecordError
from shared.files import canonical_json, output_errors, sync_folder
from shared.parsing import parse_json

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700


@dataclass(frozen=True)
class Purpose:
    """What an answer is for: ``train`` or ``evaluate``, of a task, in a round of it."""

    kind: str
    task: str
    round: int

    @property
    def key(self) -> str:
        """As it stands in the file; names of tasks have no bar."""
        return f"{self.kind}|{self.task}|{self.round}"


class Summed:
    """The file at ``path``; any number of processes may use it, in turn.

    Every method raises :class:`OutputError` where the disk will not take a line, and :class:`RecordError` where the
    file is damaged; nothing must leave then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def masked(self, context: bytes, purpose: Purpose) -> None:
        """Note what the masked answer under ``context`` is for, before it leaves."""
        with self._locked() as handle:
            self._append(handle, {"context": context.hex(), "purpose": purpose.key})

    def check(self, context: bytes, included: tuple[int, ...], task: str, number: int) -> None:
        """See that a sum over ``included``, asked for as one of round ``number`` of ``task``, may be confirmed.

        Raises:
            PolicyError: The answer under that context was for something else, or the round was unmasked over others.
        """
        with self._locked() as handle:
            self._check(handle, context, included, task, number)

    def revealed(self, context: bytes, included: tuple[int, ...], task: str, number: int) -> None:
        """Note that the sum over ``included`` is to be unmasked with this hospital's help, before its shares leave.

        Raises:
            PolicyError: As :meth:`check`.
        """
        with self._locked() as handle:
            purpose = self._check(handle, context, included, task, number)
            row = {"context": context.hex(), "included": list(included), "purpose": purpose}
            if row not in self._rows(handle, "purpose", purpose):
                self._append(handle, row)

    def _check(self, handle: int, context: bytes, included: tuple[int, ...], task: str, number: int) -> str:
        """The purpose of the answer under ``context``, where it is one of that task and round and no other sum was."""
        found = self._rows(handle, "context", context.hex())
        purpose = str(found[0]["purpose"]) if found else ""
        if purpose.partition("|")[2] != f"{task}|{number}":
            raise PolicyError(
                f"this hospital has masked nothing under that context in round {number} of {task}",
                hint="ask under the header of the request that was answered",
            )
        rows = self._rows(handle, "purpose", purpose)
        if any(row.get("included", list(included)) != list(included) for row in rows):
            raise PolicyError(
                f"round {number} of {task} was unmasked with other hospitals in it: the difference of two sums would "
                "be one hospital's answer",
                hint="go on with the next round, or agree on a new charter",
            )
        return purpose

    def _rows(self, handle: int, name: str, value: str) -> list[dict[str, object]]:
        """The lines in which ``name`` has that value; others are not even parsed."""
        mark = canonical_json(value)
        with output_errors(self._path):
            lines = os.pread(handle, os.fstat(handle).st_size, 0).splitlines()
        try:
            rows: list[dict[str, object]] = [parse_json(line) for line in lines if mark in line]
            return [row for row in rows if row[name] == value and row["purpose"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{self._path} is damaged", hint="keep it for the record, and agree on a new charter"
            ) from error

    def _append(self, handle: int, row: Mapping[str, object]) -> None:
        line = canonical_json(row) + b"\n"
        with output_errors(self._path):
            os.lseek(handle, 0, os.SEEK_END)
            if os.write(handle, line) != len(line):
                raise OSError("a line was cut short")
            os.fsync(handle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        with output_errors(self._path):
            self._path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            fresh = not self._path.exists()
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            with output_errors(self._path):
                fcntl.flock(handle, fcntl.LOCK_EX)
                if fresh:
                    sync_folder(self._path.parent)
                _cut_off(handle)
            yield handle
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _cut_off(handle: int) -> None:
    """Take a last line without its newline away: its process was killed before it was acknowledged."""
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)
