"""What is written, what is refused, what is recorded, and for whom."""

import hashlib
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from importlib import util
from pathlib import Path

import onnx
import pytest
import safetensors.numpy
from click.testing import Result

from client.consenting import withdraw
from client.export import people
from client.export import quantise as quantising
from client.export import run as running
from client.export.fitting import RATIOS
from client.node import Node
from client.personal_models import PersonalModel, encoded, keep, now, place_of
from shared.errors import DataError, FedwardError, PartialError, UsageError
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from shared.weights import weights_of
from tests.client.evaluation.hospital import image_files, log_rows, make
from tests.client.export.conftest import Head
from tests.client.export.test_graph import stirred
from tests.client.opened import opened

Run = Callable[..., Result]
FILES = {"model.onnx", "export.json", "export.html"}
pytestmark = pytest.mark.usefixtures("heads")


def metadata(path: Path) -> dict[str, str]:
    return {one.key: one.value for one in onnx.load(path).metadata_props}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def personal(node: Node) -> Path:
    """A personal model of the node, whose weights are the public ones."""
    folder, weights = place_of(node, "mine"), encoded(load_public("public-1", "denoise"))
    digest = hashlib.sha256(weights).hexdigest()
    about = PersonalModel("denoise", "public-1", digest, digest, 0.0, {"0": 33.0}, 1, node.site, "", now(), ("P",))
    keep(folder, about, weights)
    return folder


class Patient:
    """What the simulation calls a phantom, of one study."""

    def __init__(self, study: StudyImages) -> None:
        self.images = PatientImages("phantom", (study,))


def run_model(folder: Path, task: str) -> Path:
    """The folder of a run's model with weights that nobody trained."""
    raw = encoded(weights_of(get_task(task).network(0)))
    made = folder / f"{task}-federated"
    made.mkdir()
    (made / "model.safetensors").write_bytes(raw)
    said = {
        "task": task,
        "run": "r",
        "federation": "f",
        "sites": ["H1"],
        "weights_sha256": hashlib.sha256(raw).hexdigest(),
    }
    (made / "model.json").write_text(json.dumps(said))
    return made


def failed(result: Result) -> FedwardError:
    assert isinstance(result.exception, FedwardError), result.exception
    assert result.exception.hint
    assert "\n" not in str(result.exception)
    return result.exception


# --- what is written --------------------------------------------------------------------------------------------------


def test_all_that_can_be_asked_for(run: Run, tmp_path: Path) -> None:
    result = run("public-1", "--task", "superres", "--int8", "--prune", 0.5, "--distil", "--steps", 2, "--json")
    assert result.exit_code == 0, result.exception
    out, record = tmp_path / "out", json.loads(result.output)
    assert record == json.loads((out / "export.json").read_text())
    names = [row["name"] for row in record["models"]]
    assert names == ["float32", "int8", "pruned", "student"]
    assert {one.name for one in out.iterdir()} == FILES | {f"model.{name}.onnx" for name in names[1:]}
    whole = record["models"][0]
    for row in record["models"]:
        data = (out / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        said = metadata(out / row["file"])
        assert said["fedward.use"] == "RESEARCH USE; not for diagnosis"
        assert said["fedward.model_sha256"] == record["model"]["weights_sha256"]
        assert (said["fedward.task"], said["fedward.variant"], said["fedward.scale"]) == ("superres", row["name"], "2")
        assert "99.5th percentile" in said["fedward.input"]
        assert row["figures"].keys() == {"mse", "psnr", "ssim"}
        assert row["loss"] == pytest.approx(whole["figures"]["psnr"] - row["figures"]["psnr"])
        assert mode(out / row["file"]) == 0o644
        if row["name"] != "int8":
            assert max(row["parity"]["random"], row["parity"]["real"]) <= row["parity"]["tolerance"] == 1e-4
    assert {row["parameters"] for row in record["models"][2:]} < set(range(whole["parameters"] // 2))
    assert record["models"][3]["convolutions"]["lift"] == [16, 1, 3, 3]
    assert record["models"][1]["layers"] == len(record["models"][1]["convolutions"]) == 15
    assert not record["personal"]


def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").touch()
    assert failed(run("public-1", "--task", "denoise")).exit_code == 2
    assert [one.name for one in out.iterdir()] == ["thesis.doc"]
    (out / "thesis.doc").unlink()
    (out / "export.json").write_text("{}")
    (out / "model.int8.onnx").touch()
    assert run("public-1", "--task", "denoise").exit_code == 0
    assert {one.name for one in out.iterdir()} == FILES


def test_people_are_told_in_a_table(run: Run, tmp_path: Path) -> None:
    told = run("public-1", "--task", "superres", "--distil", "--steps", 1).output
    assert "PSNR, dB" in told
    assert "differs from torch by" in told
    page = (tmp_path / "out" / "export.html").read_text()
    assert "<script" not in page
    assert "Super-resolution" in page
    assert "student loses" in told


def test_without_phantoms_the_model_is_written_and_nothing_is_fitted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "phantoms_here", lambda: None)
    assert isinstance(failed(run("public-1", "--task", "denoise", "--int8")), UsageError)
    assert not (tmp_path / "out").exists()
    assert run("public-1", "--task", "denoise").exit_code == 0
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["models"][0]["figures"] == {}
    assert record["models"][0]["parity"]["real"] is None


def test_where_no_phantom_has_what_the_task_needs_the_model_is_written_and_nothing_is_fitted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As phantoms have one contrast, and models of two see both."""
    alone = [replace(head, second=None) for number in range(3) for head in Head(number).images.studies]
    monkeypatch.setattr(people, "phantoms_here", lambda: lambda _, number: Patient(alone[number % 3]))
    model = run_model(tmp_path, "denoise_pair")
    wrong = failed(run(model, "--int8"))
    assert isinstance(wrong, DataError)
    assert "--own-patients" in wrong.hint
    assert not (tmp_path / "out").exists()
    assert run(model).exit_code == 0
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["models"][0]["figures"] == {}
    assert record["tried_on"] == {"what": "nothing", "patients": 0}


def test_a_package_that_is_missing_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "torch_pruning" else True)
    assert "torch_pruning is not installed" in failed(run("public-1", "--task", "denoise", "--prune", 0.5)).message
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "onnx" else True)
    assert "onnx is not installed" in failed(run("public-1", "--task", "denoise")).message


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_graph_that_is_not_the_network_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = running.to_onnx(stirred(get_task("denoise").network(0)).eval())
    monkeypatch.setattr(running, "to_onnx", lambda _: other)
    error = failed(run("public-1", "--task", "denoise"))
    assert (type(error), error.exit_code) == (FedwardError, 1)
    assert "differs from torch" in error.message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration with black images, whose ranges fit no other, and a search that takes everything."""
    honest = quantising._quantised
    monkeypatch.setattr(
        quantising, "_quantised", lambda graph, images, kept: honest(graph, [0 * one for one in images], kept)
    )
    monkeypatch.setattr(quantising, "SHARE", 1e9)


@pytest.mark.usefixtures("lossy")
def test_an_eight_bit_model_that_loses_too_much_is_not_written(run: Run, tmp_path: Path) -> None:
    words = ("public-1", "--task", "superres", "--int8")
    error = failed(run(*words))
    assert isinstance(error, PartialError)
    assert error.exit_code == 3
    assert {one.name for one in (tmp_path / "out").iterdir()} == FILES
    row = json.loads((tmp_path / "out" / "export.json").read_text())["models"][1]
    assert row["file"] is None
    assert row["loss"] > row["limit"] == 0.1
    assert run(*words, "--force").exit_code == 0
    assert (tmp_path / "out" / "model.int8.onnx").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("nowhere", "there is no model nowhere"),
        ("public-1", "several tasks"),
        ("public-1 --task denoize", "denoize"),
        (f"public-1 --task denoise --prune {RATIOS[1] + 0.1}", "share to prune"),
        ("public-1 --task denoise --own-patients --int8", "needs a node"),
        ("public-1 --task denoise --own-patients --data {node}", "for what is fitted"),
        ("public-1 --task denoise --charter abc", "hexadecimal"),
        ("public-1 --task denoise --data {missing}", "there is no folder"),
        ("{personal}", "at its hospital alone"),
    ],
)
def test_wrong_use_is_told_in_one_line(run: Run, tmp_path: Path, words: str, match: str) -> None:
    node = make(tmp_path / "node")
    given = words.format(node=node.folder, missing=tmp_path / "missing", personal=personal(node))
    error = failed(run(*given.split()))
    assert isinstance(error, UsageError)
    assert match in error.message
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_elses_files_is_left_alone_and_one_of_a_broken_off_export_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "phantoms_here", lambda: None)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"half")
    (out / "mine.txt").touch()
    assert "holds other files" in failed(run("public-1", "--task", "denoise")).message
    (out / "mine.txt").unlink()
    assert run("public-1", "--task", "denoise").exit_code == 0
    assert {one.name for one in out.iterdir()} == FILES


# --- at a hospital ----------------------------------------------------------------------------------------------------


def patients(held_out: bool) -> set[str]:
    return {f"PSEUDONYMH1{number}" for number in (range(3) if held_out else range(3, 5))}


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("own", [False, True])
def test_only_those_who_may_take_part_are_read_and_the_log_has_it_before(run: Run, tmp_path: Path, own: bool) -> None:
    node = make(tmp_path / "H1", virtual=False)
    withdraw(node, "PSEUDONYMH11")
    withdraw(node, "PSEUDONYMH14")
    words = ["--own-patients"] if own else []
    with opened() as seen:
        result = run("public-1", "--task", "superres", "--data", node.folder, "--int8", "--force", *words)
    assert result.exit_code == 0, result.exception
    expected = patients(held_out=True) - {"PSEUDONYMH11"} | ({"PSEUDONYMH13"} if own else set())
    assert image_files(seen) == expected
    begun, ended = log_rows(node, "model.export")
    assert (begun["outcome"], ended["outcome"]) == ("started", "ok")
    detail = begun["detail"]
    assert isinstance(detail, dict)
    assert (detail["patients"], detail["fitted"], detail["personal"]) == (2, int(own), own)
    out = tmp_path / "out"
    record = json.loads((out / "export.json").read_text())
    assert isinstance(ended["detail"], dict)
    assert ended["detail"]["sha256_int8"] == record["models"][1]["sha256"]
    assert (mode(out / "export.json"), mode(out / "export.html")) == (0o600, 0o600)
    assert record["personal"] is own
    assert ("must not leave" in metadata(out / "model.int8.onnx").get("fedward.warning", "")) is own
    assert mode(out / "model.int8.onnx") == (0o600 if own else 0o644)
    assert "fedward.warning" not in metadata(out / "model.onnx")
    for path in out.iterdir():
        assert b"PSEUDONYM" not in path.read_bytes()


def test_nobody_to_look_at(run: Run, tmp_path: Path) -> None:
    node = make(tmp_path / "H1", virtual=False, basis=False)
    error = failed(run("public-1", "--task", "denoise", "--data", node.folder))
    assert isinstance(error, DataError)
    assert log_rows(node, "model.export") == []


def test_a_personal_model_is_exported_at_its_hospital_with_a_warning(run: Run, tmp_path: Path) -> None:
    node = make(tmp_path / "H1")
    result = run(personal(node), "--data", node.folder)
    assert result.exit_code == 0, result.exception
    assert "no differential privacy" in result.output
    said = metadata(tmp_path / "out" / "model.onnx")
    assert "PERSONAL" in said["fedward.warning"]
    assert mode(tmp_path / "out" / "model.onnx") == 0o600
    detail = log_rows(node, "model.export")[0]["detail"]
    assert isinstance(detail, dict)
    assert detail["personal"] is True


def test_a_personal_model_is_not_exported_at_another_hospital(run: Run, tmp_path: Path) -> None:
    other = make(tmp_path / "H2", site="H2")
    error = failed(run(personal(make(tmp_path / "H1")), "--data", other.folder))
    assert isinstance(error, UsageError)
    assert "a personal model of H1" in error.message
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_trained_without_privacy_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "phantoms_here", lambda: None)
    folder = tmp_path / "denoise-federated"
    folder.mkdir()
    raw = safetensors.numpy.save(dict(load_public("public-1", "denoise")))
    (folder / "model.safetensors").write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    said = {"task": "denoise", "run": "r", "federation": "f", "sites": ["H1"], "weights_sha256": digest}
    for privacy, warned in (("off", True), ("patient", False), (None, True)):
        extra = {} if privacy is None else {"privacy": privacy}
        (folder / "model.json").write_text(json.dumps(said | extra))
        assert run(folder).exit_code == 0
        about = metadata(tmp_path / "out" / "model.onnx")
        assert ("no differential privacy" in about.get("fedward.warning", "")) is warned
        assert about["fedward.privacy"]
