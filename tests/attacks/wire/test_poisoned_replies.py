"""A hospital that lies to the coordinator: its answer is dropped and named, and the model is that of the others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from compliance.log import AuditLog
from shared.errors import ProtocolError
from shared.header import Header
from shared.records import STYPE, raw_floats
from shared.wire import EvaluateReply, PlainBody, PlainSums, TrainReply, TrainRequest
from tests.federation import toy
from tests.federation.scripted import MODEL, Behaviour, D, ScriptedGrid, federated, honest, on_train, run

RULES = toy.charter(plan={"rounds": 1, "evaluate_every": 9}, deadline=0.2)
HUGE = 3.0e38


def truthful(request: TrainRequest, site: str = "H3") -> RecordDict:
    return TrainReply(request.header, site, PlainBody(np.full(D, 2.0, np.float32), 1.0)).to_record()


def raw(update: np.ndarray, weight: float = 1.0) -> Callable[[TrainRequest], RecordDict]:
    """A reply whose array is whatever, made without the checks of an honest sender."""

    def make(request: TrainRequest) -> RecordDict:
        record = truthful(request)
        record["arrays"] = ArrayRecord({"update": raw_floats(update)})
        return reweighed(record, weight)

    return make


def reweighed(record: RecordDict, weight: float) -> RecordDict:
    data = record["message"]["json"]
    assert isinstance(data, bytes)
    number = repr(int(weight)) if float(weight).is_integer() else repr(weight)
    record["message"] = ConfigRecord({"json": data.replace(b'"weight":1', f'"weight":{number}'.encode())})
    return record


def lying(change: Callable[[Header], Header]) -> Callable[[TrainRequest], RecordDict]:
    return lambda request: TrainReply(change(request.header), "H3", PlainBody(np.ones(D, np.float32), 1.0)).to_record()


def with_arrays(**arrays: Array) -> Callable[[TrainRequest], RecordDict]:
    def make(request: TrainRequest) -> RecordDict:
        record = truthful(request)
        record["arrays"] = ArrayRecord({"update": record["arrays"]["update"], **arrays})
        return record

    return make


def one_bad(value: float) -> np.ndarray:
    update = np.ones(D, np.float32)
    update[2] = value
    return update


POISON: dict[str, tuple[Callable[[TrainRequest], RecordDict], str]] = {
    "NaN": (raw(one_bad(np.nan)), "not finite"),
    "infinity": (raw(one_bad(np.inf)), "not finite"),
    "a shorter update": (raw(np.ones(D - 1, np.float32)), "4 numbers, not 5"),
    "one number to be broadcast": (raw(np.ones(1, np.float32)), "1 numbers, not 5"),
    "a matrix": (with_arrays(update=Array("float32", (D, 1), STYPE, b"\0" * 4 * D)), "contradict"),
    "float64": (with_arrays(update=Array("float64", (D,), STYPE, b"\0" * 8 * D)), "not raw float32"),
    "a .npy file": (with_arrays(update=Array(np.ones(D, np.float32))), "not raw float32"),
    "an array too many": (with_arrays(stranger=Array(np.ones(D, np.float32))), "arrays are not update"),
    "a huge weight": (raw(np.ones(D, np.float32), 1e9), "weight"),
    "no weight": (raw(np.ones(D, np.float32), 0), "weight"),
    "a negative weight": (raw(np.ones(D, np.float32), -3), "weight"),
    "another round": (lying(lambda header: replace(header, round=2)), "another round"),
    "another attempt": (lying(lambda header: replace(header, attempt=2)), "another attempt"),
    "another run": (lying(lambda header: replace(header, run="run-0")), "another run"),
    "another charter": (lying(lambda header: replace(header, charter="0" * 64)), "another charter"),
    "another federation": (lying(lambda header: replace(header, federation="other")), "another federation"),
    "another task": (lying(lambda header: replace(header, task="other")), "another task"),
    "another model": (lying(lambda header: replace(header, model="0" * 64)), "another model"),
    "another site's name": (lambda request: truthful(request, "H1"), "from H1, but came from the node of H3"),
    "an evaluation": (
        lambda request: EvaluateReply(request.header, "H3", PlainSums({})).to_record(),
        "not a train.reply",
    ),
    "nothing": (lambda _: RecordDict(), "no structure"),
    "a stranger's records": (lambda _: RecordDict({"fitres.metrics": MetricRecord({"x": 1.0})}), "records beside"),
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_answer_is_dropped_and_named_and_changes_nothing(poison: str, log: AuditLog) -> None:
    make, says = POISON[poison]
    result = run([honest("H1"), honest("H2"), on_train("H3", lambda request: [make(request)])], RULES, log)
    train = result.history.rounds[1].train
    assert train is not None
    assert train.answered == ("H1", "H2")
    assert says in train.dropped["H3"]
    assert train.missing == ()
    assert result.model.vector.tolist() == (MODEL.vector + 1.0).tolist()


def test_updates_that_overflow_together_end_the_run_and_never_become_the_model(log: AuditLog) -> None:
    """Each is finite; so is their float64 sum; the averaged model must be refused before it is sent to anybody."""
    model = np.full(D, HUGE, np.float32)
    with pytest.raises(ProtocolError, match="not finite"):
        run([honest("H1", model), honest("H2", model)], toy.charter(plan={"rounds": 3}), log)


@pytest.mark.parametrize("weight", [0.5, 2.0, 100.0])
def test_under_differential_privacy_no_site_can_buy_a_larger_share(weight: float, log: AuditLog) -> None:
    rules = toy.charter(plan={"rounds": 1, "evaluate_every": 9}, privacy={"mode": "patient"})
    result = run([honest("H1"), honest("H2"), honest("H3", [100.0] * D, weight=weight)], rules, log)
    train = result.history.rounds[1].train
    assert train is not None
    assert "as it must be under this charter" in train.dropped["H3"]
    assert result.model.vector.tolist() == (MODEL.vector + 1.0).tolist()


def test_an_answer_that_comes_twice_counts_once(log: AuditLog) -> None:
    twice = on_train("H3", lambda request: [truthful(request), truthful(request)])
    result = run([honest("H1", [2.0] * D), honest("H2", [2.0] * D), twice], RULES, log)
    train = result.history.rounds[1].train
    assert train is not None
    assert train.answered == ("H1", "H2", "H3")
    assert dict(train.dropped) == {"H3": "a second answer"}
    assert result.history.rounds[1].weight == 3.0


def test_an_answer_of_the_round_before_is_not_taken_again(log: AuditLog) -> None:
    first: list[RecordDict] = []

    def replay(request: TrainRequest) -> list[RecordDict]:
        first.append(truthful(request))
        return first[:1]

    rules = toy.charter(plan={"rounds": 2, "evaluate_every": 9}, deadline=0.2)
    result = run([honest("H1"), honest("H2"), on_train("H3", replay)], rules, log)
    phases = [one.train for one in result.history.rounds if one.train]
    assert "H3" in phases[0].answered
    assert "another round" in phases[1].dropped["H3"]


def test_one_site_cannot_answer_for_another(log: AuditLog) -> None:
    """The grid hands out an answer under another node's message: the sender decides whose it is."""

    class Crossed(ScriptedGrid):
        def pull_messages(self, message_ids: Any) -> Sequence[Message]:
            replies = list(super().pull_messages(message_ids))
            for reply in replies:
                if reply.metadata.src_node_id == 103:
                    reply.metadata.__dict__["_src_node_id"] = 101
            return replies

    from server.exchange import Exchange

    grid = Crossed([honest("H1"), honest("H2"), honest("H3")])
    history = federated(RULES, log).start(Exchange(grid, lambda: grid.names, poll=0.001), MODEL).history
    train = history.rounds[1].train
    assert train is not None
    assert dict(train.dropped) == {"H3": "an answer from another node"}


def test_what_a_refusal_says_cannot_break_a_line_of_the_log(log: AuditLog) -> None:
    def shout(request: TrainRequest) -> list[RecordDict]:
        record = truthful(request)
        text = b'{"code":"error","header":null,"kind":"refusal","reason":"line\\none","site":"H3"}'
        return [RecordDict({"message": ConfigRecord({"json": text})}), record]

    result = run([honest("H1"), honest("H2"), on_train("H3", shout)], RULES, log)
    train = result.history.rounds[1].train
    assert train is not None
    assert "printable" in train.dropped["H3"]


def test_below_min_sites_the_liars_are_named_in_the_error(log: AuditLog) -> None:
    bad: Behaviour = on_train("H2", lambda request: [raw(one_bad(np.nan))(request)])
    with pytest.raises(ProtocolError, match=r"1 usable answers, 2 are needed; not usable: H2 \(.*not finite"):
        run([honest("H1"), bad], RULES, log)


@pytest.mark.parametrize("sums", [{"mse": float("nan")}, {"mse": float("inf")}, {"mse": 1e300}])
def test_poisoned_scores_are_dropped_too(sums: dict[str, float], log: AuditLog) -> None:
    def lie(content: RecordDict, kind: str) -> Sequence[RecordDict | Error]:
        record = honest("H3")(content, kind)[0]
        if kind == "evaluate":
            assert isinstance(record, RecordDict)
            data = record["message"]["json"]
            assert isinstance(data, bytes)
            spelled = repr(sums["mse"]).replace("nan", "NaN").replace("inf", "Infinity").encode()
            record["message"] = ConfigRecord({"json": data.replace(b'"mse":0.5', b'"mse":' + spelled)})
        return [record]

    result = run([honest("H1"), honest("H2"), lie], RULES, log)
    first = result.history.rounds[0].evaluation
    assert first is not None
    assert first.answered == ("H1", "H2")
    assert dict(first.sums) == {"slices": 2.0, "mse": 1.0}
