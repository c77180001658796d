"""What `fedward simulate` leaves on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from compliance.log import Action
from shared.cli import build
from simulation import cli, run


def test_results_are_said_when_no_bar_moves_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    @contextmanager
    def bars(**_: Any) -> Iterator[MagicMock]:
        yield MagicMock()
        happened.append("bars at rest")

    monkeypatch.setattr(cli, "progress", bars)
    monkeypatch.setattr(cli, "_tell", lambda *_, **__: happened.append("results"))
    monkeypatch.setattr(run, "room", lambda *_: None)
    monkeypatch.setattr(run, "alone_in", lambda _: nullcontext())
    monkeypatch.setattr(run, "claim", lambda *_, **__: False)
    monkeypatch.setattr(run, "simulate", lambda *_: happened.append("run"))
    answer = CliRunner().invoke(build(), ["simulate", "--out", str(tmp_path / "run"), "--private", "none"])
    assert answer.exit_code == 0, answer.output
    assert happened == ["run", "bars at rest", "results"]


def test_what_nobody_asked_for_has_neither_a_bar_nor_an_entry() -> None:
    bar, log = MagicMock(), MagicMock()
    assert run.Calls(pool=MagicMock(), bar=bar, log=log).each("Personal models", Action.TRAIN, abs, []) == []
    assert not bar.mock_calls
    assert not log.mock_calls
