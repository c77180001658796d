"""One party's turns in the audit exchange, again and again: publish what is due, call, take in, write down alerts.

How long a log is, and when it grew, is seen by all who see its checkpoints. So that this says little of what a hospital
does between rounds, it is published at fixed moments alone, whatever was appended when: at a start, at the first turn
of each period, and at the end; the checkpoints of rounds go with the rounds.

A log that does not grow is not shown anew, and the cosignatures on it grow old. Where they are ``stale``, one entry is
appended and published, so that fresh ones come.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from compliance.alerts import unrecorded
from compliance.exchange import Correspondent
from compliance.log import Action, AuditLog, Entry, Outcome, entries
from compliance.place import Place
from compliance.proto.audit_pb2 import TurnReply, TurnRequest
from shared.errors import FedwardError

HOURLY: Final = 3600.0
"""The period of a hospital: seconds from one full hour (UTC) to the next."""
OFTEN: Final = 20.0
"""The period of a coordinator, whose log has nothing of patients."""
ALIVE: Final = Entry(Action.WITNESS, Outcome.OK, detail={"alive": True})
"""What is appended to a log that rests."""


class Turning:
    """The turns of one party.

    Args:
        side: What it says and takes in.
        place: Its folder.
        call: Carries a turn to the coordinator and brings the answer.
        log: Opens its audit log.
        say: Told in one line of what does not hold, once.
        every: The period, in seconds; periods begin at whole multiples of it since 1970 (UTC).
        stale: Whether the newest checkpoint was cosigned, and too long ago.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        side: Correspondent,
        place: Place,
        call: Callable[[TurnRequest], TurnReply],
        log: Callable[[], AuditLog],
        say: Callable[[str], None],
        *,
        every: float = HOURLY,
        stale: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._side, self._place, self._call, self._log, self._say = side, place, call, log, say
        self._owed = (place.witness_folder / "evidence").exists() and place.log.exists()
        self._every, self._stale, self._clock = every, stale, clock
        self._trouble, self._bytes = "", -1
        self._period: int | None = None  # the one in which was published, or looked whether to

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
        self._period = None
        self.turn()

    def _publish(self) -> None:
        """Publish at the first turn of a period where anything was appended, and where the cosignatures are stale."""
        period = int(self._clock() // self._every)
        renew = self._stale()
        if renew:
            with self._log() as log:
                log.append(ALIVE)
        log_file = self._place.log
        size = log_file.stat().st_size if log_file.exists() else 0
        if not renew and (period == self._period or size in {0, self._bytes}):
            self._period = period
            return
        self._place.trail.checkpoint()
        self._bytes, self._period = size, period


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
