"""The lock of one process at a time, and the look at it that takes nothing from anybody."""

import threading
import time
from pathlib import Path

import pytest

from shared.errors import OutputError, UsageError
from shared.files import held, locked


def test_a_lock_is_seen_while_it_is_held_and_not_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not held(path)
    assert not path.exists(), "a look makes no file"
    with locked(path, "busy"):
        assert held(path)
        with pytest.raises(UsageError, match="busy"):
            locked(path, "busy", error=UsageError)
    assert path.exists()
    assert not held(path)


def test_a_lock_that_another_has_for_an_instant_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = locked(path, "busy")
    threading.Timer(0.2, first.close).start()
    begun = time.monotonic()
    locked(path, "busy", patience=20).close()
    assert 0.1 < time.monotonic() - begun < 15


def test_patience_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "busy"):
        begun = time.monotonic()
        with pytest.raises(UsageError, match="busy"):
            locked(path, "busy", error=UsageError, patience=0.2)
        assert time.monotonic() - begun >= 0.2


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot read"):
        held(tmp_path / "file" / "lock")
