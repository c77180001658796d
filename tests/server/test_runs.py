"""A run's folder after a disk or a machine that failed: what can be read is read, and the rest is named."""

from pathlib import Path

import pytest

from server import runs
from server.coordinator import Coordinator
from server.runs import Outcome, RunFolder
from server.starting import state, unfinished
from shared.errors import UsageError
from tests.federation import toy
from tests.federation.links import Desk


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Desk.make(tmp_path).coordinator


def made(coordinator: Coordinator, name: str) -> RunFolder:
    return RunFolder.create(coordinator, toy.charter(), b"", name=name)


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, b'{"version": 1', b"[]"])
def test_a_damaged_run_is_named_and_left_out(coordinator: Coordinator, damage: bytes) -> None:
    for name in ("a", "b", "c"):
        made(coordinator, name)
    (coordinator.runs_folder / "b" / "run.json").write_bytes(damage)
    met: list[UsageError] = []
    assert [one.name for one in RunFolder.all(coordinator, skipped=met.append)] == ["a", "c"]
    assert ["b/run.json is damaged" in one.message for one in met] == [True]


def test_beside_a_damaged_run_nobody_guesses_which_one_to_resume(coordinator: Coordinator) -> None:
    made(coordinator, "a")
    made(coordinator, "b")
    (coordinator.runs_folder / "b" / "run.json").write_bytes(b"")
    with pytest.raises(UsageError, match="damaged") as met:
        unfinished(coordinator, None)
    assert "say which run" in met.value.hint
    assert unfinished(coordinator, "a").name == "a"


def test_a_run_whose_end_cannot_be_read_is_shown_as_damaged(coordinator: Coordinator) -> None:
    run = made(coordinator, "a")
    run.note(task="toy", rounds=3)
    (run.path / "result.json").write_bytes(b"")
    shown = state(coordinator, run, None)
    assert (shown.state, shown.task) == ("damaged", "toy")
    assert "result.json is damaged" in shown.error
    assert "delete it" in shown.hint


@pytest.mark.parametrize("torn", [b'{"task": "toy", "rou', b'{"task": "t\xc3', b"\0" * 100, b"[1]", b"3", b"{}", b"\n"])
def test_a_torn_line_of_progress_is_left_out_and_the_next_one_is_whole(coordinator: Coordinator, torn: bytes) -> None:
    run = made(coordinator, "a")
    run.note(task="toy", rounds=3)
    path = run.path / "progress.jsonl"
    with path.open("ab") as stream:
        stream.write(torn)
    assert [one["task"] for one in run.progress()] == ["toy"]
    run.note(task="next", rounds=1)
    assert [one["task"] for one in run.progress()] == ["toy", "next"]
    assert state(coordinator, run, None).task == "next"


def test_what_says_how_a_run_is_and_ended_survives_a_power_cut(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: dict[str, bool] = {}
    write = runs.write_json

    def noted(path: Path, value: object, **options: bool) -> None:
        durable[path.name] = options.get("durable", False)
        write(path, value, durable=durable[path.name])

    monkeypatch.setattr(runs, "write_json", noted)
    made(coordinator, "a").end(Outcome.now("ok"))
    assert durable == {"run.json": True, "result.json": True}
