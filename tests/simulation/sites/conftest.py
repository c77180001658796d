"""One small set of all ten hospitals, made once."""

from pathlib import Path

import pytest

from simulation.sites.specs import SITES, UNSEEN
from simulation.sites.synthesize import Synthesized, synthesize

PATIENTS = 3  # the second is past ninety, the third has a follow-up


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    out: Path = tmp_path_factory.mktemp("hospitals") / "sites"
    return synthesize(out, sites=SITES + UNSEEN, patients=PATIENTS, size=64, slices=3, seed=3, workers=1)
