"""Charges: on disk before the training that they pay for, and never given back."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.training import charges as module
from client.training.accounting import Mechanism, epsilon
from client.training.charges import Charge, Charges
from shared.errors import BudgetError, RecordError, UsageError

CHARGE = Charge("denoise", 1, 1.5, 0.25, 4, 16)
REPOSITORY = Path(__file__).parents[3]

TRAINING_FOR_EVER = """
import sys, torch
from pathlib import Path
from client.training.charges import Charges
from client.training.loop import price, train_round
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, people
from dataclasses import replace

class Telling(ToyTask):
    def draw(self, patient, count, rng):
        print("training", flush=True)
        return super().draw(patient, count, rng)

task, patients, plan = Telling(), people(8), replace(PLAN, rounds=1000)
network = task.network(0)
with Charges(Path(sys.argv[1])) as charges:
    for number in range(1, 1001):
        receipt = charges.append(price(task, patients, plan, PRIVACY, round_number=number))
        print("round", number, flush=True)
        train_round(task, network, patients, plan, round_number=number, privacy=PRIVACY, seed=None, receipt=receipt)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy" / "run.jsonl"


def test_charges_are_read_back(path: Path) -> None:
    with Charges(path) as charges:
        charges.append(CHARGE)
        charges.append(Charge("segment", 1, 1.5, 0.25, 6, 12))
    with Charges(path) as charges:
        charges.append(Charge("denoise", 2, 3.0, 0.25, 4, 16))
        assert charges.history() == (Mechanism(1.5, 0.25, 10), Mechanism(3.0, 0.25, 4))
        told = charges.statement()
        assert (told.patients, told.steps, told.history) == (16, 14, charges.history())


def test_the_epsilon_of_a_file_is_that_of_its_history(path: Path) -> None:
    with Charges(path) as charges:
        assert charges.epsilon(1e-5) == 0.0
        charges.append(CHARGE)
        assert charges.epsilon(1e-5) == epsilon([CHARGE.mechanism], 1e-5)[0]


def test_a_file_holds_one_line_for_each_charge_with_time_and_unit_for_the_owner_only(path: Path) -> None:
    with Charges(path) as charges:
        charges.append(CHARGE)
    (line,) = path.read_bytes().splitlines()
    row = json.loads(line)
    assert row["unit"] == "patient"
    assert row["time"].endswith("+00:00")
    assert {key: row[key] for key in ("task", "round", "steps", "patients")} == {
        "task": "denoise",
        "round": 1,
        "steps": 4,
        "patients": 16,
    }
    assert path.stat().st_mode & 0o777 == 0o600


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
    with Charges(path) as charges:
        assert begun >= 3
        assert charges.history()[0].steps >= begun * 5


def test_a_torn_last_line_is_dropped_because_nothing_was_trained_on_it(path: Path) -> None:
    with Charges(path) as charges:
        charges.append(CHARGE)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    with Charges(path) as charges:
        assert charges.history() == (CHARGE.mechanism,)
        charges.append(CHARGE)
    with Charges(path) as charges:
        assert charges.history() == (Mechanism(1.5, 0.25, 8),)


@pytest.mark.parametrize("damage", ["drop the first", "swap", "garbage", "negative", "no key"])
def test_a_damaged_file_stops_everything(path: Path, damage: str) -> None:
    with Charges(path) as charges:
        for number in (1, 2, 3):
            charges.append(Charge("denoise", number, 1.5, 0.25, 4, 16))
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "drop the first": lines[1:],
        "swap": [lines[1], lines[0], lines[2]],
        "garbage": [lines[0], b"\xff{\n", lines[2]],
        "negative": [lines[0].replace(b'"steps":4', b'"steps":-4'), *lines[1:]],
        "no key": [lines[0].replace(b'"steps"', b'"stops"'), *lines[1:]],
    }
    path.write_bytes(b"".join(damaged[damage]))
    with pytest.raises(RecordError, match="line"):
        Charges(path)


def test_one_process_at_a_time(path: Path) -> None:
    with Charges(path), pytest.raises(RecordError, match="held"):
        Charges(path)
    Charges(path).close()


def test_no_charge_on_a_full_disk_means_no_receipt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Charges(path) as charges:
        charges.append(CHARGE)
        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(RecordError, match="No space"):
            charges.append(CHARGE)
        assert charges.history() == (CHARGE.mechanism,)
    monkeypatch.undo()
    with Charges(path) as charges:
        assert charges.history() == (CHARGE.mechanism,)


def test_the_folder_may_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "privacy").write_text("a file, not a folder")
    with pytest.raises(RecordError, match="cannot open"):
        Charges(tmp_path / "privacy" / "run.jsonl")


def test_a_receipt_pays_for_its_steps_once(path: Path) -> None:
    with Charges(path) as charges:
        receipt = charges.append(CHARGE)
    for _ in range(4):
        receipt.take(1.5, 0.25)
    assert receipt.left == 0
    with pytest.raises(BudgetError, match="taken"):
        receipt.take(1.5, 0.25)


def test_a_receipt_does_not_pay_for_another_mechanism(path: Path) -> None:
    with Charges(path) as charges:
        receipt = charges.append(CHARGE)
    for step in ((1.0, 0.25), (1.5, 0.5)):
        with pytest.raises(BudgetError, match="not the one"):
            receipt.take(*step)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"sample_rate": 0.0},
        {"sample_rate": 1.1},
        {"steps": 0},
        {"patients": 0},
    ],
)
def test_a_charge_that_no_epsilon_belongs_to_cannot_be_made(wrong: dict[str, float]) -> None:
    settings = {"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 1, "patients": 1} | wrong
    with pytest.raises(UsageError):
        Charge("denoise", 1, **settings)  # type: ignore[arg-type]
