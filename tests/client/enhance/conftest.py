"""Models, and a way to apply them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client.enhance.folder import Enhanced, enhance_folder
from client.enhance.model import Model, open_model
from compliance.log import AuditLog
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize

Apply = Callable[..., Enhanced]


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """The public models by task."""
    return {task: open_model("public-1", task=task) for task in ("denoise", "superres", "segment")}


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient of an MR and of a CT hospital: two studies' worth of two series of three slices, and a SEG."""
    out: Path = tmp_path_factory.mktemp("sites") / "out"
    synthesize(out, sites=choose_sites("H2,H7"), patients=1, size=64, slices=3, seed=7, workers=1)
    return out


@pytest.fixture
def apply(tmp_path: Path, models: dict[str, Model]) -> Apply:
    """Apply a public model to a file or folder, into ``out``."""

    def run(task: str, source: Path, out: Path = tmp_path / "out", *, fractional: bool = False) -> Enhanced:
        reports = tmp_path / "reports"
        with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
            return enhance_folder(source, out, model=models[task], log=log, reports=reports, fractional=fractional)

    return run
