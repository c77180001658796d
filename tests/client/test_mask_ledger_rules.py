"""The ledger of a hospital on disk follows the rules of the one in memory, also through whole rounds."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from client.mask_ledger import LEDGER, MaskLedger
from shared.errors import FedwardError
from shared.secagg.keys import EpochState
from shared.secagg.ledger import Ledger, Memory, MemoryLedger
from tests.shared.secagg.test_ledger import STATE, LedgerContract
from tests.shared.secagg.test_restarts import N, Rounds
from tests.shared.secagg.world import World

HOME, OTHER = bytes(range(32)), bytes(range(1, 33))
CONTEXT = b"c" * 32


class Restarted:
    """Every call is made by a new process, as far as the ledger can tell."""

    def __init__(self, folder: Path, fingerprint: bytes = HOME, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._made = folder, fingerprint, draw

    def __getattr__(self, name: str) -> object:
        return getattr(MaskLedger(*self._made), name)


class TestMaskLedger(LedgerContract):
    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path) -> None:
        self.left = (tmp_path / str(number) for number in itertools.count())

    def fresh(self) -> Ledger:
        return Restarted(next(self.left))  # type: ignore[return-value]


epochs, numbers = st.integers(0, 4), st.integers(0, 5)
sets = st.sampled_from([(1, 2, 3), (1, 2, 4), (1, 2, 3, 4)])


def heard(call: Callable[[], object]) -> object:
    try:
        return call()
    except FedwardError as error:
        return type(error), str(error)


class Equal(RuleBasedStateMachine):
    """Beside the ledger in memory: charters that come and go, and a file that is lost."""

    @initialize()
    def start(self) -> None:
        self.place = contextlib.ExitStack()
        self.folder = Path(self.place.enter_context(tempfile.TemporaryDirectory())) / "ledger"
        self.place.enter_context(mock.patch("os.fsync"))
        self.owner, self.pinned, self.memory, self.steps = HOME, HOME, Memory(), 0

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()

    def both(self, name: str, *given: object) -> None:
        def draw(size: int) -> bytes:
            return bytes([self.steps % 256]) * size

        self.steps += 1
        known = self.memory if self.pinned == self.owner else Memory(self.memory.epoch)
        reference, tested = MemoryLedger(draw, known), MaskLedger(self.folder, self.pinned, draw)
        expected = heard(lambda: getattr(reference, name)(*given))
        assert heard(lambda: getattr(tested, name)(*given)) == expected
        if reference.memory != known:
            self.owner, self.memory = self.pinned, reference.memory

    @rule(epoch=epochs)
    def seed(self, epoch: int) -> None:
        self.both("seed", epoch)

    @rule(epoch=epochs, own=st.integers(0, 1), number=numbers)
    def pin(self, epoch: int, own: int, number: int) -> None:
        self.both("pin", epoch, EpochState(1, epoch, bytes(32), number, bytes([own]) * 32, STATE.pairs))

    @rule(epoch=epochs, number=numbers, asked=sets)
    def claim(self, epoch: int, number: int, asked: tuple[int, ...]) -> None:
        self.both("claim", epoch, number, CONTEXT, asked)

    @rule(what=st.sampled_from(["confirm", "unmask"]), epoch=epochs, number=numbers, included=sets)
    def answer(self, what: str, epoch: int, number: int, included: tuple[int, ...]) -> None:
        self.both(what, epoch, number, included)

    @rule(epoch=epochs, number=st.one_of(numbers, st.just(2**31)))
    def forget(self, epoch: int, number: int) -> None:
        self.both("forget", epoch, number)

    @rule(epoch=epochs, number=numbers)
    def look(self, epoch: int, number: int) -> None:
        self.both("state", epoch)
        self.both("claimed", epoch, number)

    @rule(charter=st.sampled_from([HOME, OTHER]))
    def charter(self, charter: bytes) -> None:
        self.pinned = charter

    @rule(really=st.integers(0, 5))
    def lose(self, really: int) -> None:
        if not really:
            (self.folder / LEDGER).unlink(missing_ok=True)
            self.memory = Memory(self.memory.epoch)


TestEqual = Equal.TestCase
TestEqual.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class KeptRounds(Rounds):
    """Whole rounds, drop-outs and lies, with the ledger of every hospital on disk."""

    def made(self, **given: object) -> World:
        self.place = contextlib.ExitStack()
        root = Path(self.place.enter_context(tempfile.TemporaryDirectory()))
        self.place.enter_context(mock.patch("os.fsync"))
        world = World.of(N, **given)
        fingerprint = world.federation.fingerprint
        kept: Mapping[int, Ledger] = {index: Restarted(root / str(index), fingerprint) for index in world.everyone}  # type: ignore[misc]
        world.ledgers = kept
        return world

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()


TestKeptRounds = KeptRounds.TestCase
TestKeptRounds.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
