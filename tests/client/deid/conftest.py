"""Profiles that the tests of this room share."""

import pytest

from client.deid import Profile
from tests.client.deid.experts import determination, digest_of


@pytest.fixture(scope="session")
def basic() -> Profile:
    return Profile.load("basic")


@pytest.fixture(scope="session")
def harbor() -> Profile:
    return Profile.load("safe-harbor")


@pytest.fixture(scope="session")
def research(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    signed = determination(tmp_path_factory.mktemp("expert"), digest_of("research"))
    return Profile.load("research", determination=signed)
