"""A run's folder at the coordinator: what it was told to do, how far it is, and how it ended.

``run.json`` (charter, tasks, ids of the SuperLink), ``charter.toml`` (a copy), ``progress.jsonl`` (a line for each task
and each round), ``result.json`` (once it has ended), ``run.log`` (what its process printed), and a folder for each
task.
"""

import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.coordinator import Coordinator
from shared.charter import Charter
from shared.errors import FedwardError, UsageError
from shared.faults import words_of
from shared.files import output_errors, private_folder, write_bytes, write_json
from shared.parsing import parse_json

VERSION: Final = 1
INTERRUPTED: Final = 130  # exit status, as that of a program that SIGINT ended
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AGAIN: Final = "restore it from a copy"

Ending = Literal["ok", "failed", "stopped", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        outcome: ``ok``, ``failed``, ``stopped`` by a person, or ``interrupted`` with the coordinator.
        error: What was wrong, in one line; empty where it is ok.
        hint: What to do about it, in one line.
        exit_code: The exit status of ``fedward server run``.
        ended: When, in UTC.
    """

    outcome: Ending
    error: str
    hint: str
    exit_code: int
    ended: datetime

    @classmethod
    def now(cls, outcome: Ending, error: str = "", hint: str = "", *, exit_code: int = 0) -> "Outcome":
        """One that comes about now."""
        return cls(outcome, error, hint, exit_code, datetime.now(UTC).replace(microsecond=0))

    @classmethod
    def of(cls, error: FedwardError) -> "Outcome":
        """The failure that an error is."""
        return cls.now("failed", error.message, error.hint, exit_code=error.exit_code)


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes:
        path: Its folder.
        federation: Id of the federation.
        charter: SHA-256 of its charter.
        tasks: The charter's, in order, with the number of rounds of each.
        begun: When it was asked for, in UTC.
        attempt: 1, and one more for each time that it was resumed.
        number: Its id at the SuperLink in this attempt; None until it is started.
    """

    path: Path
    federation: str
    charter: str
    tasks: dict[str, int]
    begun: datetime
    attempt: int = 1
    number: int | None = None

    @classmethod
    def create(cls, coordinator: Coordinator, charter: Charter, text: bytes, *, name: str | None = None) -> "RunFolder":
        """Make a folder for a run of this charter.

        Args:
            coordinator: Whose run.
            charter: The charter.
            text: Its file.
            name: 1 to 64 letters, digits, dots, dashes and underlines; None for one made of the time.

        Raises:
            UsageError: The name cannot be one, or is taken.
            OutputError: The folder cannot be written.
        """
        begun = datetime.now(UTC).replace(microsecond=0)
        path = coordinator.runs_folder / checked(name or f"run-{begun:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        if path.exists():
            raise UsageError(f"there is a run {path.name} already", hint="choose another name, or resume it")
        private_folder(path)
        write_bytes(path / "charter.toml", text, durable=True)
        made = cls(path, charter.id, charter.sha256, {one.name: one.rounds for one in charter.tasks}, begun)
        made._write()
        return made

    @classmethod
    def open(cls, coordinator: Coordinator, name: str) -> "RunFolder":
        """The run of that name.

        Raises:
            UsageError: There is none, or its description is damaged.
        """
        path = coordinator.runs_folder / checked(name)
        try:
            form = _Form.model_validate_json((path / "run.json").read_bytes())
        except FileNotFoundError:
            raise UsageError(f"there is no run {name}", hint="'fedward server status' lists them") from None
        except OSError as error:
            raise UsageError(f"cannot read {path / 'run.json'}: {error.strerror}", hint=_AGAIN) from error
        except ValidationError as error:
            raise UsageError(f"{path / 'run.json'} is damaged: {_fault(error)}", hint=_AGAIN) from error
        return cls(path, form.federation, form.charter, form.tasks, form.begun, form.attempt, form.number)

    @classmethod
    def all(cls, coordinator: Coordinator, *, skipped: Callable[[UsageError], None]) -> tuple["RunFolder", ...]:
        """Every run, the oldest first.

        Args:
            coordinator: Whose.
            skipped: Told of each run whose description is damaged; it is left out.
        """
        found = []
        for path in sorted(coordinator.runs_folder.glob("*/run.json")):
            try:
                found.append(cls.open(coordinator, path.parent.name))
            except UsageError as error:
                skipped(error)
        return tuple(sorted(found, key=lambda one: (one.begun, one.name)))

    @property
    def name(self) -> str:
        """Its name; the id of the run in every message and charge."""
        return self.path.name

    @property
    def charter_path(self) -> Path:
        """The charter as it was when the run was asked for."""
        return self.path / "charter.toml"

    @property
    def log_path(self) -> Path:
        """What its process printed."""
        return self.path / "run.log"

    @property
    def resumed(self) -> bool:
        """Whether it goes on with what an earlier process did."""
        return self.attempt > 1

    def outcome(self) -> Outcome | None:
        """How it ended; None where it has not.

        Raises:
            UsageError: ``result.json`` is damaged.
        """
        path = self.path / "result.json"
        try:
            form = _Result.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint=_AGAIN) from error
        except ValidationError as error:
            raise UsageError(f"{path} is damaged: {_fault(error)}", hint="delete it, and resume the run") from error
        return Outcome(form.outcome, form.error, form.hint, form.exit_code, form.ended)

    def end(self, outcome: Outcome) -> None:
        """Write how it ended.

        Raises:
            OutputError: It cannot be written.
        """
        write_json(
            self.path / "result.json",
            {"version": VERSION, **asdict(outcome), "ended": outcome.ended.isoformat()},
            durable=True,
        )

    def again(self) -> "RunFolder":
        """The run before its next attempt: how it ended before, and that it was to stop, is taken away.

        Raises:
            OutputError: It cannot be written.
        """
        with output_errors(self.path):
            for name in ("result.json", "stop"):
                (self.path / name).unlink(missing_ok=True)
        more = replace(self, attempt=self.attempt + 1, number=None)
        more._write()
        return more

    def alone(self, task: str) -> "RunFolder":
        """The run with one of its charter's tasks, to be resumed at what lies in that task's folder.

        Raises:
            OutputError: It cannot be written.
        """
        more = replace(self, tasks={task: self.tasks[task]}, attempt=2)
        more._write()
        return more

    def started(self, number: int) -> "RunFolder":
        """The run with its id at the SuperLink.

        Raises:
            OutputError: It cannot be written.
        """
        more = replace(self, number=number)
        more._write()
        return more

    @property
    def to_stop(self) -> bool:
        """Whether somebody asked that it stop."""
        return (self.path / "stop").exists()

    def stop(self) -> None:
        """Ask that it stop."""
        write_bytes(self.path / "stop", b"")

    def note(self, **facts: Any) -> None:
        """Add a line to the progress.

        Raises:
            OutputError: It cannot be written.
        """
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **facts})
        with output_errors(self.path), (self.path / "progress.jsonl").open("a+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            torn = stream.read(1) not in {b"", b"\n"}
            stream.write((b"\n" if torn else b"") + line.encode() + b"\n")

    def progress(self) -> list[dict[str, Any]]:
        """Every whole line of the progress; one that was cut off when the power failed is left out."""
        try:
            lines = (self.path / "progress.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [one for one in map(_parsed, lines) if "task" in one]

    def _write(self) -> None:
        write_json(
            self.path / "run.json",
            {
                "version": VERSION,
                "federation": self.federation,
                "charter": self.charter,
                "tasks": self.tasks,
                "begun": self.begun.isoformat(),
                "attempt": self.attempt,
                "number": self.number,
            },
            durable=True,
        )


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of progress; nothing where it is none."""
    try:
        found = parse_json(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def checked(name: str) -> str:
    """``name``, if it can be that of a run.

    Raises:
        UsageError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a run", hint="1 to 64 letters, digits, dots, dashes and underlines, no dot first"
        )
    return name


class _Form(BaseModel):
    """The file ``run.json``."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    federation: str
    charter: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tasks: dict[str, int]
    begun: datetime
    attempt: Annotated[int, Field(ge=1)]
    number: int | None


class _Result(BaseModel):
    """The file ``result.json``."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    outcome: Ending
    error: str
    hint: str
    exit_code: Annotated[int, Field(ge=0, le=255)]
    ended: datetime


def _fault(error: ValidationError) -> str:
    return words_of(error.errors(include_url=False, include_input=False)[0])
