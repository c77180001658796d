"""What any ledger must do; :class:`LedgerContract` is for those of other rooms as well."""

import pytest

from shared.errors import PolicyError
from shared.secagg.keys import MAX_AHEAD, EpochState
from shared.secagg.ledger import Ledger, MemoryLedger

STATE = EpochState(1, 1, bytes(32), 1, bytes([7]) * 32, ((2, bytes([8]) * 32), (3, bytes([9]) * 32)))


class LedgerContract:
    """A subclass says how its ledger is made."""

    def fresh(self) -> Ledger:
        raise NotImplementedError

    def opened(self) -> Ledger:
        ledger = self.fresh()
        ledger.seed(1)
        ledger.pin(1, STATE)
        return ledger

    def test_a_seed_stays_until_it_is_used_and_no_longer(self) -> None:
        ledger = self.fresh()
        assert ledger.seed(1) == ledger.seed(1)
        assert len(ledger.seed(1)) == 32
        ledger.pin(1, STATE)
        ledger.pin(1, STATE)
        with pytest.raises(PolicyError, match="keys are in use"):
            ledger.seed(1)
        with pytest.raises(PolicyError, match="another state"):
            ledger.pin(1, STATE.at(2))
        assert ledger.seed(2) != self.fresh().seed(2)
        assert ledger.state(1) is None
        with pytest.raises(PolicyError, match="epoch 1 is over"):
            ledger.seed(1)

    def test_a_round_is_claimed_once_and_in_order(self) -> None:
        ledger = self.opened()
        ledger.claim(1, 2, bytes(32), (1, 2, 3))
        for number in (1, 2):
            with pytest.raises(PolicyError, match=f"round {number} of epoch 1 is used up"):
                ledger.claim(1, number, bytes(32), (1, 2, 3))
        with pytest.raises(PolicyError, match="used up"):
            ledger.claim(2, 1, bytes(32), (1, 2, 3))

    def test_one_set_is_confirmed_and_only_that_is_unmasked(self) -> None:
        ledger = self.opened()
        with pytest.raises(PolicyError, match="none can be signed"):
            ledger.confirm(1, 1, (1, 2, 3))
        ledger.claim(1, 1, bytes(32), (1, 2, 3, 4))
        with pytest.raises(PolicyError, match="not the one that this hospital signed"):
            ledger.unmask(1, 1, (1, 2, 3))
        for _ in range(2):
            ledger.confirm(1, 1, (1, 2, 3))
            ledger.unmask(1, 1, (1, 2, 3))
        with pytest.raises(PolicyError, match="another included set"):
            ledger.confirm(1, 1, (1, 2, 3, 4))
        with pytest.raises(PolicyError, match="not the one that this hospital signed"):
            ledger.unmask(1, 1, (1, 2, 3, 4))

    def test_a_claim_erases_what_came_before_its_round(self) -> None:
        ledger = self.opened()
        ledger.claim(1, 2, bytes(32), (1, 2, 3))
        ledger.claim(1, 4, bytes(32), (1, 2, 3))
        assert ledger.state(1) == STATE.at(4)
        assert ledger.claimed(1, 2) is None
        assert ledger.claimed(1, 4) is not None

    def test_what_is_forgotten_cannot_be_computed_again(self) -> None:
        ledger = self.opened()
        ledger.claim(1, 2, bytes(32), (1, 2, 3))
        for number in (1, 1, 0):
            ledger.forget(1, number)
        state = ledger.state(1)
        assert state == STATE.at(2)
        assert state is not None
        with pytest.raises(PolicyError, match="round 1 of epoch 1 is out of reach"):
            state.at(1)
        assert ledger.claimed(1, 2) is not None
        ledger.forget(1, 2)
        assert ledger.claimed(1, 2) is None

    def test_what_was_never_begun_cannot_be_pinned_or_claimed(self) -> None:
        ledger = self.fresh()
        for epoch in (0, 1):
            with pytest.raises(PolicyError, match="another state"):
                ledger.pin(epoch, STATE)
            with pytest.raises(PolicyError, match="used up"):
                ledger.claim(epoch, 1, bytes(32), (1, 2, 3))
            assert ledger.state(epoch) is None
            assert ledger.claimed(epoch, 1) is None

    def test_another_epoch_has_nothing_to_forget_here(self) -> None:
        ledger = self.opened()
        ledger.claim(1, 3, bytes(32), (1, 2, 3))
        for epoch in (0, 2):
            ledger.forget(epoch, 5)
        assert ledger.claimed(1, 3) is not None
        assert ledger.state(1) == STATE.at(3)


class TestMemoryLedger(LedgerContract):
    def fresh(self) -> Ledger:
        return MemoryLedger()

    def test_a_memory_shows_no_secrets(self) -> None:
        ledger = MemoryLedger(lambda size: b"s" * size)
        ledger.seed(1)
        assert "sss" not in repr(ledger.memory)
        ledger.pin(1, STATE)
        assert "seed" not in repr(ledger.memory)
        assert "state" not in repr(ledger.memory)


def test_a_state_moves_on_step_by_step_as_at_once_and_not_without_end() -> None:
    assert STATE.at(2).at(5) == STATE.at(5)
    assert EpochState.from_bytes(STATE.to_bytes()) == STATE
    assert STATE.members == (1, 2, 3)
    with pytest.raises(PolicyError, match="out of reach"):
        STATE.at(2 + MAX_AHEAD)
