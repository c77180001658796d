"""One phase of a round: ask every site at once, take the answers one at a time, and wait for none beyond the deadline.

Flower's ``send_and_receive`` keeps all answers in memory and names nobody who is missing; this goes through
``push_messages`` and ``pull_messages`` instead. Who is connected is looked up again for every phase: a site that was
away and is back is asked again.

A SuperLink answers for a node that is gone with an error, half a minute after its last sign of life (it gives one every
5 s or so and promises one every 15 s, and the SuperLink has patience for two); for a node that is registered and away a
question gets that error at once; for one that is not registered any more the id of the question is empty.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from shared.errors import ProtocolError
from shared.wire import Refusal, kind_of

_SLACK = 60.0  # seconds that a message outlives the phase, so that it never expires before the deadline
REPEATS = 2
"""How often a site whose work on a question was lost is asked it again; each time it may have to train and pay anew."""
PATIENCE = 90.0
"""Seconds for a site to connect again: a node that lost its coordinator tries again within a minute."""

Sending = Callable[[Sequence[str]], None]
"""Is told of the sites to which a question is about to go; what it raises keeps the question here."""
Names = Callable[[], Mapping[int, str]]
"""Gives the site behind each node that is connected, by the node's id."""


def nobody(_: Sequence[str]) -> None:
    """A :data:`Sending` that does nothing."""


@dataclass(frozen=True)
class Arrival:
    """An answer from a site.

    Attributes:
        site: Who answers, by the registered name of its node.
        content: What it says, or None.
        failure: What the transport says where there is no content.
        kept: Whether it came to an earlier process, and from a journal to this one.
    """

    site: str
    content: RecordDict | None
    failure: str = ""
    kept: bool = False


class LinkError(ProtocolError):
    """The link itself does not work: no site is at fault, nothing is repeated, and the run has to be resumed."""


class AbsentError(LinkError):
    """Too few sites are connected; the message names those that are not."""


Once = TypeVar("Once", int, str)


class Line(Protocol):
    """The coordinator's line to its sites, and all else that its run depends on from outside."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that are connected, by name, the order in which their answers are taken."""

    def wait(self, wanted: Collection[str], count: int, deadline: float) -> tuple[str, ...]:
        """Those of ``wanted`` that are connected, once there are ``count`` of them.

        Raises:
            AbsentError: There are fewer after ``deadline`` seconds.
            LinkError: The link does not work.
        """

    def ask(
        self, contents: Mapping[str, RecordDict], kind: str, deadline: float, *, enough: int = 0, sending: Sending
    ) -> Iterator[Arrival]:
        """Send each site its content and yield what comes back; who is not yielded did not answer in time.

        Args:
            contents: The request to each site; not changed, so that sites may share one.
            kind: Flower's message type, for example ``train``.
            deadline: Seconds to wait, for all of them together.
            enough: Where so many have answered, a site that has gone away is not waited for any longer.
            sending: Called before a question leaves.

        Raises:
            LinkError: The link does not work.
        """

    def once(self, name: str, make: Callable[[], Once]) -> Once:
        """Something from outside, such as a time: what ``make`` gave when the run came here first."""

    def go_on(self) -> bool:
        """Whether to begin again where a run has ended in an error: only where it has been resumed since."""


@dataclass(frozen=True)
class _Question:
    contents: Mapping[str, RecordDict]
    kind: str
    deadline: float
    sending: Sending

    def message(self, site: str, node: int) -> Message:
        return Message(self.contents[site], dst_node_id=node, message_type=self.kind, ttl=self.deadline + _SLACK)


class Exchange:
    """The line itself; nothing of it outlives the process.

    Args:
        grid: Flower's grid.
        names: Gives the site behind each node; who answers is decided by this, never by what an answer says.
        poll: Seconds between two looks for an answer.
        patience: Seconds for a site that is away to come back, where enough others have answered (:meth:`gather`).
        clock, sleep: For tests.
    """

    def __init__(
        self,
        grid: Grid,
        names: Names,
        *,
        poll: float = 0.01,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._names, self._poll, self._patience = grid, names, poll, patience
        self._clock, self._sleep = clock, sleep

    @property
    def sites(self) -> tuple[str, ...]:
        """See :class:`Line`."""
        return tuple(self._nodes())

    def wait(self, wanted: Collection[str], count: int, deadline: float) -> tuple[str, ...]:
        """See :class:`Line`."""
        end = self._clock() + deadline
        while True:
            late = len(wanted) < count or self._clock() >= end
            there = tuple(site for site in self._nodes() if site in wanted)
            if len(there) >= count:
                return there
            if late:
                away = ", ".join(sorted(set(wanted) - set(there))) or "nobody else"
                raise AbsentError(
                    f"connected sites: {len(there)} of the {count} that are needed; not connected: {away}",
                    hint="bring these sites back and resume the run; 'fedward node status' there says what is wrong",
                )
            self._sleep(min(self._poll, max(0.0, end - self._clock())))

    def ask(
        self,
        contents: Mapping[str, RecordDict],
        kind: str,
        deadline: float,
        *,
        enough: int = 0,
        sending: Sending = nobody,
    ) -> Iterator[Arrival]:
        """See :class:`Line`; nobody is asked twice, so ``enough`` is of no interest.

        Answers come in the order of ``contents``, so that sums of floating-point numbers do not depend on who was
        quick; those that wait meanwhile wait in the grid. A site may be yielded more than once if more than one answer
        comes: the caller counts the first.
        """
        end = self._clock() + deadline
        nodes = self._nodes()
        question = _Question(contents, kind, deadline, sending)
        ids = self._push(question, tuple(site for site in contents if site in nodes), nodes)
        for site in contents:
            if not ids.get(site):
                yield Arrival(site, None, "its node is not connected")
                continue
            while not (found := self._look(site, ids[site], nodes[site])) and self._clock() < end:
                self._sleep(min(self._poll, max(0.0, end - self._clock())))
            yield from found

    def gather(
        self,
        contents: Mapping[str, RecordDict],
        kind: str,
        deadline: float,
        *,
        enough: int = 0,
        sending: Sending = nobody,
    ) -> Iterator[Arrival]:
        """As :meth:`ask`, but in the order of arrival, and with patience for those who have gone away.

        A site that is not connected, or whose node went away with the question, is asked as soon as it is there again.
        It is waited for until the deadline while fewer than ``enough`` have answered, and else for ``patience`` seconds
        from the beginning. Every question of ours may be asked again: what a hospital must not do twice it refuses.

        So is a site that says that its work on the question was lost, at once and :data:`REPEATS` times; after that, or
        where it does not come back any more, its refusal is its answer.
        """
        began, question = self._clock(), _Question(contents, kind, deadline, sending)
        away = dict.fromkeys(contents, "its node is not connected")
        waiting: dict[str, tuple[str, int]] = {}
        lost: dict[str, list[Arrival]] = {}
        answered = 0
        while True:
            looked, again = self._clock(), False
            nodes = self._nodes() if away else {}
            back = tuple(site for site in away if site in nodes)
            for site, number in self._push(question, back, nodes).items():
                del away[site]
                if number:
                    waiting[site] = number, nodes[site]
                else:
                    yield Arrival(site, None, "its node is not registered any more")
            for site, (number, node) in list(waiting.items()):
                for arrival in self._look(site, number, node)[:1]:
                    del waiting[site]
                    if arrival.content is None and site not in self._nodes():
                        away[site] = arrival.failure
                    elif is_lost(arrival.content) and len(lost.setdefault(site, [])) < REPEATS:
                        lost[site].append(arrival)
                        away[site], again = "its work was lost", True
                    else:
                        answered += arrival.content is not None and usable(arrival.content)
                        yield arrival
            now = self._clock()
            given_up = answered >= enough and now >= began + self._patience
            if (not (waiting or again) and (not away or given_up)) or now >= began + deadline:
                break
            # Not more than half of the time is spent with looking.
            self._sleep(min(max(self._poll, now - looked), max(0.0, began + deadline - now)))
        for site, failure in away.items():
            yield lost[site][-1] if lost.get(site) else Arrival(site, None, failure)

    def once(self, name: str, make: Callable[[], Once]) -> Once:
        """See :class:`Line`; there was nobody here before."""
        return make()

    def go_on(self) -> bool:
        """See :class:`Line`."""
        return False

    def _nodes(self) -> dict[str, int]:
        with _link():
            return dict(sorted((site, node) for node, site in self._names().items()))

    def _push(self, question: _Question, sites: Sequence[str], nodes: Mapping[str, int]) -> dict[str, str]:
        """Send ``sites`` their questions; gives the id of each, empty where the grid did not take it."""
        if not sites:
            return {}
        question.sending(sites)
        messages = [question.message(site, nodes[site]) for site in sites]
        with _link():
            ids = list(self._grid.push_messages(messages))
        if len(ids) != len(messages):
            raise LinkError(
                f"the link took {len(ids)} of {len(messages)} questions",
                hint="look at the log of the coordinator's link",
            )
        return {site: number or "" for site, number in zip(sites, ids, strict=True)}

    def _look(self, site: str, message_id: str, node: int) -> list[Arrival]:
        """Whatever has come for one message; one at a time, so that one answer is in memory."""
        with _link():
            replies = list(self._grid.pull_messages([message_id]))
        return [self._arrival(site, message_id, node, reply) for reply in replies]

    def _arrival(self, site: str, message_id: str, node: int, reply: Message) -> Arrival:
        if reply.metadata.reply_to_message_id != message_id:
            return Arrival(site, None, "an answer to another message")
        if reply.has_error():  # made by the transport, not by the site: its sender is the SuperLink
            return Arrival(site, None, f"no answer (Flower error {reply.error.code})")
        if reply.metadata.src_node_id != node:
            return Arrival(site, None, "an answer from another node")
        return Arrival(site, reply.content)


@contextlib.contextmanager
def _link() -> Iterator[None]:
    """What the grid itself cannot do."""
    try:
        yield
    except ProtocolError as error:
        raise LinkError(error.message, hint=error.hint) from error


def is_lost(content: RecordDict | None) -> bool:
    """Whether a site says that what came of its work on a question is lost, so that it may be asked again."""
    try:
        return content is not None and Refusal.from_record(content).code == "lost"
    except ProtocolError:
        return False


def usable(content: RecordDict) -> bool:
    """Whether an answer is likely to be taken: it is no refusal."""
    try:
        return kind_of(content) != Refusal.kind
    except ProtocolError:
        return False
