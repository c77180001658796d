"""After an erasure a task is trained again from the last model before the patient, without him."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import close_sessions
from client.eligible import eligible
from client.lineage import Lineage
from client.node import Node
from client.records import read_register
from client.rights import erase, restrict
from server.app import Settings, run_tasks
from server.checkpoint import kept_round
from server.coordinator import Coordinator
from server.retrain import prepare
from server.runs import Outcome, RunFolder
from shared.errors import PolicyError, ProtocolError, RecordError, UsageError
from shared.retraining import Retraining
from simulation.local_grid import LocalGrid
from tests.federation import toy
from tests.federation.links import Desk
from tests.federation.masked import Federation

PLAN = {"rounds": 3, "evaluate_every": 9, "server_optimizer": "Adam", "server_lr": 0.05}
PATIENT = "PATIENT-H1-1"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation.make(tmp_path / "nodes", 3, plan=PLAN)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Desk.make(tmp_path).coordinator


def carry_out(federation: Federation, coordinator: Coordinator, run: RunFolder, **options: Any) -> dict[str, Any]:
    """Every round of a run's one task; what its history says."""
    settings = Settings(
        charter=run.charter_path,
        task="toy",
        out=run.path / "toy",
        run=run.name,
        log=coordinator.log_path,
        poll=0.001,
        checkpoint=True,
        resume=run.resumed,
    )
    with LocalGrid(toy.APP, federation.nodes, on_close=close_sessions) as grid:
        run_tasks(grid, settings, **options)
    run.end(Outcome.now("ok"))
    history: dict[str, Any] = json.loads((run.path / "toy" / "history.json").read_text())
    return history


def begun(federation: Federation, coordinator: Coordinator) -> tuple[RunFolder, dict[str, Any]]:
    """A run that a patient of H1 came into after its first round."""
    node = federation.node("H1")
    restrict(node, PATIENT, who="Ada")
    charter = federation.charter
    run = RunFolder.create(coordinator, charter, charter.to_toml().encode(), name="run-1")

    def comes(record: Any) -> None:
        if record.round == 1:
            restrict(node, PATIENT, who="Ada", lift=True)

    return run, carry_out(federation, coordinator, run, on_round=comes)


def asked(node: Node, patient: str = PATIENT) -> Retraining:
    (node.folder / "policy.toml").write_text('[erasure]\nafter = "retrain"\n')
    done = erase(node, patient, who="Ada")
    assert done is not None
    (path,) = done.aftermath.requests
    return Retraining.read(path)


@pytest.mark.control("GDPR-17-erasure")
def test_a_task_is_trained_again_from_the_last_model_before_the_patient(
    federation: Federation, coordinator: Coordinator
) -> None:
    node = federation.node("H1")
    run, first = begun(federation, coordinator)
    assert [trace.part.round for trace in Lineage(node).of(PATIENT)] == [2, 3]
    request = asked(node)
    assert request.clean_round == 1
    again = prepare(coordinator, request, name="run-2", anyway=True)
    assert again.resumed
    clean, _ = kept_round(run.path / "toy" / "kept" / "round-00001.bin")
    assert (again.path / "toy" / "checkpoint" / "state.bin").exists()
    second = carry_out(federation, coordinator, again)
    models = [[one["model"] for one in history["rounds"]] for history in (first, second)]
    assert models[0][:2] == models[1][:2], "rounds 0 and 1 are the old run's"
    assert not set(models[0][2:]) & set(models[1][2:]), "the others are trained anew"
    assert len(models[1]) == 4
    assert np.isfinite(clean.model).all()
    parts = [part for part in Lineage(node).parts() if part.run == "run-2"]
    assert [part.round for part in parts if part.kind == "train"] == [2, 3]
    assert {trace.part.run for trace in Lineage(node).of(PATIENT)} == {"run-1"}
    assert eligible((PATIENT,), node) == ()
    assert not (again.path / "toy" / "checkpoint").exists()
    assert (run.path / "toy" / "model.safetensors").exists(), "the old model is for people to withdraw"


@pytest.mark.control("GDPR-17-erasure")
def test_a_run_that_went_on_from_a_patients_model_is_known_to_have_him(
    federation: Federation, coordinator: Coordinator
) -> None:
    """The second run is told of no round of his before its own; the model that it began with is."""
    node = federation.node("H1")
    _, first = begun(federation, coordinator)
    second = carry_out(federation, coordinator, prepare(coordinator, asked(node), name="run-2", anyway=True))
    earlier = "PATIENT-H1-2"
    traces = Lineage(node).of(earlier)
    assert {(trace.part.run, trace.part.round) for trace in traces if trace.part.kind == "train"} == {
        *(("run-1", number) for number in (1, 2, 3)),
        *(("run-2", number) for number in (2, 3)),
    }
    models = [one["model"] for history in (first, second) for one in history["rounds"]]
    assert set(models[1:3]) | {models[6]} <= set(Lineage(node).after(traces)), "after round 1, of both runs"
    request = asked(node, earlier)
    assert (request.run, request.clean_round) == ("run-1", 0), "the second run has no model from before him"
    assert {"run-1", "run-2"} <= read_register(node)[0].stopped


@pytest.mark.control("GDPR-17-erasure")
def test_a_model_of_a_patient_is_found_where_he_was_no_part_of_the_run_that_went_on_from_it(
    federation: Federation, coordinator: Coordinator
) -> None:
    node, earlier = federation.node("H1"), "PATIENT-H1-2"
    begun(federation, coordinator)
    restrict(node, earlier, who="Ada")
    carry_out(federation, coordinator, prepare(coordinator, asked(node), name="run-2", anyway=True))
    traces = Lineage(node).of(earlier)
    assert {trace.part.run for trace in traces} == {"run-1"}
    assert Lineage(node).heirs(traces) == {("run-2", "toy")}
    assert asked(node, earlier).run == "run-1"
    assert "run-2" in read_register(node)[0].stopped


@pytest.mark.control("GDPR-17-erasure")
def test_only_what_a_member_signed_is_done(federation: Federation, coordinator: Coordinator) -> None:
    _, _ = begun(federation, coordinator)
    request = asked(federation.node("H1"))
    for forged in (replace(request, clean_round=0), replace(request, site="H2"), replace(request, site="H9")):
        with pytest.raises(ProtocolError):
            prepare(coordinator, forged, name="run-2", anyway=True)
    with pytest.raises(UsageError, match="no run"):
        prepare(coordinator, replace(request, run="run-9"), name="run-2", anyway=True)
    assert not (coordinator.runs_folder / "run-2").exists()


@pytest.mark.control("GDPR-17-erasure")
def test_without_differential_privacy_nobody_is_laid_open_by_the_difference_of_two_sums(
    federation: Federation, coordinator: Coordinator
) -> None:
    assert federation.charter.privacy.mode == "off"
    begun(federation, coordinator)
    request = asked(federation.node("H1"))
    with pytest.raises(PolicyError, match="tells of the patient") as refused:
        prepare(coordinator, request, name="run-2")
    assert "new charter" in refused.value.hint
    assert not (coordinator.runs_folder / "run-2").exists()


def test_a_run_that_goes_on_or_kept_nothing_is_not_trained_again(
    federation: Federation, coordinator: Coordinator
) -> None:
    run, _ = begun(federation, coordinator)
    request = asked(federation.node("H1"))
    (run.path / "result.json").unlink()
    with pytest.raises(UsageError, match="has not ended"):
        prepare(coordinator, request, anyway=True)
    run.end(Outcome.now("ok"))
    kept = run.path / "toy" / "kept"
    kept.joinpath("round-00001.bin").write_bytes(b"damaged")
    with pytest.raises(RecordError, match="is damaged"):
        prepare(coordinator, request, name="run-2", anyway=True)
    for path in kept.iterdir():
        path.unlink()
    with pytest.raises(RecordError, match="no state from round 1 or before"):
        prepare(coordinator, request, name="run-2", anyway=True)
    assert not (coordinator.runs_folder / "run-2").exists(), "the name stays free"
