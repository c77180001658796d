"""The round: the average is taken, the missing are named, and a run that did not train is an error."""

import json
import time
import tracemalloc
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from compliance.log import Action, AuditLog, verify
from server.exchange import Exchange
from server.history import RoundRecord
from server.strategy import FederatedTraining
from shared.errors import ProtocolError
from shared.vector import Flat, Layout
from shared.wire import EvaluateRequest, Refusal, RefusalCode, TrainRequest
from tests.federation import toy
from tests.federation.scripted import LAYOUT, MODEL, D, ScriptedGrid, federated, honest, on_train, run


def silent(*_: object) -> list[Error]:
    return []


def test_a_round_moves_the_model_by_the_weighted_average(log: AuditLog) -> None:
    rules = toy.charter(plan={"rounds": 1})
    result = run([honest("H1", [1.0] * D, weight=1.0), honest("H2", [4.0] * D, weight=2.0)], rules, log)
    assert result.model.vector.tolist() == (MODEL.vector + 3.0).tolist()
    assert result.history.rounds[1].weight == 3.0
    assert result.history.rounds[1].update_norm == pytest.approx(3.0 * D**0.5)


def test_every_round_starts_from_the_model_of_the_one_before(log: AuditLog) -> None:
    seen: list[list[float]] = []

    def watch(content: object, kind: str) -> list[object]:
        if kind == "train":
            seen.append(TrainRequest.from_record(content).model.vector.tolist())
        return honest("H1")(content, kind)

    run([watch, honest("H2")], toy.charter(plan={"rounds": 3}), log)
    assert [model[0] for model in seen] == [1.0, 2.0, 3.0]


def test_evaluations_are_summed_over_sites_at_the_start_as_often_as_planned_and_at_the_end(log: AuditLog) -> None:
    result = run([honest("H1"), honest("H2")], toy.charter(plan={"rounds": 5, "evaluate_every": 2}), log)
    evaluated = [one.round for one in result.history.rounds if one.evaluation]
    assert evaluated == [0, 2, 4, 5]
    first = result.history.rounds[0].evaluation
    assert first is not None
    assert dict(first.sums) == {"slices": 2.0, "mse": 1.0}


def test_without_masks_or_consent_nobody_is_asked_for_scores(log: AuditLog) -> None:
    kinds: list[str] = []

    def watch(content: object, kind: str) -> list[object]:
        kinds.append(kind)
        return honest("H1")(content, kind)

    result = run([watch, honest("H2")], toy.charter(privacy={"scores": "masked"}), log)
    assert kinds == ["train"] * 3
    assert all(one.evaluation is None for one in result.history.rounds)


def test_the_average_of_the_models_is_what_is_evaluated_and_released_and_not_what_is_trained(log: AuditLog) -> None:
    trained: list[float] = []
    evaluated: list[float] = []

    def watch(content: RecordDict, kind: str) -> list[object]:
        read = (TrainRequest if kind == "train" else EvaluateRequest).from_record(content)
        (trained if kind == "train" else evaluated).append(float(read.model.vector[0]))
        return honest("H1")(content, kind)

    result = run([watch, honest("H2")], toy.charter(plan={"rounds": 3, "average": 0.5}), log)
    assert trained == [1.0, 2.0, 3.0]
    assert evaluated == pytest.approx([1.0, 2.0, (2 * 0.5 + 3) / 1.5, (2 * 0.25 + 3 * 0.5 + 4) / 1.75])
    assert float(result.model.vector[0]) == pytest.approx(evaluated[-1])
    assert result.history.rounds[-1].model == LAYOUT.digest(result.model)


def test_integer_buffers_pass_through_unchanged(log: AuditLog) -> None:
    state = {"w": np.ones(D, np.float32), "count": np.array(2**60 + 1)}
    layout = Layout.of(state)
    training = FederatedTraining(toy.charter(), "toy", run="r", layout=layout, log=log)
    grid = ScriptedGrid([honest("H1"), honest("H2")])
    model = training.start(Exchange(grid, lambda: grid.names, poll=0.001), layout.flatten(state)).model
    assert int(layout.restore(model)["count"]) == 2**60 + 1


def test_progress_is_told_after_every_round(log: AuditLog) -> None:
    told: list[RoundRecord] = []
    training = FederatedTraining(toy.charter(), "toy", run="r", layout=LAYOUT, log=log, on_round=told.append)
    run([honest("H1"), honest("H2")], toy.charter(), log, training)
    assert [one.round for one in told] == [0, 1, 2, 3]
    assert all(one.bytes_up > 0 and one.bytes_down > 0 for one in told)


# --- who is missing ---------------------------------------------------------------------------------------------------


def test_a_silent_site_costs_the_deadline_and_is_named_but_the_round_goes_on(log: AuditLog) -> None:
    rules = toy.charter(plan={"rounds": 1, "evaluate_every": 9}, deadline=0.3)
    began = time.monotonic()
    result = run([on_train("H1", silent), honest("H2"), honest("H3")], rules, log)
    assert 0.3 <= time.monotonic() - began < 3
    train = result.history.rounds[1].train
    assert train is not None
    assert (train.answered, train.missing) == (("H2", "H3"), ("H1",))
    assert result.model.vector.tolist() == (MODEL.vector + 1.0).tolist()


def test_fewer_than_min_sites_end_the_run_and_the_missing_are_named(log: AuditLog) -> None:
    rules = toy.charter(deadline=0.1, min_sites=3)
    training = federated(rules, log)
    with pytest.raises(ProtocolError, match=r"toy, round 1, train: 2 usable answers, 3 are needed; no answer: H2 "):
        run([honest("H1"), on_train("H2", silent), honest("H3")], rules, log, training)
    failed = training.history.failed
    assert failed is not None
    assert failed.missing == ("H2",)


def test_all_sites_failing_is_an_error_and_not_a_run_without_change(log: AuditLog) -> None:
    broken = [on_train(f"H{n}", lambda _: [Error(2, "a traceback with a name in it")]) for n in (1, 2, 3)]
    with pytest.raises(ProtocolError, match="0 usable answers") as caught:
        run(broken, toy.charter(), log)
    assert "Flower error 2" in caught.value.message
    assert "traceback" not in caught.value.message


def test_a_run_whose_updates_are_all_zero_did_not_train(log: AuditLog) -> None:
    with pytest.raises(ProtocolError, match="did not change the model"):
        run([honest("H1", [0.0] * D), honest("H2", [0.0] * D)], toy.charter(), log)


def test_too_few_connected_sites_are_told_before_anything_is_sent(log: AuditLog) -> None:
    with pytest.raises(ProtocolError, match="connected sites: 1 of the 2"):
        run([honest("H1")], toy.charter(), log)


@pytest.mark.parametrize("code", ["policy", "budget"])
def test_a_hospital_that_declines_is_not_asked_again_in_the_run(log: AuditLog, code: RefusalCode) -> None:
    asked: list[str] = []

    def decline(content: object, kind: str) -> list[object]:
        asked.append(kind)
        header = (TrainRequest if kind == "train" else EvaluateRequest).from_record(content).header
        return [Refusal("H3", code, "not here", header).to_record()]

    result = run([honest("H1"), honest("H2"), decline], toy.charter(), log)
    assert asked == ["evaluate"]
    first = result.history.rounds[0].evaluation
    assert first is not None
    assert dict(first.refused) == {"H3": f"{code}: not here"}


def test_a_hospital_whose_training_failed_once_is_asked_again(log: AuditLog) -> None:
    def stumble(request: TrainRequest) -> list[object]:
        if request.header.round == 1:
            return [Refusal("H3", "error", "MemoryError", request.header).to_record()]
        return list(honest("H3")(request.to_record(), "train"))

    result = run([honest("H1"), honest("H2"), on_train("H3", stumble)], toy.charter(), log)
    answered = [one.train.answered for one in result.history.rounds if one.train]
    assert answered == [("H1", "H2"), ("H1", "H2", "H3"), ("H1", "H2", "H3")]


# --- memory and order -------------------------------------------------------------------------------------------------


def test_sixteen_replies_are_never_in_memory_together(log: AuditLog) -> None:
    size = 500_000
    layout = Layout.of({"w": np.zeros(size, np.float32)})

    class Lazy(ScriptedGrid):
        """Makes a reply only when it is pulled, as a SuperLink with its store on disk does."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            self._pending = {}
            for message in messages:
                number = f"message-{len(self._pending)}"
                message.metadata.__dict__["_message_id"] = number
                self._pending[number] = message
            return list(self._pending)

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            (number,) = message_ids
            message = self._pending[number]
            site = f"H{message.metadata.dst_node_id - 100}"
            content = honest(site, np.ones(size, np.float32))(message.content, message.metadata.message_type)[0]
            return [Message(content, reply_to=message)]

    def train(sites: int) -> None:
        grid = Lazy([honest(f"H{n}") for n in range(1, sites + 1)])
        training = FederatedTraining(toy.charter(plan={"rounds": 1}), "toy", run="r", layout=layout, log=log)
        training.start(Exchange(grid, lambda: grid.names), Flat(np.zeros(size, np.float32)))

    train(2)  # so that no import is measured below
    tracemalloc.start()
    try:
        train(16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 13 * 4 * size, "16 replies alone would be 16 times 4 bytes a number"


def test_answers_are_added_in_the_order_of_sites_whoever_is_first(log: AuditLog) -> None:
    """Floating-point sums depend on order: 2**60 + 1 - 2**60 is 0 or 1."""
    updates = {"H1": 2.0**60, "H2": -(2.0**60), "H3": 3.0}
    for behaviours in ([1, 2, 3], [3, 2, 1]):
        grid = ScriptedGrid([honest(f"H{n}", [updates[f"H{n}"]] * D) for n in behaviours])
        names = {100 + place: f"H{n}" for place, n in enumerate(behaviours, start=1)}
        training = federated(toy.charter(plan={"rounds": 1}), log)
        result = training.start(Exchange(grid, partial(dict, names), poll=0.001), MODEL)
        assert result.model.vector.tolist() == (MODEL.vector + 1.0).tolist()


# --- the record -------------------------------------------------------------------------------------------------------


def test_every_message_every_round_and_every_reason_is_in_the_audit_log(log: AuditLog, tmp_path: Path) -> None:
    rules = toy.charter(plan={"rounds": 1, "evaluate_every": 9}, deadline=0.1)
    run([honest("H1"), honest("H2"), on_train("H3", silent)], rules, log)
    path = tmp_path / "coordinator.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    train = [row for row in rows if row["round"] == 1 and row["detail"].get("phase") == "train"]
    told = [(row["action"], row["outcome"], row["detail"]["site"]) for row in train]
    assert told == [
        *((Action.MESSAGE_OUT, "started", site) for site in ("H1", "H2", "H3")),
        (Action.MESSAGE_IN, "ok", "H1"),
        (Action.MESSAGE_IN, "ok", "H2"),
        (Action.MESSAGE_IN, "failed", "H3"),
    ]
    assert train[-1]["detail"]["reason"] == "no answer in time"
    assert [row["detail"]["model"] for row in rows if row["action"] == "round"][-1] != LAYOUT.digest(MODEL)
    assert verify(path).entries == len(rows)


def test_nothing_is_sent_where_the_record_cannot_be_written(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ScriptedGrid([honest("H1"), honest("H2")])
    monkeypatch.setattr(grid, "push_messages", lambda _: pytest.fail("sent without a record"))
    monkeypatch.setattr("compliance.log.os.fsync", _full_disk)
    with pytest.raises(Exception, match="cannot write the audit log"):
        federated(toy.charter(), log).start(Exchange(grid, lambda: grid.names), MODEL)


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")
