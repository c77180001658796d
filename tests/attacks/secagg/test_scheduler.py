"""A scheduler that hates everybody: any message to anyone at any time, lost, doubled, out of order, processes killed.

What must hold whatever it does: no hospital gives out both shares of one participant of a round, none sends two vectors
of a round, a round that finishes is right, and the adversary's program reads nobody.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.secagg.dealing import open_box, own_share
from shared.secagg.epoch import Epoch
from shared.secagg.keys import EpochState
from shared.secagg.ledger import MemoryLedger
from shared.secagg.round_messages import RoundTask
from shared.secagg.tally import Tally
from shared.vector import Vector
from tests.attacks.secagg.arena import (
    REFUSALS,
    arena,
    ask_confirm,
    ask_unmask,
    context_of,
    data,
    forge_confirmation,
    read_reveal,
    send,
    task_of,
)
from tests.attacks.secagg.attacker import SUCCESS, Attacker, correlate
from tests.attacks.secagg.test_restarts import Deadly, KilledError
from tests.shared.secagg.world import World, weighted

SIZE, ROUNDS, COLLUDER = 2048, 4, 4
WEIGHTS = {1: 1000, 2: 900, 3: 999, 4: 1000}
HONEST = (1, 2, 3)
SETS = ((1, 2, 3, 4), (1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4))

hospitals = st.sampled_from(HONEST)
picks = st.integers(0, 63)
sets = st.sampled_from(SETS)
one_story = sets.map(lambda one: (one, one, one))
two_stories = st.tuples(*[st.sampled_from((SETS[0], SETS[-1]))] * 3)
stories = one_story | two_stories | st.tuples(sets, sets, sets)


@dataclass
class Book:
    """What the scheduler keeps of one round as it was told to some hospitals."""

    task: RoundTask
    uploads: dict[int, bytes] = field(default_factory=dict)
    confirmations: dict[tuple[int, ...], dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    reveals: list[bytes] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)


class Scheduler(RuleBasedStateMachine):
    """Four hospitals, one of which signs whatever the scheduler likes."""

    post_quantum = False

    @initialize()
    def begin(self) -> None:
        self.world: World = arena(4, "scheduler", rounds=ROUNDS, post_quantum=self.post_quantum)
        self.updates = data(self.world, SIZE)
        self.books: dict[bytes, Book] = {}
        self.vectors: dict[tuple[int, int, int], list[bytes]] = defaultdict(list)
        self.given: dict[tuple[int, int, int, int], set[str]] = defaultdict(set)
        self.finished = 0
        self.first_deals()

    def first_deals(self) -> None:
        """Everything that there is to know about the epoch, for the judge; one attacker's program per epoch."""
        self.states: dict[int, EpochState] = {}
        for index, ledger in self.world.ledgers.items():
            state = ledger.state(self.world.epoch.number)
            assert state is not None
            self.states[index] = state
        self.attacker = Attacker(self.world, (COLLUDER,))
        self.tell(1, 0, SETS[0])

    def book(self, pick: int) -> Book:
        here = list(self.books.values())
        return here[pick % len(here)]

    def update(self, task: RoundTask, index: int) -> Vector:
        return np.roll(self.updates[index], 7 * task.round + task.model[0])

    def attempt(self, call: Callable[[], object]) -> None:
        """Whatever is refused is refused with one of the two errors; anything else is a failure of the test."""
        try:
            call()
        except (*REFUSALS, KilledError):
            return

    @rule(number=st.integers(1, ROUNDS), variant=st.integers(0, 1), participants=sets)
    def tell(self, number: int, variant: int, participants: tuple[int, ...]) -> None:
        """A round is announced, in one of two variants, to any set."""
        task = task_of(self.world, number, SIZE, participants=participants, model=bytes([variant]) * 32)
        self.books.setdefault(context_of(self.world, task), Book(task))

    @rule(pick=picks, index=hospitals)
    def train(self, pick: int, index: int) -> None:
        book = self.book(pick)

        def call() -> None:
            raw = send(self.world, book.task, index, self.update(book.task, index), WEIGHTS[index])
            self.vectors[book.task.epoch, book.task.round, index].append(raw)
            book.uploads[index] = raw
            self.attacker.saw(book.task, [raw])

        self.attempt(call)

    @rule(pick=picks)
    def train_everybody(self, pick: int) -> None:
        for index in self.world.everyone:
            self.train(pick, index)

    @rule(pick=picks)
    def start_a_sum(self, pick: int) -> None:
        book = self.book(pick)
        self.attempt(lambda: book.tallies.append(self.world.tally(book.task)))

    @precondition(lambda self: any(book.tallies for book in self.books.values()))
    @rule(pick=picks, source=picks, order=st.permutations((1, 2, 3, 4)), lost=st.sets(hospitals, max_size=2))
    def absorb(self, pick: int, source: int, order: list[int], lost: set[int]) -> None:
        """Vectors of any book arrive at a sum of any other, in any order, some twice."""
        tally = self.tally(pick)
        for index in [*order, order[0]]:
            raw = self.book(source).uploads.get(index)
            if raw is not None and index not in lost:
                self.attempt(lambda index=index, raw=raw: tally.absorb(index, raw))  # type: ignore[misc]

    @rule(pick=picks, told=stories)
    def confirm_stories(self, pick: int, told: tuple[tuple[int, ...], ...]) -> None:
        """Every honest hospital is told its own set; the colluder signs them all."""
        for index, included in zip(HONEST, told, strict=True):
            self.confirm(pick, index, included)

    def confirm(self, pick: int, index: int, included: tuple[int, ...]) -> None:
        book = self.book(pick)
        signed = book.confirmations[included]
        signed[COLLUDER] = forge_confirmation(self.world, book.task, COLLUDER, included)
        self.attempt(lambda: signed.update({index: ask_confirm(self.world, book.task, index, included)}))

    @rule(pick=picks, told=stories, proof=st.none() | sets)
    def unmask_stories(self, pick: int, told: tuple[tuple[int, ...], ...], proof: tuple[int, ...] | None) -> None:
        """Every honest hospital is asked for shares of its own set, with signatures of that one or of any other."""
        for index, included in zip(HONEST, told, strict=True):
            self.unmask(pick, index, included, proof or included)

    @rule(pick=picks, told=stories)
    def confirm_and_unmask(self, pick: int, told: tuple[tuple[int, ...], ...]) -> None:
        self.confirm_stories(pick, told)
        self.unmask_stories(pick, told, None)

    def unmask(self, pick: int, index: int, included: tuple[int, ...], proof: tuple[int, ...]) -> None:
        book = self.book(pick)

        def call() -> None:
            self.reveal(book, ask_unmask(self.world, book.task, index, included, book.confirmations[proof]), included)

        self.attempt(call)

    def reveal(self, book: Book, raw: bytes, included: tuple[int, ...]) -> None:
        """Note what a share is by comparing it with the truth, not with what was asked for."""
        book.reveals.append(raw)
        told = read_reveal(self.world, raw)
        self.attacker.got(raw, included)
        here = self.states[told.index].at(book.task.round)
        for member, share in zip(told.members, told.shares, strict=True):
            key = (book.task.epoch, book.task.round, told.index, member)
            if member == told.index:
                assert share == own_share(here, self.world.federation.threshold)
                self.given[key].add("b")
                continue
            [box] = self.world.epoch.boxes(told.index, [member], book.task.round)
            true = open_box(here, member, box, "judge")
            assert share in true
            self.given[key].add("bR"[true.index(share)])

    @rule(pick=picks, order=st.permutations((1, 2, 3, 4)), silent=st.sets(hospitals, max_size=1))
    def run_honestly(self, pick: int, order: list[int], silent: set[int]) -> None:
        """An honest coordinator takes any round from where it is, in any order, to its end or a refusal."""
        book = self.book(pick)

        def call() -> None:
            tally = self.world.tally(book.task)
            for index in order:
                self.train(pick, index)
                if index in book.uploads:
                    tally.absorb(index, book.uploads[index])
            self.drive(book, tally, [index for index in order if index not in silent])

        self.attempt(call)

    @precondition(lambda self: any(book.tallies for book in self.books.values()))
    @rule(pick=picks, order=st.permutations((1, 2, 3, 4)))
    def go_on(self, pick: int, order: list[int]) -> None:
        """A sum with whatever arrived in it is taken to its end or a refusal."""
        tally = self.tally(pick)
        [book] = [book for book in self.books.values() if tally in book.tallies]
        self.attempt(lambda: self.drive(book, tally, order))

    def drive(self, book: Book, tally: Tally, order: list[int]) -> None:
        if book.task.epoch != self.world.epoch.number:
            return
        request = tally.confirm_request()
        present = [index for index in order if index in tally.included]
        for index in present:
            self.attempt(lambda index=index: tally.confirmation(self.world.member(index).confirm(request)))  # type: ignore[misc]
        for index in present:
            self.attempt(lambda index=index: self.answer(book, tally, index))  # type: ignore[misc]
        outcome = tally.finish()
        used = {index: self.update(book.task, index) for index in outcome.included}
        weights = {index: WEIGHTS[index] for index in outcome.included}
        assert outcome.weight == sum(weights.values())
        assert not outcome.faults
        assert np.abs(outcome.average - weighted(used, weights)).max() < 1e-8
        self.finished += 1

    def answer(self, book: Book, tally: Tally, index: int) -> None:
        raw = self.world.member(index).unmask(tally.unmask_request(index))
        self.reveal(book, raw, tally.included)
        tally.reveal(raw)

    def tally(self, pick: int) -> Tally:
        here = [tally for book in self.books.values() for tally in book.tallies]
        return here[pick % len(here)]

    @rule(
        pick=picks,
        index=hospitals,
        method=st.sampled_from(["claim", "confirm", "unmask"]),
        after=st.booleans(),
        included=sets,
    )
    def kill(self, pick: int, index: int, method: str, after: bool, included: tuple[int, ...]) -> None:
        """A hospital dies in its ledger, whatever it is asked, and is started again."""
        inner = self.world.ledgers[index]
        self.world.ledgers[index] = cast(MemoryLedger, Deadly(inner, method, after=after))
        try:
            if method == "claim":
                self.train(pick, index)
            elif method == "confirm":
                self.confirm(pick, index, included)
            else:
                self.unmask(pick, index, included, included)
        finally:
            self.world.ledgers[index] = inner

    @rule()
    def restart_the_coordinator(self) -> None:
        """The coordinator forgets its sums and asks for every deal again."""
        number, adverts = self.world.epoch.number, self.world.epoch.adverts()
        if self.post_quantum:
            return  # offers are not kept by this scheduler
        book = Epoch(self.world.federation, number)
        for raw in adverts:
            book.advert(raw)
        first = max(state.round for state in self.states.values())
        assert first == 1
        for one in self.books.values():
            one.tallies.clear()
        before, self.world.epoch = self.world.epoch, book
        self.attempt(lambda: self.world.deal(1, ROUNDS))
        if book.ready(1) != self.world.everyone:  # a hospital has moved on: the old book is read from disk instead
            self.world.epoch = before

    @precondition(lambda self: self.finished and self.world.epoch.number < 3)
    @rule()
    def next_epoch(self) -> None:
        """A new epoch; the judge looks at the old one first."""
        self.judge()
        self.world.begin(self.world.epoch.number + 1, rounds=ROUNDS)
        self.books.clear()
        self.first_deals()

    @invariant()
    def never_both_shares(self) -> None:
        assert not [key for key, kinds in getattr(self, "given", {}).items() if len(kinds) > 1]

    @invariant()
    def never_two_vectors(self) -> None:
        assert not [key for key, sent in getattr(self, "vectors", {}).items() if len(sent) > 1]

    def judge(self) -> None:
        """The adversary's program, with the colluder's secrets and everything that was ever sent."""
        for victim in HONEST:
            guesses = [self.attacker.decode(one) for one in self.attacker.guesses(victim)]
            for task in {task.round: task for task, index, _ in self.attacker.uploads if index == victim}.values():
                truth = self.update(task, victim)
                assert not [one for one in guesses if abs(correlate(one, truth)) > SUCCESS]
            smallest = self.attacker.smallest_sum(victim)
            assert smallest is None or smallest >= 2

    def teardown(self) -> None:
        if hasattr(self, "attacker"):
            self.judge()


class PostQuantumScheduler(Scheduler):
    post_quantum = True


CALM = settings(deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck))
TestScheduler = Scheduler.TestCase
TestScheduler.settings = settings(CALM, max_examples=50)
TestPostQuantumScheduler = PostQuantumScheduler.TestCase
TestPostQuantumScheduler.settings = settings(CALM, max_examples=10)
