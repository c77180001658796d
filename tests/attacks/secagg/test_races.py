"""Attempts to win by asking twice at the same time: between a check and its note in the ledger lies a moment."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import shared.secagg.ledger
from shared.errors import PolicyError, ProtocolError
from shared.secagg.keys import EpochState
from shared.secagg.ledger import MemoryLedger
from tests.attacks.secagg.arena import arena, ask_confirm, data, other, send, share_request, task_of
from tests.shared.secagg.world import World


class Meeting(MemoryLedger):
    """A ledger before whose notes two calls wait for each other, so that both are past every check of the member."""

    def __init__(self, ledger: MemoryLedger) -> None:
        vars(self).update(vars(ledger))
        self.barrier = threading.Barrier(2)

    def pin(self, epoch: int, state: EpochState) -> None:
        self._meet()
        super().pin(epoch, state)

    def claim(self, epoch: int, number: int, context: bytes, participants: tuple[int, ...]) -> None:
        self._meet()
        super().claim(epoch, number, context, participants)

    def confirm(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        self._meet()
        super().confirm(epoch, number, included)

    def _meet(self) -> None:
        try:
            self.barrier.wait(5)
        except threading.BrokenBarrierError:
            return


def at_once(*works: Callable[[], bytes]) -> list[str]:
    """What calls that run at the same time gave, by name of the type."""
    made: list[str] = []

    def run(work: Callable[[], bytes]) -> None:
        try:
            made.append(type(work()).__name__)
        except (PolicyError, ProtocolError) as error:
            made.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sorted(made)


@contextmanager
def slow_ledger() -> Iterator[None]:
    """Every instruction of the ledger's code takes a while, so that two threads in it take turns."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != shared.secagg.ledger.__file__:
            return None
        frame.f_trace_opcodes = True
        time.sleep(0.0003)
        return trace

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)


def two_trains(world: World, what: str) -> list[str]:
    task, updates = task_of(world), data(world)
    again = task if what == "same" else other(task, what)
    return at_once(lambda: send(world, task, 1, updates[1]), lambda: send(world, again, 1, updates[2]))


def two_confirms(world: World) -> list[str]:
    task = task_of(world)
    return at_once(
        lambda: ask_confirm(world, task, 1, (1, 2, 3, 4)),
        lambda: ask_confirm(world, task, 1, (1, 2, 3)),
    )


@pytest.mark.parametrize("what", ["same", "model"])
def test_two_trains_at_the_same_time(what: str) -> None:
    """A coordinator sends two ``train`` of a round at once; both pass all checks before the claim: one leaves."""
    world = arena(4)
    world.ledgers[1] = Meeting(world.ledgers[1])
    assert two_trains(world, what) == ["PolicyError", "bytes"]


def test_two_confirms_at_the_same_time() -> None:
    """A coordinator asks for two included sets at once; both pass every check before the note: one is signed."""
    world = arena(4)
    send(world, task_of(world), 1, data(world)[1])
    world.ledgers[1] = Meeting(world.ledgers[1])
    assert two_confirms(world) == ["PolicyError", "bytes"]


def test_two_first_deals_at_the_same_time() -> None:
    """A coordinator shows two sets of members at once, before the first deal: only one epoch comes of it."""
    world = arena(4, begun=False)
    adverts = [world.member(index).advertise(1) for index in world.everyone]
    world.ledgers[1] = Meeting(world.ledgers[1])
    requests = [share_request(world, some) for some in (adverts, adverts[:3])]
    made = at_once(*(lambda request=request: world.member(1).share(request) for request in requests))
    assert made == ["PolicyError", "bytes"]


@pytest.mark.parametrize("what", ["same", "model"])
def test_two_trains_within_the_ledger(what: str) -> None:
    """A coordinator sends two ``train`` at once, and both are inside the claim at the same time: one vector leaves."""
    world = arena(4)
    world.ledgers[1] = Meeting(world.ledgers[1])
    with slow_ledger():
        assert two_trains(world, what) == ["PolicyError", "bytes"]


def test_two_confirms_within_the_ledger() -> None:
    """A coordinator asks for two included sets at once, and both are inside the note at one time: one is signed."""
    world = arena(4)
    send(world, task_of(world), 1, data(world)[1])
    world.ledgers[1] = Meeting(world.ledgers[1])
    with slow_ledger():
        assert two_confirms(world) == ["PolicyError", "bytes"]


def test_two_adverts_within_the_ledger() -> None:
    """A coordinator asks twice at once for a new epoch's keys: the hospital draws one seed and shows one key."""
    world = arena(4, begun=False)
    made: list[bytes] = []

    def advertise() -> bytes:
        made.append(world.member(1).advertise(1))
        return made[-1]

    with slow_ledger():
        at_once(advertise, advertise)
    assert len(made) == 2
    assert made[0] == made[1]
