"""The connection of a hospital to its coordinator: ``python -m client.link NODE``, kept running by ``node start``.

It asks the coordinator for messages, one at a time; nobody can reach it from outside. Each run is held against what is
installed, pinned and allowed here (:mod:`client.run_check`) before anything of a message is looked at; a run that is
refused gets the reason as its answer, every time, and the link goes on. What a message asks for is done by a child of
the warm worker. A coordinator that cannot be reached is tried again for ever.
"""

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

from client import link_life
from client.flower_messages import Delivery, reply_to, work_of
from client.flower_node import HEARTBEAT, Fleet
from client.link_place import Place, Post
from client.link_runs import Objection, Runs
from client.link_state import StateFile
from client.link_trouble import (
    GarbledError,
    LinkError,
    MovedError,
    RejectedError,
    RunOverError,
    StillActiveError,
    UnknownNodeError,
    clock_line,
)
from client.link_work import DEVICE, question
from client.node import Node
from client.worker import KilledError, Worker, WorkerError
from compliance.log import Action, Entry, Outcome
from shared.bundle import bundle
from shared.console import complain, err, plain
from shared.errors import FedwardError, RecordError, UsageError
from shared.files import locked
from shared.link_keys import read_key
from shared.wire import Refusal, RefusalCode

HANDLER: Final = "client.link_work:work"
PRELOAD: Final = (
    *("client.app", "client.rounds", "client.policy", "client.budget", "client.training.accountants"),
    *(f"shared.imaging.{t}" for t in ("denoise_self", "denoise_volume", "masked", "segment_pair", "superres4_gan")),
    # What those libraries themselves put off until it is first used: a child would do it again for every message.
    *("torch._dynamo", "torch.profiler._cupti_monitor", "skimage.metrics", "skimage.filters", "encodings.utf_16_be"),
    "cryptography.hazmat.backends.openssl.backend",
)
"""Modules that the worker imports before the first message."""
LOCK: Final = "lock"
_FIRST, _LONGEST = 0.5, 30.0  # seconds between two attempts to reach the coordinator
_LONGEST_WAIT = 5.0  # where it can be reached, and there is nothing for this node yet
_SOON, _IDLE, _SHARE = 0.3, 3.0, 60.0  # seconds between two questions for messages: a 60th of the time without any
_IS_OVER = 10.0  # seconds between two questions whether a run still goes on while a child works
_LAST = 6  # seconds to end in good order

Result = TypeVar("Result")


class Stopping(BaseException):
    """The link was told to stop. No handler of errors is to take it for one."""


class Link:
    """The connection.

    Args:
        node: The hospital's node.
        post: Where its coordinator is.
        worker: Does what messages ask for.
        expected: The app bundle of the release that is installed here.
        say: Told in one line of what happens.
    """

    def __init__(self, node: Node, post: Post, worker: Worker, *, expected: bytes, say: Callable[[str], None]) -> None:
        self._node, self._post, self._worker, self._say = node, post, worker, say
        self._folder, place, self._unsettled = node.link, post.place, ""
        self._address = place.address
        self._state = StateFile(self._folder, place.address)
        self._stop, self._unknown = threading.Event(), threading.Event()
        self._last = time.monotonic()
        self._fleet = Fleet(
            place.address, place.tls(), read_key(place.key), patiently=self._patiently, seen=self._state.contact
        )
        self._runs = Runs(node, self._fleet, post, worker, expected=expected, say=say)

    def run(self) -> None:
        """Take messages until :meth:`stop`.

        Raises:
            MovedError: The node has joined anew, so that a link must be made anew.
            OutputError: The state cannot be written.
        """
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        try:
            self._worker.start()
            self._connect()
            beat.start()
            self._tell_device()
            self._answer_for_the_earlier_life()
            while not self._stop.is_set():
                if self._unknown.is_set():
                    self._connect()
                self._turn()
        except Stopping:
            pass
        finally:
            self._end()

    def _end(self) -> None:
        self._stop.set()
        self._worker.close()
        connected = self._state.state.state in {"connected", "working"}
        self._state.set(state="stopped", message="", error="")
        with contextlib.suppress(Stopping):  # there is no more time
            if connected:
                self._fleet.deactivate()
            self._fleet.close()

    def stop(self) -> None:
        """Have :meth:`run` end soon; from a signal handler or another thread."""
        self._stop.set()

    # --- connecting ---------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Be known to the coordinator as connected, however long that takes."""
        self._stay()
        self._unknown.clear()
        earlier = link_life.number(self._folder)
        number = self._patiently(lambda: self._fleet.activate(earlier), connecting=True)
        link_life.begin(self._folder, number)
        self._forget_what_went_elsewhere(number)
        self._state.set(state="connected", error="")
        self._say(f"connected to {self._address} as node {number}")

    def _stay(self) -> None:
        """Go on with this coordinator, unless the node has joined anew.

        Raises:
            MovedError: It has.
        """
        try:
            self._post.hold()
        except MovedError:
            raise
        except FedwardError as error:  # it may be joining at this moment; no run is taken part in meanwhile
            if str(error) != self._unsettled:
                self._say(str(error))
            self._unsettled = str(error)

    def _patiently(self, call: Callable[[], Result], *, connecting: bool = False) -> Result:
        """Call again and again until the coordinator can be reached; what concerns the message itself is raised."""
        pause = _FIRST
        while True:
            if self._stop.is_set():
                raise Stopping
            try:
                result = call()
            except LinkError as error:
                if isinstance(error, RunOverError | GarbledError) and not connecting:
                    raise
                self._stay()
                line = self._trouble(error)
                if self._unknown.is_set() and not connecting:
                    raise UnknownNodeError(line) from error
                longest = _LONGEST_WAIT if isinstance(error, StillActiveError) else _LONGEST
                self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  # so that not all come at once
                pause = min(2 * pause, longest)
                continue
            if not connecting:
                self._well()
            return result

    def _trouble(self, error: LinkError) -> str:
        """Put into the state why there is no connection, and what to do."""
        line = str(error)
        if isinstance(error, RejectedError) and error.status == 401:
            if wrong := clock_line(self._state.state.clock_skew_s or 0.0):
                line = wrong
            else:
                self._unknown.set()
        if line != self._state.state.error:
            self._say(line)
        self._state.set(state="disconnected", error=line)
        return line

    def _well(self) -> None:
        """Put into the state that there is a connection again."""
        if self._state.state.state == "disconnected":
            self._state.set(state="working" if self._state.state.message else "connected", error="")
            self._say(f"{self._address} answers again")

    def _beat(self) -> None:
        """Give signs of life, in a thread of its own, so that long work does not look like death."""
        while not self._stop.wait(HEARTBEAT / 3 * random.uniform(0.8, 1.0)):  # noqa: S311  # as above
            try:
                if not self._fleet.heartbeat():
                    self._unknown.set()
            except LinkError as error:
                self._trouble(error)
            except Exception as error:  # noqa: BLE001  # the boundary of the thread: without it the node counts as gone
                self._say(f"no sign of life: {type(error).__name__}")
            else:
                self._well()

    def _tell_device(self) -> None:
        """Put into the state what networks run on; also sees that the worker works at all."""
        try:
            (line,) = self._worker.answer(question(DEVICE, self._node.folder), wanted=lambda: not self._stop.is_set())
        except WorkerError as error:
            line = f"unknown: {error.message}".encode()
        self._state.set(device=line.decode())

    # --- messages -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Take the next message, or wait a little."""
        self._stay()
        try:
            delivery = self._fleet.pull()
        except UnknownNodeError:
            return
        except (GarbledError, RunOverError) as error:
            what = error.message if isinstance(error, GarbledError) else "word of a run that is over, and no message"
            self._say(f"the coordinator sent {what}")
            self._stop.wait(_IDLE)
            return
        if delivery is None:
            quiet = time.monotonic() - self._last
            self._stop.wait(min(max(_SOON, quiet / _SHARE), _IDLE))
            return
        link_life.take_up(self._folder, delivery.raw)
        begun = time.monotonic()
        try:
            kind = delivery.message.metadata.message_type
            self._state.set(state="working", message=plain(kind)[:64], error="")
            self._fleet.push(self._reply(delivery), time.monotonic() - begun)
            self._state.add("answered")
            self._say(f"{plain(kind)[:64]} answered in {time.monotonic() - begun:.1f} s")
        except (RunOverError, UnknownNodeError) as error:
            self._say(f"a message was left: {error.message}")
        except GarbledError as error:
            self._say(f"a message was left: the coordinator sent {error.message}")
        link_life.put_down(self._folder)
        self._state.set(state="connected", message="")
        self._last = time.monotonic()

    def _reply(self, delivery: Delivery) -> list[bytes]:
        name = ""
        try:
            run = self._runs.get(delivery.run_id)
            name = str(run.config.get("run", ""))[:64]
            self._state.set(run=plain(name))
            if found := self._runs.objection(run):
                return self._object(delivery, found, name)
            contents = self._fleet.fetch(delivery)
            facts = {
                "node": self._fleet.node_id,
                "node_config": {"node-dir": str(self._node.folder.absolute()), "site": self._node.site},
                "run_config": dict(run.config),
            }
            work = work_of(delivery, contents, facts)
            return self._told(self._worker.answer(work, wanted=self._wanted(delivery.run_id)))
        except GarbledError as error:
            return self._failed(delivery, "protocol", f"the coordinator sent {error.message}", name)
        except WorkerError as error:
            if self._stop.is_set():
                raise Stopping from error  # the next life says what became of it
            if self._fleet.is_over(delivery.run_id):
                raise RunOverError("the run has ended") from error
            code: RefusalCode = "lost" if isinstance(error, KilledError) else "error"
            return self._failed(delivery, code, error.message, name)

    def _object(self, delivery: Delivery, found: Objection, run: str) -> list[bytes]:
        self._fleet.confirm(delivery)
        if found.code == "error":
            return self._failed(delivery, found.code, found.reason, run)
        self._state.add("refusals", found.reason)
        return self._refusal(delivery, found.code, found.reason, run)

    def _told(self, answered: list[bytes]) -> list[bytes]:
        """The reply of what a child answered, whose refusals the hospital's own rooms have recorded."""
        *reply, refused = answered
        if refused:
            self._state.add("refusals", refused.decode())
            self._say(f"refused: {refused.decode()}")
        return reply

    def _wanted(self, run_id: int) -> Callable[[], bool]:
        asked = time.monotonic()

        def wanted() -> bool:
            nonlocal asked
            if self._stop.is_set():
                return False
            if time.monotonic() - asked < _IS_OVER:
                return True
            asked = time.monotonic()
            return not self._fleet.is_over(run_id)

        return wanted

    def _failed(self, delivery: Delivery, code: RefusalCode, reason: str, run: str) -> list[bytes]:
        self._state.add("failures", reason)
        return self._refusal(delivery, code, reason, run, Outcome.FAILED)

    def _refusal(
        self, delivery: Delivery, code: RefusalCode, reason: str, run: str, outcome: Outcome = Outcome.REFUSED
    ) -> list[bytes]:
        """Record that, and why, a message is not answered with what it asks for; and the answer that says so."""
        reason = "".join(letter for letter in reason if letter.isprintable())[:300]
        entries = [
            Entry(Action.REFUSAL, outcome, run=plain(run), detail={"code": code, "reason": reason}),
            Entry(Action.MESSAGE_OUT, Outcome.STARTED, run=plain(run), detail={"code": code}),
        ]
        try:
            with self._node.open_log() as log:
                log.append_many(entries)
        except RecordError as error:
            self._say(str(error))
            code, reason = "record", type(error).__name__
        self._say(f"refused: {reason}")
        return reply_to(delivery, Refusal(self._node.site, code, reason).to_record())

    def _forget_what_went_elsewhere(self, number: int) -> None:
        """Put down what an earlier life left behind under another number: nobody here waits for an answer to it."""
        if raw := link_life.left_behind(self._folder):
            with contextlib.suppress(GarbledError):
                if Delivery(raw).message.metadata.dst_node_id != number:
                    link_life.put_down(self._folder)

    def _answer_for_the_earlier_life(self) -> None:
        """Say of a message that an earlier life of this link left behind that its work is lost: it may come again."""
        if raw := link_life.left_behind(self._folder):
            reason = "this hospital's link was ended while it worked on the message"
            with contextlib.suppress(RunOverError, GarbledError):
                self._fleet.push(self._failed(Delivery(raw), "lost", reason, ""), 0.0)
            link_life.put_down(self._folder)


def serve(folder: Path) -> None:
    """Connect the node in ``folder`` until SIGTERM or SIGINT; in the main thread of a process of its own.

    Raises:
        UsageError: It is no node, has no certificate, or another process connects it already.
        PolicyError: It has pinned no charter with a coordinator, or its certificate is not for that.
        ProtocolError: Its certificate's time is over or not begun; or it joined anew meanwhile (:class:`MovedError`).
    """
    for name in ("flwr", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # below that they show headers and addresses
    node = Node.open(folder)
    node.require_real()
    post = Post(node, lambda: Place.of(node))
    hint = "stop it first, see 'fedward node status'"
    lock = locked(node.link / LOCK, "another process connects this node", hint=hint, error=UsageError)
    with lock, Worker(HANDLER, preload=PRELOAD) as worker:
        link = Link(node, post, worker, expected=bundle(), say=_say)

        def stop(_number: int, _frame: FrameType | None) -> None:
            link.stop()
            signal.setitimer(signal.ITIMER_REAL, _LAST)

        def stop_now(_number: int, _frame: FrameType | None) -> None:
            raise Stopping

        signal.signal(signal.SIGALRM, stop_now)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        link.run()


def _say(line: str) -> None:
    err.print(f"link: {plain(line)}", markup=False, soft_wrap=True)


def main() -> None:
    """Be the link; exits with the status of the error that ended it."""
    status = 0
    try:
        serve(Path(sys.argv[1]))
    except FedwardError as error:
        complain(error.message, error.hint)
        status = error.exit_code
    except Stopping:
        pass
    sys.stderr.flush()
    os._exit(status)  # a thread may still wait for a coordinator that does not answer


if __name__ == "__main__":
    main()
