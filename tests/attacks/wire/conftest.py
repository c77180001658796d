"""A coordinator's audit log for tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.log import AuditLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path / "coordinator.jsonl", site="coordinator", subject_key=b"") as opened:
        yield opened
