"""``policy.toml``: what a hospital allows beside the charter that it pinned. What it cannot read allows nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from client import policy_file, rounds
from client.app import close_sessions
from client.budget import alone, forecast, set_budget, standing
from client.charge import Budget
from client.cohort import Cohort
from client.node import Node
from client.policy import HospitalPolicy, allows_run, decide, policy_of
from client.policy_file import DevicePlan
from shared.charter import Charter
from shared.charter_plans import CoordinatorPlan
from shared.errors import PolicyError
from shared.header import Header
from shared.imaging.tasks import Batch, Objective, get_task
from tests.client.test_app import header as header_of
from tests.client.test_app import refused, train
from tests.federation import toy
from tests.federation.members import invented, masked

PRIVATE = {"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.5}
AGREED = masked(invented(4), 3, {}, privacy=PRIVATE)
"""Masks and privacy: what a hospital without a policy of its own allows."""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose=toy.PURPOSE)


def write(node: Node, text: str) -> Node:
    (node.folder / "policy.toml").write_text(text)
    return node


def judged(node: Node, charter: Charter = AGREED) -> str:
    """The reason why not; empty where it is allowed."""
    decision = allows_run(node, charter)
    assert decision.allowed is (not decision.reason)
    return decision.reason


def test_a_hospital_without_a_policy_asks_for_masks_and_privacy(node: Node) -> None:
    assert judged(node) == ""
    assert "asks for secure aggregation" in judged(node, toy.charter(privacy=PRIVATE))
    assert "asks for differential privacy" in judged(node, masked(invented(4), 3, {}))


def test_a_virtual_hospital_without_one_asks_for_nothing(tmp_path: Path) -> None:
    virtual = Node.create(tmp_path / "v", site="H1", purpose=toy.PURPOSE, seed=0)
    assert judged(virtual, toy.charter()) == ""
    write(virtual, 'tasks = ["denoise"]')
    assert "task toy" in judged(virtual, toy.charter())


@pytest.mark.control("GDPR-29-pinned-charter")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('tasks = ["denoise", "toy"]', ""),
        ('tasks = ["denoise"]', "does not allow the task toy"),
        ("max_rounds = 3", ""),
        ("max_rounds = 2", "allows 2 at most of a task's rounds, and toy has 3"),
        (f'purposes = ["{toy.PURPOSE}"]', ""),
        ('purposes = ["marketing"]', "does not allow the charter's purpose"),
        ("max_epsilon = 100.0", ""),
        ("max_epsilon = 0.1", "allows less epsilon"),
    ],
)
def test_each_limit_allows_and_refuses(node: Node, text: str, reason: str) -> None:
    said = judged(write(node, text))
    assert reason in said
    assert bool(said) is bool(reason)


def test_a_limit_that_is_lifted_is_lifted_alone(node: Node) -> None:
    write(node, "require_masks = false")
    assert judged(node, toy.charter(privacy=PRIVATE)) == ""
    assert "differential privacy" in judged(node, toy.charter())


@pytest.mark.control("GDPR-5-1-b-purpose")
def test_a_charter_for_another_purpose_than_the_nodes_is_refused_whatever_the_policy_says(node: Node) -> None:
    other = replace(AGREED, purpose="marketing")
    assert "purpose" in judged(write(node, 'purposes = ["marketing"]'), other)


def test_the_epsilon_is_that_of_budget_plan_at_the_delta_of_the_budget(node: Node) -> None:
    set_budget(node, Budget(50.0, 1e-7, 20), who="Ada", why="a test")
    planned = forecast(standing(node), AGREED)
    assert planned is not None
    assert planned.alone == alone(AGREED, 1e-7) > alone(AGREED, 1e-5)
    assert judged(write(node, f"max_epsilon = {planned.alone + 1e-9!r}")) == ""
    assert "epsilon" in judged(write(node, f"max_epsilon = {planned.alone - 0.01!r}"))
    between = (alone(AGREED, 1e-5) + planned.alone) / 2
    assert "epsilon" in judged(write(node, f"max_epsilon = {between!r}")), "another delta would have allowed it"


def in_countries(*, coordinator: str | None, members: list[str | None]) -> Charter:
    who = tuple(replace(one, country=country) for one, country in zip(AGREED.members, members, strict=True))
    link = CoordinatorPlan("center", "fl.example.org:9443", "0" * 64, coordinator)
    return replace(AGREED, members=who, coordinator=link)


@pytest.mark.control("GDPR-44-recipients")
@pytest.mark.parametrize(
    ("coordinator", "members", "reason"),
    [
        ("DE", ["DE", "FR", "FR", "DE"], ""),
        ("US", ["DE", "FR", "FR", "DE"], "recipients in US"),
        ("DE", ["DE", "FR", "CN", "DE"], "recipients in CN"),
        ("DE", ["DE", "FR", None, "DE"], "a country that the charter does not say (H3)"),
        (None, ["DE"] * 4, "a country that the charter does not say (center)"),
    ],
)
def test_every_recipient_must_say_that_it_is_in_an_allowed_country(
    node: Node, coordinator: str | None, members: list[str | None], reason: str
) -> None:
    rules = in_countries(coordinator=coordinator, members=members)
    assert judged(node, rules) == "", "without the key anywhere will do"
    said = judged(write(node, 'countries = ["DE", "FR"]'), rules)
    assert reason in said
    assert bool(said) is bool(reason)


def test_without_privacy_no_limit_on_epsilon_holds(node: Node) -> None:
    write(node, "max_epsilon = 1000.0\nrequire_privacy = false")
    assert "epsilon" in judged(node, masked(invented(4), 3, {}))


# --- every request ----------------------------------------------------------------------------------------------------


def test_the_number_of_patients_is_the_greater_of_two_and_the_words_do_not_tell_which() -> None:
    rules = toy.charter(min_patients=3)
    asked = Header(rules.id, rules.sha256, "run-1", 1, 1, "toy", "0" * 64)
    terms = HospitalPolicy(require_masks=False, require_privacy=False, min_patients=10)

    def said(patients: int, policy: HospitalPolicy) -> str:
        return decide(asked, rules, policy, purpose=toy.PURPOSE, training=True, patients=patients).reason

    assert said(10, terms) == ""
    assert said(9, terms) == said(2, terms) == said(2, replace(terms, min_patients=1)) != ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('tasks = ["denoise"]', "does not allow the task toy"),
        ("min_patients = 5", "too few patients"),
        ("max_rounds = 1", "allows 1 at most"),
        ("max_epsilon = 0.5", "epsilon"),
        ("require_masks = true", "asks for secure aggregation"),
    ],
)
def test_a_request_is_refused_with_the_reason_and_trains_nothing(tmp_path: Path, text: str, reason: str) -> None:
    rules = toy.charter(privacy=PRIVATE)
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    (folder / "policy.toml").write_text(text)
    refusal = refused(train(folder, header_of(rules)))
    assert (refusal.code, reason in refusal.reason) == ("policy", True)
    assert "train" not in {row["action"] for row in toy.log_rows(folder)}
    close_sessions()


def test_a_policy_that_changes_holds_from_the_next_request_on(tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    assert train(folder, header_of(rules))
    (folder / "policy.toml").write_text('tasks = ["denoise"]')
    assert "task toy" in refused(train(folder, header_of(rules))).reason
    (folder / "policy.toml").write_text('tasks = ["toy"]\n')
    train(folder, header_of(rules))
    assert [row["action"] for row in toy.log_rows(folder)].count("train") == 4
    close_sessions()


def test_the_file_is_read_once_for_many_requests(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    write(node, "max_rounds = 7")
    reads: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read(path))[1])
    assert {policy_of(node).max_rounds for _ in range(50)} == {7}
    assert reads == [node.folder / "policy.toml"]


# --- who takes part ---------------------------------------------------------------------------------------------------


def test_patients_that_ingest_took_in_since_are_in_the_next_round_also_of_a_session_that_is_open(
    tmp_path: Path,
) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules, patients=3)
    index = folder / "cohort" / "index.json"
    whole = json.loads(index.read_text())
    index.write_text(json.dumps(whole | {"patients": whole["patients"][1:]}))
    train(folder, header_of(rules))
    index.write_text(json.dumps(whole))
    train(folder, header_of(rules))
    rows = [row["detail"] for row in toy.log_rows(folder) if (row["action"], row["outcome"]) == ("train", "started")]
    assert [row["patients"] for row in rows] == [2, 3]
    close_sessions()


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_who_is_not_eligible_is_in_no_round_and_none_of_their_images_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    read: list[str] = []
    load = Cohort.load
    monkeypatch.setattr(Cohort, "load", lambda cohort, key: (read.append(key), load(cohort, key))[1])
    monkeypatch.setattr(rounds, "eligible", lambda keys, *_, **__: tuple(key for key in keys if not key.endswith("-1")))
    train(folder, header_of(rules))
    assert sorted(read) == ["PATIENT-H1-0", "PATIENT-H1-2", "PATIENT-H1-3", "PATIENT-H1-4"]
    (row,) = [row for row in toy.log_rows(folder) if (row["action"], row["outcome"]) == ("train", "started")]
    assert row["detail"]["patients"] == 3
    close_sessions()


def test_a_round_in_too_little_memory_has_its_micro_batch_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = toy.charter(plan={"batch": 6})
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    task = get_task("toy")
    objectives = task.objectives

    def narrow(network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        if len(batch[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return objectives(network, batch)

    monkeypatch.setattr(task, "objectives", narrow)
    train(folder, header_of(rules))
    (row,) = [row for row in toy.log_rows(folder) if (row["action"], row["outcome"]) == ("train", "ok")]
    assert row["detail"]["micro_batch"] == 2
    close_sessions()


def test_a_device_that_is_not_there_is_told_here_and_by_its_name_alone_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    (folder / "policy.toml").write_text('[device]\nuse = "cuda:3"\n')
    refusal = refused(train(folder, header_of(rules)))
    assert (refusal.code, refusal.reason) == ("error", "DeviceError")
    assert "cuda:3" in toy.log_rows(folder)[-2]["detail"]["here"]
    close_sessions()


# --- a file that is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks = [", "not valid TOML"),
        ('task = ["toy"]', "task: is not known here"),
        ("max_epsilon = -1", "max_epsilon: must be more than 0"),
        ("max_epsilon = inf", "finite"),
        ("max_rounds = 1.5", "whole number"),
        ('require_masks = "no"', "true or false"),
        ('countries = ["Germany"]', "countries"),
        ("tasks = []", "must not be empty"),
        ('[device]\nuse = "tpu"', "device.use"),
    ],
)
def test_a_damaged_file_allows_nothing_and_says_what_to_mend(node: Node, text: str, said: str) -> None:
    write(node, text)
    with pytest.raises(PolicyError, match=r"policy\.toml") as caught:
        allows_run(node, AGREED)
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.control("HIPAA-164.312-a1-keys")
def test_a_file_that_others_may_change_allows_nothing(node: Node) -> None:
    write(node, "")
    (node.folder / "policy.toml").chmod(0o664)
    with pytest.raises(PolicyError, match="others may change"):
        policy_of(node)


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read_and_not_none(node: Node) -> None:
    (node.folder / "policy.toml").symlink_to(node.folder / "gone.toml")
    with pytest.raises(PolicyError, match="cannot read"):
        policy_of(node)


def test_a_folder_in_which_others_may_replace_the_file_allows_nothing(node: Node, tmp_path: Path) -> None:
    for mode in (0o770, 0o702):
        node.folder.chmod(mode)
        with pytest.raises(PolicyError, match="others may change"):  # they may have removed a stricter one, too
            policy_of(node)
    node.folder.chmod(0o750)
    assert policy_of(node).require_masks
    central = tmp_path / "central"
    central.mkdir()
    (central / "policy.toml").write_text("max_rounds = 3")
    (node.folder / "policy.toml").symlink_to(central / "policy.toml")
    assert policy_of(node).max_rounds == 3
    central.chmod(0o777)
    with pytest.raises(PolicyError, match="others may change"):
        policy_of(node)


def test_a_damaged_file_is_a_refusal_that_tells_no_path_and_is_told_here(tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "Doe^Jane", "H1", rules)
    (folder / "policy.toml").write_text("tasks = [")
    refusal = refused(train(folder, header_of(rules)))
    assert (refusal.code, refusal.reason) == ("policy", "PolicyError")
    assert "policy.toml is not valid TOML" in toy.log_rows(folder)[-2]["detail"]["here"]
    close_sessions()


def test_what_the_file_says_is_what_holds(node: Node) -> None:
    write(
        node,
        'tasks = ["toy"]\nmax_epsilon = 3.5\nmax_rounds = 40\nmin_patients = 12\nrequire_masks = false\n'
        'require_privacy = false\npurposes = ["one purpose"]\ncountries = ["DE", "FR"]\n'
        '[device]\nuse = "cuda:1"\ndeterministic = true\n',
    )
    device = DevicePlan("cuda:1", deterministic=True)
    values = (False, False, ("toy",), 3.5, 40, 12, ("one purpose",), ("DE", "FR"), device)
    assert policy_of(node) == HospitalPolicy(*values)
    os.utime(node.folder / "policy.toml", ns=(0, 0))
    policy_file._read.cache_clear()
    assert policy_of(node) == HospitalPolicy(*values)
