"""The draft of a charter becomes one with its members, and says of its noise what the accountant says."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.training.accounting import Mechanism, epsilon
from shared.charter import Charter
from shared.charter_cli import app
from shared.charter_draft import EPSILON, STEPS, TASKS, draft
from shared.errors import CharterError, FedwardError, UsageError

PURPOSE = 'research on "enhancement", and on\nnothing else'


def text(members: int = 5, tasks: tuple[str, ...] = TASKS, purpose: str = PURPOSE) -> str:
    return draft(file="c.toml", name="brain-2026", purpose=purpose, members=members, tasks=tasks)


@pytest.mark.parametrize("members", [3, 4, 5, 10, 33, 100])
def test_with_so_many_members_it_is_a_charter(members: int) -> None:
    made = text(members, purpose="research on medical image enhancement")
    rows = [f'\n[[member]]\nname = "H{n}"\nidentity = "{n:064x}"\n' for n in range(1, members + 1)]
    charter = Charter.parse(made + "".join(rows))
    assert charter.masking is not None
    assert 2 * charter.masking.threshold > members + charter.masking.colluding
    assert (charter.privacy.mode, [task.name for task in charter.tasks]) == ("patient", list(TASKS))
    assert all(task.rounds * task.local_steps == STEPS for task in charter.tasks)


def test_the_noise_comes_to_the_epsilon_that_the_comment_says() -> None:
    privacy = tomllib.loads(text())["privacy"]
    found, _ = epsilon([Mechanism(privacy["noise_multiplier"], privacy["sample_rate"], STEPS)], 1e-5)
    assert round(found, 1) == float(EPSILON)


def test_texts_are_told_apart_from_toml() -> None:
    assert tomllib.loads(text())["federation"]["purpose"] == PURPOSE


@pytest.mark.parametrize(
    ("members", "tasks", "error"),
    [
        (2, TASKS, CharterError),
        (101, TASKS, CharterError),
        (5, ("masked",), UsageError),
        (5, ("denoise",) * 2, UsageError),
    ],
)
def test_what_makes_no_charter_is_refused(members: int, tasks: tuple[str, ...], error: type[FedwardError]) -> None:
    with pytest.raises(error):
        text(members, tasks)


def test_the_command_writes_it_once(tmp_path: Path) -> None:
    path = tmp_path / "charter.toml"
    words = ["new", str(path), "--id", "brain-2026", "--purpose", PURPOSE, "--members", "5"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "for 5 hospitals" in done.stdout
    assert [task["name"] for task in tomllib.loads(path.read_text())["task"]] == ["denoise"]
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UsageError)
