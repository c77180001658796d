"""The app bundle: the same bytes wherever a release is installed, no code in it, and Flower takes it for an app."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.cli.build import get_fab_filename
from flwr.common.config import get_fab_config, get_fused_config_from_fab, get_metadata_from_config
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.server.superlink.linkstate.linkstate import LinkState
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.error import FlowerError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.servicer.control import control_handlers
from hypothesis import given
from hypothesis import strategies as st

from shared.bundle import CLIENT_APP, RUN_CONFIG, SERVER_APP, SUFFIXES, build, bundle, digest, require_listed
from shared.errors import PolicyError
from tests.federation import members as fed
from tests.federation import toy

HOUSE = Path(__file__).parents[2]
FILES = {"shared/a.py": b"one", "compliance/b.py": b"two"}


def parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def listed() -> dict[str, str]:
    found: dict[str, str] = json.loads(parts(bundle())["fedward.json"])["files"]
    return found


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_it_lists_every_file_of_both_rooms_with_its_digest_and_no_code() -> None:
    assert set(parts(bundle())) == {"pyproject.toml", "fedward.json", ".info/CONTENT"}
    files = listed()
    for path, found in files.items():
        assert hashlib.sha256((HOUSE / path).read_bytes()).hexdigest() == found
    kept = subprocess.run(["git", "ls-files", "shared", "compliance"], cwd=HOUSE, capture_output=True, check=True)
    assert set(kept.stdout.decode().split()) <= set(files), "a kind of file that SUFFIXES does not name"
    assert not [path for path in files if "__pycache__" in path or path.startswith(("client", "server"))]
    assert digest() == hashlib.sha256(bundle()).hexdigest()
    assert bundle() is bundle(), "it is computed once"


def test_it_holds_the_version_of_the_release() -> None:
    release = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads(parts(bundle())["fedward.json"])["version"] == release


def test_the_archive_is_the_same_bytes_under_every_interpreter() -> None:
    known = "1d9f33ae80553e4a469e7f33df06953cb39b5fc5e8888bde278cd76b5de33be8"
    assert hashlib.sha256(build("1.2.3", FILES)).hexdigest() == known
    assert build("1.2.3", dict(reversed(FILES.items()))) == build("1.2.3", FILES)


@given(
    st.dictionaries(st.text("ab/.", min_size=1, max_size=5), st.binary(max_size=4), max_size=4),
    st.dictionaries(st.text("ab/.", min_size=1, max_size=5), st.binary(max_size=4), max_size=4),
)
def test_other_files_give_another_bundle(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (build("1", one) == build("1", other)) == (one == other)
    assert build("1", one) != build("2", one)


# --- the same wherever it is installed --------------------------------------------------------------------------------


def elsewhere(folder: Path) -> str:
    """The digest that an interpreter finds whose packages are those in ``folder``."""
    program = "import shared, shared.bundle as b; print(shared.__file__); print(b.digest())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
    )
    place, found = done.stdout.decode().split()
    assert Path(place).is_relative_to(folder)
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The sources as a checkout has them, without what interpreters leave."""
    folder = tmp_path / "source"
    for room in ("shared", "compliance", "client", "server", "simulation"):
        shutil.copytree(HOUSE / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOUSE / name, folder)
    return folder


def test_a_wheel_gives_the_same_bundle_as_the_sources(copied: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(copied)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert elsewhere(tmp_path / "site") == digest()


def test_what_is_left_beside_the_sources_does_not_count_and_any_change_of_them_does(copied: Path) -> None:
    for litter in ("shared/__pycache__/x.py", "shared/.a.py", "shared/errors.py.orig", "compliance/.cache/a.py"):
        (copied / litter).parent.mkdir(exist_ok=True)
        (copied / litter).write_text("x")
    assert elsewhere(copied) == digest()
    (copied / "compliance" / "more.py").write_text("")
    more = elsewhere(copied)
    (copied / "compliance" / "more.py").unlink()
    with (copied / "shared" / "page.css").open("a") as page:
        page.write(" ")
    assert len({more, elsewhere(copied), digest()}) == 3


# --- Flower takes it for an app ---------------------------------------------------------------------------------------


@pytest.fixture
def state() -> Iterator[LinkState]:
    manager = NoOpFederationManager()
    yield LinkStateFactory(":flwr-in-memory:", manager, ObjectStoreFactory()).state()


def start(state: LinkState, data: bytes, config: dict[str, str]) -> int:
    request = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(data).hexdigest(), content=data),
        override_config=user_config_to_proto(dict(config)),
    )
    account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
    return control_handlers.start_run(request, account, state, None).run_id


def test_flower_starts_a_run_of_it_with_exactly_our_configuration(state: LinkState) -> None:
    config = {"federation": "imaging", "charter": "ab" * 32, "run": "run-1"}
    number = start(state, bundle(), config)
    run = state.get_run_info(run_ids=[number])[0]
    assert run.fab_hash == digest()
    assert run.primary_task_type == "flwr-serverapp"
    assert run.override_config == config
    assert get_fused_config_from_fab(bundle(), run) == config
    assert set(config) == set(RUN_CONFIG)
    with pytest.raises(FlowerError):
        start(state, bundle(), {**config, "more": "x"})


def test_flower_finds_our_apps_and_no_agent_in_it() -> None:
    found = get_fab_config(bundle())
    assert found["tool"]["flwr"]["app"]["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    assert get_metadata_from_config(found)[0] == "fedward/fedward"
    assert get_fab_filename(found, digest()).startswith("fedward.fedward.")
    content = parts(bundle())[".info/CONTENT"].decode().splitlines()
    assert [row.split(",")[:2] for row in content] == [
        [name, hashlib.sha256(parts(bundle())[name]).hexdigest()] for name in ("pyproject.toml", "fedward.json")
    ]


# --- a charter that lists releases ------------------------------------------------------------------------------------


def test_a_charter_that_lists_releases_is_followed_by_those_alone() -> None:
    require_listed(toy.charter())
    for apps in ((), (digest(),), ("ab" * 32, digest())):
        require_listed(fed.masked(fed.invented(3), 3, {"apps": apps}))
    with pytest.raises(PolicyError, match="is not among the apps") as caught:
        require_listed(fed.masked(fed.invented(3), 3, {"apps": ("ab" * 32,)}))
    assert "charter check" in caught.value.hint


def test_only_kinds_of_files_that_are_there_count() -> None:
    assert {Path(path).suffix for path in listed()} == SUFFIXES
