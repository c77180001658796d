"""What people see while something takes long."""

import io
import time

import pytest
from rich.console import Console

from shared import console


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that is no terminal, and time that goes by quickly."""
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, highlight=False, width=80))
    monkeypatch.setattr(console, "BETWEEN_LINES", 0.01)
    return text


def until(text: io.StringIO, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in text.getvalue().splitlines():
        assert time.monotonic() < deadline, text.getvalue()
        time.sleep(0.01)


def test_a_journal_gets_a_line_now_and_then_and_none_twice(journal: io.StringIO) -> None:
    with console.progress() as bar:
        task = bar.add_task("Training\x1b[2J", total=None)
        bar.update(task, completed=3)
        until(journal, "Training?[2J 3")
        bar.update(task, completed=4, total=12)
        until(journal, "Training?[2J 4/12")
        time.sleep(0.1)
        assert journal.getvalue().count("4/12") == 1
        bar.update(task, completed=12)


def test_json_is_alone(journal: io.StringIO) -> None:
    with console.progress(quiet=True) as bar:
        bar.update(bar.add_task("Training", total=2), completed=1)
        time.sleep(0.1)
    assert not journal.getvalue()
