"""An image holds its own room and what lies below it: shown with the Dockerfiles' own build steps, in plain folders."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.bundle import digest
from tests.docker import recipes
from tests.docker.installed import install

IMAGES = {"hospital": "client", "coordinator": "server"}
GROUPS = {
    "hospital": {"audit", "charter", "compliance", "data", "evaluate", "export", "model", "node"},
    "coordinator": {"audit", "charter", "compliance", "model", "server"},
}
STRANGERS = {
    "hospital": ("server", "simulation", "nilearn", "onnx", "captum"),
    "coordinator": ("client", "simulation", "pydicom", "highdicom", "pynetdicom", "dicomweb_client", "opacus", "gdcm"),
}
NEEDED = {
    "hospital": ("client.app", "client.rounds", "client.cli", "client.deid", "client.link", "client.worker", "pydicom"),
    "coordinator": ("server.app", "server.cli", "server.executor", "server.flower_link", "server.flower_run"),
}


@dataclass(frozen=True)
class Built:
    """An image's wheel, and an environment that holds it and what it requires."""

    wheel: Path
    python: Path

    def run(self, *arguments: str, status: int = 0) -> str:
        """What a command of the environment prints; it knows nothing of the source tree."""
        clean = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        clean |= {"PATH": f"{self.python.parent}:/usr/bin:/bin", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            arguments, check=False, cwd=self.python.parent, env=clean, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def say(self, code: str, status: int = 0) -> str:
        return self.run(str(self.python), "-P", "-c", code, status=status)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    found = {}
    for image in IMAGES:
        root = tmp_path_factory.mktemp(image)
        recipes.lay_out(image, root / "source")
        command = recipes.wheel_command(image, sys.executable, root / "wheel")
        subprocess.run([*command, "--quiet"], check=True, cwd=root / "source", timeout=120)
        (wheel,) = (root / "wheel").iterdir()
        found[image] = Built(wheel, install(wheel, recipes.extra_of(image), root / "environment"))
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_the_wheel_holds_its_own_room_and_those_below_it(built: dict[str, Built], image: str) -> None:
    with zipfile.ZipFile(built[image].wheel) as wheel:
        tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"shared", "compliance", IMAGES[image]}
    assert recipes.extra_of(image) == IMAGES[image]


@pytest.mark.parametrize("image", IMAGES)
def test_the_command_has_its_own_groups_alone(built: dict[str, Built], image: str) -> None:
    shown = built[image].run("fedward", "--help")
    commands = shown[shown.index("Commands") :]
    assert set(re.findall(r"^│ ([a-z]+) ", commands, re.MULTILINE)) == GROUPS[image]


@pytest.mark.parametrize("image", IMAGES)
def test_the_matrix_of_controls_is_there_without_the_code_of_the_other_end_and_without_tests(
    built: dict[str, Built], image: str
) -> None:
    told = json.loads(built[image].run("fedward", "compliance", "matrix", "--json"))
    assert told["tests"] is None
    assert told["faults"] == []
    assert {one["tests"] for one in told["controls"]} == {None}


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_not_its_own_is_not_there(built: dict[str, Built], image: str) -> None:
    for name in STRANGERS[image]:
        assert f"No module named '{name}'" in built[image].say(f"import {name}", status=1)


@pytest.mark.live
@pytest.mark.parametrize("image", IMAGES)
def test_what_it_runs_is_all_there(built: dict[str, Built], image: str) -> None:
    assert built[image].say(f"import {', '.join(NEEDED[image])}; print('loaded')") == "loaded\n"


def test_both_ends_and_this_source_tree_make_the_same_app_bundle(built: dict[str, Built]) -> None:
    digests = {one.say("from shared.bundle import digest; print(digest())").strip() for one in built.values()}
    assert digests == {digest()}


def test_a_node_and_a_coordinator_can_be_made_with_them(built: dict[str, Built], tmp_path: Path) -> None:
    node, coordinator = tmp_path / "node", tmp_path / "coordinator"
    built["hospital"].run("fedward", "node", "init", str(node), "--site", "H1", "--purpose", "a trial of images")
    built["coordinator"].run("fedward", "server", "init", str(coordinator), "--address", "coordinator:8443")
    assert (node / "keys" / "link.key").exists()
    assert (coordinator / "gate.pem").exists()


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_is_made_of_three_stages_and_the_last_one_installs_nothing(image: str) -> None:
    wheel, environment, last = recipes.stages(image)
    assert {one.base for one in (wheel, environment, last)} == {"python:3.11-slim-bookworm"}
    assert last.all("COPY") == ["--from=environment /opt/fedward /opt/fedward"]
    assert "pip uninstall" in last.one("RUN")
    assert not re.search(r"pip (install|wheel)|apt-get|gcc", last.one("RUN"))
    for line in wheel.all("RUN") + environment.all("RUN"):
        assert "pip" not in line.split() or "--no-cache-dir" in line
    assert environment.all("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_runs_as_nobody_in_particular_and_says_how_it_is(image: str) -> None:
    last, group = recipes.stages(image)[-1], {"hospital": "node", "coordinator": "server"}[image]
    assert last.one("USER") == "10001:10001"
    assert last.form("ENTRYPOINT") == ["fedward"]
    assert last.form("HEALTHCHECK") == ["fedward", group, "health", "9095"]
    assert last.form("CMD")[:2] == [group, "start"]
    assert last.form("CMD")[-2:] == ["--health", "9095"]
    wanted = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HOME": "/tmp"}  # noqa: S108
    assert wanted.items() <= last.environment.items()
    assert last.form("VOLUME") == ["/state"]


def test_nothing_but_source_gets_into_a_build() -> None:
    lines = (recipes.HOUSE / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        word.rstrip("/") for image in IMAGES for line in recipes.stages(image)[0].all("COPY") for word in line.split()
    }
    assert {rule[1:] for rule in rules if rule.startswith("!")} == (copied - {"."}) | {"constraints.txt"}
