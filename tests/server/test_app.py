"""The real ServerApp and the real ClientApp on the grid of this machine, from an initial model to a written one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Context, RecordDict

from client.app import close_sessions
from client.node import Node
from compliance.log import Action, AuditLog, Entry, verify
from server.app import Settings, make_app, run_task, site_names
from server.history import RoundRecord
from server.strategy import FederatedTraining
from shared.charter import Charter
from shared.errors import CharterError, ProtocolError, RecordError, UsageError
from shared.imaging.tasks import get_task
from shared.weights import weights_of
from simulation.local_grid import LocalGrid
from tests.federation import toy
from tests.federation.scripted import ScriptedGrid, honest

RULES = toy.charter(plan={"rounds": 3, "local_steps": 3})


def settings(root: Path, rules: Charter, **changes: Any) -> Settings:
    root.mkdir(parents=True, exist_ok=True)
    (root / "charter.toml").write_text(rules.to_toml())
    values: dict[str, Any] = {"charter": root / "charter.toml", "task": "toy", "out": root / "out", "run": "run-1"}
    return Settings(**values | {"log": root / "audit" / "log.jsonl", "plain": True} | changes)


def local(nodes: Mapping[int, Mapping[str, str]], workers: int = 0) -> LocalGrid:
    return LocalGrid(toy.APP, nodes, workers=workers, on_close=close_sessions)


@pytest.mark.live
def test_a_federation_learns_and_gives_the_same_model_on_any_number_of_workers(tmp_path: Path) -> None:
    digests = []
    for workers in (0, 2):
        root = tmp_path / str(workers)
        with local(toy.make_nodes(root, RULES), workers) as grid:
            history = run_task(grid, settings(root, RULES)).history
        scores = [one.evaluation.sums["mse"] for one in history.rounds if one.evaluation]
        assert scores[-1] < 0.7 * scores[0]
        assert all(one.train.answered == ("H1", "H2", "H3") for one in history.rounds if one.train)
        digests.append([one.model for one in history.rounds])
        assert verify(root / "audit" / "log.jsonl").entries > 0
        assert all(verify(root / f"H{n}" / "audit" / "log.jsonl").entries > 0 for n in (1, 2, 3))
    assert digests[0] == digests[1]


def test_what_a_run_ends_with_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    with local(toy.make_nodes(tmp_path, RULES)) as grid:
        monkeypatch.setattr("shared.files.os.fsync", fsync)
        run_task(grid, settings(tmp_path, RULES))
    for name in ("history.json", "model.safetensors", "model.json"):
        assert any(one.startswith(f".{name}.") for one in synced), f"{name} may be empty after a power cut"


def test_one_round_of_federated_averaging_is_the_weighted_average_of_the_sites_own_models(tmp_path: Path) -> None:
    """The same, computed without messages, node or coordinator."""
    from client.cohort import Split
    from client.rounds import seed_of
    from client.training.loop import train_round

    rules = toy.charter(plan={"rounds": 1})
    nodes = toy.make_nodes(tmp_path, rules)
    locals_, weights = [], []
    for config in nodes.values():
        task = get_task("toy")
        network = task.network(rules.seed)
        patients = Node.open(Path(config["node-dir"])).cohort.load_split(Split.TRAIN)
        seed = seed_of(rules, config["site"], "toy")
        train_round(task, network, patients, rules.tasks[0], round_number=1, privacy=None, seed=seed)
        locals_.append({name: array.astype(np.float64) for name, array in weights_of(network).items()})
        weights.append(sum(patient.slices for patient in patients))
    with local(nodes) as grid:
        run_task(grid, settings(tmp_path, rules))
    found = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    for name in found:
        if name != "rounds":
            expected = sum(w * one[name] for w, one in zip(weights, locals_, strict=True)) / sum(weights)
            np.testing.assert_allclose(found[name], expected, rtol=2e-6, atol=1e-7)
    assert int(found["rounds"]) == 2**40 + 1


def test_under_differential_privacy_every_site_pays_and_the_model_says_so(tmp_path: Path) -> None:
    rules = toy.charter(privacy={"mode": "patient", "noise_multiplier": 1.0})
    with local(toy.make_nodes(tmp_path, rules)) as grid:
        history = run_task(grid, settings(tmp_path, rules)).history
    assert [one.weight for one in history.rounds[1:]] == [3.0] * 3
    for site in ("H1", "H2", "H3"):
        assert len((tmp_path / site / "privacy" / "run-1.jsonl").read_bytes().splitlines()) == 1 + 3
    assert json.loads((tmp_path / "out" / "model.json").read_text())["privacy"] == "patient"


def test_the_server_app_takes_its_settings_from_flowers_run_configuration(tmp_path: Path) -> None:
    told: list[RoundRecord] = []
    nodes = toy.make_nodes(tmp_path, RULES)
    where = settings(tmp_path, RULES)
    config = {"charter": str(where.charter), "task": "toy", "out": str(where.out), "run": "run-7", "plain": True}
    with local(nodes) as grid:
        make_app(told.append)(grid, Context(1, 1, {}, RecordDict(), run_config=config))
    assert [one.round for one in told] == [0, 1, 2, 3]
    history = json.loads((where.out / "history.json").read_text())
    assert (history["run"], history["outcome"], len(history["rounds"])) == ("run-7", "ok", 4)
    assert verify(where.out / "audit" / "log.jsonl").entries > 0


@pytest.mark.parametrize("change", [{"charter": None}, {"rounds": 3}])
def test_a_run_configuration_with_a_missing_or_unknown_key_is_refused(change: dict[str, Any]) -> None:
    config = {"charter": "c", "task": "toy", "out": "o", "run": "r"} | change
    with pytest.raises(UsageError, match=next(iter(change))):
        Settings.of({key: value for key, value in config.items() if value is not None})


def test_a_run_goes_on_from_given_weights(tmp_path: Path) -> None:
    nodes, where = toy.make_nodes(tmp_path, RULES), settings(tmp_path, RULES)
    with local(nodes) as grid:
        first = run_task(grid, where).history
        second = run_task(
            grid, settings(tmp_path, RULES, initial=where.out / "model.safetensors", out=tmp_path / "two", run="run-2")
        ).history
    assert second.rounds[0].model == first.rounds[-1].model


def test_weights_of_another_network_are_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({"0.weight": np.zeros((2, 2), np.float32)}))
    grid = ScriptedGrid([honest("H1"), honest("H2")])
    with pytest.raises(ProtocolError, match="missing"):
        run_task(grid, settings(tmp_path, RULES, initial=path))
    with pytest.raises(UsageError, match="cannot read the initial model"):
        run_task(grid, settings(tmp_path, RULES, initial=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_its_history_and_no_model(tmp_path: Path) -> None:
    rules = toy.charter(min_patients=50)
    with local(toy.make_nodes(tmp_path, rules)) as grid, pytest.raises(ProtocolError, match=r"H1 .*too few patients"):
        run_task(grid, settings(tmp_path, rules))
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert history["outcome"] == "failed"
    assert "too few patients" in history["failed"]["refused"]["H2"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    last = toy.log_rows(tmp_path)[-1]
    assert (last["action"], last["outcome"]) == ("run.end", "failed")


def test_a_site_that_pinned_another_charter_takes_no_part(tmp_path: Path) -> None:
    nodes = toy.make_nodes(tmp_path, RULES)
    Node.open(tmp_path / "H2").pin(toy.charter(seed=4))
    with local(nodes) as grid:
        history = run_task(grid, settings(tmp_path, RULES)).history
    first = history.rounds[0].evaluation
    assert first is not None
    assert first.refused == {"H2": "policy: the request follows another charter than the one pinned here"}
    assert all(one.train.asked == ("H1", "H3") for one in history.rounds if one.train)


def test_a_task_that_the_charter_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CharterError, match="denoize"):
        run_task(ScriptedGrid([]), settings(tmp_path, RULES, task="denoize"))


@pytest.mark.parametrize("names", [{101: "H1", 102: ""}, {101: "H1", 102: "H1"}])
def test_nodes_without_names_of_their_own_are_refused(names: dict[int, str]) -> None:
    class Unnamed(ScriptedGrid):
        @property
        def names(self) -> dict[int, str]:
            return names

    with pytest.raises(ProtocolError, match="names"):
        site_names(Unnamed([honest("H1"), honest("H2")]))


def test_a_log_that_fails_at_the_end_does_not_hide_why_the_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuditLog.append

    def append(self: AuditLog, entry: Entry) -> str:
        if entry.action is Action.RUN_END:
            raise RecordError("cannot write the audit log: no space left")
        return real(self, entry)

    def train(*_: object) -> None:
        raise ProtocolError("too few sites answered")

    monkeypatch.setattr(AuditLog, "append", append)
    monkeypatch.setattr(FederatedTraining, "start", train)
    chosen = settings(tmp_path, RULES)
    (chosen.out).write_text("a file in the place of the folder")
    with local(toy.make_nodes(tmp_path, RULES)) as grid, pytest.raises(ProtocolError, match="too few sites") as caught:
        run_task(grid, chosen)
    notes = " ".join(caught.value.__notes__)
    assert "cannot write the audit log" in notes
    assert str(chosen.out) in notes
