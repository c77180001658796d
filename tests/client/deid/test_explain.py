"""``fedward node profile``: what a profile does, before it is used."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.deid import Profile
from client.deid.explain import pixels
from client.deid.profile import resolve
from client.deid.profile_file import _Pixels
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("name", "dates", "expert"),
    [("basic", "removed", False), ("safe-harbor", "year", False), ("research", "moved", True)],
)
def test_every_shipped_profile_is_explained(name: str, dates: str, expert: bool) -> None:
    told = json.loads(CliRunner().invoke(app, ["profile", "show", name, "--json"]).stdout)
    assert dates in told["dates"]
    assert told["needs_expert_determination"] is expert
    assert [line[1] for line in told["safe_harbor"]] == list("ABCDEFGHIJKLMNOPQR")
    assert sum(told["rules"].values()) > 600
    plain = CliRunner().invoke(app, ["profile", "show", name])
    assert told["sha256"] in plain.stdout


def test_a_hospitals_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "basic"\n[overrides]\n"0018,1020" = "remove"\n')
    good = CliRunner().invoke(app, ["profile", "check", str(path)])
    assert Profile.load(str(path)).sha256 in good.stdout
    path.write_text('extends = "basic"\noptions = ["retain_everything"]\n')
    assert isinstance(CliRunner().invoke(app, ["profile", "check", str(path)]).exception, UsageError)


def test_what_a_hospital_sets_for_itself_is_told(tmp_path: Path) -> None:
    path, expert = tmp_path / "own.toml", "ab" * 32
    path.write_text(
        f'extends = "basic"\nexperts = ["{expert}"]\n[overrides]\n"0018,1020" = "remove"\n'
        '[pixels]\nexamine = "all"\noutside_regions = "blank"\n'
    )
    for command in ("show", "check"):
        told = CliRunner().invoke(app, ["profile", command, str(path)]).stdout
        lines = ("  examine: all", "  outside_regions: blank", f"experts: {expert}")
        for line in (*lines, "  (0018,1020) SoftwareVersions: remove"):
            assert line in told.splitlines(), (command, line)
    told = json.loads(CliRunner().invoke(app, ["profile", "show", str(path), "--json"]).stdout)
    assert told["pixels"] == {"examine": "all", "outside_regions": "blank", "faces": "flag"}
    assert told["overrides"] == {"(0018,1020) SoftwareVersions": "remove"}
    plain = CliRunner().invoke(app, ["profile", "show", "basic"]).stdout.splitlines()
    assert {"experts: any", "overrides: none", "  examine: suspect"} <= set(plain)


def test_every_setting_of_pixels_is_told() -> None:
    assert pixels(resolve("basic")).keys() == _Pixels.model_fields.keys()
