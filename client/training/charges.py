"""Pay first: a round's privacy cost is on disk before the training that it pays for, and a crash never refunds it.

One file per run, ``NODE/privacy/<run>.jsonl``, one canonical JSON line (RFC 8785) per round and task, fsynced. A last
line without its newline was never acknowledged, so nothing was trained on it: it is cut off.

This file knows one run and no budget, and an edited figure goes unnoticed. The ledger of the hospital
(``client/ledger.py``: hash-chained, across runs, with a budget that it refuses to exceed) takes its place behind the
same two calls, :meth:`Charges.append` before the training and :meth:`Charges.history` for the statement;
:func:`client.training.loop.train_round` sees only the :class:`Receipt`.
"""

import errno
import fcntl
import json
import math
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from client.training.accounting import Mechanism, PrivacyStatement, epsilon, merged, statement
from shared.errors import BudgetError, RecordError, UsageError
from shared.files import canonical_json, sync_folder

VERSION = 1
MOST_CHARGES = 3
"""Of one round of a task in a run: it is trained again, and paid for again, where secure aggregation repeats it."""


@dataclass(frozen=True)
class Charge:
    """The cost of one round of one task.

    Attributes:
        task: Name of the task.
        round: Round of the run, from 1.
        noise_multiplier: Standard deviation of the noise in units of the clipping bound, above 0.
        sample_rate: Chance of each patient to be in a step, in (0, 1].
        steps: Optimiser steps that it pays for, at least 1.
        patients: Patients of the site that take part.
    """

    task: str
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int
    patients: int

    def __post_init__(self) -> None:
        """Refuse a charge that pays for nothing, or that no epsilon belongs to."""
        if not (
            0 < self.noise_multiplier < math.inf
            and 0 < self.sample_rate <= 1
            and self.steps >= 1
            and self.patients >= 1
        ):
            raise UsageError(
                f"cannot charge {self}",
                hint="noise must be above 0, the rate in (0, 1], steps and patients at least 1",
            )

    @property
    def mechanism(self) -> Mechanism:
        """The charge as the accountant takes it."""
        return Mechanism(self.noise_multiplier, self.sample_rate, self.steps)


class Receipt:
    """Leave to take the steps of one charge, each of them once. Made by :meth:`Charges.append` only."""

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self._left = charge.steps

    @property
    def left(self) -> int:
        """Steps that are paid for and not taken."""
        return self._left

    def take(self, noise_multiplier: float, sample_rate: float) -> None:
        """Use up one step; called by the optimiser before its parameters change.

        Raises:
            BudgetError: All paid steps are taken, or the step differs from what was paid for.
        """
        if (noise_multiplier, sample_rate) != (self.charge.noise_multiplier, self.charge.sample_rate):
            raise BudgetError(
                f"the step (noise {noise_multiplier}, rate {sample_rate}) is not the one that was charged",
                hint="charge the settings that are used",
            )
        if self._left < 1:
            raise BudgetError("all steps that were charged are taken", hint="charge another round first")
        self._left -= 1


class Charges:
    """The charges of one run, held under a lock by the one process that trains; use it as a context manager.

    Args:
        path: ``NODE/privacy/<run>.jsonl``; made with mode 0600 where missing.

    Raises:
        RecordError: Another process holds the file, the disk refuses, or a line cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file: IO[bytes] = os.fdopen(descriptor, "a+b", buffering=0)
            sync_folder(path.parent)
        except OSError as error:
            raise RecordError(
                f"cannot open the privacy charges {path}: {error.strerror}",
                hint="check the folder; nothing is trained without a charge",
            ) from error
        try:
            self._lock()
            self._charges = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()

    def append(self, charge: Charge, *, most: int | None = MOST_CHARGES) -> Receipt:
        """Make ``charge`` durable and return the leave to train.

        Args:
            charge: What is paid for.
            most: How often a round may be paid for in a run; None for a virtual hospital, whose run may be started
                again as often as it is interrupted.

        Raises:
            BudgetError: The round was paid for ``most`` times in this run already.
            RecordError: It cannot be made durable; nothing may be trained.
        """
        before = sum((one.task, one.round) == (charge.task, charge.round) for one in self._charges)
        if most is not None and before >= most:
            raise BudgetError(
                f"round {charge.round} of {charge.task} was paid for {before} times in this run",
                hint="an honest coordinator repeats a round twice at most; ask it why",
            )
        row = {"v": VERSION, "seq": len(self._charges), "time": datetime.now(UTC).isoformat(), **asdict(charge)}
        line = canonical_json({**row, "unit": "patient"}) + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            os.fsync(self._file.fileno())
            _require_whole(written, len(line))
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise RecordError(
                f"cannot write the privacy charge to {self._path}: {error.strerror}",
                hint="free some space; nothing was trained that is not charged",
            ) from error
        self._charges.append(charge)
        return Receipt(charge)

    def history(self) -> tuple[Mechanism, ...]:
        """All charged mechanisms, equal settings taken together."""
        return merged(charge.mechanism for charge in self._charges)

    def epsilon(self, delta: float) -> float:
        """Upper bound on epsilon of all charges at ``delta``; 0 where there is none."""
        return epsilon(self.history(), delta)[0]

    def statement(self, delta: float | None = None) -> PrivacyStatement:
        """The guarantee of all charges; ``delta`` None stands for the default of the largest number of patients."""
        patients = max((charge.patients for charge in self._charges), default=1)
        return statement(self.history(), delta, patients=patients)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(
                f"{self._path} is held by another process", hint="wait for that training to end, and try again"
            ) from None

    def _read(self) -> list[Charge]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        charges = [self._parse(number, line) for number, line in enumerate(data[:whole].splitlines())]
        if whole < len(data):
            os.ftruncate(self._file.fileno(), whole)
            os.fsync(self._file.fileno())
        return charges

    def _parse(self, number: int, line: bytes) -> Charge:
        try:
            row = json.loads(line)
            place = (row["v"], row["seq"], row["unit"])
            charge = Charge(
                task=str(row["task"]),
                round=int(row["round"]),
                noise_multiplier=float(row["noise_multiplier"]),
                sample_rate=float(row["sample_rate"]),
                steps=int(row["steps"]),
                patients=int(row["patients"]),
            )
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise self._altered(number) from error
        if place != (VERSION, number, "patient"):
            raise self._altered(number)
        return charge

    def _altered(self, number: int) -> RecordError:
        return RecordError(
            f"{self._path}: line {number + 1} is no charge, or stands in the wrong place",
            hint="restore the file; without it the cost of earlier rounds is unknown",
        )


def _require_whole(written: int | None, size: int) -> None:
    if written != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
