"""The command as a person meets it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.main import get_command

from shared import cli


def test_what_libraries_warn_of_does_not_reach_the_terminal() -> None:
    """Those for DICOM quote values of headers."""
    code = (
        "import sys, warnings, subprocess, shared.cli as cli\n"
        "def run(app):\n"
        "    warnings.warn(\"Invalid value for VR UI: 'P-12345'\")\n"
        "    other = 'import warnings; warnings.warn(\"P-12345\")'\n"
        "    return subprocess.run([sys.executable, '-c', other]).returncode\n"
        "cli._run = run\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_while_the_command_is_still_being_put_together_is_one_line() -> None:
    code = "import shared.cli as cli\ndef build():\n    raise KeyboardInterrupt\ncli.build = build\ncli.main()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 130
    assert done.stderr.count("\n") == 1
    assert "interrupted" in done.stderr


def test_a_room_adds_a_command_to_the_group_of_another_and_has_one_of_its_own_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = typer.Typer()
    group.callback()(lambda: None)
    group.command("import")(lambda: None)

    def names(*points: tuple[str, object]) -> list[str]:
        made = [SimpleNamespace(name=name, load=lambda found=found: found) for name, found in points]
        monkeypatch.setattr(cli, "entry_points", lambda group: made)
        found = get_command(cli.build()).commands["data"]  # type: ignore[attr-defined]
        return sorted(found.commands)

    assert names(("data.synthesize", lambda: None)) == ["synthesize"]
    assert names(("data.synthesize", lambda: None), ("data", group)) == ["import", "synthesize"]
