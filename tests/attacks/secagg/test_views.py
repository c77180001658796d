"""Attempts to tell hospitals different things about one round, so that masks fail or two sets are confirmed."""

import hashlib
from dataclasses import fields, replace

import pytest

from shared.errors import PolicyError, ProtocolError
from shared.secagg.federation import Federation
from shared.secagg.round_messages import ConfirmRequest, RoundTask, Upload
from shared.secagg.tally import Tally
from tests.attacks.secagg.arena import (
    REFUSALS,
    arena,
    ask_confirm,
    context_of,
    data,
    other,
    refused,
    send,
    send_all,
    task_of,
)
from tests.attacks.secagg.attacker import Attacker
from tests.shared.secagg.world import World

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
DIFFERENCES = ["model", "config", "metrics", "participants"]


def two_stories(world: World, what: str, deceived: int) -> tuple[RoundTask, RoundTask, dict[int, bytes]]:
    """A round of which hospital ``deceived`` is told something else; uploads by index."""
    task = task_of(world)
    told = other(task, what)
    updates = data(world)
    return task, told, {
        index: send(world, told if index == deceived else task, index, updates[index]) for index in task.participants
    }  # fmt: skip


@POST_QUANTUM
@pytest.mark.parametrize("what", DIFFERENCES)
def test_one_hospital_is_told_something_else(what: str, post_quantum: bool) -> None:
    """Coordinator and c hospitals give the victim another model, configuration or list: nothing of it can be read."""
    world = arena(5, post_quantum=post_quantum)
    updates = data(world)
    task, told, raw = two_stories(world, what, 1)
    attacker = Attacker(world, (4, 5))
    attacker.saw(told, [raw.pop(1)])
    attacker.saw(task, raw.values())
    for index in (2, 3):
        with refused(world, REFUSALS):
            ask_confirm(world, told, index, told.participants)
    with refused(world, REFUSALS):
        ask_confirm(world, task, 1, world.everyone)
    for index in (2, 3):  # the deceived one is declared dropped: its vault is opened
        ask_confirm(world, task, index, (2, 3, 4, 5))
    state = world.ledgers[1].state(1)
    assert state is not None
    attacker.secrets_of(state.at(1), 1)
    attacker.shares[1, 1, "b"].clear()
    assert attacker.secret(1, 1, "R") is not None
    assert not attacker.reads(1, updates[1])


@POST_QUANTUM
@pytest.mark.parametrize("what", DIFFERENCES)
def test_an_honest_coordinator_is_not_fooled(what: str, post_quantum: bool) -> None:
    """A link alters the task of one hospital: its vector is refused, and spoils with a patched context."""
    world = arena(4, post_quantum=post_quantum)
    task, told, raw = two_stories(world, what, 1)
    tally = world.tally(task)
    with pytest.raises(ProtocolError):
        tally.absorb(1, raw[1])
    codec = Attacker(world).codec
    upload = Upload.read(raw[1], told, codec)
    head = Upload.head(1, context_of(world, task), upload.lanes)
    tally.absorb(1, head.ljust(len(raw[1]) - upload.body.nbytes, b"\0") + upload.body.tobytes())
    for index in (2, 3, 4):
        tally.absorb(index, raw[index])
    with pytest.raises(ProtocolError):
        finish(world, tally, signers=(2, 3, 4))


def finish(world: World, tally: Tally, signers: tuple[int, ...]) -> None:
    request = tally.confirm_request()
    for index in signers:
        tally.confirmation(world.member(index).confirm(request))
    for index in signers:
        tally.reveal(world.member(index).unmask(tally.unmask_request(index)))
    tally.finish()


def test_a_round_of_two_halves() -> None:
    """A coordinator gives two halves of the hospitals two models, to see who reacts how: no half is ever confirmed."""
    world = arena(7)
    updates, task = data(world), task_of(world)
    told = other(task, "model")
    attacker = Attacker(world, (7,))
    for half, one in (((1, 2, 3), task), ((4, 5, 6), told)):
        attacker.saw(one, [send(world, one, index, updates[index]) for index in half])
        for included in (half, (*half, 7)):
            for index in half:
                with refused(world, REFUSALS):
                    ask_confirm(world, one, index, included)
    assert attacker.smallest_sum(1) is None


@pytest.mark.parametrize(
    "participants",
    [(), (1,), (1, 2), (2, 3, 4), (1, 2, 3, 9), (1, 1, 2), (3, 2, 1), (0, 1, 2), (1, 2, 3, 4, 5), (1, 2, 1001)],
    ids=str,
)
def test_participants_that_are_none(participants: tuple[int, ...]) -> None:
    """A coordinator names too few, unknown, doubled or unsorted participants, or not the hospital itself: refused."""
    world = arena(4)
    with refused(world, REFUSALS):
        send(world, task_of(world, participants=participants), 1, data(world)[1])


def test_participants_outside_the_epoch() -> None:
    """A coordinator names a member of the charter that did not advertise, in whose place it would sit: refused."""
    world = arena(5, begun=False)
    world.begin(absent=(5,))
    for participants in (world.everyone, (1, 2, 3, 5)):
        with refused(world, REFUSALS):
            send(world, task_of(world, participants=participants), 1, data(world)[1])


@pytest.mark.parametrize("number", [0, 5000, 2**32 + 1, 2**63, 2**64 - 1])
def test_round_numbers_that_are_none(number: int) -> None:
    """A coordinator asks for a round that is none, or far beyond: refused, and the next one is not used up by it."""
    world = arena(4)
    task = task_of(world)
    with refused(world, REFUSALS):
        send(world, replace(task, round=number), 1, data(world)[1])
    assert send(world, task, 1, data(world)[1])


@pytest.mark.parametrize(
    "change",
    [{"model": b""}, {"config": b"x"}, {"model": bytes(64)}, {"metrics": ("loss", "loss")}, {"size": 2**40},
     {"metrics": tuple(f"m{one}" for one in range(65))}, {"epoch": 0}, {"epoch": 2}, {"epoch": 2**64 - 1}],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
def test_tasks_with_impossible_fields(change: dict[str, object]) -> None:
    """A coordinator sends a task with fields of the wrong length, or names a metric twice: refused before the claim."""
    world = arena(4)
    with refused(world, REFUSALS):
        send(world, replace(task_of(world), **change), 1, data(world)[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("participants", [(1, 1, 2), (1, 2, 2), (1, 1, 1)], ids=str)
def test_a_task_that_was_not_read_from_bytes(participants: tuple[int, ...]) -> None:
    """A coordinator reaches the quorum by naming hospitals twice, where the task came as an object: refused as well."""
    world = arena(4)
    with refused(world, REFUSALS):
        world.member(1).mask(task_of(world, participants=participants), data(world)[1], 10, {"loss": 0.0})


def test_another_size_than_the_model_has() -> None:
    """A coordinator asks for fewer or more elements than the update has, so that masks shift: refused."""
    world = arena(4)
    for size in (0, 1, 4095, 4097):
        with refused(world, REFUSALS):
            send(world, task_of(world, size=size), 1, data(world)[1])


@POST_QUANTUM
def test_an_altered_config(post_quantum: bool) -> None:
    """A coordinator sends some hospitals an altered configuration: each hashes what it got, so no set is confirmed."""
    world = arena(4, post_quantum=post_quantum)
    updates = data(world)
    tasks = {index: task_of(world) for index in world.everyone}
    tasks[1] = task_of(world, config=hashlib.sha256(b"config, clip off").digest())
    attacker = Attacker(world, (4,))
    for index, one in tasks.items():
        attacker.saw(one, [send(world, one, index, updates[index])])
    with refused(world, REFUSALS):
        ask_confirm(world, tasks[2], 1, world.everyone)
    for index in (2, 3):
        with refused(world, REFUSALS):
            ask_confirm(world, tasks[1], index, world.everyone)
    assert attacker.smallest_sum(1) is None
    assert not attacker.reads(1, updates[1])


def test_no_message_carries_a_rule() -> None:
    """A coordinator looks for a field in which it could send a threshold, a clip, a ring or keys: there is none."""
    rules = {one.name for one in fields(Federation)} - {"id"}
    for message in (RoundTask, ConfirmRequest):
        assert not rules & {one.name for one in fields(message)}


def test_a_context_that_no_task_has() -> None:
    """A coordinator asks to sign a set under a context of its own making: refused."""
    world = arena(4)
    task = task_of(world)
    send_all(world, task, data(world))
    for context in (bytes(32), hashlib.sha256(b"x").digest(), b""):
        with refused(world, REFUSALS):
            world.member(1).confirm(ConfirmRequest(1, 1, context, world.everyone).to_bytes())


def test_the_tally_wants_those_who_dealt() -> None:
    """A coordinator is given a task with a participant that dealt nothing: it never begins."""
    world = arena(5, begun=False)
    world.begin(mute=(5,))
    with pytest.raises(ProtocolError):
        world.tally(task_of(world, participants=world.everyone))
    with pytest.raises((PolicyError, ProtocolError)):
        world.tally(task_of(world, participants=(1, 2, 3)))
