"""A privacy ledger that was lost is charged again from the audit log, no less and nothing twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.budget import set_budget, standing
from client.budget_cli import app
from client.charge import Budget, Charge
from client.ledger import Ledger
from client.ledger_file import read_book
from client.node import Node
from client.paying import pay
from client.rebuild import rebuild
from client.session import Session
from client.training import accounting
from shared.errors import FedwardError, PolicyError, RecordError, UsageError
from shared.header import Header
from tests.federation import toy

CHARGE = Charge("run-1", "test", "toy", 1, "patient", 2.0, 0.5, 2, 9)
RULES = toy.charter(privacy={"mode": "patient"})
BY = {"who": "Ada", "why": "the disk was replaced"}


@pytest.fixture(autouse=True)
def _everything_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "within", lambda *_: True)
    monkeypatch.setattr(accounting, "epsilon", lambda *_: (0.5, "prv"))
    monkeypatch.setattr(accounting, "bound", lambda *_: 0.5)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node.create(tmp_path / "node", site="H1", purpose=RULES.purpose)
    made.pin(RULES)
    return made


def spend(node: Node, first: int, count: int = 1) -> None:
    """Pay for rounds as a training session does."""
    session = Session.open(node.folder)
    for number in range(first, first + count):
        header = Header("test", RULES.sha256, "run-1", number, 1, "toy", "0" * 64)
        pay(session, header, lambda _, number=number: replace(CHARGE, round=number))
    session.close()


def begin(node: Node, charges: int = 3) -> list[bytes]:
    """A budget and some rounds; gives the ledger's lines."""
    set_budget(node, Budget(3.0, 1e-5, 9), who="Grace", why="a study")
    spend(node, 1, charges)
    return node.ledger().read_bytes().splitlines(keepends=True)


def told(node: Node) -> tuple[object, ...]:
    book = read_book(node.ledger())
    return (*[(change.budget, change.who, change.why) for change in book.changes], *book.charges)


@pytest.mark.parametrize("kept", range(6))
def test_whatever_is_left_of_it_it_is_whole_again(node: Node, kept: int) -> None:
    lines = begin(node)
    before = told(node)
    if kept == 0:
        node.ledger().unlink()
    else:
        node.ledger().write_bytes(b"".join(lines[:kept]))
    if kept == 1:  # a first line alone was never acknowledged: it may be anybody's
        with pytest.raises(RecordError, match="knows no line"):
            rebuild(node, **BY)
        return
    assert rebuild(node, **BY) == min(5 - kept, 4)
    assert told(node) == before
    assert standing(node).book.rows == 5
    assert rebuild(node, **BY) == 0, "nothing is charged twice"
    spend(node, 4)
    assert len(standing(node).book.charges) == 4


def test_it_is_recorded_with_who_and_why(node: Node) -> None:
    begin(node)
    node.ledger().unlink()
    rebuild(node, **BY)
    last = toy.log_rows(node.folder)[-1]
    assert (last["action"], last["outcome"]) == ("privacy.budget", "ok")
    assert {key: last["detail"][key] for key in ("rebuilt", "who", "why", "ledger_rows")} == {"rebuilt": 4, **BY} | {
        "ledger_rows": 5
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(keeps=st.lists(st.integers(0, 9), max_size=4))
def test_lost_again_and_again_nothing_that_was_trained_on_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, keeps: list[int]
) -> None:
    node = Node.create(tmp_path_factory.mktemp("lost") / "node", site="H1", purpose=RULES.purpose)
    node.pin(RULES)
    begin(node, charges=2)
    for number, keep in enumerate(keeps):
        lines = node.ledger().read_bytes().splitlines(keepends=True)
        node.ledger().write_bytes(b"".join(lines[:keep]))
        try:
            rebuild(node, **BY)
        except RecordError as error:
            assert "knows no line" in error.message, error
            node.ledger().unlink()
            rebuild(node, **BY)
        spend(node, 3 + number)
        rounds = [charge.round for charge in standing(node).book.charges]
        assert set(rounds) == set(range(1, 4 + number))


def test_what_was_charged_and_never_acknowledged_is_kept_where_it_is_there(node: Node) -> None:
    begin(node)
    with Ledger(node.ledger()) as ledger:
        ledger.reserve(replace(CHARGE, round=9))
    assert rebuild(node, **BY) == 0
    assert len(read_book(node.ledger()).charges) == 4


def test_an_altered_ledger_is_put_aside_first(node: Node) -> None:
    lines = begin(node)
    node.ledger().write_bytes(b"".join([*lines[:3], lines[4]]))
    with pytest.raises(RecordError, match="line 4 was changed") as altered:
        rebuild(node, **BY)
    assert "put the file aside" in altered.value.hint
    node.ledger().unlink()
    assert rebuild(node, **BY) == 4


def test_another_hospitals_ledger_is_not_built_upon(node: Node, tmp_path: Path) -> None:
    begin(node)
    for site, message in (("H2", "is the ledger of 'H2', not of 'H1'"), ("H1", "knows no line")):
        other = Node.create(tmp_path / f"other {site}", site=site, purpose=RULES.purpose)
        other.pin(RULES)
        begin(other)
        node.ledger().write_bytes(other.ledger().read_bytes())
        with pytest.raises(RecordError, match=message):
            rebuild(node, **BY)


def test_a_log_that_does_not_say_what_was_charged_rebuilds_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(node)
    node.ledger().unlink()
    rows = [row | {"detail": row["detail"] | {"mode": "off"}} for row in toy.log_rows(node.folder)]
    monkeypatch.setattr("client.rebuild.entries", lambda _: iter(rows))
    with pytest.raises(RecordError, match="does not say"):
        rebuild(node, **BY)
    assert read_book(node.ledger()).rows == 0


def test_nobody_and_no_reason_rebuild_nothing_and_a_virtual_hospital_has_nothing_to(node: Node, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        rebuild(node, who="Ada", why=" ")
    virtual = Node.create(tmp_path / "v", site="H1", purpose="x", seed=1)
    with pytest.raises(PolicyError):
        rebuild(virtual, **BY)
    assert rebuild(node, **BY) == 0


def test_the_command_says_what_it_did(node: Node) -> None:
    begin(node)
    node.ledger().unlink()
    words = ["rebuild", str(node.folder), "--who", "Ada", "--why", "the disk was replaced"]
    done = CliRunner().invoke(app, words)
    assert not isinstance(done.exception, FedwardError), done.exception
    assert "4 lines charged or set again from the audit log" in done.output
    assert "of 3 is spent" in done.output
    assert "nothing lacked" in CliRunner().invoke(app, words).output
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["rebuilt"] == 0
