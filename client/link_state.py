"""What the connection to the coordinator is doing, for people and for what watches it: ``link/status.json``."""

import contextlib
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from shared.console import plain
from shared.errors import OutputError, UsageError
from shared.files import write_json
from shared.parsing import parse_json

FILE: Final = "status.json"
FRESH: Final = 60.0
"""Seconds since the last word of the coordinator after which a connection does not count as one any more."""
_EVERY = 5.0  # seconds between two writings of nothing but the time of the last contact
_PRIVATE = 0o600

Phase = Literal["starting", "connected", "working", "disconnected", "stopped"]


@dataclass(frozen=True)
class LinkState:
    """The state of a link.

    Attributes:
        state: ``starting``, ``connected`` (waits for messages), ``working`` (on one), ``disconnected`` or ``stopped``.
        since: When it came to that, as ISO 8601 in UTC.
        pid: Its process.
        coordinator: Its address.
        last_contact: When the coordinator last answered, or empty.
        clock_skew_s: Seconds that this machine's clock is ahead of the coordinator's, to about a second; None: unknown.
        device: What networks run on, or empty while that is not known.
        run: The run of the message under way or the last one, or empty.
        message: The kind of the message under way, or empty.
        answered: Messages answered since the start.
        refusals: Of these, runs that this hospital does not take part in.
        failures: Of these, work that failed.
        reason: Of the last refusal or failure since the start, or empty.
        error: What is wrong and what to do, or empty.
    """

    state: Phase = "starting"
    since: str = ""
    pid: int = 0
    coordinator: str = ""
    last_contact: str = ""
    clock_skew_s: float | None = None
    device: str = ""
    run: str = ""
    message: str = ""
    answered: int = 0
    refusals: int = 0
    failures: int = 0
    reason: str = ""
    error: str = ""
    version: int = 1

    @classmethod
    def load(cls, folder: Path) -> "LinkState":
        """The state in the folder of the link; where the process is gone without a word, ``stopped``.

        Raises:
            UsageError: The file is damaged.
        """
        path = folder / FILE
        try:
            raw = parse_json(path.read_bytes())
            found = cls(**raw)
            sound = found.version == 1 and found.state in get_args(Phase) and isinstance(found.pid, int)
        except FileNotFoundError:
            return cls("stopped")
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} cannot be read", hint="remove it; the link writes it again") from error
        if not sound:
            raise UsageError(f"{path} is damaged", hint="remove it; the link writes it again")
        if found.state != "stopped" and not _runs(found.pid):
            return replace(found, state="stopped", message="", error="it ended without a word; see the system's log")
        return found

    @property
    def is_serving(self) -> bool:
        """Whether it is connected and the coordinator has answered within the last minute."""
        if self.state not in {"connected", "working"} or not self.last_contact:
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(self.last_contact)
        return age.total_seconds() < FRESH


class StateFile:
    """Keeps the file up to date; may be told by several threads."""

    def __init__(self, folder: Path, coordinator: str) -> None:
        self._path, self._lock, self._written = folder / FILE, threading.Lock(), 0.0
        self.state = LinkState(since=_now(), pid=os.getpid(), coordinator=coordinator)
        self._write(self.state)

    def set(self, **changes: Any) -> None:
        """Take up changes of :class:`LinkState`'s attributes."""
        with self._lock:
            new = replace(self.state, **changes)
            if new.state != self.state.state:
                new = replace(new, since=_now())
            if new != self.state:
                self._write(new)

    def contact(self, ahead: float | None) -> None:
        """The coordinator has answered, and this machine's clock is so many seconds ahead of its own."""
        with self._lock:
            skew = self.state.clock_skew_s if ahead is None else round(ahead, 1)
            self.state = replace(self.state, last_contact=_now(), clock_skew_s=skew)
            if time.monotonic() - self._written > _EVERY:
                self._write(self.state)

    def add(self, name: Literal["answered", "refusals", "failures"], reason: str = "") -> None:
        """Count one more, and keep why."""
        with self._lock:
            more = {name: getattr(self.state, name) + 1, "reason": plain(reason)[:300] or self.state.reason}
            self._write(replace(self.state, **cast(Any, more)))

    def _write(self, state: LinkState) -> None:
        self.state, self._written = state, time.monotonic()
        with contextlib.suppress(OutputError):  # a full disk is no reason to end; the state is for people
            write_json(self._path, asdict(state), mode=_PRIVATE)


def _runs(pid: int) -> bool:
    """Whether a process does; one that nobody has buried yet, as in a container without an init, does not (proc(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
