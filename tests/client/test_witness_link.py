"""The audit exchange at a hospital goes on where its node is joining, and ends nothing where it cannot work."""

import threading
from collections.abc import Callable

import pytest

from client import witness_link
from client.link_cli import children
from client.link_trouble import MovedError
from compliance.turning import Turning, persist
from shared.errors import PolicyError, ProtocolError, UsageError
from tests.client.test_link_place import OTHERS, Joined, joined
from tests.federation.links import until

__all__ = ["joined"]  # a fixture


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What it says; it makes haste meanwhile."""
    lines: list[str] = []
    monkeypatch.setattr(witness_link, "EVERY", 0.02)
    monkeypatch.setattr(witness_link, "LONGEST", 0.05)
    monkeypatch.setattr(witness_link, "complain", lambda message, _hint="": lines.append(message))
    return lines


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list as long as turns were taken."""
    found: list[int] = []

    def turn(_self: object) -> bool:
        found.append(1)
        return True

    monkeypatch.setattr(Turning, "turn", turn)
    return found


def in_a_thread(work: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    met: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except (PolicyError, ProtocolError, UsageError) as error:
            met.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, met


def test_a_node_that_is_joining_is_waited_for(joined: Joined, said: list[str], turns: list[int]) -> None:
    stop = threading.Event()
    thread, met = in_a_thread(lambda: witness_link.run(joined.node.folder, stop))
    try:
        until(lambda: turns, 20)
        joined.trust(OTHERS)  # the first file of three
        until(lambda: said, 20)
        before = len(turns)
        assert not stop.wait(0.2)
        assert thread.is_alive()
        assert (len(said), len(turns) - before <= 1) == (1, True), "said once, and no turn is taken meanwhile"
        joined.certify(OTHERS)
        joined.pin(OTHERS)
        thread.join(20)
    finally:
        stop.set()
        thread.join(20)
    assert [type(one) for one in met] == [MovedError]


def test_what_cannot_work_says_so_once_and_is_tried_again() -> None:
    stop, said, runs = threading.Event(), list[str](), list[int]()

    def run() -> None:
        runs.append(1)
        if len(runs) == 6:
            stop.set()
            return
        raise (PolicyError if len(runs) < 4 else UsageError)(f"trouble {len(runs) >= 4}", hint="mend it")

    persist(run, stop, said.append, first=0.01, longest=0.02)
    assert len(runs) == 6
    assert said == ["trouble False (mend it)", "trouble True (mend it)"]


def test_training_does_not_end_with_what_takes_turns_of_witnesses(joined: Joined) -> None:
    assert [(one.name, one.vital) for one in children(joined.node)] == [("link", True), ("witness", False)]
