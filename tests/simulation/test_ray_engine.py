"""Flower's own simulation engine as ``--engine ray``: the same hospitals, the same coordinator, the same model."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file
from typer.testing import CliRunner

from client.node import Node
from server.app import Settings, run_task
from server.release import WEIGHTS
from shared.cli import build
from shared.errors import UsageError
from shared.files import write_bytes
from simulation import federation
from simulation.federation import check_engine, make_grid, masked
from simulation.ray_engine import RayGrid
from tests.federation import toy

pytestmark = pytest.mark.live

NODES = {number: {"site": f"H{number}"} for number in range(1, 5)}


@dataclass
class Answers:
    """Is told of every answer by a grid, and keeps whose it was and to what."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, site: str, kind: str, asked: RecordDict, told: RecordDict) -> None:
        self.seen.append((site, kind))


def test_the_model_is_that_of_the_local_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation, "APP", toy.APP)
    models, weights, seen = {}, {}, {}
    ours = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    before = [os.environ.get(name) for name in ours]
    for engine in federation.ENGINES:
        rules = toy.charter(plan={"rounds": 2}, privacy={"scores": "masked"}, deadline=30.0)
        made = toy.make_nodes(tmp_path / engine, rules, 3)
        nodes = {config["site"]: Path(config["node-dir"]) for config in made.values()}
        charter = masked(rules, nodes)
        assert charter.masking is not None
        charter = replace(charter, masking=replace(charter.masking, w_max=1))  # every hospital weighs the same
        for node in nodes.values():
            Node.open(node).pin(charter)
        file, out = tmp_path / f"{engine}.toml", tmp_path / f"{engine}-run"
        write_bytes(file, charter.to_toml().encode())
        answers = Answers()
        with make_grid(nodes, 2, answers, engine=engine) as line:
            line.select(nodes)
            result = run_task(line, Settings(file, "toy", out, "run", out / "log.jsonl", poll=0.002))
        models[engine] = [one.model for one in result.history.rounds]
        weights[engine] = {name: array.tolist() for name, array in load_file(out / WEIGHTS).items()}
        seen[engine] = sorted(answers.seen)
        assert result.history.aggregation == "masked"
        assert len([one for one in result.history.rounds if one.train]) == 2
    assert models["ray"] == models["local"]
    assert weights["ray"] == weights["local"]
    assert len(set(models["ray"])) == 3  # every round changed the model
    assert seen["ray"] == seen["local"]
    assert {site for site, kind in seen["ray"] if kind == "train"} == {"H1", "H2", "H3"}
    after = [os.environ.get(name) for name in ours]
    assert after == before, "another Ray of this process would look for a token that is gone"


def test_a_hospital_at_work_is_not_waited_for_when_the_grid_closes() -> None:
    with RayGrid("tests.federation.echo:app", NODES, workers=2) as grid:
        ask(grid, "hello")
        (node, *_) = grid.get_node_ids()
        content = RecordDict({"ask": ConfigRecord({"wish": "sleep"})})
        began = time.monotonic()
        grid.push_messages([Message(content, dst_node_id=node, message_type="train")])
        time.sleep(0.5)  # the engine looks for messages ten times a second
    assert time.monotonic() - began < 30


@pytest.fixture(scope="module")
def grid() -> Iterator[RayGrid]:
    with RayGrid("tests.federation.echo:app", NODES, workers=2) as made:
        yield made


def ask(grid: RayGrid, wish: str, *, kind: str = "train") -> dict[str, Message]:
    """What every hospital answers, by its name."""
    names = {node.node_id: node.name for node in grid.get_nodes()}
    content = RecordDict({"ask": ConfigRecord({"wish": wish}), "model": ArrayRecord()})
    messages = [Message(content, dst_node_id=node, message_type=kind) for node in names]
    sent = {message.metadata.dst_node_id: name for message, name in zip(messages, names.values(), strict=True)}
    replies = list(grid.send_and_receive(messages, timeout=60))
    return {sent[reply.metadata.src_node_id]: reply for reply in replies if not reply.has_error()} or {
        f"error {number}": reply for number, reply in enumerate(replies)
    }


def test_each_message_is_answered_by_the_hospital_that_it_was_for(grid: RayGrid) -> None:
    replies = ask(grid, "hello")
    assert {name: reply.content["facts"]["site"] for name, reply in replies.items()} == {
        name: name for name in ("H1", "H2", "H3", "H4")
    }
    assert os.getpid() not in {reply.content["facts"]["pid"] for reply in replies.values()}


def test_an_actor_has_one_thread_for_arithmetic_and_loads_no_more_than_its_app(grid: RayGrid) -> None:
    replies = ask(grid, "", kind="evaluate")
    assert {name: dict(reply.content["loaded"]) for name, reply in replies.items()} == {
        name: {"torch": False, "threads": "1"} for name in ("H1", "H2", "H3", "H4")
    }


def test_an_error_of_the_client_app_is_an_error_reply_without_its_text(
    grid: RayGrid, capfd: pytest.CaptureFixture[str]
) -> None:
    replies = ask(grid, "raise")
    assert [reply.error.reason for reply in replies.values()] == ["ValueError"] * 4
    assert "Haldane" not in "".join(capfd.readouterr())


def test_a_run_can_be_given_some_of_the_sites(grid: RayGrid) -> None:
    grid.select(["H4", "H2"])
    assert sorted(node.name for node in grid.get_nodes()) == ["H2", "H4"]
    assert len(list(grid.get_node_ids())) == 2
    with pytest.raises(UsageError, match="no site H9"):
        grid.select(["H1", "H9"])
    grid.select([f"H{number}" for number in range(1, 5)])


def test_nobody_without_the_token_can_give_work_to_its_processes(grid: RayGrid) -> None:
    ask(grid, "hello")  # it has started
    import ray

    address = ray.get_runtime_context().gcs_address
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    code = "import sys, ray; ray.init(address=sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, address], check=False, env=stranger, capture_output=True, text=True, timeout=90
    )
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr


def test_a_process_has_one_such_grid_at_a_time(grid: RayGrid) -> None:
    ask(grid, "hello")
    with pytest.raises(UsageError, match="has a grid of the engine ray open"):
        RayGrid("tests.federation.echo:app", NODES, workers=1)


def test_where_ray_is_missing_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    result = CliRunner().invoke(build(), ["simulate", "--engine", "ray", "--out", str(tmp_path / "run")])
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert "Ray is not installed" in result.exception.message
    assert "fedward[ray]" in result.exception.hint
    assert not (tmp_path / "run").exists()


def test_there_is_no_third_engine() -> None:
    check_engine("local")
    with pytest.raises(UsageError, match="no engine 'spark'"):
        check_engine("spark")
