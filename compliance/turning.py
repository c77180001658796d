"""One party's turns in the audit exchange, again and again: publish what is due, call, take in, write down alerts."""

import threading
import time
from collections.abc import Callable
from typing import Final

from compliance.alerts import unrecorded
from compliance.exchange import Correspondent
from compliance.log import AuditLog, entries
from compliance.place import Place
from compliance.proto.audit_pb2 import TurnReply, TurnRequest
from shared.errors import FedwardError

PUBLISH_EVERY: Final = 20.0
"""Seconds between two checkpoints of a log that grows, beside those of the rounds."""


class Turning:
    """The turns of one party.

    Args:
        side: What it says and takes in.
        place: Its folder.
        call: Carries a turn to the coordinator and brings the answer.
        log: Opens its audit log.
        say: Told in one line of what does not hold, once.
    """

    def __init__(
        self,
        side: Correspondent,
        place: Place,
        call: Callable[[TurnRequest], TurnReply],
        log: Callable[[], AuditLog],
        say: Callable[[str], None],
    ) -> None:
        self._side, self._place, self._call, self._log, self._say = side, place, call, log, say
        self._owed = (place.witness_folder / "evidence").exists() and place.log.exists()
        self._trouble, self._bytes, self._published = "", -1, -PUBLISH_EVERY

    def turn(self) -> bool:
        """Take one turn; False where it could not be taken. What is wrong is said once, and tried again.

        A log that somebody cut or rewrote is not published, and that is said: the others go on holding the newest
        checkpoint that they have seen.
        """
        try:
            self._publish()
            self._make_up()
            asked = self._side.offer()
            reply = self._call(asked)
            self._owed = True  # until the alerts of this turn are in the log
            done = self._side.take(asked, reply)
            if done.entries:
                with self._log() as log:
                    log.append_many(done.entries)
            self._owed = False
        except FedwardError as error:
            if str(error) != self._trouble:
                self._say(str(error))
            self._trouble = str(error)
            return False
        for line in done.problems:
            self._say(line)
        self._trouble = ""
        return True

    def _make_up(self) -> None:
        """Append the alerts of a turn, or of an earlier life, that ended between evidence and log."""
        if self._owed and (missing := unrecorded(self._place.witness_folder, entries(self._place.log))):
            with self._log() as log:
                log.append_many(missing)
        self._owed = False

    def close(self) -> None:
        """Publish the log as it is now, and show it once more."""
        self._published = -PUBLISH_EVERY
        self.turn()

    def _publish(self) -> None:
        """Publish where anything was appended since the last time, which was long enough ago."""
        log = self._place.log
        size = log.stat().st_size if log.exists() else 0
        moment = time.monotonic()
        if size in {0, self._bytes} or moment - self._published < PUBLISH_EVERY:
            return
        self._place.trail.checkpoint()
        self._bytes, self._published = size, moment


def persist(
    run: Callable[[], None],
    stop: threading.Event,
    say: Callable[[str], None],
    *,
    first: float = 1.0,
    longest: float = 60.0,
) -> None:
    """Run what takes turns until ``stop``, again with patience where it cannot; why is said once.

    A party whose log nobody witnesses is still one that trains: nothing of this ends what runs beside it.

    Args:
        run: Ends by itself once ``stop`` is set.
        stop: Says that it is over.
        say: Told in one line what is wrong.
        first: Seconds before it is run again; doubled each time.
        longest: Seconds at most. What ran so long begins anew with ``first``.
    """
    told, pause = "", first
    while not stop.is_set():
        begun = time.monotonic()
        try:
            run()
        except FedwardError as error:
            if time.monotonic() - begun >= longest:
                told, pause = "", first
            if str(error) != told:
                say(str(error))
            told = str(error)
        stop.wait(pause)
        pause = min(2 * pause, longest)
