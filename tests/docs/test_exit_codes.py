"""The table of exit codes says what the code does."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.deid import SiteKey
from client.node import Node
from shared import errors
from shared.cli import build

TABLE = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def test_every_error_stands_in_the_table_with_its_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", TABLE.read_text(), flags=re.MULTILINE)
    documented = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    classes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FedwardError)
    }
    assert documented == classes


@pytest.mark.parametrize(
    "words",
    [
        "audit verify {}",
        "audit prove {} 0",
        "audit checkpoints {}",
        "audit checkpoints {} --publish",
        "audit keys {}",
        "audit hold list {}",
        "audit witness export {} --to {out}",
        "audit witness import {node} {}",
        "audit witness status {}",
        "compliance incident list {}",
        "compliance incident open {} --who A --aware 2026-01-01T00:00:00Z",
        "compliance incident open {node} --who A --aware 2026-01-01T00:00:00Z --affected H1=@{}",
        "compliance matrix --tests {}",
        "compliance report {} --out {out}",
        "data synthesize {out} --sites nowhere",
        "data show {}",
        "data import {} {here} --layout lits --dataset A --licence {here}/file --who A --accept-terms",
        "data import {node} {} --layout lits --dataset A --licence {here}/file --who A --accept-terms",
        "data import {node} {here} --layout lits --dataset A --licence {} --who A --accept-terms",
        "data import {node} {here} --layout lits --dataset A --licence {here}/file --who A",
        "evaluate {} {node} --page {out}.html",
        "evaluate public-1 {} --task denoise --page {out}.html",
        "evaluate public-1 {here} --task denoise --page {out}.html",
        "node budget show {}",
        "node budget set {} --epsilon 3 --who A --why B",
        "node budget rebuild {} --who A --why B",
        "node budget plan {} {}.toml",
        "node budget plan {node} {}.toml --page {out}.html",
        "node deidentify {} {out}",
        "node deidentify {here} {out} --node {}",
        "node deidentify {here} {out} --profile {}.toml",
        "node expert show {}",
        "node expert sign {} {out} --key {}",
        "node ingest {} --folder {here}",
        "node ingest {here}/file --folder {here}",
        "node ingest {node} --folder {}",
        "node ingest {node} --folder {here} --patients {}",
        "node ingest {node} --dicomweb https://127.0.0.1:9/ --credentials {}",
        "node ingest {node} --dicomweb https://127.0.0.1:9/ --ca {}",
        "node ingest {node} --folder {here} --profile research --determination {}",
        "node profile show {}.toml",
        "node profile check {}.toml",
        "node review {} {out} --reviewer R --node {node}",
        "node review {here} {out} --reviewer R --key {}",
        "node review {here} {out} --reviewer R --node {}",
        "node consent import {node} {}",
        "node consent import {} {here}/file",
        "node consent withdraw {} 1",
        "node subject erase {} 1 --who W",
        "node subject report {} 1",
        "node dataset show {}",
        "node statement {} run --out {out}",
        "model verify {}",
        "node join {} {}.toml",
        "node join {node} {}.toml",
        "server approve {}.toml {} --fingerprint A",
        "server release {} run --out {out}",
        "server show {} run",
        "simulate {}.toml --out {out}",
    ],
)
def test_what_is_named_and_not_there_is_wrong_use_in_every_command(tmp_path: Path, words: str) -> None:
    here, node = tmp_path / "here", tmp_path / "node"
    here.mkdir()
    (here / "file").write_bytes(bytes(128) + b"DICM")
    Node.create(node, site="H1", purpose="tests")
    given = words.replace("{}", str(tmp_path / "missing")).format(here=here, node=node, out=tmp_path / "out")
    error = CliRunner().invoke(build(), given.split()).exception
    assert isinstance(error, errors.FedwardError), error
    assert error.exit_code == 2, error
    assert error.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", ["node deidentify {} {}.out", "server show {}/.. empty", "node review {} {}.out --reviewer R"]
)
def test_what_is_there_and_holds_nothing_of_use_is_no_wrong_use(tmp_path: Path, words: str) -> None:
    folder, key = tmp_path / "empty", tmp_path / "fedward-deid.key"
    folder.mkdir()
    SiteKey.create(key)
    error = CliRunner().invoke(build(), words.replace("{}", str(folder)).split()).exception
    assert isinstance(error, errors.DataError), error
