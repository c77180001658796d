"""What a child of the link's worker does with the ClientApp that is installed: at once, with everything imported."""

import importlib.util
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from client.flower_messages import Delivery, deflate, pairs, work_of
from client.link import HANDLER, PRELOAD
from client.link_work import DEVICE, POLICY, question
from client.worker import Worker, WorkerError
from shared.secagg.setup_messages import AdvertiseRequest
from shared.wire import Refusal, TrainReply, TrainRequest
from shared.wire_masks import MaskReply, MaskRequest, message_type
from simulation.local_grid import set_identity
from tests.client.test_masks import LAYOUT, MODEL, header
from tests.federation import toy
from tests.federation.masked import Federation
from tests.shared.test_supervisor import HOUSE

RUN, NODE = 1, 5


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HOUSE))
        with Worker("tests.client.link_modules:work", preload=PRELOAD, threads=1) as worker:
            worker.start()
            yield worker


def written(folder: Path, content: RecordDict, kind: str, *, run: int = RUN) -> list[bytes]:
    set_identity()
    strings = deflate(Message(content, dst_node_id=NODE, message_type=kind))
    context = {"node": NODE, "node_config": {"node-dir": str(folder), "site": folder.name}, "run_config": {}}
    facts, *objects = work_of(Delivery(strings[0]), pairs(strings[2:]), context)
    return [json.dumps({**json.loads(facts), "run": run}).encode(), *objects]


def read(strings: list[bytes]) -> Message:
    name = ProtoMessage.FromString(strings[0]).metadata.message_id
    assert ObjectTree.FromString(strings[1]).object_id == name
    message = inflate_object_from_contents(name, pairs(strings[2:]))
    assert isinstance(message, Message)
    return message


def test_a_step_of_secure_aggregation_is_answered_fast(worker: Worker, tmp_path: Path) -> None:
    three = Federation.make(tmp_path, 3)
    times = []
    for _ in range(4):
        step = AdvertiseRequest(time.time_ns() // 1_000_000)
        request = MaskRequest(header(three.charter), "advertise", step.to_bytes()).to_record()
        work = written(three.root / "H1", request, message_type("advertise"))
        begun = time.monotonic()
        modules, *answer, refused = worker.answer(work)
        times.append(time.monotonic() - begun)
        assert MaskReply.from_record(read(answer).content).site == "H1"
        assert refused == b""
        assert json.loads(modules) == []
    assert min(times[1:]) < 1.0


def test_training_finds_what_takes_seconds_to_import(worker: Worker, tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    work = written(folder, TrainRequest(header(rules), LAYOUT.sha256, MODEL).to_record(), "train")
    modules, *answer, refused = worker.answer(work)
    assert TrainReply.from_record(read(answer).content).site == "H1"
    assert refused == b""
    assert json.loads(modules) == []


def test_the_link_is_told_what_the_hospital_refuses(worker: Worker, tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    asked = TrainRequest(replace(header(rules), round=9999), LAYOUT.sha256, MODEL).to_record()
    _, *answer, refused = worker.answer(written(folder, asked, "train"))
    refusal = Refusal.from_record(read(answer).content)
    assert refused.decode() == f"{refusal.code}: {refusal.reason}"
    assert refusal.code == "policy"


def test_a_message_that_is_not_what_was_announced_is_not_looked_at(worker: Worker, tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    request = TrainRequest(header(rules), LAYOUT.sha256, MODEL).to_record()
    with pytest.raises(WorkerError, match="GarbledError"):
        worker.answer(written(folder, request, "train", run=2))
    assert not (folder / "audit" / "log.jsonl").exists()


def test_two_questions_are_answered_in_a_line(worker: Worker, tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", toy.charter())
    assert worker.answer(question(DEVICE, folder))[1].startswith(b"CPU, 1 thread")
    assert worker.answer(question(POLICY, folder))[1] == b""
    (folder / "policy.toml").write_text("require_masks = true\n")
    assert b"secure aggregation" in worker.answer(question(POLICY, folder))[1]


def test_the_link_names_a_handler_and_modules_that_are_there() -> None:
    module, _, name = HANDLER.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert all(importlib.util.find_spec(one) for one in PRELOAD)
