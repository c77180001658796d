"""The hospital that the tests of this room share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.review.hospital import Review


@pytest.fixture
def review(tmp_path: Path) -> Iterator[Review]:
    made = Review(tmp_path)
    yield made
    made.close()
