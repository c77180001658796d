"""Personal models, exports and evaluations: what they tell, where they lie, and what an erasure leaves of them."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import safetensors.numpy

from client.consenting import withdraw
from client.export import people
from client.node import Node
from client.rights import restrict
from shared.imaging.public import load_public
from tests.attacks.imaging.command import Done, fedward, files, full_disk, printable, refusal
from tests.client.evaluation.hospital import make
from tests.client.export.conftest import Head

STEPS = ("--steps", "2", "--batch", "2")
PATIENT = "PSEUDONYMH13"  # the first in training


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real hospital with headers, four patients in training, and a personal model of them."""
    node = make(tmp_path_factory.mktemp("own") / "H1", train=4, headers=True, virtual=False, size=24)
    assert personalise(node.folder).code == 0
    return node.folder


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "H1"))


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "phantoms_here", lambda: lambda _, number: Head(number))
    monkeypatch.setattr(people, "HELD_OUT", 1)


def personalise(node: Path, *more: object) -> Done:
    return fedward("node", "personalise", "public-1", node, "--task", "denoise", *STEPS, *more)


def evaluate(node: Path, page: Path, *more: object, model: object = "public-1") -> Done:
    task = ("--task", "denoise") if model == "public-1" else ()
    return fedward("evaluate", model, node, "--page", page, *task, *more)


def export(model: object, out: Path, *more: object) -> Done:
    return fedward("export", model, "--out", out, "--rounds", "0", *more)


def erase(node: Path, patient: str = PATIENT) -> Done:
    return fedward("node", "subject", "erase", node, patient, "--pseudonym", "--who", "DPO", "--yes")


def log(node: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (node / "audit" / "log.jsonl").read_text().splitlines()]


def weights_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


# --- the law --------------------------------------------------------------------------------------------------------


def test_an_erasure_leaves_no_weights_whatever_lies_in_the_folder(node: Path, tmp_path: Path) -> None:
    """Copies by hand, a model without its description, one on another disk, one that begins with a dot, a bare file."""
    own = node / "personal"
    for name in ("copy", ".hidden", "deep/below", "half"):
        shutil.copytree(own / "denoise", own / name)
    (own / "half" / "personal.json").unlink()
    shutil.copy(own / "denoise" / "model.safetensors", own / "loose.safetensors")
    shutil.move(own / "copy", tmp_path / "other-disk")
    (own / "copy").symlink_to(tmp_path / "other-disk")
    assert erase(node).code == 0
    assert not weights_in(own)
    assert not weights_in(tmp_path / "other-disk")
    assert not [path for path in tmp_path.rglob("personal.json") if PATIENT in path.read_text()]


@pytest.mark.parametrize("how", ["withdrawn", "restricted", "objected"])
def test_who_may_not_take_part_is_in_no_new_model_and_the_old_one_is_told(node: Path, how: str) -> None:
    opened = Node.open(node)
    if how == "withdrawn":
        withdraw(opened, PATIENT)
    else:
        restrict(opened, PATIENT, who="Ada", objection=how == "objected")
    assert (node / "personal" / "denoise" / "model.safetensors").exists()
    assert personalise(node, "--name", "new").code == 0
    assert PATIENT not in (node / "personal" / "new" / "personal.json").read_text()
    report = fedward("node", "subject", "report", node, PATIENT, "--pseudonym", "--json")
    assert '"denoise"' in report.out
    assert '"new"' not in report.out


def test_what_was_trained_on_patients_is_not_evaluated_on_all_even_when_the_model_is_gone(
    node: Path, tmp_path: Path
) -> None:
    shutil.rmtree(node / "personal")
    refusal(evaluate(node, tmp_path / "q.html", "--all"), 2)
    assert not (tmp_path / "q.html").exists()


def test_an_interrupt_leaves_no_model_and_the_same_command_makes_it(node: Path) -> None:
    threading.Thread(target=lambda: (time.sleep(1.5), os.kill(os.getpid(), signal.SIGINT))).start()
    done = fedward("node", "personalise", "public-1", node, "--task", "denoise", "--steps", "100000", "--name", "x")
    assert done.code == 130
    assert "interrupted" in refusal(done, 130)
    assert {one.name for one in (node / "personal").iterdir()} == {"denoise"}
    assert log(node)[-1]["outcome"] == "failed"
    assert personalise(node, "--name", "x").code == 0


@pytest.mark.parametrize("limit", [10_000, 200_000])
def test_a_full_disk_leaves_no_half_model_and_the_same_command_makes_it(node: Path, limit: int) -> None:
    """The folder kept its name: 'there is a personal model', without weights."""
    with full_disk(limit):
        refusal(personalise(node, "--name", "x"), 5, 9)
    assert {one.name for one in (node / "personal").iterdir()} == {"denoise"}
    assert personalise(node, "--name", "x").code == 0


def test_a_model_whose_writing_was_killed_does_not_keep_its_name(node: Path) -> None:
    (node / "personal" / "denoise" / "model.safetensors").unlink()
    refusal(evaluate(node, node.parent / "q.html", model=node / "personal" / "denoise"), 4)
    assert personalise(node).code == 0


@pytest.mark.parametrize("words", [("--lr", "nan"), ("--lr", "inf"), ("--name", "../x"), ("--name", "x" * 300)])
def test_words_that_mean_nothing_train_nothing(node: Path, words: tuple[str, str]) -> None:
    before = log(node)
    refusal(personalise(node, *(("--name", "y") if "--name" not in words else ()), *words), 2)
    assert log(node) == before


# --- what leaves ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_few")
def test_an_export_of_a_personal_model_tells_of_no_patient_place_or_machine(node: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = export(node / "personal" / "denoise", tmp_path / "out", "--data", node)
    finally:
        os.umask(before)
    assert done.code == 0, done
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        assert not [one for one in (b"PSEUDONYM", str(tmp_path).encode(), b"site-packages", b"/home") if one in data]
    assert b"must not leave" in (tmp_path / "out" / "model.onnx").read_bytes()


@pytest.mark.usefixtures("_few")
def test_a_copied_personal_model_is_exported_at_its_own_hospital_alone(node: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(node / "personal" / "denoise", tmp_path / "carried-out"))
    other = make(tmp_path / "H2", "H2", size=24)
    for more in ((), ("--data", other.folder)):
        refusal(export(copied, tmp_path / "out", *more), 2)
    refusal(fedward("node", "personalise", copied, node, "--name", "again"), 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("place", ["", "personal/denoise", "cohort", "keys"])
def test_an_export_never_lands_among_a_nodes_own_files(node: Path, place: str) -> None:
    before = files(node)
    refusal(export("public-1", node / place, "--task", "denoise"), 2)
    assert files(node) == before


@pytest.mark.usefixtures("_few")
def test_a_full_disk_leaves_no_half_export(tmp_path: Path) -> None:
    with full_disk(100_000):
        refusal(export("public-1", tmp_path / "out", "--task", "denoise"), 5)
    assert not files(tmp_path / "out")


def model(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], raw: bytes = b"", **said: object) -> Path:
    """The unsigned folder of a run's model."""
    folder.mkdir()
    raw = raw or safetensors.numpy.save(
        change({name: a.copy() for name, a in load_public("public-1", "denoise").items()})
    )
    (folder / "model.safetensors").write_bytes(raw)
    about = {"task": "denoise", "run": "r", "federation": "f", "sites": ["H9"]}
    about["weights_sha256"] = hashlib.sha256(raw).hexdigest()
    (folder / "model.json").write_text(json.dumps(about | said))
    return folder


def filled(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: np.full_like(array, value) for name, array in state.items()}


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path, value: float) -> None:
    done = export(model(tmp_path / "m", filled(value)), tmp_path / "out", "--int8", "--force")
    refusal(done, 1, 4)
    assert not (tmp_path / "out").exists()


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(4)


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize(
    "raw",
    [
        header(b"{}", 2**62),
        header(b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}'),
        header(b"[" * 200_000),
        b"x",
        b"\x80\x04cos\nsystem\n",
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path: Path, raw: bytes) -> None:
    refusal(export(model(tmp_path / "m", dict, raw), tmp_path / "out"), 4)
    refusal(evaluate(make(tmp_path / "H1", size=24).folder, tmp_path / "q.html", model=tmp_path / "m"), 4)


# --- pages ----------------------------------------------------------------------------------------------------------


def test_headers_and_names_do_not_become_mark_up_and_nobody_is_named(node: Path, tmp_path: Path) -> None:
    for path in (node / "released").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.Manufacturer, dataset.ManufacturerModelName = "<script>alert(1)</script>", '"><img src=x onerror=1>'
        dataset.save_as(path)
    mine = model(tmp_path / "<svg onload=1>", dict, run="<script>alert(2)</script>", federation="<b>x")
    done = evaluate(node, tmp_path / "q.html", model=mine)
    assert done.code == 0, done
    assert printable(done.out)
    page, figures = (tmp_path / "q.html").read_text(), (tmp_path / "q.json").read_text()
    for mark in ("<script>alert", "<img src=x", "<svg onload", "<b>x"):
        assert mark not in page
    for name in ("PSEUDONYM", str(tmp_path), (node / "keys" / "identity.key").read_text()):
        assert name not in page + figures


@pytest.mark.parametrize(
    ("page", "quality"),
    [
        ("H1/node.html", None),
        ("H1/cohort/index.html", None),
        ("q.html", "H1/keys/identity.key"),
        ("q.html", "H1/audit/log.jsonl"),
        ("q.html", "q.json"),
        ("q.html", "q.html"),
        ("q.html", "thesis.json"),
    ],
)
def test_a_report_takes_the_place_of_nothing_but_an_earlier_one(
    node: Path, tmp_path: Path, page: str, quality: str | None
) -> None:
    """``--page NODE/node.html`` wrote its figures over NODE/node.json, and index.html over the cohort's index."""
    (tmp_path / "thesis.json").write_text('{"years": 5}')
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    refusal(evaluate(node, tmp_path / page, *(() if quality is None else ("--quality", tmp_path / quality))), 2)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_an_earlier_report_is_replaced_and_readable_by_its_owner_alone(node: Path, tmp_path: Path) -> None:
    words = ("--quality", tmp_path / "cells.json")
    for _ in range(2):
        assert evaluate(node, tmp_path / "q.html", *words).code == 0
        for name in ("q.html", "q.json", "cells.json"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
            (tmp_path / name).chmod(0o644)


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(node: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link.html").symlink_to(tmp_path / "file")
    refusal(evaluate(node, tmp_path / "file" / "q.html"), 5)
    with full_disk(15_000):
        refusal(evaluate(node, tmp_path / "q.html"), 5, 9)
    assert not (tmp_path / "q.html").exists()
    evaluate(node, tmp_path / "link.html")
    assert (tmp_path / "file").read_text() == "x"
