"""The privacy ledger: on disk before the training that it pays for, never given back, and never above the budget."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import ledger_file
from client.charge import Budget, Charge
from client.ledger import MOST_ROUNDS, Ledger, most_that
from client.ledger_file import Acknowledged, read_book
from client.training import accounting
from client.training.accounting import Mechanism, epsilon
from shared.errors import BudgetError, RecordError, UsageError

CHARGE = Charge("run", "federation", "denoise", 1, "patient", 4.0, 0.25, 4, 16)
BUDGET = Budget(3.0, 1e-5, 16)
REPOSITORY = Path(__file__).parents[2]

TRAINING_FOR_EVER = """
import sys, torch
from pathlib import Path
from client.ledger import Ledger
from client.training.loop import price, train_round
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, people
from dataclasses import replace

class Telling(ToyTask):
    def draw(self, patient, count, rng):
        print("training", flush=True)
        return super().draw(patient, count, rng)

task, patients, plan = Telling(), people(8), replace(PLAN, rounds=1000)
network = task.network(0)
with Ledger(Path(sys.argv[1])) as ledger:
    for number in range(1, 1001):
        receipt = ledger.reserve(price(task, patients, plan, PRIVACY, round_number=number))
        print("round", number, flush=True)
        train_round(task, network, patients, plan, round_number=number, privacy=PRIVACY, seed=None, receipt=receipt)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy" / "ledger.jsonl"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accountant that anybody can check in the head: epsilon is a tenth of the steps."""

    def tenth(history: Iterable[Mechanism], _: float) -> tuple[float, str]:
        return sum(one.steps for one in history) / 10, "prv"

    monkeypatch.setattr(accounting, "epsilon", tenth)
    monkeypatch.setattr(accounting, "within", lambda history, delta, limit: tenth(history, delta)[0] <= limit)


def rounds(count: int, first: int = 1) -> list[Charge]:
    return [replace(CHARGE, round=number) for number in range(first, first + count)]


def fill(path: Path, charges: int = 3, budget: Budget | None = BUDGET) -> Acknowledged:
    """A ledger with a budget and some rounds."""
    with Ledger(path) as ledger:
        if budget:
            ledger.set_budget(budget, who="Ada Lovelace, DPO", why="the first study")
        for charge in rounds(charges):
            ledger.reserve(charge)
        return ledger.acknowledged


# --- what stands in it ------------------------------------------------------------------------------------------------


def test_charges_are_read_back_and_compose_over_tasks_runs_and_federations(path: Path) -> None:
    others = [
        replace(CHARGE, task="segment", steps=6),
        replace(CHARGE, run="another"),
        replace(CHARGE, federation="another", noise_multiplier=3.0),
    ]
    with Ledger(path) as ledger:
        ledger.reserve(CHARGE)
    with Ledger(path) as ledger:
        for charge in others:
            ledger.reserve(charge)
        assert ledger.charges == (CHARGE, *others)
        assert ledger.history() == (Mechanism(4.0, 0.25, 14), Mechanism(3.0, 0.25, 4))
        told = ledger.statement()
        assert (told.patients, told.steps, told.history) == (16, 18, ledger.history())


def test_epsilon_is_that_of_the_history(path: Path) -> None:
    with Ledger(path) as ledger:
        assert (ledger.epsilon(1e-5), ledger.spent()) == (0.0, 0.0)
        ledger.reserve(CHARGE)
        assert ledger.epsilon(1e-5) == ledger.spent() == epsilon([CHARGE.mechanism], 1e-5)[0]
        ledger.set_budget(Budget(3.0, 1e-7, 16), who="Ada", why="a smaller delta")
        assert ledger.spent() == epsilon([CHARGE.mechanism], 1e-7)[0]


def test_a_ledger_is_lines_of_canonical_json_for_the_owner_only(path: Path) -> None:
    acknowledged = fill(path, charges=2)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["kind"] for row in rows] == ["open", "budget", "charge", "charge"]
    assert (rows[0]["unit"], rows[0]["data_set"]) == ("patient", "cohort")
    assert all(row["time"].endswith("Z") for row in rows)
    assert (rows[1]["epsilon"], rows[1]["who"], rows[1]["why"]) == (3, "Ada Lovelace, DPO", "the first study")
    assert (rows[3]["federation"], rows[3]["mode"], rows[3]["patients"]) == ("federation", "patient", 16)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert acknowledged.rows == 4


def test_reading_takes_no_lock_and_changes_nothing(path: Path) -> None:
    assert read_book(path).rows == 0
    assert not path.exists()
    fill(path)
    path.write_bytes(path.read_bytes() + b"{torn")
    before = path.read_bytes()
    with path.open("rb"):
        assert len(read_book(path).charges) == 3
    assert path.read_bytes() == before
    with Ledger(path):
        assert len(read_book(path).charges) == 3


# --- the budget -------------------------------------------------------------------------------------------------------


def test_what_the_budget_does_not_cover_is_refused_and_not_charged(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(1.0, 1e-5, 16), who="Ada", why="a pilot")
        charges = iter(rounds(100))
        with pytest.raises(BudgetError):  # the loop is what runs into it
            for charge in charges:
                ledger.reserve(charge)
        paid, before = len(ledger.charges), ledger.head
        assert ledger.spent() <= 1.0
        assert epsilon([CHARGE.mechanism._replace(steps=4 * (paid + 1))], 1e-5)[0] > 1.0
        with pytest.raises(BudgetError, match=r"epsilon to 1\.\d+, above the budget of 1 at delta 1e-05; 0\.\d+ is"):
            ledger.reserve(CHARGE)
        assert (len(ledger.charges), ledger.head) == (paid, before)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("limit", "words"),
    [(0.9, "no round like it fits; 1 of its 4 steps would"), (0.8, "nothing like it fits")],
)
def test_a_refusal_says_what_is_spent_and_what_would_still_fit(path: Path, limit: float, words: str) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(limit, 1e-5, 16), who="Ada", why="a pilot")
        for charge in rounds(2):
            ledger.reserve(charge)
        with pytest.raises(BudgetError) as refused:
            ledger.reserve(rounds(1, first=3)[0])
    assert refused.value.message == (
        f"round 3 of denoise would bring epsilon to 1.200, above the budget of {limit} at delta 1e-05; 0.800 is spent"
    )
    assert refused.value.hint.startswith(words)
    assert "fedward node budget set" in refused.value.hint


@pytest.mark.usefixtures("counted")
def test_it_says_how_many_more_rounds_fit(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.fits(CHARGE) == MOST_ROUNDS
        ledger.set_budget(Budget(3.0, 1e-5, 16), who="Ada", why="a pilot")
        assert ledger.fits(CHARGE) == 7
        for charge in rounds(3):
            ledger.reserve(charge)
        assert ledger.fits(CHARGE) == 4
        assert ledger.fits(replace(CHARGE, steps=19)) == 0


def test_as_many_rounds_fit_as_are_said_to(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(1.5, 1e-5, 16), who="Ada", why="a pilot")
        said = ledger.fits(CHARGE)
        assert said > 1
        for charge in rounds(said):
            ledger.reserve(charge)
        with pytest.raises(BudgetError, match="above the budget"):
            ledger.reserve(rounds(1, first=said + 1)[0])


@pytest.mark.usefixtures("counted")
def test_a_budget_below_what_is_spent_takes_nothing_back_and_refuses_everything(path: Path) -> None:
    fill(path, charges=5)
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(0.5, 1e-5, 16), who="Ada", why="too much was spent")
        assert len(ledger.charges) == 5
        with pytest.raises(BudgetError):
            ledger.reserve(replace(CHARGE, round=6, steps=1))
        ledger.set_budget(Budget(10.0, 1e-5, 20), who="Grace", why="the board has decided")
        ledger.reserve(replace(CHARGE, round=6))
    changes = read_book(path).changes
    assert [(change.budget.epsilon, change.who, change.why) for change in changes] == [
        (3.0, "Ada Lovelace, DPO", "the first study"),
        (0.5, "Ada", "too much was spent"),
        (10.0, "Grace", "the board has decided"),
    ]


@pytest.mark.parametrize("text", ["", "  ", "x" * 301, "a\nb", "\u202eevil"])
def test_a_budget_without_a_person_or_a_reason_is_not_set(path: Path, text: str) -> None:
    with Ledger(path) as ledger:
        for words in ({"who": text, "why": "a study"}, {"who": "Ada", "why": text}):
            with pytest.raises(UsageError, match="visible characters"):
                ledger.set_budget(BUDGET, **words)
        assert ledger.budget is None


@pytest.mark.parametrize("wrong", [(0.0, 1e-5, 1), (float("inf"), 1e-5, 1), (1.0, 0.0, 1), (1.0, 1.0, 1), (1, 1e-5, 0)])
def test_figures_that_no_budget_has_are_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(UsageError, match="is no budget"):
        Budget(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"sample_rate": 0.0},
        {"sample_rate": 1.1},
        {"steps": 0},
        {"patients": 0},
        {"mode": "off"},
    ],
)
def test_a_charge_that_no_epsilon_belongs_to_cannot_be_made(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        replace(CHARGE, **wrong)  # type: ignore[arg-type]


def test_a_round_is_paid_for_three_times_at_most_in_a_run(path: Path) -> None:
    with Ledger(path) as ledger:
        for _ in range(3):
            ledger.reserve(CHARGE)
        with pytest.raises(BudgetError, match="3 times"):
            ledger.reserve(CHARGE)
        for other in (replace(CHARGE, run="two"), replace(CHARGE, task="segment"), replace(CHARGE, round=2)):
            ledger.reserve(other)
        ledger.reserve(CHARGE, most=None)


def test_a_virtual_hospital_pays_for_hundreds_of_rounds_without_an_accountant(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("an epsilon was computed")

    monkeypatch.setattr(accounting, "epsilon", never)
    monkeypatch.setattr(accounting, "within", never)
    began = time.process_time()
    with Ledger(path) as ledger:
        for charge in rounds(300):
            ledger.reserve(charge, most=None)
    assert (time.process_time() - began) / 300 < 0.005
    began = time.process_time()
    with Ledger(path) as ledger:
        assert len(ledger.charges) == 300
    assert time.process_time() - began < 0.2


@given(limit=st.integers(1, 2000), last=st.integers(0, 3000))
def test_the_most_that_holds_is_found(limit: int, last: int) -> None:
    assert most_that(lambda number: number <= last, limit) == min(last, limit)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 9)),
        st.tuples(st.just("budget"), st.integers(1, 40)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("counted")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=CHANGES)
def test_whatever_is_asked_the_chain_holds_and_no_charge_goes_above_the_budget_of_its_time(
    path: Path, changes: list[tuple[str, int]]
) -> None:
    path.unlink(missing_ok=True)
    ledger, spent, limit = Ledger(path), 0, 10**9
    for kind, number in changes:
        if kind == "reserve":
            with contextlib.suppress(BudgetError):
                ledger.reserve(replace(CHARGE, steps=number), most=None)
                spent += number
                assert spent <= limit
        elif kind == "budget":
            limit = number
            ledger.set_budget(Budget(number / 10, 1e-5, 9), who="Ada", why="another mind")
        else:
            known = ledger.acknowledged
            ledger.close()
            ledger = Ledger(path, acknowledged=known if known.rows else None)
        assert sum(charge.steps for charge in ledger.charges) == spent
    assert read_book(path) == ledger.book
    ledger.close()


# --- a crash, a full disk, two at once --------------------------------------------------------------------------------


def test_killed_in_the_middle_of_training_the_round_stays_charged(path: Path) -> None:
    """kill -9 while patients are being read: every round of which training has begun is on file."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING_FOR_EVER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    begun = 0
    for line in process.stdout:
        if line.startswith("round"):
            begun = int(line.split()[1])
        elif begun >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert begun >= 3
        assert ledger.history()[0].steps >= begun * 5


def test_a_process_that_is_killed_anywhere_has_charged_what_it_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.client.killed_budget", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed in") == 4


def test_a_torn_last_line_is_dropped_because_nothing_was_trained_on_it(path: Path) -> None:
    fill(path, charges=1)
    whole = path.read_bytes()
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=2))
    further = path.read_bytes()[len(whole) :]
    for length in range(len(further)):
        path.write_bytes(whole + further[:length])
        with Ledger(path) as ledger:
            assert ledger.charges == (CHARGE,)
        assert path.read_bytes() == whole
    path.write_bytes(whole + further[:40])
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=3))
        assert len(read_book(path).charges) == 2


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_no_charge_on_a_full_disk_means_no_receipt(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Filling:
        """A disk that takes a part of what is written, without an error."""

        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:20]))  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    fill(path, charges=1)
    before = path.read_bytes()
    ledger = Ledger(path)
    if call == "fsync":
        monkeypatch.setattr(ledger_file.os, "fsync", full)
    else:
        ledger._file._file = Filling(ledger._file._file)  # type: ignore[assignment]
    with pytest.raises(RecordError, match="No space"):
        ledger.reserve(replace(CHARGE, round=2))
    assert ledger.charges == (CHARGE,)
    with pytest.raises(RecordError, match="closed"):
        ledger.reserve(replace(CHARGE, round=2))
    monkeypatch.undo()
    assert path.read_bytes() == before
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=2))


def test_the_folder_may_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "privacy").write_text("a file, not a folder")
    with pytest.raises(RecordError, match="cannot open"):
        Ledger(tmp_path / "privacy" / "ledger.jsonl")
    with pytest.raises(RecordError, match="cannot read"):
        read_book(tmp_path / "privacy" / "ledger.jsonl")


def test_one_process_at_a_time(path: Path) -> None:
    with Ledger(path), pytest.raises(RecordError, match="held"):
        Ledger(path)
    Ledger(path).close()


@pytest.mark.usefixtures("counted")
def test_of_two_processes_at_once_neither_overdraws_nor_loses_a_charge(path: Path) -> None:
    fill(path, charges=0)

    def spend(name: str) -> int:
        receipts = 0
        while True:
            try:
                with Ledger(path) as ledger:
                    ledger.reserve(replace(CHARGE, run=name, steps=1), most=None)
                    receipts += 1
            except BudgetError:
                return receipts
            except RecordError as error:
                assert "held" in error.message, error
                time.sleep(0.001)

    children = []
    for name in ("one", "two"):
        child = os.fork()
        if not child:
            os._exit(spend(name))
        children.append(child)
    receipts = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    charges = read_book(path).charges
    assert len(charges) == sum(receipts) == 30
    assert [sum(charge.run == name for charge in charges) for name in ("one", "two")] == receipts


# --- what was altered -------------------------------------------------------------------------------------------------


def refusal(path: Path, acknowledged: Acknowledged) -> str:
    """Why the ledger is refused, for reading and for charging; what is refused is left as it is."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(RecordError) as one:
        read_book(path, acknowledged)
    with pytest.raises(RecordError) as two:
        Ledger(path, acknowledged=acknowledged)
    assert one.value.message == two.value.message
    assert (path.read_bytes() if path.exists() else None) == before
    return one.value.message


def test_every_changed_byte_is_seen(path: Path) -> None:
    acknowledged = fill(path, charges=1)
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        number = raw[:place].count(b"\n") + 1
        if place == len(raw) - 1:  # the end of the last line: it looks as if it was never finished
            assert "line 3, which the audit log knows" in refusal(path, acknowledged)
        else:
            assert f"line {number} was changed" in refusal(path, acknowledged)


def alterations(lines: list[bytes]) -> Iterator[tuple[str, list[bytes], int]]:
    """Every removal, doubling and swap of lines, with the first line that is wrong then."""
    for place in range(len(lines)):
        yield f"without {place}", lines[:place] + lines[place + 1 :], place
        yield f"twice {place}", lines[: place + 1] + lines[place:], place + 1
        for other in range(place + 1, len(lines)):
            swapped = list(lines)
            swapped[place], swapped[other] = lines[other], lines[place]
            yield f"swapped {place} and {other}", swapped, place


def test_every_line_that_is_removed_doubled_or_moved_is_seen(path: Path) -> None:
    acknowledged = fill(path, charges=3)
    lines = path.read_bytes().splitlines(keepends=True)
    for what, altered, first in alterations(lines):
        path.write_bytes(b"".join(altered))
        if what == f"without {len(lines) - 1}":
            assert "was cut off or an older copy was put back" in refusal(path, acknowledged)
        else:
            assert f"line {first + 1} was changed, or a line is missing" in refusal(path, acknowledged), what


def test_a_line_of_another_ledger_does_not_fit_in(path: Path, tmp_path: Path) -> None:
    acknowledged = fill(path)
    fill(tmp_path / "other.jsonl", charges=4)
    lines, others = (one.read_bytes().splitlines(keepends=True) for one in (path, tmp_path / "other.jsonl"))
    path.write_bytes(b"".join([*lines, others[5]]))
    assert "line 6" in refusal(path, acknowledged)
    path.write_bytes(b"".join(others))
    assert "is another ledger" in refusal(path, acknowledged)


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b"null\n", b"{}\n", b'{"check":1}\n', b"\xff\n", b"\n", b"[" * 20000 + b"\n", b'{"check":NaN}\n'],
    ids=range(8),
)
def test_what_is_no_line_of_a_ledger_is_refused(path: Path, line: bytes) -> None:
    acknowledged = fill(path, charges=1)
    path.write_bytes(path.read_bytes() + line)
    assert "line 4 was changed" in refusal(path, acknowledged)


def test_a_line_of_an_unknown_kind_is_refused(path: Path) -> None:
    fill(path, charges=1)
    with Ledger(path) as ledger, pytest.raises(ValueError, match="no kind"):
        ledger._file.append("refund", {"steps": 4})


# --- what the audit log knows -----------------------------------------------------------------------------------------


def test_a_ledger_without_what_was_acknowledged_is_refused(path: Path) -> None:
    acknowledged = fill(path, charges=3)
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        assert f"has {kept} lines and lacks line 5" in refusal(path, acknowledged)
    for gone in (lambda: path.write_bytes(b""), path.unlink):
        gone()
        assert "is gone" in refusal(path, acknowledged)
    assert not path.exists(), "no empty ledger takes its place"


def test_a_ledger_that_is_ahead_of_what_was_acknowledged_is_fine(path: Path) -> None:
    acknowledged = fill(path, charges=1)
    with Ledger(path, acknowledged=acknowledged) as ledger:
        ledger.reserve(replace(CHARGE, round=2))
    with Ledger(path, acknowledged=acknowledged) as ledger:
        assert len(ledger.charges) == 2


# --- receipts ---------------------------------------------------------------------------------------------------------


def test_a_receipt_pays_for_its_steps_once(path: Path) -> None:
    with Ledger(path) as ledger:
        receipt = ledger.reserve(CHARGE)
    for _ in range(4):
        receipt.take(4.0, 0.25)
    assert receipt.left == 0
    with pytest.raises(BudgetError, match="taken"):
        receipt.take(4.0, 0.25)


def test_a_receipt_does_not_pay_for_another_mechanism(path: Path) -> None:
    with Ledger(path) as ledger:
        receipt = ledger.reserve(CHARGE)
    for step in ((1.0, 0.25), (4.0, 0.5)):
        with pytest.raises(BudgetError, match="not the one"):
            receipt.take(*step)


def test_the_ledger_loads_without_torch() -> None:
    code = "import sys, client.ledger, client.paying; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0
