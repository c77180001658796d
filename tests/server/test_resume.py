"""A coordinator that is killed, at any place of any phase, and goes on: with the same model, and nothing done twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.log import Action, entries, verify
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
    r"round-00001/\d+-evaluate",
    r"round-00001/0008-query.secagg_unmask",
)
MOMENTS = (
    ("asked.bin", "before"),
    ("asked.bin", "after"),
    ("from-H2.bin", "before"),
    ("from-H2.bin", "torn"),
    ("from-H3.bin", "after"),
    ("closed.bin", "after"),
)
OUTSIDE = (
    (r"round-00000/\d+-connected.bin", "after"),
    (r"round-00000/\d+-epoch.bin", "before"),
    (r"round-00000/\d+-epoch.bin", "after"),
    (r"epoch-\d+.bin", "before"),
    (r"epoch-\d+.bin", "after"),
    ("state.bin", "before"),
    ("state.bin", "after"),
)
PLAN = {"rounds": 2, "evaluate_every": 1, "average": 0.5, "server_optimizer": "Adam", "server_lr": 0.05}


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
    "place", [*((f"{phase}/{file}", when) for phase in PHASES for file, when in MOMENTS), *OUTSIDE]
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
