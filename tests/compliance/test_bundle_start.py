"""The release that a charter starts from: found by its manifest alone, checked, and the same at both ends."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client.app import close_sessions
from client.lineage import Lineage
from client.node import Node
from compliance.bundle_start import RELEASES, start_weights
from server.app import Settings, _network
from shared.charter import Charter
from shared.charter_plans import TaskPlan
from shared.errors import CharterError, RecordError
from shared.imaging.start import prepared
from shared.imaging.tasks import get_task
from shared.weights import weights_of
from shared.wire import TrainReply, kind_of
from tests.client import test_app as apps
from tests.federation import toy
from tests.federation.released import SITES, Ended


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one release in it, under a name of the holder's own."""
    root = tmp_path_factory.mktemp("held")
    ended = Ended.make(root / "federation")
    ended.witnessed(*SITES)
    (root / RELEASES).mkdir()
    ended.release(root / RELEASES / "any name", *SITES)
    return root


def plan_for(folder: Path) -> TaskPlan:
    """A plan that starts from the release in ``folder``."""
    found = hashlib.sha256((folder / RELEASES / "any name" / "manifest.json").read_bytes()).hexdigest()
    return TaskPlan("toy", rounds=1, local_steps=1, start="release", release=found)


def test_a_plan_without_a_release_needs_no_folder(tmp_path: Path) -> None:
    assert start_weights(TaskPlan("toy", rounds=1, local_steps=1), tmp_path) is None


def test_both_ends_begin_at_the_same_bits(held: Path, tmp_path: Path) -> None:
    plan = plan_for(held)
    rules = replace(toy.charter(), tasks=(plan,))
    hospital = shutil.copytree(held, tmp_path / "hospital")
    (hospital / RELEASES / "any name").rename(hospital / RELEASES / "another")
    (hospital / RELEASES / "not one").mkdir()
    settings = Settings(tmp_path / "charter.toml", "toy", tmp_path, "run", tmp_path / "log.jsonl", home=held)
    coordinator = weights_of(_network(rules, settings))
    member = weights_of(prepared(get_task("toy"), plan, rules.seed, release=start_weights(plan, hospital)))
    assert {name: one.tobytes() for name, one in coordinator.items()} == {
        name: one.tobytes() for name, one in member.items()
    }
    fresh = weights_of(prepared(get_task("toy"), replace(plan, start="fresh", release=None), rules.seed + 1))
    assert any(fresh[name].tobytes() != one.tobytes() for name, one in member.items())


def test_a_release_that_is_not_there_or_is_another_is_named_in_one_line(held: Path, tmp_path: Path) -> None:
    plan = plan_for(held)
    with pytest.raises(CharterError, match="is not in") as caught:
        start_weights(plan, tmp_path)
    assert plan.release is not None
    assert plan.release in caught.value.hint
    with pytest.raises(CharterError, match="is not in"):
        start_weights(replace(plan, release="0" * 64), held)


@pytest.mark.parametrize("name", ["model.safetensors", "SIGNATURE", "charter.toml"])
def test_a_release_that_does_not_hold_is_refused(held: Path, tmp_path: Path, name: str) -> None:
    plan, copy = plan_for(held), shutil.copytree(held, tmp_path / "copy")
    path = copy / RELEASES / "any name" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(raw))
    with pytest.raises(RecordError, match="does not hold") as caught:
        start_weights(plan, copy)
    assert "\n" not in caught.value.message


def test_a_charter_of_simulations_cannot_start_from_one() -> None:
    rules = replace(toy.charter(), tasks=(TaskPlan("toy", rounds=1, local_steps=1, start="release", release="a" * 64),))
    assert isinstance(rules, Charter)
    with pytest.raises(CharterError, match="not at hand"):
        prepared(get_task("toy"), rules.tasks[0], 0)


def test_the_lineage_of_a_round_says_which_release_its_run_started_from(held: Path, tmp_path: Path) -> None:
    plan = plan_for(held)
    rules = replace(toy.charter(), tasks=(plan,))
    node = toy.make_node(tmp_path / "H1", "H1", rules)
    shutil.copytree(held / RELEASES, node / RELEASES)
    manifest = json.loads((held / RELEASES / "any name" / "manifest.json").read_bytes())
    assert kind_of(apps.train(node, apps.header(rules))) == TrainReply.kind
    close_sessions()
    (part,) = Lineage(Node.open(node)).parts()
    assert part.origin == f"{manifest['run']}/{manifest['task']}"
