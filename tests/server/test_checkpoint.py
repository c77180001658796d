"""A checkpoint gives back what was put into it, to the run that made it."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from server.averaging import MovingAverage
from server.checkpoint import Book, Checkpoint, State
from server.history import PhaseRecord, RoundRecord, Traffic
from server.optimiser import OPTIMISERS, ServerOptimiser
from shared.errors import RecordError, UsageError

IDENTITY = {"run": "r", "charter": "0" * 64}
PHASE = PhaseRecord(
    seconds=0.1,
    asked=("H1", "H2"),
    answered=("H1",),
    missing=(),
    refused={"H2": "masks: used up"},
    dropped={},
    sums={"mse": 1 / 3},
    traffic={"train": Traffic(2, 1, 10, 20)},
    notes=("attempt 1: nobody came",),
)
STATE = State(
    round=1,
    model=np.array([1.0, np.nan], np.float32),
    released=np.array([-0.0, 2.0], np.float32),
    optimiser={"step": np.asarray(3.0, np.float32), "sum": np.ones(2, np.float32)},
    average={"sum": np.array([1 / 3, 2.0]), "weight": np.asarray(1.5)},
    rounds=(RoundRecord(0, None, PHASE, 0.0, 0.0, "a"), RoundRecord(1, PHASE, None, 3.0, 1 / 7, "b")),
    declined=("H3",),
    last_epoch=8,
    book=Book(8, 3, ("H1", "H2"), {"advertise": (b"one", b"two"), "share": (b"three",)}),
)


def test_all_of_a_state_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    assert Checkpoint(folder, IDENTITY).load() is None
    Checkpoint(folder, IDENTITY).save(STATE)
    found = Checkpoint(folder, IDENTITY).load()
    assert found is not None
    for name in ("model", "released"):
        assert getattr(found, name).tobytes() == getattr(STATE, name).tobytes()
    for name in ("optimiser", "average"):
        one, two = getattr(found, name), getattr(STATE, name)
        assert {key: (value.shape, value.tobytes()) for key, value in one.items()} == {
            key: (value.shape, value.tobytes()) for key, value in two.items()
        }
    assert [asdict(one) for one in found.rounds] == [asdict(one) for one in STATE.rounds]
    assert (found.round, found.declined, found.last_epoch, found.book) == (1, ("H3",), 8, STATE.book)


def test_what_a_state_makes_superfluous_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint", IDENTITY)
    checkpoint.journal(0)
    checkpoint.journal(1)
    checkpoint.save(STATE)
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {"state.bin", "epoch-8.bin"}
    checkpoint.journal(2)
    checkpoint.save(replace(STATE, book=None))
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {"state.bin", "round-00002"}


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint", IDENTITY).save(STATE)
    assert (tmp_path / "checkpoint").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "checkpoint").iterdir()} == {0o600}


def test_another_run_or_another_release_cannot_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    Checkpoint(folder, IDENTITY).save(STATE)
    with pytest.raises(UsageError, match="its charter is 0000"):
        Checkpoint(folder, IDENTITY | {"charter": "1" * 64}).load()
    monkeypatch.setattr("server.checkpoint.VERSION", 2)
    with pytest.raises(RecordError, match="made by another release"):
        Checkpoint(folder, IDENTITY).load()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_goes_on_as_if_nothing_had_happened(name: str) -> None:
    rng = np.random.default_rng(0)
    start, updates = rng.normal(size=7).astype(np.float32), rng.normal(size=(6, 7)).astype(np.float32)
    steady = ServerOptimiser(start, name=name, rate=0.1, rounds=6)
    for update in updates[:3]:
        steady.step(update)
    resumed = ServerOptimiser(steady.vector, name=name, rate=0.1, rounds=6)
    resumed.restore({key: value.copy() for key, value in steady.state().items()})
    for update in updates[3:]:
        assert resumed.step(update).tobytes() == steady.step(update).tobytes()


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("before", [0, 2])
def test_the_moving_average_goes_on_as_if_nothing_had_happened(decay: float, before: int) -> None:
    rng = np.random.default_rng(0)
    models = rng.normal(size=(4, 5)).astype(np.float32)
    steady, resumed = MovingAverage(decay), MovingAverage(decay)
    for model in models[:before]:
        steady.add(model)
    resumed.restore({key: value.copy() for key, value in steady.state().items()})
    for model in models[before:]:
        assert resumed.add(model).tobytes() == steady.add(model).tobytes()
