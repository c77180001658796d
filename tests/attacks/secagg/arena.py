"""The field on which the attacks are played: honest hospitals behind bytes, and a check that a refusal gave nothing."""

import copy
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.errors import FedwardError, PolicyError, ProtocolError
from shared.secagg.codec import Codec
from shared.secagg.ledger import MemoryLedger
from shared.secagg.round_messages import Confirmation, ConfirmRequest, Reveal, RoundTask, UnmaskRequest
from shared.secagg.setup_messages import Advert, Deal, ShareRequest
from shared.secagg.signing import signed
from shared.vector import Vector
from tests.shared.secagg.world import CONFIG, MODEL, World, identity

SIZE = 4096  # at this length the correlation of unrelated vectors is 0.016 (one sigma), so that 0.1 is no accident
REFUSALS = (PolicyError, ProtocolError)


def drawing(label: str) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    count = itertools.count()
    return lambda length: hashlib.shake_256(f"{label} {next(count)}".encode()).digest(length)


def arena(n: int, label: str = "arena", *, begun: bool = True, rounds: int = 3, **changes: Any) -> World:
    """A federation whose hospitals draw the same secrets in every run; its epoch 1 is dealt unless ``begun`` is off."""
    world = World.of(n, **changes)
    world.ledgers = {index: MemoryLedger(drawing(f"{label} {index}")) for index in world.everyone}
    if begun:
        world.begin(rounds=rounds)
    return world


def data(world: World, size: int = SIZE, scale: float = 0.05) -> dict[int, Vector]:
    """The updates of all hospitals, independent of each other."""
    made: dict[int, Vector] = {}
    for index in world.everyone:
        rng = np.random.default_rng(100 + index)
        made[index] = (rng.standard_normal(size) * scale).astype(np.float32)
    return made


def flat(world: World, weight: int = 1000) -> dict[int, int]:
    return dict.fromkeys(world.everyone, weight)


def send(world: World, task: RoundTask, index: int, update: Vector, weight: int = 10) -> bytes:
    """``train`` at one hospital, over the wire; every metric is the index."""
    told = RoundTask.read(task.to_bytes())
    metrics = dict.fromkeys(told.metrics, float(index))
    return bytes(world.member(index).mask(told, update, weight, metrics).upload)


def send_all(world: World, task: RoundTask, updates: Mapping[int, Vector], weight: int = 10) -> dict[int, bytes]:
    return {index: send(world, task, index, updates[index], weight) for index in task.participants}


def context_of(world: World, task: RoundTask) -> bytes:
    return task.context(world.epoch.transcript, Codec.of(world.federation))


def ask_confirm(world: World, task: RoundTask, index: int, included: Collection[int]) -> bytes:
    """A coordinator that asks for any included set it likes."""
    request = ConfirmRequest(task.epoch, task.round, context_of(world, task), tuple(sorted(included)))
    return world.member(index).confirm(request.to_bytes())


def forge_confirmation(world: World, task: RoundTask, index: int, included: Collection[int], key: int = 0) -> bytes:
    """What a colluding hospital signs for the coordinator; with ``key``, by the identity of another hospital."""
    said = Confirmation(world.epoch.transcript, task.round, context_of(world, task), index, tuple(sorted(included)))
    return signed(said.body(), identity(key or index))


def unmask_request(
    world: World, task: RoundTask, reader: int, included: Collection[int], confirmations: Mapping[int, bytes]
) -> UnmaskRequest:
    """A request with whatever signatures the coordinator has; boxes as they were dealt."""
    sources = [one for one in task.participants if one != reader]
    return UnmaskRequest(
        task.epoch,
        task.round,
        context_of(world, task),
        tuple(sorted(included)),
        tuple(sorted(confirmations)),
        tuple(confirmations[one][-64:] for one in sorted(confirmations)),
        world.epoch.boxes(reader, sources, task.round),
    )


def ask_unmask(
    world: World, task: RoundTask, reader: int, included: Collection[int], confirmations: Mapping[int, bytes]
) -> bytes:
    return world.member(reader).unmask(unmask_request(world, task, reader, included, confirmations).to_bytes())


def read_reveal(world: World, raw: bytes) -> Reveal:
    return Reveal.read(raw, world.federation)


@contextmanager
def refused(
    world: World, error: type[FedwardError] | tuple[type[FedwardError], ...], match: str = ""
) -> Iterator[pytest.ExceptionInfo[FedwardError]]:
    """The block must raise ``error``, and no hospital may have noted a step forward: nothing was claimed or signed."""
    before = {index: memory(ledger) for index, ledger in world.ledgers.items()}
    with pytest.raises(error, match=match or None) as caught:
        yield caught
    assert type(caught.value) in REFUSALS, caught.value
    assert {index: memory(ledger) for index, ledger in world.ledgers.items()} == before


def memory(ledger: MemoryLedger) -> list[object]:
    """Claims, sets and reveals of the rounds 0 to 8 of the epochs 0 to 3, without what merely grew older."""
    return [copy.copy(ledger.claimed(epoch, number)) for epoch in range(4) for number in range(9)]


def twin(ledger: MemoryLedger) -> MemoryLedger:
    """A copy of a ledger as a backup has it: everything that it remembers, and nothing of the process."""
    made = MemoryLedger(drawing("twin"))
    for name, value in vars(ledger).items():
        with suppress(TypeError):  # locks and the like are not copied
            setattr(made, name, copy.deepcopy(value))
    return made


def redealt(raw: bytes, world: World, change: Callable[[Deal], Deal]) -> bytes:
    """A colluding hospital's deal, altered and signed again."""
    deal = change(Deal.read(raw, world.federation))
    return signed(deal.body(), identity(deal.index))


def advert_of(world: World, index: int, number: int, exchange: bytes, kem: bytes = b"", *, key: int = 0) -> bytes:
    """An advert with any key in it, signed by ``key``."""
    made = Advert(world.federation.fingerprint, number, index, exchange, kem)
    return signed(made.body(), identity(key or index))


def share_request(world: World, adverts: Collection[bytes], number: int = 1, kems: Collection[bytes] = ()) -> bytes:
    return ShareRequest(number, 1, 3, tuple(adverts), tuple(kems)).to_bytes()


def other(task: RoundTask, what: str) -> RoundTask:
    """The same round, told differently to another hospital."""
    changes: dict[str, dict[str, Any]] = {
        "model": {"model": hashlib.sha256(b"another model").digest()},
        "config": {"config": hashlib.sha256(b"another config").digest()},
        "participants": {"participants": task.participants[:-1]},
        "metrics": {"metrics": ("accuracy",)},
        "more metrics": {"metrics": (*task.metrics, "accuracy")},
        "size": {"size": task.size + 1},
    }
    return replace(task, **changes[what])


def task_of(world: World, number: int = 1, size: int = SIZE, **changes: Any) -> RoundTask:
    return RoundTask(
        world.epoch.number,
        number,
        **{
            "participants": world.epoch.ready(number),
            "model": MODEL,
            "config": CONFIG,
            "size": size,
            "metrics": ("loss",),
            **changes,
        },
    )
