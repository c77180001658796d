"""``fedward node deidentify``: exit codes, keys, and what it leaves where."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.cli import KEY_NAME, app
from client.deid import SiteKey
from compliance.log import verify
from shared.errors import DataError, FedwardError, PartialError, PolicyError, UsageError
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
