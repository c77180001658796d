"""The coordinator's line: who is asked, who is waited for, for how long, and what is said of the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from flwr.app import Error, Message, RecordDict

from server.app import site_names
from server.exchange import PATIENCE, AbsentError, Exchange, LinkError
from shared.errors import ProtocolError
from shared.header import Header
from shared.wire import EvaluateReply as Reply
from shared.wire import PlainSums, Refusal
from tests.federation.scripted import ScriptedGrid

GONE = 5  # NODE_UNAVAILABLE of Flower, which a SuperLink answers for a node that it has not heard of for a minute
HEADER = Header("test", "0" * 64, "r", 1, 1, "toy", "0" * 64)
QUESTION = RecordDict()


def answer(site: str) -> RecordDict:
    return Reply(HEADER, site, PlainSums({})).to_record()


def refusal(site: str) -> RecordDict:
    return Refusal(site, "masks", "used up", HEADER).to_record()


@dataclass
class Clock:
    """A clock that moves when somebody sleeps."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.5)


@dataclass
class Site:
    """A hospital by the clock: when it is connected, and what comes how long after a question.

    Attributes:
        there: Whether it is connected at a time.
        answers: What comes of its first question, its second, and so on: after how many seconds, and what.
        asked: When it was asked.
    """

    there: Callable[[float], bool] = lambda _: True
    answers: Sequence[tuple[float, RecordDict | Error]] = ()
    registered: bool = True
    asked: list[float] = field(default_factory=list)


class TimedGrid(ScriptedGrid):
    """Sites H1, H2 and so on at nodes 101, 102 and so on."""

    def __init__(self, sites: Sequence[Site], clock: Clock) -> None:
        super().__init__([lambda _, __: []] * len(sites))
        self._sites, self._clock = dict(enumerate(sites, start=101)), clock
        self._due: dict[str, tuple[float, Message]] = {}

    @property
    def names(self) -> dict[int, str]:
        return {node: f"H{node - 100}" for node, site in self._sites.items() if site.there(self._clock.now)}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            site = self._sites[message.metadata.dst_node_id]
            number = str(next(iter(super().push_messages([message]))))
            ids.append(number if site.registered else "")
            if len(site.asked) < len(site.answers):
                after, content = site.answers[len(site.asked)]
                self._due[number] = self._clock.now + after, Message(content, reply_to=message)
            site.asked.append(self._clock.now)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [number for number in message_ids if self._due.get(number, (1e9,))[0] <= self._clock.now]
        return [self._due.pop(number)[1] for number in ready]


def gather(sites: Sequence[Site], *, enough: int, deadline: float = 600.0) -> tuple[dict[str, str], float]:
    """What came from each site, ``answer`` or why not, and how long that took."""
    clock = Clock()
    grid = TimedGrid(sites, clock)
    exchange = Exchange(grid, lambda: grid.names, poll=0.5, clock=clock, sleep=clock.sleep)
    contents = {f"H{number}": QUESTION for number in range(1, len(sites) + 1)}
    found = list(exchange.gather(contents, "train", deadline, enough=enough))
    return {one.site: one.failure if one.content is None else "answer" for one in found}, clock.now


def prompt(number: int, after: float = 1.0) -> Site:
    return Site(answers=[(after, answer(f"H{number}"))])


def test_answers_are_taken_as_they_come() -> None:
    found, seconds = gather([prompt(1, 9.0), prompt(2, 2.0), prompt(3, 5.0)], enough=3)
    assert list(found) == ["H2", "H3", "H1"]
    assert seconds < 10


def test_a_hospital_that_was_killed_and_comes_back_is_asked_again_while_it_is_needed() -> None:
    back = Site(lambda now: not 55 < now < 120, [(60.0, Error(GONE, "gone")), (5.0, answer("H3"))])
    found, seconds = gather([prompt(1), prompt(2), back], enough=3)
    assert found == {"H1": "answer", "H2": "answer", "H3": "answer"}
    assert len(back.asked) == 2
    assert 120 <= seconds < 130


def test_one_that_is_needed_and_stays_away_costs_the_deadline() -> None:
    gone = Site(lambda now: now < 55, [(60.0, Error(GONE, "gone"))])
    found, seconds = gather([prompt(1), prompt(2), gone], enough=3)
    assert found["H3"] == f"no answer (Flower error {GONE})"
    assert 600 <= seconds < 602


@pytest.mark.parametrize("dies_at", [0.0, 55.0])
def test_one_that_is_not_needed_is_waited_for_as_long_as_it_takes_to_connect_again(dies_at: float) -> None:
    gone = Site(lambda now: now < dies_at, [(60.0, Error(GONE, "gone"))])
    found, seconds = gather([prompt(1), prompt(2), gone], enough=2)
    assert found.keys() == {"H1", "H2", "H3"}
    assert PATIENCE <= seconds < PATIENCE + 2


def test_one_that_connects_late_is_still_asked() -> None:
    late = Site(lambda now: now > 40, [(5.0, answer("H3"))])
    found, seconds = gather([prompt(1), prompt(2), late], enough=2)
    assert found["H3"] == "answer"
    assert late.asked[0] > 40
    assert seconds < 50


def test_a_refusal_is_not_one_of_the_answers_that_are_needed() -> None:
    late = Site(lambda now: now > 200, [(5.0, answer("H3"))])
    declines = Site(answers=[(1.0, refusal("H2"))])
    found, _ = gather([prompt(1), declines, late], enough=2)
    assert found["H3"] == "answer"


def test_an_error_of_a_node_that_is_there_is_an_answer() -> None:
    broken = Site(answers=[(3.0, Error(2, "it raised")), (1.0, answer("H3"))])
    found, seconds = gather([prompt(1), prompt(2), broken], enough=3)
    assert found["H3"] == "no answer (Flower error 2)"
    assert len(broken.asked) == 1
    assert seconds < 5


def test_a_silent_one_costs_the_deadline_and_is_not_among_those_that_came() -> None:
    found, seconds = gather([prompt(1), prompt(2), Site()], enough=2, deadline=30.0)
    assert found.keys() == {"H1", "H2"}
    assert 30 <= seconds < 32


def test_a_node_that_is_not_registered_any_more_is_told_at_once() -> None:
    found, seconds = gather([prompt(1), Site(registered=False)], enough=2)
    assert found["H2"] == "its node is not registered any more"
    assert seconds < 5


def test_a_link_that_takes_only_some_of_the_questions_is_an_error() -> None:
    class Full(TimedGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return []  # as Flower's HttpGrid where a request is too large

    grid = Full([prompt(1)], Clock())
    with pytest.raises(LinkError, match="the link took 0 of 1 questions"):
        list(Exchange(grid, lambda: grid.names).gather({"H1": QUESTION}, "train", 1.0))


def test_waiting_ends_when_enough_are_there_and_else_names_those_who_are_not() -> None:
    clock = Clock()
    grid = TimedGrid([Site(), Site(lambda now: now > 70), Site(lambda _: False)], clock)
    exchange = Exchange(grid, lambda: grid.names, poll=0.5, clock=clock, sleep=clock.sleep)
    assert exchange.wait(["H1", "H2", "H3"], 2, 600.0) == ("H1", "H2")
    assert 70 < clock.now < 72
    with pytest.raises(AbsentError, match=r"2 of the 3 that are needed; not connected: H3 \(bring"):
        exchange.wait(["H1", "H2", "H3"], 3, 600.0)
    assert 670 < clock.now < 673


def test_whoever_is_no_member_is_no_site_and_may_have_any_name() -> None:
    class Named(ScriptedGrid):
        @property
        def names(self) -> dict[int, str]:
            return {101: "H1", 102: "", 103: "X9", 104: "X9", 105: "H2"}

    grid = Named([])
    assert site_names(grid, {"H1", "H2", "H3"}) == {101: "H1", 105: "H2"}


@pytest.mark.parametrize("fails", ["get_nodes", "push_messages", "pull_messages"])
def test_a_link_that_does_not_work_is_nobodys_failure(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> list[object]:
        raise ProtocolError("the link is down", hint="resume the run")

    grid = TimedGrid([prompt(1)], Clock())
    monkeypatch.setattr(grid, fails, down)
    with pytest.raises(LinkError, match=r"the link is down \(resume the run"):
        list(Exchange(grid, lambda: site_names(grid)).gather({"H1": QUESTION}, "train", 1.0))
