"""One party's turns in the audit exchange, again and again: publish what is due, call, take in, write down alerts."""

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
