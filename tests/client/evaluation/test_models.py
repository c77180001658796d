"""What may be evaluated: a release that holds, and no other; a run's model by its own digest; a public one."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.numpy

from client import released
from client.evaluation import models as module
from client.evaluation.models import PUBLISHED, RELEASE, RUN, open_models
from client.evaluation.run import evaluate
from shared.errors import DataError, RecordError, UsageError
from shared.imaging.public import PUBLIC, load_public
from tests.client.evaluation.hospital import make
from tests.federation import toy
from tests.federation.released import SITES, Ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    made = Ended.make(tmp_path_factory.mktemp("federation"))
    made.witnessed(*SITES)
    made.release(made.root / "out", *SITES)
    return made


@pytest.fixture
def folder(ended: Ended, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended.root / "out", tmp_path / "release"))


def opened(*names: object, task: str | None = None, charter: str = "") -> tuple[module.Model, ...]:
    return open_models([str(name) for name in names], task=task, charter=charter, quorum=None)


def test_a_release_that_holds_is_opened_with_what_was_not_checked(folder: Path, ended: Ended) -> None:
    (model,) = opened(folder, charter=ended.charter.sha256)
    assert (model.kind, model.task.name, model.sites) == (RELEASE, "toy", frozenset(SITES))
    assert model.label == "run-1"
    assert model.privacy == {"patient"}
    assert any(mark == "not checked" for mark, _, _ in model.checks)
    assert not model.network.training


def test_of_a_hospital_without_a_statement_nobody_says_under_which_privacy_it_trained(
    ended: Ended, tmp_path: Path
) -> None:
    ended.release(tmp_path / "out", SITES[0])
    (model,) = open_models([str(tmp_path / "out")], task=None, charter=ended.charter.sha256, quorum=0)
    assert model.privacy == {"patient", "unknown"}


@pytest.mark.parametrize("name", ["model.safetensors", "history.json", "manifest.json", "MODEL_CARD.md"])
def test_a_release_that_was_changed_is_refused(folder: Path, name: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[-2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(RecordError, match=r"of the release .* failed") as error:
        opened(folder)
    assert error.value.exit_code == 9
    assert error.value.hint


def test_a_release_under_another_charter_than_was_told_is_refused(folder: Path) -> None:
    with pytest.raises(RecordError, match="not the one that you gave"):
        opened(folder, charter="0" * 64)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_what_is_changed_after_the_check_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check = released.check_bundle

    def then_changed(*arguments: object, **options: object) -> object:
        report = check(*arguments, **options)  # type: ignore[arg-type]
        raw = bytearray((folder / name).read_bytes())
        raw[-2] ^= 1
        (folder / name).write_bytes(raw)
        return report

    monkeypatch.setattr(released, "check_bundle", then_changed)
    with pytest.raises(RecordError, match="changed while it was checked"):
        opened(folder)


def test_where_a_release_was_trained_and_where_it_was_not_stand_apart(folder: Path, tmp_path: Path) -> None:
    nodes = [make(tmp_path / name, name, size=24) for name in ("H1", "X1")]
    found = evaluate(opened(folder), nodes)
    assert [(part.trained, part.sites) for part in found.parts] == [(True, ("H1",)), (False, ("X1",))]
    assert {(one.site, one.trained) for one in found.pictures} == {("H1", True), ("X1", False)}
    with pytest.raises(UsageError, match="was trained at H1"):
        evaluate(opened(folder), nodes, everybody=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run's model, with the public weights in it."""
    folder = tmp_path / "denoise-federated"
    folder.mkdir()
    raw = safetensors.numpy.save(dict(load_public("public-1", "denoise")))
    (folder / "model.safetensors").write_bytes(raw)
    digest = PUBLIC["public-1"]["denoise"]
    said = {"task": "denoise", "run": "r", "federation": "f", "sites": ["H1"], "weights_sha256": digest}
    (folder / "model.json").write_text(json.dumps(said))
    return folder


def test_the_model_of_a_run_is_opened_and_called_unsigned(run: Path) -> None:
    raw = (run / "model.safetensors").read_bytes()
    said = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(said | {"weights_sha256": module.hashlib.sha256(raw).hexdigest()}))
    first, second = opened(run, "public-1")
    assert (first.kind, second.kind) == (RUN, PUBLISHED)
    assert "unsigned" in first.origin
    assert first.sites == {"H1"}
    assert (first.privacy, second.privacy) == ({"unknown"}, frozenset())
    assert second.task is first.task


@pytest.mark.parametrize(
    "said",
    [{"privacy": "perfect, see \u202e"}, {"privacy": None}, {"sites": ["H1\n", "H2"]}, {"sites": "H1"}, {"run": ""}],
)
def test_a_description_that_says_what_none_can_say_is_refused(run: Path, said: dict[str, object]) -> None:
    written = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(written | said))
    with pytest.raises(DataError, match=next(iter(said))):
        opened(run)


@pytest.mark.parametrize("damage", ["weights", "said", "shape"])
def test_a_damaged_model_of_a_run_is_refused(run: Path, damage: str) -> None:
    raw = (run / "model.safetensors").read_bytes()
    if damage == "said":
        (run / "model.json").write_text("[" * 5000)
    elif damage == "weights":
        (run / "model.safetensors").write_bytes(raw[:-1] + b"x")
    else:
        raw = safetensors.numpy.save(dict(load_public("public-1", "segment")))
        (run / "model.safetensors").write_bytes(raw)
        said = json.loads((run / "model.json").read_text())
        (run / "model.json").write_text(json.dumps(said | {"weights_sha256": module.hashlib.sha256(raw).hexdigest()}))
    with pytest.raises(DataError) as error:
        opened(run)
    assert error.value.hint


def test_models_of_different_tasks_do_not_stand_beside_each_other(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no model for the task toy"):
        opened(folder, "public-1")
    with pytest.raises(UsageError, match="different tasks"):
        opened(folder, task="denoise")


def test_two_models_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    again = shutil.copytree(folder, tmp_path / "again")
    assert [model.label for model in opened(folder, again)] == ["run-1 (1)", "run-1 (2)"]
    assert toy.Toy.name == "toy"
