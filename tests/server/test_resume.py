"""A coordinator that is killed, at any place of any phase, and goes on: with the same model, and nothing done twice."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.node import Node
from compliance.log import Action, entries, verify
from shared.charter import Charter
from tests.federation import toy
from tests.federation.killed import Coordinator, Ended, Place, answers, coordinator
from tests.federation.masked import Federation

SITES = ("H1", "H2", "H3")
PHASES = (
    r"round-00000/\d+-query.secagg_advertise",
    r"round-00000/\d+-query.secagg_share",
    r"round-00000/\d+-evaluate",
    r"round-00001/\d+-train",
    r"round-00001/0003-query.secagg_confirm",
    r"round-00001/0004-query.secagg_unmask",
)
MOMENTS = (("from-H2.bin", "before"), ("closed.bin", "after"))
OTHERS = (
    (r"round-00000/\d+-connected.bin", "after"),
    (r"round-00000/\d+-epoch.bin", "before"),
    (r"round-00000/\d+-epoch.bin", "after"),
    (r"round-00001/\d+-train/asked.bin", "before"),
    (r"round-00001/\d+-train/from-H2.bin", "torn"),
    (r"round-00001/0003-query.secagg_confirm/asked.bin", "after"),
    (r"round-00001/0004-query.secagg_unmask/from-H3.bin", "torn"),
    (r"round-00001/\d+-evaluate/from-H1.bin", "after"),
    (r"epoch-\d+.bin", "after"),
    ("state.bin", "before"),
    ("state.bin", "after"),
)
PLACES = (*((f"{phase}/{file}", when) for phase in PHASES for file, when in MOMENTS), *OTHERS)
SHORT = 3
"""Every third place in the short suite, all of them in the live one."""
PLAN = {"rounds": 1, "evaluate_every": 9, "average": 0.5, "server_optimizer": "Adam", "server_lr": 0.05}


@pytest.fixture(scope="module")
def process() -> Iterator[Coordinator]:
    with coordinator() as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(process: Coordinator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The models of a run that nobody kills."""
    root = federation(tmp_path_factory.mktemp("undisturbed"))
    assert process.run(root) == Ended(0, "")
    return models(root)


def federation(root: Path, sites: int = 3, **changes: object) -> Path:
    made = Federation.make(root, sites, **{"plan": PLAN} | changes)
    (root / "charter.toml").write_text(made.charter.to_toml())
    return root


def two_tasks(root: Path) -> Charter:
    """The charter of ``root`` with a second task, pinned by everybody."""
    first = Charter.load(root / "charter.toml")
    both = replace(first, tasks=(first.tasks[0], replace(first.tasks[0], name="second")))
    (root / "charter.toml").write_text(both.to_toml())
    for site in SITES:
        Node.open(root / site).pin(both)
    return both


def models(root: Path, task: str = "toy") -> list[str]:
    history = json.loads((root / "out" / task / "history.json").read_text())
    assert history["outcome"] == "ok"
    return [one["model"] for one in history["rounds"]]


def trained_once(root: Path) -> bool:
    """Whether no hospital gave two masked updates for one attempt at one round."""
    counts = Counter(
        (one["site"], one["task"], one["round"], one["attempt"])
        for one in answers(root)
        if one["asked"] == "train" and one["answer"] == "train.reply"
    )
    return max(counts.values()) == 1


def one_sum_a_round(root: Path) -> bool:
    """Whether every hospital helped to unmask each round over one set of hospitals."""
    sums: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for path in root.glob("H*/sums/*.jsonl"):
        for row in map(json.loads, path.read_bytes().splitlines()):
            if "included" in row:
                sums.setdefault((path.parts[-3], row["purpose"]), set()).add(tuple(row["included"]))
    return bool(sums) and all(len(sets) == 1 for sets in sums.values())


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[pytest.mark.live] if i % SHORT else []) for i, place in enumerate(PLACES)],
)
def test_a_run_that_is_killed_and_resumed_ends_with_the_model_of_one_that_is_not(
    tmp_path: Path, process: Coordinator, undisturbed: list[str], place: Place
) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=place).killed
    assert process.run(root, resume=True) == Ended(0, "")
    assert models(root) == undisturbed
    assert trained_once(root)
    assert one_sum_a_round(root)
    assert not (root / "out" / "toy" / "checkpoint").exists()
    verify(root / "audit" / "log.jsonl")
    acts = [(row["action"], row["outcome"]) for row in entries(root / "audit" / "log.jsonl")]
    assert acts.count((Action.RUN_START, "started")) == 2
    assert acts[-1] == (Action.RUN_END, "ok")


# --- what a run that is resumed does not do again ---------------------------------------------------------------------


def test_answers_that_had_come_are_taken_from_the_disk_and_their_senders_left_in_peace(
    tmp_path: Path, process: Coordinator
) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=(r"round-00001/0004-query.secagg_unmask/from-H3.bin", "before")).killed
    before = len(answers(root))
    assert process.run(root, resume=True) == Ended(0, "")
    again = [(one["site"], one["asked"]) for one in answers(root)[before:] if one["round"] == 1]
    assert again[0] == ("H3", "unmask")
    assert "train" not in {asked for _, asked in again}
    rows = [row for row in entries(root / "audit" / "log.jsonl") if row["detail"].get("kept")]
    assert {(row["detail"]["phase"], row["detail"]["site"]) for row in rows} == {
        *(("train", site) for site in SITES),
        *(("query.secagg_confirm", site) for site in SITES),
        *(("query.secagg_unmask", site) for site in ("H1", "H2")),
    }


def test_a_task_that_is_finished_is_not_run_again(tmp_path: Path, process: Coordinator) -> None:
    root = federation(tmp_path)
    both = two_tasks(root)
    assert process.run(root, kill=("second/checkpoint/state.bin", "before")).killed
    model = (root / "out" / "toy" / "model.safetensors").stat()
    before = len(answers(root))
    assert process.run(root, resume=True) == Ended(0, "")
    assert {one["task"] for one in answers(root)[before:]} == {"second"}
    assert (root / "out" / "toy" / "model.safetensors").stat().st_mtime_ns == model.st_mtime_ns
    assert len(models(root, "second")) == 1 + both.tasks[1].rounds
    assert process.run(root, resume=True) == Ended(0, ""), "and a run that is finished has nothing left to do"


@pytest.mark.parametrize("file", ["history.json", "model.safetensors", "model.json"])
def test_a_task_whose_result_was_damaged_is_not_trained_again_unasked(
    tmp_path: Path, process: Coordinator, file: str
) -> None:
    root = federation(tmp_path)
    assert process.run(root) == Ended(0, "")
    (root / "out" / "toy" / file).write_bytes(b"")  # as a power cut may leave it
    before = len(answers(root))
    ended = process.run(root, resume=True)
    assert ended.status == 9
    assert "its history or its model is missing or damaged (put history.json, model.safetensors and" in ended.error
    assert len(answers(root)) == before
    (root / "out" / "toy" / file).unlink()
    assert process.run(root, resume=True) == ended


def test_a_history_that_was_damaged_before_the_checkpoint_was_gone_is_written_again(
    tmp_path: Path, process: Coordinator, undisturbed: list[str]
) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=("state.bin", "after")).killed
    (root / "out" / "toy" / "history.json").write_bytes(b"")
    assert process.run(root, resume=True) == Ended(0, "")
    assert models(root) == undisturbed


# --- who is missing ---------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_a_run_that_lacked_hospitals_names_them_and_goes_on_when_they_are_back(
    tmp_path: Path, process: Coordinator, undisturbed: list[str]
) -> None:
    root = federation(tmp_path, deadline=5.0)
    ended = process.run(root, away=["H2"])
    assert ended.status == 8
    assert "connected sites: 2 of the 3 that are needed; not connected: H2" in ended.error
    assert process.run(root, resume=True) == Ended(0, "")
    assert models(root) == undisturbed


def test_a_run_that_ended_after_three_attempts_tries_again_under_new_numbers_when_it_is_resumed(
    tmp_path: Path, process: Coordinator, undisturbed: list[str]
) -> None:
    root = federation(tmp_path)
    readable = root / "H3" / "masks"
    readable.mkdir()
    readable.chmod(0o755)  # H3 serves no keys that others may read, and refuses every attempt
    ended = process.run(root)
    assert ended.status == 8
    assert "no sum after 3 attempts" in ended.error
    assert "H3 (masks: " in ended.error
    assert process.run(root, resume=True).status == 8, "three more, and no better"
    readable.chmod(0o700)
    assert process.run(root, resume=True) == Ended(0, "")
    assert models(root) == undisturbed
    assert {one["attempt"] for one in answers(root) if one["round"] == 0} == {1, 2, 3, 4, 5, 6, 7}


# --- what cannot be used ----------------------------------------------------------------------------------------------


def checkpoint(root: Path) -> Path:
    return root / "out" / "toy" / "checkpoint"


def test_a_run_is_not_begun_anew_over_one_that_has_not_ended(tmp_path: Path, process: Coordinator) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=("state.bin", "after")).killed
    ended = process.run(root)
    assert ended.status == 2
    assert "holds a run that has not ended (resume it" in ended.error


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, process: Coordinator) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=("state.bin", "after")).killed
    ended = process.run(root, resume=True, run="run-2")
    assert ended.status == 2
    assert "its run is run-1, not run-2" in ended.error


@pytest.mark.parametrize(
    "file", ["state.bin", "epoch-*.bin", "round-00001/*-train/from-H1.bin", "round-00001/*/asked.bin"]
)
def test_what_was_damaged_after_it_counted_is_an_error_that_says_what_to_do(
    tmp_path: Path, process: Coordinator, file: str
) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=(r"round-00001/\d+-query.secagg_unmask/asked.bin", "before")).killed
    path = next(checkpoint(root).glob(file))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    before = len(answers(root))
    ended = process.run(root, resume=True)
    assert ended.status == 9
    assert f"{path} is damaged" in ended.error
    assert "put " in ended.error
    assert "or delete " in ended.error
    assert len(answers(root)) == before, "nobody was asked"


def test_a_round_whose_journal_was_deleted_begins_again_under_new_keys(
    tmp_path: Path, process: Coordinator, undisturbed: list[str]
) -> None:
    root = federation(tmp_path)
    assert process.run(root, kill=(r"round-00001/\d+-query.secagg_unmask/from-H2.bin", "after")).killed
    shutil.rmtree(checkpoint(root) / "round-00001")
    assert process.run(root, resume=True) == Ended(0, "")
    assert models(root) == undisturbed
    assert one_sum_a_round(root)


# --- hospitals that have patients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_an_answer_that_the_coordinator_lost_comes_again_and_is_neither_made_nor_paid_for_twice(
    tmp_path: Path, process: Coordinator, phase: str
) -> None:
    root = federation(tmp_path, 4)
    for about in root.glob("*/node.json"):
        about.write_text(about.read_text().replace("true", "false"))
        toy.allow_all(about.parent)
    assert process.run(root, kill=(rf"round-00001/\d+-{phase}/from-H2.bin", "before")).killed
    assert process.run(root, resume=True) == Ended(0, "")
    history = json.loads((root / "out" / "toy" / "history.json").read_text())
    for one in (history["rounds"][1]["train"], history["rounds"][1]["evaluation"]):
        assert one["answered"] == ["H1", "H2", "H3", "H4"]
        assert one["notes"] == []
    for site in history["rounds"][1]["train"]["answered"]:
        done = [row["outcome"] for row in entries(root / site / "audit" / "log.jsonl") if row["action"] == Action.TRAIN]
        assert done == ["started", "ok"]
