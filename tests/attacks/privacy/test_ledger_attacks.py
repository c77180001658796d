"""Attempts of a coordinator, of a crash and of a second program to have patients trained on for less than it costs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import rounds
from client.app import close_sessions
from client.charge import Charge, Receipt
from client.ledger import Ledger
from client.ledger_file import read_book
from client.node import Node
from client.training.accounting import epsilon
from shared.errors import BudgetError
from tests.attacks.privacy.forging import chained, charge, rows_of
from tests.attacks.privacy.hospital import RULES, details, header, make_real, refused, set_budget, train, trained
from tests.federation import toy


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Charge]:
    """What was paid for each time that patients were trained on; it is the last charge on disk at that moment."""
    seen: list[Charge] = []
    act = rounds.train_round

    def watched(*values: Any, receipt: Receipt, **named: Any) -> Any:
        (path,) = tmp_path.rglob("ledger.jsonl")
        assert read_book(path).charges[-1] == receipt.charge
        seen.append(receipt.charge)
        return act(*values, receipt=receipt, **named)

    monkeypatch.setattr(rounds, "train_round", watched)
    return seen


def ledger(folder: Path) -> Path:
    return folder / "privacy" / "ledger.jsonl"


# --- a coordinator ----------------------------------------------------------------------------------------------------


def test_no_order_of_rounds_runs_and_repeats_trains_more_than_the_budget(real: Path, trainings: list[Charge]) -> None:
    """Another run, an older round, a later attempt: the same patients, one account."""
    set_budget(real, 3.3)
    answers = [
        train(real, header(run=run, round=number, attempt=attempt))
        for attempt in (1, 2)
        for run, number in (("a", 3), ("A", 3), ("a", 2))
    ]
    book = read_book(ledger(real))
    assert 0 < sum(map(trained, answers)) == len(book.charges) < len(answers), "the budget ended it"
    assert tuple(trainings) == book.charges
    with Ledger(ledger(real)) as opened:
        assert opened.epsilon(1e-5) <= 3.3
    assert {refused(one).code for one in answers if not trained(one)} == {"budget"}


def test_a_refused_round_is_refused_again_in_whatever_words(real: Path, trainings: list[Charge]) -> None:
    set_budget(real, 0.5)
    for changes in ({}, {"run": "other"}, {"run": "x", "round": 3, "attempt": 9}):
        assert refused(train(real, header(**changes))).code == "budget"  # type: ignore[arg-type]
    assert trainings == []


def test_another_federation_on_the_same_patients_finds_the_budget_spent(real: Path, trainings: list[Charge]) -> None:
    set_budget(real, 2.6)
    while trained(train(real, header(run=f"run-{len(trainings)}"))):
        pass
    paid = len(trainings)
    other = toy.charter(id="other", privacy=vars(RULES.privacy))
    Node.open(real).pin(other)
    assert refused(train(real, header(other, federation="other"))).code == "budget"
    assert len(trainings) == paid > 0


def test_a_charter_with_other_settings_than_those_that_were_paid_for(real: Path) -> None:
    """What is paid for comes from the charter that is pinned at that moment, and so does what is trained."""
    set_budget(real, 1e4)
    for sigma in (4.0, 0.5, 2.0):
        rules = toy.charter(privacy=vars(RULES.privacy) | {"noise_multiplier": sigma})
        Node.open(real).pin(rules)
        assert trained(train(real, header(rules)))
        assert read_book(ledger(real)).charges[-1].noise_multiplier == sigma
        assert details(real, "privacy.charge", "ok")[-1]["noise_multiplier"] == sigma


def test_noise_that_is_next_to_none_is_refused_as_what_it_is(real: Path, trainings: list[Charge]) -> None:
    """No charter has it, and the ledger does not rely on that: a division by its square must stop nobody."""
    set_budget(real, 1e3)
    for sigma in (0.01, 1e-300, 1e-160, 5e-324):
        rules = toy.charter(privacy=vars(RULES.privacy) | {"noise_multiplier": sigma})
        Node.open(real).pin(rules)
        assert refused(train(real, header(rules))).code == ("budget" if sigma == 0.01 else "error")
        with Ledger(ledger(real)) as opened, pytest.raises(BudgetError, match="to infinity" if sigma < 0.01 else None):
            opened.reserve(charge(noise_multiplier=sigma))
    assert trainings == []
    assert read_book(ledger(real)).charges == ()


def test_a_budget_is_set_before_anything_and_no_message_sets_one(real: Path, trainings: list[Charge]) -> None:
    for changes in ({}, {"run": "budget"}, {"run": "ledger.jsonl"}):
        assert refused(train(real, header(**changes))).code == "policy"  # type: ignore[arg-type]
    assert not (real / "privacy").exists()
    assert trainings == []


def test_limit_a_coordinator_can_use_up_a_hospitals_budget_with_rounds_that_lead_nowhere(
    real: Path, trainings: list[Charge]
) -> None:
    """Each run may repeat a round three times, and there are as many runs as names: the budget is safe, not its use."""
    set_budget(real, 4.0)
    while trained(train(real, header(run=f"run-{len(trainings)}"))):
        pass
    assert len(trainings) > 3


# --- a crash ----------------------------------------------------------------------------------------------------------


class PowerCutError(BaseException):
    """The machine stops: nobody catches it."""


class Disk:
    """What would be left of the node's ledger and log if the power went at one of the calls of fsync."""

    def __init__(self, root: Path, at: int, *, refuses: bool) -> None:
        self.root, self.at, self.refuses, self.calls, self.broken = root, at, refuses, 0, False
        self._fsync = os.fsync
        self.safe = {path: path.read_bytes() for path in self._files()}

    def _files(self) -> list[Path]:
        found = (path for part in ("privacy", "audit") for path in (self.root / part).glob("*"))
        return [path for path in found if path.is_file()]  # checkpoints follow what they are of

    def fsync(self, handle: int) -> None:
        """Make durable, unless it is this call at which the disk refuses or the machine stops."""
        self.calls += 1
        if self.broken or self.calls == self.at:
            self.broken = True
            if self.refuses:
                raise OSError(5, "Input/output error")
            raise PowerCutError
        self._fsync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_file() and self.root in path.parents:
            self.safe[path] = path.read_bytes()

    def lose(self) -> None:
        """Only what was synced is there again after the power cut."""
        for path in self._files():
            if path in self.safe:
                path.write_bytes(self.safe[path])
            else:
                path.unlink()


@pytest.mark.parametrize("refuses", [True, False], ids=["the disk refuses", "the power goes"])
def test_no_moment_of_a_crash_gives_a_training_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[Charge], *, refuses: bool
) -> None:
    at, moments = 1, 0
    while True:
        real = make_real(toy.make_node(tmp_path / f"{at}" / "H1", "H1", RULES), monkeypatch)
        set_budget(real, 1e4)
        assert trained(train(real, header()))
        del trainings[:]
        disk = Disk(real, at, refuses=refuses)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk.fsync)
            try:
                answered = trained(train(real, header(round=2)))
            except PowerCutError:
                answered = False
            close_sessions()
        if not disk.broken:
            break
        disk.lose()
        charges = len(read_book(ledger(real)).charges)
        assert charges >= 1 + len(trainings), f"trained at moment {at} and the charge is gone"
        assert charges >= 1 + answered
        assert trained(train(real, header(round=3))), f"the hospital never trains again after moment {at}"
        assert len(read_book(ledger(real)).charges) == charges + 1
        close_sessions()
        shutil.rmtree(real)
        at, moments = at + 1, moments + 1
    assert moments >= 5, "log, log, ledger, log, log"


# --- a second program -------------------------------------------------------------------------------------------------


def test_while_another_program_holds_the_ledger_nothing_is_trained(real: Path, trainings: list[Charge]) -> None:
    set_budget(real, 1e4)
    with Ledger(ledger(real)):
        assert refused(train(real)).code == "record"
    assert trainings == []
    assert trained(train(real))


@pytest.mark.parametrize("thief", ["cut", "rechained cheaper", "an older copy, spent on again", "gone", "emptied"])
def test_a_ledger_that_was_changed_while_the_hospital_works_stops_it(
    real: Path, trainings: list[Charge], thief: str
) -> None:
    set_budget(real, 1e4)
    path = ledger(real)
    train(real, header(round=1))
    older = path.read_bytes()
    train(real, header(round=2))
    rows = rows_of(path)
    change: dict[str, Callable[[], Any]] = {
        "cut": lambda: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1])),
        "rechained cheaper": lambda: path.write_bytes(chained([*rows[:-1], rows[-1] | {"noise_multiplier": 900.0}])),
        "an older copy, spent on again": lambda: (path.write_bytes(older), _spend(path)),
        "gone": path.unlink,
        "emptied": lambda: path.write_bytes(b""),
    }
    change[thief]()
    del trainings[:]
    assert refused(train(real, header(round=3))).code == "record"
    close_sessions()
    assert refused(train(real, header(round=3))).code == "record"
    assert trainings == []


def _spend(path: Path) -> None:
    with Ledger(path) as opened:
        for number in (5, 6, 7):
            opened.reserve(_like(opened, number))


def _like(opened: Ledger, number: int) -> Any:
    return type(opened.charges[-1])(**(vars(opened.charges[-1]) | {"round": number, "noise_multiplier": 900.0}))


def test_limit_a_budget_line_that_somebody_adds_counts(real: Path, trainings: list[Charge]) -> None:
    """A ledger may be ahead of the log, as after a crash: who can write to both files needs no forgery of one."""
    set_budget(real, 0.5)
    assert refused(train(real)).code == "budget"
    rows = rows_of(ledger(real))
    last = {**rows[-1], "epsilon": 1e6, "seq": len(rows)}
    ledger(real).write_bytes(chained([*rows, last]))
    assert trained(train(real))
    assert len(trainings) == 1


def test_limit_a_whole_folder_that_is_put_back_forgets_what_was_spent(real: Path, trainings: list[Charge]) -> None:
    set_budget(real, 1e4)
    close_sessions()
    files = [ledger(real), real / "audit" / "log.jsonl"]
    before = [file.read_bytes() for file in files]
    assert trained(train(real))
    close_sessions()
    for file, data in zip(files, before, strict=True):
        file.write_bytes(data)
    assert trained(train(real))
    assert len(trainings) == 2 > len(read_book(ledger(real)).charges)


# --- the sum of small things ------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.permutations([1, 2, 3, 4]))
def test_the_order_in_which_it_is_spent_changes_nothing(tmp_path: Path, steps: list[Charge]) -> None:
    path = tmp_path / f"{steps}.jsonl"
    path.unlink(missing_ok=True)
    with Ledger(path) as opened:
        for number in steps:
            opened.reserve(charge(number, steps=number, run=str(number)))
        assert opened.epsilon(1e-5) == epsilon(opened.history(), 1e-5)[0]
        assert sum(one.steps for one in opened.history()) == 10
