"""Small heads in place of phantoms, and the command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from client.export import graph, people
from client.export_cli import export as command
from shared.imaging.images import PatientImages
from tests.shared.imaging.phantoms import study

app = Typer()
app.command()(command)


class Head:
    """What the simulation calls a phantom."""

    def __init__(self, number: int) -> None:
        self.images = PatientImages(f"phantom-{number}", (study(48, 56, slices=2, sigma=0.06, seed=number),))


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small phantoms, and few and small images to hold a graph against torch."""
    monkeypatch.setattr(people, "phantoms_here", lambda: lambda _, number: Head(number))
    monkeypatch.setattr(people, "HELD_OUT", 2)
    monkeypatch.setattr(people, "FITTED", 3)
    monkeypatch.setattr(graph, "_SIZES", ((1, 16, 24), (2, 40, 32)))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """``fedward export`` into ``tmp_path/out``, without timing."""

    def invoke(*given: object) -> Result:
        return CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path / "out"), "--rounds", "0"])

    return invoke
