"""Profiles that the tests of this room share."""

import json
from pathlib import Path

import pytest

from client.deid import Profile
from shared.errors import PolicyError


@pytest.fixture(scope="session")
def basic() -> Profile:
    return Profile.load("basic")


@pytest.fixture(scope="session")
def harbor() -> Profile:
    return Profile.load("safe-harbor")


@pytest.fixture(scope="session")
def research(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    try:
        Profile.load("research")
        raise AssertionError("research must not load without a determination")
    except PolicyError as error:
        sha256 = error.hint.split()[-1]
    path: Path = tmp_path_factory.mktemp("expert") / "determination.json"
    path.write_text(
        json.dumps({"expert": "E. Xpert", "scope": "tests", "profile_sha256": sha256, "expires": "2999-12-31"})
    )
    return Profile.load("research", determination=path)
