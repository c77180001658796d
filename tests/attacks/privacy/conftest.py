"""What the attacks on a hospital share: one real hospital, and nothing left open of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.app import close_sessions
from tests.attacks.privacy.hospital import RULES, make_real
from tests.federation import toy


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_real(toy.make_node(tmp_path / "H1", "H1", RULES), monkeypatch)
