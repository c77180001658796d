"""Restarts as attacks: whoever can kill a process at the right moment must not get a second vector or another share."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from shared.errors import PolicyError, ProtocolError
from shared.secagg.epoch import Epoch
from shared.secagg.ledger import MemoryLedger
from shared.secagg.tally import Tally
from tests.attacks.secagg.arena import (
    REFUSALS,
    arena,
    ask_confirm,
    ask_unmask,
    data,
    flat,
    forge_confirmation,
    refused,
    send,
    send_all,
    task_of,
)
from tests.attacks.secagg.attacker import Attacker
from tests.shared.secagg.world import World, weighted

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
MOMENTS = pytest.mark.parametrize("after", [False, True], ids=["before the note", "after the note"])


class KilledError(BaseException):
    """The process is gone; nothing of it runs on."""


class Deadly:
    """A ledger that kills its process at one method, before or after the note is durable."""

    def __init__(self, inner: MemoryLedger, method: str, *, after: bool) -> None:
        self.inner, self.method, self.after = inner, method, after

    def __getattr__(self, name: str) -> Any:
        true: Callable[..., Any] = getattr(self.inner, name)
        if name != self.method:
            return true

        def deadly(*arguments: Any) -> Any:
            if self.after:
                true(*arguments)
            raise KilledError

        return deadly


def kill(world: World, index: int, method: str, call: Callable[[], object], *, after: bool) -> None:
    """Run ``call`` with a process that dies in its ledger, and start the hospital again."""
    inner = world.ledgers[index]
    world.ledgers[index] = cast(MemoryLedger, Deadly(inner, method, after=after))
    try:
        with pytest.raises(KilledError):
            call()
    finally:
        world.ledgers[index] = inner


@MOMENTS
def test_killed_while_it_claims(after: bool) -> None:
    """A hospital dies in ``train`` and is asked again with another update: one vector at most comes of the round."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    attacker = Attacker(world, (4,))
    kill(world, 1, "claim", lambda: send(world, task, 1, updates[1]), after=after)
    if after:
        with refused(world, PolicyError):
            send(world, task, 1, updates[2])
    else:
        attacker.saw(task, [send(world, task, 1, updates[2])])
        with refused(world, PolicyError):
            send(world, task, 1, updates[1])
    assert len(attacker.uploads) == (not after)
    assert not attacker.guesses(1) or not attacker.reads(1, updates[2])


@MOMENTS
def test_killed_while_it_confirms(after: bool) -> None:
    """A hospital dies in ``confirm`` and is asked for another set: after the note it signs the first and no other."""
    world = arena(4)
    task = task_of(world)
    send_all(world, task, data(world))
    kill(world, 1, "confirm", lambda: ask_confirm(world, task, 1, (1, 2, 3)), after=after)
    if after:
        with refused(world, PolicyError):
            ask_confirm(world, task, 1, world.everyone)
        assert ask_confirm(world, task, 1, (1, 2, 3))
    else:
        assert ask_confirm(world, task, 1, world.everyone)
        with refused(world, PolicyError):
            ask_confirm(world, task, 1, (1, 2, 3))


@MOMENTS
def test_killed_while_it_unmasks(after: bool) -> None:
    """A hospital dies in ``unmask`` and is asked for another set: it gives the same shares again, and no others."""
    world = arena(4)
    task = task_of(world)
    send_all(world, task, data(world))
    ask_confirm(world, task, 1, world.everyone)
    all_of = {one: forge_confirmation(world, task, one, world.everyone) for one in world.everyone}
    some = {one: forge_confirmation(world, task, one, (1, 2, 3)) for one in (1, 2, 3)}
    kill(world, 1, "unmask", lambda: ask_unmask(world, task, 1, world.everyone, all_of), after=after)
    with refused(world, PolicyError):
        ask_unmask(world, task, 1, (1, 2, 3), some)
    assert ask_unmask(world, task, 1, world.everyone, all_of) == ask_unmask(world, task, 1, world.everyone, all_of)


@MOMENTS
@POST_QUANTUM
@pytest.mark.parametrize("method", ["seed", "pin"])
def test_killed_while_an_epoch_begins(method: str, post_quantum: bool, after: bool) -> None:
    """A hospital dies while it advertises or deals: it comes back with the same keys, and the epoch goes on."""
    world = arena(4, begun=False, post_quantum=post_quantum)
    adverts = []
    for index in world.everyone:
        if method == "seed":
            kill(world, index, "seed", lambda index=index: world.member(index).advertise(1), after=after)  # type: ignore[misc]
        adverts.append(world.member(index).advertise(1))
        assert world.epoch.advert(adverts[-1]) == index
    if post_quantum:
        for index in world.everyone:
            world.epoch.kem(world.member(index).encapsulate(1, world.epoch.adverts()))
    for index in world.everyone:
        request = world.epoch.share_request(index, 1, 3)
        if method == "pin":
            kill(world, index, "pin", lambda i=index, r=request: world.member(i).share(r), after=after)  # type: ignore[misc]
        deal = world.member(index).share(request)
        assert world.member(index).share(request) == deal
        world.epoch.deal(deal)
    updates = data(world, 200)
    outcome = world.run(task_of(world, size=200), updates, flat(world))
    assert np.abs(outcome.average - weighted(updates, flat(world))).max() < 1e-8


def rebuilt(world: World, messages: list[tuple[str, bytes]]) -> Epoch:
    """The coordinator's book after a restart, from the messages that it kept."""
    book = Epoch(world.federation, world.epoch.number)
    for kind, raw in messages:
        if kind == "deal":
            book.adverts()
        getattr(book, kind)(raw)
    return book


@POST_QUANTUM
@pytest.mark.parametrize("step", ["advert", "kem", "deal", "train", "confirm", "unmask"])
def test_the_coordinator_restarts_after_each_message(step: str, post_quantum: bool) -> None:
    """The coordinator's machine is restarted after every message of one step: the round ends as it would have."""
    world = arena(4, begun=False, post_quantum=post_quantum)
    log: list[tuple[str, bytes]] = []

    def take(kind: str, raw: bytes) -> None:
        log.append((kind, raw))
        getattr(world.epoch, kind)(raw)
        if step == kind:
            world.epoch = rebuilt(world, log)

    for index in world.everyone:
        take("advert", world.member(index).advertise(1))
    adverts = world.epoch.adverts()
    for index in world.everyone if post_quantum else ():
        take("kem", world.member(index).encapsulate(1, adverts))
    for index in world.everyone:
        take("deal", world.member(index).share(world.epoch.share_request(index, 1, 2)))
    updates, task = data(world, 200), task_of(world, size=200)
    raw = send_all(world, task, updates, 1000)
    kept: list[tuple[str, bytes]] = []

    def again(tally: Tally, now: str) -> Tally:
        """The sum after a restart, from the vectors and messages that were kept."""
        if now != step:
            return tally
        world.epoch = rebuilt(world, log)
        fresh = world.tally(task)
        for index in raw:
            if now != "train" or index in tally.included:
                fresh.absorb(index, raw[index])
        if kept:
            fresh.confirm_request()
        for kind, message in kept:
            getattr(fresh, kind)(message)
        return fresh

    tally = world.tally(task)
    for index in raw:
        tally.absorb(index, raw[index])
        tally = again(tally, "train")
    request = tally.confirm_request()
    for index in raw:
        kept.append(("confirmation", world.member(index).confirm(request)))
        tally.confirmation(kept[-1][1])
        tally = again(tally, "confirm")
    for index in raw:
        kept.append(("reveal", world.member(index).unmask(tally.unmask_request(index))))
        tally.reveal(kept[-1][1])
        tally = again(tally, "unmask")
    assert np.abs(tally.finish().average - weighted(updates, flat(world))).max() < 1e-8


def test_a_coordinator_that_lost_a_vector_after_confirm() -> None:
    """The coordinator restarts with one vector fewer and asks for the smaller set: all refuse, the round is over."""
    world = arena(5)
    updates, task = data(world), task_of(world)
    raw = send_all(world, task, updates, 1000)
    attacker = Attacker(world, (5,))
    attacker.saw(task, raw.values())
    first = world.tally(task)
    for index in world.everyone:
        first.absorb(index, raw[index])
    world.confirm(first)
    second = world.tally(task)
    for index in (2, 3, 4, 5):
        second.absorb(index, raw[index])
    request = second.confirm_request()
    for index in (2, 3, 4):
        with refused(world, PolicyError):
            world.member(index).confirm(request)
    with pytest.raises(ProtocolError):
        second.unmask_request(2)
    assert not attacker.reads(1, updates[1])


def test_all_hospitals_restart_between_all_messages() -> None:
    """Every hospital is a new process for every message, five rounds long: all come out right, none can be repeated."""
    world = arena(5, rounds=5)
    updates = data(world, 200)
    for number in range(1, 6):
        outcome = world.run(task_of(world, number, 200), updates, flat(world))
        assert np.abs(outcome.average - weighted(updates, flat(world))).max() < 1e-8
        with refused(world, REFUSALS):
            send(world, task_of(world, number, 200), 1, updates[1])
