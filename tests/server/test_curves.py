"""Curves: TensorBoard's own reader finds in them what the record says."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compliance.log import AuditLog
from server.cli import app
from server.curves import points, write_curves
from server.history import HISTORY
from shared.errors import DataError, UsageError
from shared.files import write_json
from tests.federation import toy
from tests.federation.scripted import federated, honest, run

SUMS = {"slices": 4.0, "mse": 0.04, "psnr": 80.0, "ssim": 2.0}


@pytest.fixture
def history(tmp_path: Path, log: AuditLog) -> dict[str, Any]:
    rules = toy.charter(plan={"rounds": 2, "evaluate_every": 9}, deadline=1.0)
    training = federated(rules, log)
    run([honest("H1"), honest("H2"), honest("H3")], rules, log, training)
    made: dict[str, Any] = json.loads(json.dumps(training.history.to_json())) | {"task": "denoise"}
    for one in made["rounds"]:  # a toy's own sums mean nothing
        if one["evaluation"]:
            one["evaluation"]["sums"] = SUMS
        if one["train"]:
            one["train"]["sums"] = {"loss": 1.5 / one["round"], "samples": 6.0}
    write_json(tmp_path / "run" / "toy" / HISTORY, made)
    return made


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = importlib.import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder)
    )
    board.Reload()
    return {tag: [(one.step, one.value) for one in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_curves_are_the_record(history: dict[str, Any], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(tmp_path), "run", "--tensorboard", str(tmp_path / "curves")])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"curves: tensorboard --logdir {tmp_path / 'curves'}")
    found = read(tmp_path / "curves" / "toy")
    trained = [one for one in history["rounds"] if one["train"]]
    assert [step for step, _ in found["train/loss"]] == [one["round"] for one in trained]
    for (_, loss), one in zip(found["train/loss"], trained, strict=True):
        assert loss == pytest.approx(one["train"]["sums"]["loss"] / one["train"]["sums"]["samples"], rel=1e-6)
    assert found["traffic/bytes_up"] == [(one["round"], float(one["train"]["bytes_up"])) for one in trained]


def test_a_round_says_what_it_knows(history: dict[str, Any]) -> None:
    history["rounds"] = history["rounds"][:1]
    told = {"round": 0, "train": None, "update_norm": 0.0, "seconds": 2.0, "evaluation": {"sums": SUMS}}
    history["rounds"][0] |= told
    assert {name: value for name, _, value in points(history)} == {
        "seconds": 2.0, "train/update_norm": 0.0, "held_out/mse": 0.01, "held_out/psnr": 20.0, "held_out/ssim": 0.5,
    }  # fmt: skip
    history["rounds"][0]["train"] = {"sums": {}, "bytes_down": 1, "bytes_up": 2}
    assert "train/loss" not in {name for name, _, _ in points(history)}, "under privacy nobody tells one"


def test_a_damaged_record_is_named(history: dict[str, Any], tmp_path: Path) -> None:
    history["rounds"][0]["evaluation"] = {"sums": {"slices": 4.0}}
    with pytest.raises(DataError, match="record of the run"):
        write_curves({".": history}, tmp_path / "curves")


def test_curves_are_not_mixed_with_others(history: dict[str, Any], tmp_path: Path) -> None:
    write_curves({".": history}, tmp_path / "curves")
    with pytest.raises(UsageError, match="has curves already"):
        write_curves({".": history}, tmp_path / "curves")


def test_without_tensorboard_it_is_said_what_to_install(
    history: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError) as error:
        write_curves({".": history}, tmp_path / "curves")
    assert "pip install" in (error.value.hint or "")
