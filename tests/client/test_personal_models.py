"""A hospital's own models: made of those who may take part, applied like others, gone with any patient of theirs."""

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.consenting import withdraw
from client.enhance import model as enhance_model
from client.enhance.model import Model, open_model
from client.evaluation.models import open_models
from client.node import Node
from client.personal_models import WARNING, forget, made_with, open_personal
from client.personalising import Base, Order, base_of, make_personal
from client.rights import erase, rectify
from client.splits import Split
from client.subject_report import report
from client.training import personal
from compliance.log import entries
from shared.errors import DataError, FedwardError, OutputError, PolicyError, UsageError
from shared.imaging.tasks import get_task
from shared.weights import weights_of
from tests.federation import toy

PATIENT = "PATIENT-H1-1"
STEPS = ("--steps", "3", "--batch", "2")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital with a personal model called ``denoise``."""
    folder = toy.make_node(tmp_path_factory.mktemp("personal") / "H1", "H1", toy.charter())
    done = command(folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Node:
    return Node.open(Path(shutil.copytree(template, tmp_path / "H1")))


def command(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["personalise", "public-1", str(folder), "--task", "denoise", *STEPS, *words])


def base() -> Base:
    return base_of("public-1", task="denoise", charter="", quorum=None)


def order(name: str = "other") -> Order:
    return Order(name, steps=3, batch=2, lr=None, seed=0)


def test_it_is_kept_for_its_owner_alone_with_whom_it_was_trained_on(node: Node) -> None:
    folder = node.folder / "personal" / "denoise"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "personal.json": 0o600,
        "model.safetensors": 0o600,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    about, _ = open_personal(folder)
    assert set(about.patients) == set(node.cohort.patients(Split.TRAIN))
    assert about.base_sha256 == base().digest
    assert (about.site, about.task, about.warning) == ("H1", "denoise", WARNING)
    assert set(about.scores) == {"0", "0.25", "0.5", "0.75", "1"}


def test_the_log_has_it_before_and_after(node: Node) -> None:
    rows = [row for row in entries(node.folder / "audit" / "log.jsonl") if row["action"] == "personalise"]
    assert [row["outcome"] for row in rows] == ["started", "ok"]
    assert rows[1]["detail"]["weights"] == open_personal(node.folder / "personal" / "denoise")[0].weights_sha256
    assert PATIENT not in json.dumps(rows)


def test_it_is_applied_and_evaluated_like_any_other(node: Node) -> None:
    folder = str(node.folder / "personal" / "denoise")
    applied = open_model(folder)
    assert (applied.task.name, applied.name.startswith("H1's own of public-1")) == ("denoise", True)
    (judged,) = open_models([folder], task=None, charter="", quorum=None)
    assert (judged.kind, judged.sites, WARNING in judged.origin) == ("personal", frozenset({"H1"}), True)
    with pytest.raises(UsageError, match="not for segment"):
        open_model(folder, task="segment")
    with pytest.raises(UsageError, match="personal model already"):
        base_of(folder, task=None, charter="", quorum=None)


def test_a_release_whose_results_are_no_dicom_can_be_a_hospitals_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = get_task("masked")
    there = Model("run 2.0", task, task.network(0), "0" * 64)
    monkeypatch.setattr(enhance_model, "_released", lambda *_: there)
    found = base_of(str(tmp_path), task=None, charter="", quorum=None)
    assert (found.task.name, found.digest) == ("masked", "0" * 64)
    with pytest.raises(UsageError, match="makes nothing that is written as DICOM"):
        open_model(str(tmp_path))


def test_a_model_of_two_contrasts_needs_patients_who_have_both(node: Node) -> None:
    task = get_task("denoise_pair")
    found = replace(base(), task=task, state=weights_of(task.network(0)))
    with node.open_log() as log, pytest.raises(DataError, match="takes two patients"):
        make_personal(node, log, found, order())


def test_a_hospital_with_a_personal_model_has_trained_on_its_patients(node: Node, tmp_path: Path) -> None:
    from client.evaluate_cli import evaluate

    page = tmp_path / "page.html"
    with pytest.raises(UsageError, match="has trained on its patients"):
        evaluate("public-1", [node.folder], task="denoise", everybody=True, page=page)


def test_an_erasure_deletes_it_and_so_does_a_rectification(node: Node) -> None:
    with node.open_log() as log:
        make_personal(node, log, base(), order())
    assert report(node, PATIENT).body["personal_models"] == ["denoise", "other"]
    done = erase(node, PATIENT, who="DPO")
    assert done is not None
    assert done.taken_out.personal == 2
    assert not any((node.folder / "personal").iterdir())
    with node.open_log() as log:
        _, about = make_personal(node, log, base(), order())
    assert PATIENT not in about.patients
    assert rectify(node, about.patients[0], who="DPO").personal == 1


def test_a_model_whose_description_is_damaged_is_anybodys(node: Node) -> None:
    (node.folder / "personal" / "denoise" / "personal.json").write_text("{")
    assert len(made_with(node, "PATIENT-of-nobody")) == 1
    assert forget(node, "PATIENT-of-nobody") == 1


@pytest.mark.parametrize(
    "changed", [{"task": 7}, {"mix": "half"}, {"patients": None}, {"patients": [3]}, {"scores": []}]
)
def test_a_description_of_the_wrong_kind_is_one_line(node: Node, changed: dict[str, object]) -> None:
    folder = node.folder / "personal" / "denoise"
    about = json.loads((folder / "personal.json").read_text())
    (folder / "personal.json").write_text(json.dumps(about | changed))
    with pytest.raises(DataError, match="is damaged"):
        open_personal(folder)
    assert len(made_with(node, "PATIENT-of-nobody")) == 1


def test_a_model_of_other_patients_stays(node: Node) -> None:
    held_out = node.cohort.patients(Split.HELD_OUT)[0]
    assert made_with(node, held_out) == ()
    assert forget(node, held_out) == 0
    assert (node.folder / "personal" / "denoise").is_dir()


def test_who_has_withdrawn_is_not_trained_on(node: Node) -> None:
    withdraw(node, PATIENT)
    with node.open_log() as log:
        _, about = make_personal(node, log, base(), order())
    assert PATIENT not in about.patients


def test_who_withdraws_meanwhile_is_in_no_model(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = personal.train_centrally

    def slowly(*args: object, **named: object) -> object:
        if not withdrawn:
            withdrawn.append(1)
            withdraw(node, PATIENT)
        return alone(*args, **named)  # type: ignore[arg-type]

    withdrawn: list[int] = []
    monkeypatch.setattr(personal, "train_centrally", slowly)
    with node.open_log() as log, pytest.raises(PolicyError, match="may not take part any more"):
        make_personal(node, log, base(), order("late"))
    assert not (node.folder / "personal" / "late").exists()


def test_changed_weights_are_refused(node: Node) -> None:
    path = node.folder / "personal" / "denoise" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not what personal"):
        open_personal(path.parent)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        open_personal(path.parent)


@pytest.mark.parametrize("name", ["denoise", "../x", ".x", "a/b"])
def test_a_name_that_is_none_or_is_taken_is_refused_before_any_training(node: Node, name: str) -> None:
    done = command(node.folder, "--name", name)
    assert isinstance(done.exception, FedwardError)
    assert done.exception.exit_code == 2


def test_the_command_says_what_it_made(node: Node) -> None:
    done = command(node.folder, "--name", "json", "--json")
    said = json.loads(done.stdout)
    assert (said["task"], said["patients"], said["warning"]) == (
        "denoise",
        len(node.cohort.patients(Split.TRAIN)),
        WARNING,
    )
    assert Path(said["folder"]) == node.folder / "personal" / "json"
    words = command(node.folder, "--name", "words").stdout
    assert "must not leave the hospital" in words


def test_it_may_stop_early(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", toy.charter())
    done = command(folder, "--look-every", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] in {1, 2, 3}
    assert command(folder, "--name", "never", "--look-every", "0").exit_code == 2


def test_a_full_disk_leaves_nothing_and_the_name_free(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OutputError(f"cannot write {path}: no space left on device")

    with monkeypatch.context() as patched, node.open_log() as log:
        patched.setattr("client.personal_models.write_bytes", full)
        with pytest.raises(OutputError, match="no space left"):
            make_personal(node, log, base(), order("full"))
    assert not (node.folder / "personal" / "full").exists()
    with node.open_log() as log:
        assert make_personal(node, log, base(), order("full"))[0].name == "full"
