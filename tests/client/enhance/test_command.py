"""``fedward node enhance``: which model it takes, what it says and how it ends."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from client import released
from client.cli import app
from client.enhance.model import open_model
from client.node import Node
from compliance.log import entries
from shared.charter import Charter
from shared.errors import DataError, PartialError, PolicyError, RecordError, UsageError
from tests.federation import toy
from tests.federation.released import SITES, Ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A federation that trained a denoiser from the public start, and its release."""
    plain = toy.charter

    def denoising(**changes: Any) -> Charter:
        return plain(plan={"name": "denoise", "start": "public-1", "trained": "biases_norms_head"}, **changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "charter", denoising)
        made = Ended.make(tmp_path_factory.mktemp("federation"))
        made.witnessed(*SITES)
        made.release(made.root / "release", *SITES, version="2.0")
        yield made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(str(get_testdata_file(name)), tmp_path / "in")
    return tmp_path / "in"


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["enhance", *map(str, words)])


def test_a_release_is_applied_and_named_in_what_it_makes(ended: Ended, images: Path, tmp_path: Path) -> None:
    release = ended.root / "release"
    done = run(release, images, tmp_path / "out", "--charter", ended.charter.sha256, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["written"], told["failed"], told["results"]) == (2, 0, 2)
    assert told["charter"] == ended.charter.sha256
    for path in (tmp_path / "out").rglob("*.dcm"):
        tool = pydicom.dcmread(path).ContributingEquipmentSequence[-1]
        assert tool.DeviceSerialNumber == told["manifest"]
        assert told["manifest"] in tool.ContributionDescription
    assert [row["action"] for row in entries(tmp_path / "out-reports" / "audit.jsonl")] == ["enhance"] * 4


def test_without_a_charter_it_says_what_to_compare(ended: Ended, images: Path, tmp_path: Path) -> None:
    done = run(ended.root / "release", images, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "compare the release's charter" in done.output
    assert ended.charter.sha256 in done.output


@pytest.mark.parametrize("name", ["model.safetensors", "MODEL_CARD.md", "manifest.json"])
def test_a_release_that_does_not_hold_is_refused(ended: Ended, images: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(ended.root / "release", tmp_path / "release"))
    raw = bytearray((folder / name).read_bytes())
    raw[-3] ^= 1
    (folder / name).write_bytes(raw)
    done = run(folder, images, tmp_path / "out", "--charter", ended.charter.sha256)
    assert isinstance(done.exception, RecordError)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out-reports").exists()


def test_another_charter_than_the_one_that_was_told_is_refused(ended: Ended, images: Path, tmp_path: Path) -> None:
    done = run(ended.root / "release", images, tmp_path / "out", "--charter", "0" * 64)
    assert isinstance(done.exception, RecordError)
    assert "not the one that you gave" in str(done.exception)


def test_too_few_witnesses_are_refused(ended: Ended, images: Path, tmp_path: Path) -> None:
    done = run(ended.root / "release", images, tmp_path / "out", "--quorum", "9")
    assert isinstance(done.exception, RecordError)


def test_files_that_change_after_the_check_are_refused(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(ended.root / "release", tmp_path / "release"))
    check = released.check_bundle

    def swapped(*arguments: Any, **more: Any) -> Any:
        report = check(*arguments, **more)
        shutil.copy(ended.root / "release" / "layout.json", folder / "model.safetensors")
        return report

    monkeypatch.setattr(released, "check_bundle", swapped)
    with pytest.raises(RecordError, match="changed while"):
        open_model(str(folder))


def test_a_node_checks_against_the_charter_that_it_pinned(ended: Ended, images: Path, tmp_path: Path) -> None:
    node = ended.node("H1")
    before = len(list(entries(node.folder / "audit" / "log.jsonl")))
    done = run(ended.root / "release", images, tmp_path / "out", "--node", node.folder)
    assert done.exit_code == 0, done.output
    assert "compare" not in done.output
    assert [row["action"] for row in entries(node.folder / "audit" / "log.jsonl")][before:] == ["enhance"] * 4
    assert (node.folder / "reports" / "enhance.json").exists()
    other = Node.create(tmp_path / "other", site="H1", purpose=toy.PURPOSE)
    other.pin(toy.charter(seed=99))
    done = run(ended.root / "release", images, tmp_path / "out2", "--node", other.folder)
    assert isinstance(done.exception, RecordError)


def test_a_virtual_hospital_has_no_images_of_patients(images: Path, tmp_path: Path) -> None:
    node = Node.create(tmp_path / "node", site="H1", purpose="tests", seed=1)
    done = run("public-1", images, tmp_path / "out", "--task", "denoise", "--node", node.folder)
    assert isinstance(done.exception, PolicyError)


@pytest.mark.parametrize(
    "words",
    [
        ["public-1"],
        ["public-1", "--task", "nonsense"],
        ["public-1", "--task", "superres_gan"],
        ["public-2"],
        ["public-1", "--task", "denoise", "--charter", "xyz"],
    ],
)
def test_a_model_that_is_none_is_wrong_use(images: Path, tmp_path: Path, words: list[str]) -> None:
    done = run(words[0], images, tmp_path / "out", *words[1:])
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_what_public_weights_lack_is_told_without_advice_for_a_charter(images: Path, tmp_path: Path) -> None:
    done = run("public-1", images, tmp_path / "out", "--task", "superres4")
    assert isinstance(done.exception, UsageError)
    assert done.exception.hint == "it has denoise, superres, segment"


def test_where_no_file_is_an_image_it_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slice.png").write_bytes(b"\x89PNG")
    done = run("public-1", tmp_path / "in", tmp_path / "out", "--task", "segment")
    assert isinstance(done.exception, DataError)
    assert "it is no DICOM file (1)" in str(done.exception)
    assert done.exception.hint.startswith("give DICOM images of MR;")


def test_a_release_for_another_task_is_wrong_use(ended: Ended, images: Path, tmp_path: Path) -> None:
    done = run(ended.root / "release", images, tmp_path / "out", "--task", "segment")
    assert isinstance(done.exception, UsageError)


def test_an_image_that_fails_is_status_3(images: Path, tmp_path: Path) -> None:
    raw = (images / "MR_small.dcm").read_bytes()
    (images / "MR_small.dcm").write_bytes(raw[:-1000])
    done = run("public-1", images, tmp_path / "out", "--task", "denoise")
    assert isinstance(done.exception, PartialError)
    assert done.exception.exit_code == 3
    assert "1 image done now, 0 before, 0 passed over, 1 failed" in done.output
