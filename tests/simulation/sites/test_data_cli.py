import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from shared.errors import UsageError
from simulation.data_cli import synthesize_command

app = typer.Typer()
app.callback()(lambda: None)  # a group, as it is in the command
app.command("synthesize")(synthesize_command)

SMALL = ["--patients", "1", "--size", "32", "--slices", "1", "--workers", "1"]


def test_the_command_writes_the_sites_asked_for(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["synthesize", str(tmp_path / "out"), "--sites", "H7", *SMALL])
    assert done.exit_code == 0
    assert "H7: 1 patient, 1 study, 3 files" in done.output
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3


def test_json_is_nothing_but_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["synthesize", str(tmp_path / "out"), "--sites", "H8", *SMALL, "--json"])
    assert json.loads(done.stdout)["sites"] == {"H8": {"patients": 1, "studies": 1, "files": 3}}


def test_a_typo_in_a_site_is_a_usage_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["synthesize", str(tmp_path / "out"), "--sites", "H77"])
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "out").exists()
