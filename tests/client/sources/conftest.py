"""Images of two hospitals, an archive that holds them, and a node to take them in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node import Node
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.client.sources.orthanc import PASSWORD, USER, Orthanc, running


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two MR and two CT studies of 5 files each: ``SITE/PATIENT/STUDY/...``."""
    out: Path = tmp_path_factory.mktemp("images") / "out"
    synthesize(out, sites=choose_sites("2"), patients=2, size=64, slices=2, seed=7, workers=1)
    return out


@pytest.fixture(scope="session")
def files(images: Path) -> list[Path]:
    return sorted(images.rglob("*.dcm"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("orthanc"), files) as started:
        yield started


@pytest.fixture
def own_archive(tmp_path: Path, files: list[Path]) -> Iterator[Orthanc]:
    """One that a test may stop."""
    with running(tmp_path / "orthanc", files) as started:
        yield started


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="tests")


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.touch(mode=0o600)
    path.write_text(f"basic {USER}:{PASSWORD}\n")
    return path
