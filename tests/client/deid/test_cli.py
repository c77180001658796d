"""``fedward node deidentify``: exit codes, keys, and what it leaves where."""

import json
import os
import re
import resource
import signal
import stat
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from click.testing import Result
from rich.progress import Progress
from typer.testing import CliRunner

from client.cli import KEY_NAME, _Bar, app
from client.deid import SiteKey
from client.deid.single import Processed, Processor
from client.node import Node
from compliance.log import verify
from shared.errors import DataError, FedwardError, OutputError, PartialError, PolicyError, UsageError
from tests.client.deid.experts import determination, digest_of
from tests.client.deid.files import image, to_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(to_bytes(image()))
    return tmp_path


def call(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["deidentify", str(folder / "in"), str(folder / "out"), *options])


def test_all_released(folder: Path) -> None:
    result = call(folder, "--json", "--reports", str(folder / "reports"))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["files"], told["released"]) == (1, 1)
    assert Path(told["report"]) == folder / "reports" / "deid.json"
    assert len(list((folder / "out").rglob("*.dcm"))) == 1
    assert verify(folder / "reports" / "audit.jsonl").entries == 2


def test_a_key_is_made_once_and_found_again(folder: Path) -> None:
    call(folder)
    key = folder / KEY_NAME
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before, names = key.read_bytes(), sorted((folder / "out").rglob("*.dcm"))
    call(folder)
    assert key.read_bytes() == before
    assert sorted((folder / "out").rglob("*.dcm")) == names


def test_a_virtual_hospital_takes_in_nobody(folder: Path) -> None:
    Node.create(folder / "v", site="V1", purpose="tests", seed=7)
    before = sorted((folder / "v").rglob("*"))
    error = call(folder, "--node", str(folder / "v")).exception
    assert isinstance(error, PolicyError)
    assert "keys anybody can compute" in error.message
    assert "fedward node init" in error.hint
    assert sorted((folder / "v").rglob("*")) == before
    assert not (folder / "out").exists()


def test_a_named_key_is_made_where_missing(folder: Path) -> None:
    result = call(folder, "--key", str(folder / "own.key"))
    assert "a new site key was made" in result.stderr
    assert stat.S_IMODE((folder / "own.key").stat().st_mode) == 0o600
    assert not (folder / KEY_NAME).exists()


def test_some_held_back_is_exit_three(folder: Path) -> None:
    (folder / "in" / "b.txt").write_text("no DICOM")
    result = call(folder)
    assert isinstance(result.exception, PartialError)
    assert result.exception.exit_code == 3
    assert "deid.json" in result.exception.hint
    assert len(list((folder / "out").rglob("*.dcm"))) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--profile", "reserch"], UsageError),
        (["--profile", "research"], PolicyError),
        (["--node", "nowhere"], UsageError),
    ],
)
def test_wrong_use(folder: Path, options: list[str], error: type[FedwardError]) -> None:
    result = call(folder, *options)
    assert isinstance(result.exception, error)
    assert not (folder / "out").exists()
    assert not list(folder.glob("*.key"))


@pytest.mark.parametrize("where", ["reports", "key", "node"])
def test_what_is_ours_must_not_lie_among_the_images(folder: Path, where: str) -> None:
    """The next run would take it for images, and count it as refused."""
    inside = folder / "in" / "ours"
    options = {"reports": ["--reports"], "key": ["--key"], "node": ["--reports", str(folder / "r"), "--node"]}[where]
    result = call(folder, *options, str(inside))
    assert isinstance(result.exception, UsageError), result.output
    assert "lies in" in result.exception.message
    assert result.exception.hint
    assert [path.name for path in folder.rglob("*")] == ["in", "a.dcm"]


@pytest.mark.parametrize("where", ["out", "out-reports"])
def test_a_file_where_a_folder_should_be_is_found_first(folder: Path, where: str) -> None:
    (folder / where).write_text("a file")
    result = call(folder)
    assert isinstance(result.exception, OutputError)
    assert str(folder / where) in result.exception.message
    assert {path.name for path in folder.iterdir()} == {"in", where}


def test_one_worker_is_a_process_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the bound on memory, and on what a file can end, holds without any option."""
    parent, original = os.getpid(), Processor.process
    (folder / "in" / "b.dcm").write_bytes(to_bytes(image(number=2)))

    def process(self: Processor, path: str, *, takes_place: bool = False) -> Processed:
        assert os.getpid() != parent, "this would end the tests"
        assert resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        if path == "b.dcm":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path, takes_place=takes_place)

    monkeypatch.setattr("threading.active_count", lambda: 1)  # copies of this process know of the patch
    monkeypatch.setattr(Processor, "process", process)
    result = call(folder)
    assert isinstance(result.exception, PartialError), result.exception
    told = json.loads((folder / "out-reports" / "deid.json").read_text())
    assert [(row["input"], row["status"]) for row in told["files"]] == [("a.dcm", "released"), ("b.dcm", "refused")]


def test_the_bar_says_files_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Progress(disable=True)
    monkeypatch.setattr("shared.console.progress", lambda **_: nullcontext(bar))
    with ExitStack() as stack:
        _Bar(stack, quiet=False).update(8, 200)
    assert re.fullmatch(r"De-identifying, \d+\.\d files/s", bar.tasks[0].description)


@pytest.mark.parametrize("there", [True, False])
def test_a_review_makes_no_key(folder: Path, there: bool) -> None:
    """A misspelt key is no new one: files would go out under foreign pseudonyms."""
    reports = folder / "reports"
    if there:
        (folder / "in" / "a.dcm").write_bytes(to_bytes(image(sop_class="1.2.840.10008.5.1.4.1.1.88.11")))
        assert isinstance(call(folder, "--reports", str(reports)).exception, PartialError)
    before = sorted(folder.rglob("*"))
    command = ["review", str(reports), str(folder / "out"), "--reviewer", "M. Grey", "--key", str(folder / "typo.key")]
    for options in (command, command[:-2]) if not there else (command,):
        result = CliRunner().invoke(app, options)
        assert isinstance(result.exception, UsageError)
        assert "cannot read the site key" in result.exception.message
        assert sorted(folder.rglob("*")) == before


def test_an_empty_folder_leaves_nothing(folder: Path) -> None:
    (folder / "in" / "a.dcm").unlink()
    result = call(folder)
    assert isinstance(result.exception, DataError)
    assert [path.name for path in folder.iterdir()] == ["in"]


def test_the_key_must_not_lie_in_the_output(folder: Path) -> None:
    SiteKey.create(folder / "out" / "site.key")
    result = call(folder, "--key", str(folder / "out" / "site.key"))
    assert isinstance(result.exception, UsageError)


def test_a_node_has_its_own_keys_and_log(folder: Path) -> None:
    node = folder / "node"
    SiteKey.create(node / "keys" / "pseudonym.key")
    SiteKey.create(node / "keys" / "audit.key")
    (node / "node.json").write_text(json.dumps({"site": "H1", "purpose": "tests"}))
    result = call(folder, "--node", str(node))
    assert result.exit_code == 0, result.exception
    assert (node / "reports" / "deid.json").exists()
    assert '"site":"H1"' in (node / "audit" / "log.jsonl").read_text()
    assert not (folder / KEY_NAME).exists()


@pytest.mark.parametrize("command", ["deidentify", "review"])
def test_a_key_beside_a_node_is_refused(folder: Path, command: str) -> None:
    node = Node.create(folder / "node", site="H1", purpose="tests").folder
    SiteKey.create(folder / "other.key")
    where = ["in", "out"] if command == "deidentify" else ["node", "out", "--reviewer", "R"]
    words = [command, *(str(folder / one) if one in {"in", "out", "node"} else one for one in where)]
    other = CliRunner().invoke(app, [*words, "--node", str(node), "--key", str(folder / "other.key")])
    assert isinstance(other.exception, UsageError)
    assert "a key of its own" in other.exception.message
    assert not (folder / "out").exists()
    if command == "deidentify":
        own = CliRunner().invoke(app, [*words, "--node", str(node), "--key", str(node / "keys" / "pseudonym.key")])
        assert own.exit_code == 0, own.exception


def test_a_determination_that_nothing_needs_is_refused(folder: Path) -> None:
    signed = determination(folder / "expert", digest_of("research"))
    result = call(folder, "--determination", str(signed))
    assert isinstance(result.exception, UsageError)
    assert "needs no expert determination" in result.exception.message
    assert not (folder / "out").exists()


def test_one_file_is_one_file(folder: Path) -> None:
    assert "1 of 1 file released" in call(folder).stdout
    (folder / "in" / "b.txt").write_text("no DICOM")
    (folder / "in" / "c.dcm").write_bytes(to_bytes(image(sop_class="1.2.840.10008.5.1.4.1.1.88.11", number=3)))
    result = call(folder)
    assert "1 of 3 files released" in result.stdout
    assert isinstance(result.exception, PartialError)
    assert result.exception.message == "1 file was quarantined and 1 refused"


def test_reports_are_for_their_owner_alone(folder: Path) -> None:
    reports = folder / "far" / "reports"
    call(folder, "--reports", str(reports))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (reports, reports.parent)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in reports.iterdir() if path.is_file()} == {0o600}


def test_a_folder_for_reports_that_is_there_keeps_its_mode(folder: Path) -> None:
    reports = folder / "reports"
    reports.mkdir()
    reports.chmod(0o750)
    call(folder, "--reports", str(reports))
    assert stat.S_IMODE(reports.stat().st_mode) == 0o750


def test_another_profile_replaces_nothing_unasked(folder: Path) -> None:
    call(folder)
    (released,) = (folder / "out").rglob("*.dcm")
    before = released.read_bytes()
    for reports in ([], ["--reports", str(folder / "elsewhere")]):
        refused = call(folder, "--profile", "safe-harbor", *reports)
        assert isinstance(refused.exception, UsageError), refused.output
        assert "another profile" in refused.exception.message
        assert "--overwrite" in refused.exception.hint
        assert released.read_bytes() == before
    assert not (folder / "elsewhere").exists()
    assert call(folder).exit_code == 0
    assert call(folder, "--profile", "safe-harbor", "--overwrite").exit_code == 0
    assert released.read_bytes() != before


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_another_key_mixes_nothing(folder: Path, options: list[str]) -> None:
    call(folder)
    SiteKey.create(folder / "other.key")
    refused = call(folder, "--key", str(folder / "other.key"), *options)
    assert isinstance(refused.exception, UsageError), refused.output
    assert "another site key" in refused.exception.message
    assert len(list((folder / "out").rglob("*.dcm"))) == 1
    told = json.loads((folder / "out-reports" / "deid.json").read_text())
    assert told["key"] == SiteKey.load(folder / KEY_NAME).fingerprint
