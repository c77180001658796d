"""One federation is founded for all tests; each works on a copy of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.standing import SITES, Standing, build, copied, fedward, running


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies of three hospitals with identifiers that are nobody's; ``more/`` are those that come later."""
    root = tmp_path_factory.mktemp("raw")
    small = ("--size", 64, "--slices", 3, "--sites", ",".join(SITES))
    fedward("data", "synthesize", root / "first", "--patients", 4, *small)
    fedward("data", "synthesize", root / "more", "--patients", 3, "--seed", 11, *small)
    return root


@pytest.fixture(scope="session")
def template(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Standing:
    return build(tmp_path_factory.mktemp("template"), raw / "first")


@pytest.fixture
def standing(template: Standing, tmp_path: Path) -> Iterator[Standing]:
    with running(copied(template, tmp_path / "s")) as found:
        yield found
