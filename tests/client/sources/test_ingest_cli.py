"""``fedward node init`` and ``fedward node ingest``: options, exit codes, and what they print."""

import json
import re
import shutil
import stat
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pydicom
import pytest
from click.testing import Result
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
from typer.testing import CliRunner

from client.cli import app
from client.cohort import Cohort
from client.ingest import Standing
from client.ingest_cli import Bar
from client.ingest_page import review_command
from client.node import Node
from client.sources.intake import header_of
from shared import console
from shared.errors import DataError, PartialError, PolicyError, ProtocolError, UsageError
from tests.client.fractions import in_fractions
from tests.client.sources.orthanc import CALLED, CALLING, Orthanc


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_init_makes_a_node_and_says_where_its_keys_are(tmp_path: Path) -> None:
    result = call("init", tmp_path / "n", "--site", "H1", "--purpose", "tests")
    assert result.exit_code == 0, result.exception
    for name in ("pseudonym", "audit"):
        key = tmp_path / "n" / "keys" / f"{name}.key"
        assert str(key) in result.stdout
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_text().strip() not in result.stdout
    again = call("init", tmp_path / "n", "--site", "H1", "--purpose", "tests")
    assert again.exit_code == 0
    assert isinstance(call("init", tmp_path / "n", "--site", "H2", "--purpose", "tests").exception, UsageError)


def test_a_folder_from_the_command_line(node: Node, images: Path) -> None:
    result = call("ingest", node.folder, "--folder", images / "H7", "--modality", "ct", "--json")
    assert result.exit_code == 0, result.exception
    told = json.loads(result.stdout)
    assert (told["studies"], told["released"], told["missing"]) == (2, 10, 0)
    assert told["cohort"] == {"train": 2, "held_out": 0}
    assert Path(told["report"]) == node.folder / "reports" / "ingest.json"


def test_a_segmentation_of_probabilities_comes_in_and_is_no_label(node: Node, images: Path, tmp_path: Path) -> None:
    source = shutil.copytree(images / "H1", tmp_path / "in")
    segmentations = [path for path in sorted(source.rglob("*.dcm")) if pydicom.dcmread(path).Modality == "SEG"]
    in_fractions(segmentations[0])
    result = call("ingest", node.folder, "--folder", source)
    assert result.exit_code == 0, result.exception
    assert "1 segmentation tells probabilities or shares (FRACTIONAL), no classes: not taken" in result.stdout
    studies = [study for entry in Cohort.open(node.folder / "cohort").entries for study in entry.studies]
    assert sorted(study.labelled for study in studies) == [False] + [True] * (len(segmentations) - 1)


def test_files_that_cannot_be_read_are_exit_three(node: Node, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source).mkdir()
    (source / "images").mkdir()
    for number, path in enumerate(sorted((images / "H1").rglob("*.dcm"))):
        (source / "images" / f"{number}").write_bytes(path.read_bytes())
    (source / "notes.txt").write_text("x")
    result = call("ingest", node.folder, "--folder", source)
    assert isinstance(result.exception, PartialError)
    assert "ingest.json" in result.exception.hint
    assert "10 of 10 files released" in result.stdout


def test_a_virtual_hospital_takes_in_nobody(images: Path, tmp_path: Path) -> None:
    Node.create(tmp_path / "v", site="V1", purpose="tests", seed=7)
    before = sorted((tmp_path / "v").rglob("*"))
    error = call("ingest", tmp_path / "v", "--folder", images / "H7").exception
    assert isinstance(error, PolicyError)
    assert error.exit_code == 6
    assert "keys anybody can compute" in error.message
    assert "fedward node init" in error.hint
    assert sorted((tmp_path / "v").rglob("*")) == before


WEB = ("--dicomweb", "http://127.0.0.1:9/dicom-web")
DIMSE = ("--dimse", "127.0.0.1:9")


@pytest.mark.parametrize(
    "options",
    [
        (),
        (*WEB, *DIMSE),
        (*DIMSE, "--get"),
        (*DIMSE, "--called", "A", "--calling", "B"),
        (*DIMSE, "--called", "A", "--calling", "B", "--get", "--listen", "127.0.0.1:1"),
        (*DIMSE, "--called", "A" * 17, "--calling", "B", "--get"),
        ("--dimse", "127.0.0.1", "--called", "A", "--calling", "B", "--get"),
        (*WEB, "--get"),
        (*WEB, "--ca", "nowhere.pem"),
        (*WEB, "--from", "yesterday"),
        (*WEB, "--modality", "M R"),
        ("--dicomweb", "ftp://host/"),
        ("--dicomweb", "https://user:secret@host/"),
        ("--folder", "nowhere"),
        ("--folder", ".", "--credentials", "c"),
    ],
)
def test_wrong_use(node: Node, options: tuple[str, ...]) -> None:
    result = call("ingest", node.folder, *options)
    assert isinstance(result.exception, UsageError), result.exception
    assert result.exception.hint
    assert "secret" not in str(result.exception)
    assert not (node.folder / "spool").exists()


def test_a_profile_that_needs_an_expert_is_refused_before_anything_is_fetched(node: Node, images: Path) -> None:
    result = call("ingest", node.folder, "--folder", images, "--profile", "research")
    assert isinstance(result.exception, PolicyError)
    assert not (node.folder / "spool").exists()


def test_an_empty_folder_and_no_node(node: Node, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert isinstance(call("ingest", node.folder, "--folder", tmp_path / "empty").exception, DataError)
    assert isinstance(call("ingest", tmp_path / "no", "--folder", tmp_path / "empty").exception, UsageError)


@pytest.mark.system("orthanc")
def test_an_archive_from_the_command_line(archive: Orthanc, node: Node, credentials: Path) -> None:
    web = ("--dicomweb", archive.url, "--credentials", credentials)
    assert call("ingest", node.folder, *web, "--modality", "MR", "--to", "2030-01-01").exit_code == 0
    dimse = ("--dimse", f"127.0.0.1:{archive.dicom}", "--called", CALLED, "--calling", CALLING)
    result = call("ingest", node.folder, *dimse, "--get", "--json")
    told = json.loads(result.stdout)
    assert (told["studies"], told["unchanged"], told["fetched"]) == (4, 2, 10)
    listen = ("--listen", f"127.0.0.1:{archive.listen}")
    assert json.loads(call("ingest", node.folder, *dimse, *listen, "--json").stdout)["unchanged"] == 4
    wrong = call("ingest", node.folder, "--dimse", dimse[1], "--called", "NOBODY", "--calling", CALLING, "--get")
    assert isinstance(wrong.exception, ProtocolError)


@pytest.mark.system("orthanc")
def test_a_killed_process_leaves_whole_files_and_the_next_one_goes_on(
    archive: Orthanc, node: Node, credentials: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.client.sources.slow_ingest",
        str(node.folder),
        archive.url,
        str(credentials),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        spool, end = node.folder / "spool", time.monotonic() + 60
        while not (node.folder / "ingest.jsonl").exists() or len(list(spool.rglob("*.dcm"))) not in {2, 3, 4}:
            assert time.monotonic() < end and process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        process.kill()
    for path in spool.rglob("*.dcm"):
        header_of(path.read_bytes())
    result = call("ingest", node.folder, "--dicomweb", archive.url, "--credentials", credentials, "--json")
    assert result.exit_code == 0, result.exception
    told = json.loads(result.stdout)
    assert told["unchanged"] >= 1  # the studies that were noted as done
    assert told["fetched"] + 5 * told["unchanged"] == 20
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 20
    assert list(spool.iterdir()) == []


def test_the_bar_promises_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How large the studies to come are is not known, and one is fetched ahead: a time left would be made up."""
    asked: dict[str, bool] = {}
    bar = Progress(disable=True)

    def progress(**options: bool) -> AbstractContextManager[Progress]:
        asked.update(options)
        return nullcontext(bar)

    monkeypatch.setattr("shared.console.progress", progress)
    with ExitStack() as stack:
        shown = Bar(stack, quiet=False)
        shown.show(Standing(0, None, 0))
        shown.show(Standing(0, 4, 0))
        assert bar.tasks[0].description == "Studies; fetching the first"
        shown.show(Standing(0.2, 4, 1))
        assert re.fullmatch(r"Studies; 1 file, \d+\.\d files/s", bar.tasks[0].description)
    assert asked["foresees"] is False
    monkeypatch.undo()
    with console.progress(quiet=True, foresees=False) as one, console.progress(quiet=True) as other:
        kinds = [{type(column) for column in each.columns} for each in (one, other)]
    assert TimeRemainingColumn not in kinds[0]
    assert TimeRemainingColumn in kinds[1]
    assert TimeElapsedColumn in kinds[0] & kinds[1]


@pytest.mark.parametrize("options", [(), ("--modality", "MR")])
def test_a_folder_without_dicom_is_told_as_such(node: Node, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Not as a selection that is too narrow."""
    source = tmp_path / "export"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(200))
    error = call("ingest", node.folder, "--folder", source, *options).exception
    assert isinstance(error, DataError)
    assert error.message.endswith("holds no DICOM file that can be read: 3 x not a DICOM file but: JPEG picture")
    assert "DICOM Part 10" in error.hint
    assert "widen" not in error.hint
    told = json.loads((node.folder / "reports" / "ingest.json").read_text())
    assert told["counts"]["unreadable"] == len(told["files"]) == 3


def test_a_selection_that_fits_nothing_is_told_as_such(node: Node, images: Path) -> None:
    error = call("ingest", node.folder, "--folder", images / "H7", "--modality", "US").exception
    assert isinstance(error, DataError)
    assert "widen --modality" in error.hint


def test_another_profile_replaces_nothing_unasked(node: Node, images: Path) -> None:
    source = ("--folder", images / "H7")
    assert call("ingest", node.folder, *source).exit_code == 0
    before = {path: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")}
    refused = call("ingest", node.folder, *source, "--profile", "safe-harbor")
    assert isinstance(refused.exception, UsageError)
    assert "--overwrite" in refused.exception.hint
    assert {path: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")} == before
    assert call("ingest", node.folder, *source, "--profile", "safe-harbor", "--overwrite").exit_code == 0
    assert all(path.read_bytes() != content for path, content in before.items())
    assert call("ingest", node.folder, *source, "--profile", "safe-harbor").exit_code == 0


def test_what_waits_is_looked_at_under_the_profile_of_the_ingest(tmp_path: Path) -> None:
    assert review_command(Path("n"), "basic") == "fedward node review n/reports n/released --node n --reviewer NAME"
    told = review_command(Path("my node"), "own.toml", Path("signed.json"))
    assert "--node 'my node' --profile own.toml --determination signed.json" in told
