"""A federation in one process: members, their ledgers, and an honest coordinator."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.secagg.epoch import Epoch
from shared.secagg.federation import Federation, Peer
from shared.secagg.ledger import Ledger, MemoryLedger
from shared.secagg.member import Member
from shared.secagg.round_messages import RoundTask
from shared.secagg.tally import Outcome, Tally
from shared.vector import Vector

MODEL, CONFIG = hashlib.sha256(b"model").digest(), hashlib.sha256(b"config").digest()
THRESHOLDS = {3: 3, 4: 3, 5: 4, 7: 6, 10: 8, 16: 13, 32: 28}


def identity(index: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity %d" % index).digest())


def federation(n: int, **changes: Any) -> Federation:
    peers = tuple(
        Peer(index, f"hospital-{index}", identity(index).public_key().public_bytes_raw()) for index in range(1, n + 1)
    )
    settings: dict[str, Any] = {"threshold": THRESHOLDS.get(n, n), "clip": 1.0, "w_max": 1000, **changes}
    return Federation("demo", "0" * 64, peers, **settings)


def update(seed: int, size: int, scale: float = 0.05) -> Vector:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size, dtype=np.float32) * np.float32(scale)).astype(np.float32)


@dataclass
class World:
    federation: Federation
    ledgers: Mapping[int, Ledger]
    epoch: Epoch

    @classmethod
    def of(cls, n: int, **changes: Any) -> "World":
        made = federation(n, **changes)
        return cls(made, {peer.index: MemoryLedger() for peer in made.peers}, Epoch(made, 1))

    def member(self, index: int) -> Member:
        """A fresh process of a hospital: all that it knows is in its ledger."""
        return Member(self.federation, index, identity(index), self.ledgers[index])

    @property
    def everyone(self) -> tuple[int, ...]:
        return tuple(peer.index for peer in self.federation.peers)

    def begin(
        self, number: int = 1, *, rounds: int = 3, absent: Collection[int] = (), mute: Collection[int] = ()
    ) -> None:
        """An epoch without ``absent``; those who are ``mute`` advertise and deal nothing."""
        self.epoch = Epoch(self.federation, number)
        for index in self.everyone:
            if index not in absent:
                self.epoch.advert(self.member(index).advertise(number))
        adverts = self.epoch.adverts()
        if self.federation.post_quantum:
            for index in self.epoch.members:
                self.epoch.kem(self.member(index).encapsulate(number, adverts))
        self.deal(1, rounds, mute)

    def deal(self, first: int, count: int, mute: Collection[int] = ()) -> None:
        for index in self.epoch.members:
            if index not in mute:
                self.epoch.deal(self.member(index).share(self.epoch.share_request(index, first, count)))

    def task(self, number: int, size: int, metrics: tuple[str, ...] = ("loss",), **changes: Any) -> RoundTask:
        settings = {"participants": self.epoch.ready(number), "model": MODEL, "config": CONFIG, **changes}
        return RoundTask(self.epoch.number, number, size=size, metrics=metrics, **settings)

    def tally(self, task: RoundTask, workers: int = 1) -> Tally:
        return Tally(self.epoch, task, workers=workers)

    def upload(
        self,
        tally: Tally,
        task: RoundTask,
        updates: Mapping[int, Vector],
        weights: Mapping[int, int],
        metric: float = 0.5,
    ) -> None:
        for index, one in updates.items():
            metrics = dict.fromkeys(task.metrics, metric * index)
            tally.absorb(index, self.member(index).mask(task, one, weights[index], metrics).upload)

    def confirm(self, tally: Tally, silent: Collection[int] = ()) -> None:
        request = tally.confirm_request()
        for index in tally.included:
            if index not in silent:
                tally.confirmation(self.member(index).confirm(request))

    def unmask(self, tally: Tally, silent: Collection[int] = ()) -> None:
        for index in tally.included:
            if index not in silent:
                tally.reveal(self.member(index).unmask(tally.unmask_request(index)))

    def run(
        self,
        task: RoundTask,
        updates: Mapping[int, Vector],
        weights: Mapping[int, int],
        *,
        workers: int = 1,
        silent: Sequence[Collection[int]] = ((), ()),
    ) -> Outcome:
        """A round; ``silent`` says who does not confirm and who does not reveal."""
        tally = self.tally(task, workers)
        self.upload(tally, task, updates, weights)
        self.confirm(tally, silent[0])
        self.unmask(tally, (*silent[0], *silent[1]))
        return tally.finish()


def weighted(updates: Mapping[int, Vector], weights: Mapping[int, int]) -> NDArray[np.float64]:
    total = sum(updates[index].astype(np.float64) * weights[index] for index in updates)
    return np.asarray(total / sum(weights[index] for index in updates))
