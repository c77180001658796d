"""Messages come back as they were sent; whatever is missing, extra, of another type or out of range is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import ProtocolError
from shared.files import canonical_json
from shared.header import PROTOCOL, Header
from shared.records import MAX_STRUCTURE, STYPE
from shared.vector import Flat
from shared.wire import (
    MAX_METRICS,
    MAX_WEIGHT,
    EvaluateReply,
    EvaluateRequest,
    PlainBody,
    PlainSums,
    Refusal,
    TrainReply,
    TrainRequest,
    kind_of,
)
from simulation.local_grid import set_identity

HEADER = Header("heart", "a" * 64, "run-1", 3, 1, "denoise", "b" * 64)
UPDATE = np.array([1.5, -2.0, 0.0], np.float32)
ALL = [
    TrainRequest(HEADER, "c" * 64, Flat(UPDATE, b"\x01\x02")),
    EvaluateRequest(HEADER, "c" * 64, Flat(UPDATE)),
    TrainReply(HEADER, "H1", PlainBody(UPDATE, 12.0, {"loss": 0.25})),
    EvaluateReply(HEADER, "H1", PlainSums({"psnr": 31.5, "slices": 4.0})),
    Refusal("H1", "policy", "too few patients here for this task", HEADER),
]
IDS = [type(one).__name__ for one in ALL]

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
headers = st.builds(
    Header, names, digests, names, st.integers(0, 100_000), st.integers(1, 1000), names, digests, st.just(PROTOCOL)
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=finite)
metrics = st.dictionaries(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,31}", fullmatch=True), st.floats(-1e15, 1e15), max_size=MAX_METRICS
)


def through_flower(record: RecordDict) -> RecordDict:
    """What arrives at the other end of Flower's own serialisation."""
    set_identity()
    sent = message_to_proto(Message(record, dst_node_id=7, message_type="train")).SerializeToString()
    return message_from_proto(ProtoMessage.FromString(sent)).content


@settings(max_examples=60, deadline=None)
@given(header=headers, layout=digests, vector=vectors, exact=st.binary(max_size=20))
def test_a_request_comes_back_as_it_was(header: Header, layout: str, vector: Any, exact: bytes) -> None:
    for kind in (TrainRequest, EvaluateRequest):
        back = kind.from_record(through_flower(kind(header, layout, Flat(vector, exact)).to_record()))
        assert (back.header, back.layout, back.model.exact) == (header, layout, exact)
        assert back.model.vector.tobytes() == vector.tobytes()


@settings(max_examples=60, deadline=None)
@given(header=headers, site=names, vector=vectors, weight=st.floats(1e-6, MAX_WEIGHT), sums=metrics)
def test_a_reply_comes_back_as_it_was(
    header: Header, site: str, vector: Any, weight: float, sums: dict[str, float]
) -> None:
    back = TrainReply.from_record(through_flower(TrainReply(header, site, PlainBody(vector, weight, sums)).to_record()))
    assert (back.header, back.site, back.body.weight, dict(back.body.metrics)) == (header, site, weight, sums)
    assert back.body.update.tobytes() == vector.tobytes()
    seen = EvaluateReply.from_record(through_flower(EvaluateReply(header, site, PlainSums(sums)).to_record()))
    assert (seen.header, seen.site, dict(seen.body.sums)) == (header, site, sums)


@settings(deadline=None)
@given(site=names, header=st.none() | headers, reason=st.from_regex(r"[ -~]{1,300}", fullmatch=True))
def test_a_refusal_comes_back_as_it_was(site: str, header: Header | None, reason: str) -> None:
    refusal = Refusal(site, "budget", reason, header)
    assert Refusal.from_record(through_flower(refusal.to_record())) == refusal


@pytest.mark.parametrize("sent", ALL, ids=IDS)
def test_every_message_says_its_kind_and_is_read_as_no_other(sent: Any) -> None:
    record = sent.to_record()
    assert kind_of(record) == sent.kind
    for other in {type(one) for one in ALL} - {type(sent)}:
        with pytest.raises(ProtocolError, match="it is not a"):
            other.from_record(record)


def test_nothing_on_the_wire_is_a_pickle_or_a_file_format() -> None:
    record = ALL[2].to_record()
    assert record["arrays"]["update"].data == UPDATE.astype("<f4").tobytes()
    assert json.loads(record["message"]["json"])["kind"] == "train.reply"


# --- every truncated and every extended variant -----------------------------------------------------------------------


def structure(sent: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sent.to_record()["message"]["json"])
    return found


def with_structure(sent: Any, value: Any) -> RecordDict:
    record = sent.to_record()
    record["message"] = ConfigRecord({"json": canonical_json(value)})
    return record


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a structure and of the structures in it."""
    if not isinstance(value, dict):
        return []
    own = [(*path, key) for key in value]
    return own + [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]


def changed(value: Any, path: tuple[str, ...], change: Callable[[dict[str, Any], str], None]) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return copy


OPEN = {"metrics", "sums"}  # their keys are free, within a pattern
EVERY_KEY = [(sent, path) for sent in ALL for path in leaves(structure(sent))]
REQUIRED = [(sent, path) for sent, path in EVERY_KEY if not OPEN & set(path[:-1])]
WRONG: list[Any] = [None, True, [], {}, [1], "?", -1, 0.5, "\n"]


def fits(sent: Any, path: tuple[str, ...], value: Any) -> bool:
    """Whether one of ``WRONG`` happens to be right here."""
    if isinstance(value, bool):
        return False
    right = {"weight": [0.5], "reason": ["?"], "metrics": [{}], "sums": [{}], "header": [None]}
    if OPEN & set(path[:-1]):
        return value in [-1, 0.5]
    return value in right.get(path[-1], []) and (value is not None or isinstance(sent, Refusal))


WRONG_VALUES = [(sent, path, value) for sent, path in EVERY_KEY for value in WRONG if not fits(sent, path, value)]


@pytest.mark.parametrize(("sent", "path"), REQUIRED, ids=[".".join(path) for _, path in REQUIRED])
def test_a_message_without_one_of_its_fields_is_refused(sent: Any, path: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError):
        type(sent).from_record(with_structure(sent, changed(structure(sent), path, lambda part, key: part.pop(key))))


@pytest.mark.parametrize(("sent", "path", "wrong"), WRONG_VALUES)
def test_a_field_of_another_type_or_range_is_refused(sent: Any, path: tuple[str, ...], wrong: Any) -> None:
    bad = changed(structure(sent), path, lambda part, key: part.update({key: wrong}))
    with pytest.raises(ProtocolError):
        type(sent).from_record(with_structure(sent, bad))


@pytest.mark.parametrize("sent", ALL, ids=IDS)
def test_a_message_with_one_field_more_is_refused(sent: Any) -> None:
    places = [(), *(path for path in leaves(structure(sent)) if path[-1] in {"header", "body"})]
    for place in places:
        bad = changed(structure(sent), (*place, "extra"), lambda part, key: part.update({key: 1}))
        with pytest.raises(ProtocolError, match="extra"):
            type(sent).from_record(with_structure(sent, bad))


@pytest.mark.parametrize("sent", ALL, ids=IDS)
def test_every_cut_through_the_structure_is_refused(sent: Any) -> None:
    data = sent.to_record()["message"]["json"]
    for length in range(len(data)):
        record = sent.to_record()
        record["message"] = ConfigRecord({"json": data[:length]})
        with pytest.raises(ProtocolError):
            type(sent).from_record(record)


@pytest.mark.parametrize("sent", ALL, ids=IDS)
@pytest.mark.parametrize(
    "spell",
    [
        lambda data: data + b" ",
        lambda data: b" " + data,
        lambda data: data.replace(b'"kind"', b'"\\u006bind"'),
        lambda data: data[:-1] + b',"kind":"x"}',
        lambda data: b"[" + data + b"]",
        lambda _: b"[" * 60_000,
        lambda _: b'{"kind":NaN}',
        lambda _: b"1" * 60_000,
        lambda _: b"\xff\xfe",
        lambda _: b'"\\ud800"',
        lambda data: data + b" " * MAX_STRUCTURE,
    ],
)
def test_only_one_spelling_of_a_structure_is_read(sent: Any, spell: Callable[[bytes], bytes]) -> None:
    record = sent.to_record()
    record["message"] = ConfigRecord({"json": spell(record["message"]["json"])})
    with pytest.raises(ProtocolError):
        type(sent).from_record(record)


@pytest.mark.parametrize("sent", ALL, ids=IDS)
@pytest.mark.parametrize(
    "break_it",
    [
        lambda record: record.pop("message"),
        lambda record: record.update(message=ArrayRecord()),
        lambda record: record.update(message=ConfigRecord({})),
        lambda record: record.update(message=ConfigRecord({"json": "{}"})),
        lambda record: record.update(message=ConfigRecord({"json": record["message"]["json"], "more": 1})),
        lambda record: record.update(more=MetricRecord({"x": 1.0})),
        lambda record: record.update(arrays=ConfigRecord({"json": b""})),
        lambda record: record.update(arrays=ArrayRecord({"stranger": Array("uint8", (1,), STYPE, b"1")})),
        lambda record: record.update(arrays=ArrayRecord({})),
    ],
)
def test_records_that_are_missing_extra_or_of_another_type_are_refused(
    sent: Any, break_it: Callable[[RecordDict], None]
) -> None:
    record = sent.to_record()
    break_it(record)
    with pytest.raises(ProtocolError):
        type(sent).from_record(record)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (3,), STYPE, UPDATE.tobytes()[:-1]),
        Array("float32", (3,), STYPE, UPDATE.tobytes() + b"\0"),
        Array("float32", (3,), STYPE, UPDATE.tobytes() + b"\0\0\0\0"),
        Array("float32", (1,), STYPE, UPDATE.tobytes()),
        Array("float32", (3, 1), STYPE, UPDATE.tobytes()),
        Array("float32", (-3,), STYPE, UPDATE.tobytes()),
        Array("float32", (), STYPE, b"\0\0\0\0"),
        Array("float32", (0,), STYPE, b""),
        Array("float64", (3,), STYPE, UPDATE.astype(np.float64).tobytes()),
        Array("float32", (3,), "numpy.ndarray", UPDATE.tobytes()),
        Array(UPDATE),
        Array(np.array([1.0, np.nan, 1.0], np.float32)),
        Array("float32", (3,), STYPE, np.array([1.0, np.nan, 1.0], np.float32).tobytes()),
        Array("float32", (3,), STYPE, np.array([1.0, np.inf, 1.0], np.float32).tobytes()),
        Array("float32", (3,), STYPE, np.array([1.0, -np.inf, 1.0], np.float32).tobytes()),
    ],
)
@pytest.mark.parametrize(("sent", "name"), [(ALL[0], "model"), (ALL[1], "model"), (ALL[2], "update")])
def test_an_array_that_is_not_a_row_of_finite_float32_is_refused(sent: Any, name: str, array: Array) -> None:
    record = sent.to_record()
    arrays = dict(record["arrays"])
    arrays[name] = array
    record["arrays"] = ArrayRecord(arrays)
    with pytest.raises(ProtocolError):
        type(sent).from_record(record)


# --- what may not be sent either --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), MAX_WEIGHT * 1.001])
def test_a_weight_is_above_zero_and_below_a_bound(weight: float) -> None:
    with pytest.raises(ProtocolError, match="weight"):
        PlainBody(UPDATE, weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e16])
@pytest.mark.parametrize("name", ["loss"])
def test_a_metric_is_a_finite_number(name: str, value: float) -> None:
    with pytest.raises(ProtocolError, match="metric"):
        PlainBody(UPDATE, 1.0, {name: value})


@pytest.mark.parametrize("name", ["", "1", "a b", "x" * 33, "Müller", "a\n", "a-b"])
def test_a_metric_has_a_plain_name(name: str) -> None:
    with pytest.raises(ProtocolError, match="name of a metric"):
        PlainSums({name: 1.0})


def test_there_are_not_too_many_metrics() -> None:
    with pytest.raises(ProtocolError, match="more than 64"):
        PlainSums({f"m{number}": 0.0 for number in range(MAX_METRICS + 1)})


def test_an_update_that_blew_up_is_not_even_sent() -> None:
    with pytest.raises(ProtocolError, match="not finite"):
        PlainBody(np.array([np.nan], np.float32), 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": PROTOCOL + 1},
        {"federation": "a/b"},
        {"run": "../../etc"},
        {"run": ".hidden"},
        {"task": ""},
        {"charter": "A" * 64},
        {"model": "b" * 63},
        {"round": -1},
        {"round": 100_001},
        {"attempt": 0},
    ],
)
def test_a_header_says_what_it_must_and_nothing_odd(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        replace(HEADER, **change)


@pytest.mark.parametrize("reason", ["", "x" * 301, "two\nlines", "bell\a"])
def test_a_reason_is_one_short_line(reason: str) -> None:
    with pytest.raises(ProtocolError, match="reason"):
        Refusal("H1", "error", reason)
