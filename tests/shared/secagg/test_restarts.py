"""Any order of rounds, drop-outs, replays and restarts: the sums are right, and nothing is masked or revealed twice.

Members are made anew from their ledger for every call, so each step is a restart; a hospital that dies between its
claim and its upload is one that never uploads.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.errors import FedwardError, PolicyError, ProtocolError
from shared.secagg.round_messages import ConfirmRequest, Reveal, RoundTask
from shared.secagg.tally import Tally
from tests.shared.secagg.world import World, update, weighted

SIZE = 40
N = 5
few = st.one_of(st.just(set[int]()), st.sets(st.integers(1, N), max_size=1))
most = few.map(lambda out: set(range(1, N + 1)) - out)


class Rounds(RuleBasedStateMachine):
    def made(self, **settings: object) -> World:
        return World.of(N, **settings)

    @initialize(post_quantum=st.booleans(), bits=st.sampled_from([16, 32]))
    def start(self, post_quantum: bool, bits: int) -> None:
        self.world = self.made(post_quantum=post_quantum, ring_bits=bits)
        self.number = 0
        self.dealt = 0
        self.revealed: dict[tuple[int, int, int, int], set[bytes]] = {}
        self.new_epoch(set())

    def new_epoch(self, absent: set[int]) -> None:
        self.world.begin(self.world.epoch.number + 1, rounds=2, absent=absent)
        self.number, self.dealt = 0, 2
        self.tally: Tally | None = None
        self.task: RoundTask | None = None

    @precondition(lambda self: self.task is None or self.steps > 6)
    @rule(absent=few)
    def epoch(self, absent: set[int]) -> None:
        if N - len(absent) >= self.world.federation.quorum:
            self.new_epoch(absent)

    @precondition(lambda self: self.task is None or self.steps > 6)
    @rule(skip=st.integers(1, 2), asked=most, prompt=most)
    def train(self, skip: int, asked: set[int], prompt: set[int]) -> None:
        self.number += skip
        if self.number > self.dealt:
            self.world.deal(self.dealt + 1, self.number - self.dealt + 1)
            self.dealt = self.number + 1
        ready = self.world.epoch.ready(self.number)
        chosen = tuple(index for index in ready if index in asked)
        participants = chosen if len(chosen) >= self.world.federation.quorum else ready
        self.task = self.world.task(self.number, SIZE, participants=participants)
        self.tally = self.world.tally(self.task)
        self.sent: dict[int, np.ndarray] = {}
        self.confirmed: set[int] = set()
        self.answered: set[int] = set()
        self.closed = False
        self.steps = 0
        self.upload(prompt, set())

    @precondition(lambda self: self.task)
    @rule(who=most, lost=few)
    def upload(self, who: set[int], lost: set[int]) -> None:
        assert self.task is not None
        assert self.tally is not None
        for index in who & set(self.task.participants):
            one = update(index, SIZE)
            claimed = self.world.ledgers[index].claimed(self.task.epoch, self.task.round)
            if claimed is not None:
                with pytest.raises(PolicyError, match="used up"):
                    self.world.member(index).mask(self.task, one, 100 * index, {"loss": 1.0})
                continue
            masked = self.world.member(index).mask(self.task, one, 100 * index, {"loss": 1.0}).upload
            if self.closed:
                with pytest.raises(ProtocolError, match="late"):
                    self.tally.absorb(index, masked)
            elif index not in lost:
                self.tally.absorb(index, masked)
                self.sent[index] = one

    @precondition(lambda self: self.task)
    @rule(who=most)
    def confirm(self, who: set[int]) -> None:
        assert self.tally is not None
        if len(self.sent) < self.world.federation.quorum:
            with pytest.raises(ProtocolError, match="are fewer than"):
                self.tally.confirm_request()
            return
        request = self.tally.confirm_request()
        self.closed = True
        for index in who & set(self.sent):
            self.tally.confirmation(self.world.member(index).confirm(request))
            self.confirmed.add(index)

    @precondition(lambda self: self.task and self.closed)
    @rule(who=most, dropped=st.integers(1, N))
    def lie(self, who: set[int], dropped: int) -> None:
        """The coordinator asks for another included set of the same round."""
        assert self.tally is not None
        request = ConfirmRequest.read(self.tally.confirm_request())
        other = tuple(index for index in request.included if index != dropped)
        if other == request.included:
            return
        for index in who & self.confirmed:
            with pytest.raises(FedwardError):
                self.world.member(index).confirm(
                    ConfirmRequest(request.epoch, request.round, request.context, other).to_bytes()
                )

    @precondition(lambda self: self.task and self.closed)
    @rule(who=most)
    def unmask(self, who: set[int]) -> None:
        assert self.tally is not None
        t = self.world.federation.threshold
        for index in who & set(self.sent):
            if len(self.confirmed) < t:
                with pytest.raises(ProtocolError, match="confirmations are fewer"):
                    self.tally.unmask_request(index)
                continue
            if index not in self.confirmed:
                with pytest.raises(PolicyError, match="not the one that this hospital signed"):
                    self.world.member(index).unmask(self.tally.unmask_request(index))
                continue
            raw = self.world.member(index).unmask(self.tally.unmask_request(index))
            self.tally.reveal(raw)
            self.answered.add(index)
            read = Reveal.read(raw, self.world.federation)
            for member, share in zip(read.members, read.shares, strict=True):
                place = (self.world.epoch.number, read.round, index, member)
                self.revealed.setdefault(place, set()).add(share)

    @precondition(lambda self: self.task and len(self.sent) >= self.world.federation.quorum)
    @rule(hurry=st.booleans(), who=most)
    def finish(self, hurry: bool, who: set[int]) -> None:
        assert self.tally is not None
        if hurry:
            self.confirm(who)
            self.unmask(who | set(self.sent))
        if len(self.answered) < self.world.federation.threshold:
            with pytest.raises(ProtocolError, match="are fewer than"):
                self.tally.finish()
            return
        outcome = self.tally.finish()
        weights = {index: 100 * index for index in self.sent}
        steps = 1e-6 if self.world.federation.ring_bits == 32 else 2e-2
        assert np.allclose(outcome.average, weighted(self.sent, weights), atol=steps)
        assert outcome.included == tuple(sorted(self.sent))
        assert outcome.metrics == {"loss": float(len(self.sent))}
        self.task = None

    @invariant()
    def a_round_is_not_given_up_at_once(self) -> None:
        self.steps = getattr(self, "steps", 0) + 1

    @invariant()
    def of_each_member_one_share_of_a_round_at_most(self) -> None:
        assert all(len(shares) == 1 for shares in getattr(self, "revealed", {}).values())


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
