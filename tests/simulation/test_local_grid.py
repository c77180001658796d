"""The grid of this machine: every message is answered, by the right node, whatever its ClientApp or process does."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from simulation.local_grid import LocalGrid, read_frame, receive_message, send_message, write_frame

APP = "tests.federation.echo:app"
NODES = {number: {"site": f"H{number}"} for number in range(1, 6)}


@pytest.fixture(scope="module")
def grids() -> Iterator[dict[int, LocalGrid]]:
    with LocalGrid(APP, NODES, workers=0) as here, LocalGrid(APP, NODES, workers=2) as there:
        yield {0: here, 2: there}


@pytest.fixture(params=[0, 2], ids=["in this process", "two workers"])
def grid(request: pytest.FixtureRequest, grids: dict[int, LocalGrid]) -> LocalGrid:
    return grids[request.param]


def ask(wish: str, node: int, *, kind: str = "train") -> Message:
    content = RecordDict({"ask": ConfigRecord({"wish": wish}), "model": ArrayRecord([np.arange(4, dtype=np.float32)])})
    return Message(content, dst_node_id=node, message_type=kind)


def facts(reply: Message, name: str) -> object:
    return reply.content["facts"][name]


def test_each_message_is_answered_by_the_node_that_it_was_for(grid: LocalGrid) -> None:
    replies = list(grid.send_and_receive([ask("hello", node) for node in NODES], timeout=20))
    assert [facts(reply, "site") for reply in replies] == [f"H{node}" for node in NODES]
    assert [reply.metadata.src_node_id for reply in replies] == list(NODES)
    assert all(reply.content["model"]["0"].numpy().tolist() == [0, 1, 2, 3] for reply in replies)


def test_a_node_keeps_its_state_and_its_process(grid: LocalGrid) -> None:
    first, second = (next(iter(grid.send_and_receive([ask("hello", 3)], timeout=20))) for _ in range(2))
    assert facts(first, "pid") == facts(second, "pid")
    assert facts(second, "count") == int(str(facts(first, "count"))) + 1


def test_replies_come_by_the_id_of_the_message_and_once(grid: LocalGrid) -> None:
    one, two = grid.push_messages([ask("hello", 1), ask("hello", 2)])
    found: list[Message] = []
    while not found:
        found = list(grid.pull_messages([two]))
    assert found[0].metadata.reply_to_message_id == two
    assert list(grid.pull_messages([two])) == []
    while not list(grid.pull_messages([one])):
        time.sleep(0.01)


def test_an_error_of_the_client_app_is_an_error_reply_without_its_text(grid: LocalGrid) -> None:
    replies = list(grid.send_and_receive([ask("raise", 1), ask("hello", 1)], timeout=20))
    assert replies[0].has_error()
    assert replies[0].error.reason == "ValueError"
    assert facts(replies[1], "site") == "H1"


def test_an_unknown_kind_of_message_is_an_error_reply(grid: LocalGrid) -> None:
    (reply,) = grid.send_and_receive([ask("hello", 1, kind="query.stranger")], timeout=20)
    assert reply.has_error()


def test_an_unknown_node_is_an_error_reply(grid: LocalGrid) -> None:
    (reply,) = grid.send_and_receive([ask("hello", 77)], timeout=20)
    assert reply.has_error()


def test_a_client_app_may_change_its_records_and_nobody_else_sees_it(grid: LocalGrid) -> None:
    content = ask("vandal", 1).content
    messages = [Message(content, dst_node_id=node, message_type="train") for node in NODES]
    replies = list(grid.send_and_receive(messages, timeout=20))
    assert not any(reply.has_error() for reply in replies)
    assert content["ask"]["wish"] == "vandal"
    assert content["model"]["0"].numpy().tolist() == [0, 1, 2, 3]


def test_what_a_library_prints_does_not_disturb_the_messages(grid: LocalGrid) -> None:
    (reply,) = grid.send_and_receive([ask("print", 2)], timeout=20)
    assert facts(reply, "site") == "H2"


def test_the_names_of_the_sites_are_known(grid: LocalGrid) -> None:
    assert {node.node_id: node.name for node in grid.get_nodes()} == {1: "H1", 2: "H2", 3: "H3", 4: "H4", 5: "H5"}
    assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5]


def test_a_run_can_be_given_some_of_the_sites() -> None:
    with LocalGrid(APP, NODES) as grid:
        grid.select(["H4", "H2"])
        assert [node.name for node in grid.get_nodes()] == ["H2", "H4"]
        assert list(grid.get_node_ids()) == [2, 4]
        with pytest.raises(UsageError, match="no site H9"):
            grid.select(["H1", "H9"])


def test_a_worker_has_one_thread_for_arithmetic_and_loads_no_more_than_its_app(grids: dict[int, LocalGrid]) -> None:
    (reply,) = grids[2].send_and_receive([ask("", 1, kind="evaluate")], timeout=20)
    assert dict(reply.content["loaded"]) == {"torch": False, "threads": "1"}


def test_the_nodes_are_spread_over_the_workers(grids: dict[int, LocalGrid]) -> None:
    replies = list(grids[2].send_and_receive([ask("hello", node) for node in NODES], timeout=20))
    pids = [facts(reply, "pid") for reply in replies]
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 3]


def test_a_worker_that_dies_gives_error_replies_for_its_nodes_and_the_others_go_on() -> None:
    with LocalGrid(APP, NODES, workers=2) as grid:
        replies = list(grid.send_and_receive([ask("die", 1), *(ask("hello", node) for node in NODES)], timeout=20))
        died = [reply.metadata.src_node_id for reply in replies if reply.has_error()]
        assert died == [1, 1, 3, 5]
        (later,) = grid.send_and_receive([ask("hello", 3)], timeout=20)
        assert later.has_error()
        (other,) = grid.send_and_receive([ask("hello", 2)], timeout=20)
        assert facts(other, "site") == "H2"


def test_a_message_that_takes_too_long_is_not_waited_for_and_its_worker_ends_with_the_grid() -> None:
    with LocalGrid(APP, NODES, workers=2) as grid:
        (reply,) = grid.send_and_receive([ask("hello", 1)], timeout=20)
        pid = int(str(facts(reply, "pid")))
        began = time.monotonic()
        replies = list(grid.send_and_receive([ask("sleep", 1), ask("hello", 2)], timeout=1.0))
        assert [facts(reply, "site") for reply in replies] == ["H2"]
    assert time.monotonic() - began < 15
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_grid_that_is_interrupted_leaves_no_process_behind() -> None:
    pids = []
    with contextlib.suppress(KeyboardInterrupt), LocalGrid(APP, NODES, workers=2) as grid:
        pids = [int(str(facts(reply, "pid"))) for reply in grid.send_and_receive([ask("hello", n) for n in (1, 2)])]
        for pid in pids:
            os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group
        (reply,) = grid.send_and_receive([ask("hello", 1)], timeout=20)
        assert facts(reply, "pid") == pids[0], "a worker is ended by its grid alone"
        raise KeyboardInterrupt
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_closing_runs_what_was_asked_for() -> None:
    closed: list[bool] = []
    with LocalGrid(APP, NODES, on_close=lambda: closed.append(True)):
        assert not closed
    assert closed


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "app",
    ["tests.federation.nowhere:app", "tests.federation.echo:nothing", "tests.federation.echo:not_an_app", "", "x"],
)
def test_an_app_that_is_not_there_is_a_usage_error(app: str, workers: int) -> None:
    with pytest.raises(UsageError, match="ClientApp"):
        LocalGrid(app, NODES, workers=workers)


@given(frames=st.lists(st.binary(max_size=70), max_size=4), cut=st.integers(1, 9))
def test_frames_come_back_whole_or_not_at_all(frames: list[bytes], cut: int) -> None:
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream, frame)
    whole = stream.getvalue()
    stream.seek(0)
    assert [read_frame(stream) for _ in frames] == frames
    assert read_frame(stream) is None
    if frames:
        torn = io.BytesIO(whole[: -min(cut, len(frames[-1]) + 8)])
        assert [read_frame(torn) for _ in frames] == [*frames[:-1], None]


def test_a_message_comes_back_as_it_was_or_not_at_all(grid: LocalGrid) -> None:
    message, stream = ask("hello", 4), io.BytesIO()
    message.content["none"] = ArrayRecord({})
    message.content["two"] = ArrayRecord([np.zeros(0, np.float32), np.ones((2, 3))])
    message.content["metrics"] = MetricRecord({"psnr": [30.5, 31.0]})
    send_message(stream, message)
    whole = stream.getvalue()
    back = receive_message(io.BytesIO(whole))
    assert back is not None
    assert back.content == message.content
    assert back.metadata.dst_node_id == 4
    for length in range(len(whole)):
        assert receive_message(io.BytesIO(whole[:length])) is None
