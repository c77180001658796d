"""One phase of a round: ask every site at once, take the answers one at a time, and wait for none beyond the deadline.

Flower's ``send_and_receive`` keeps all answers in memory and names nobody who is missing; this goes through
``push_messages`` and ``pull_messages`` instead. Answers are taken in the order of the sites, not of arrival, so that
sums of floating-point numbers do not depend on who was quick; those that wait meanwhile wait in the grid.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

_SLACK = 60.0  # seconds that a message outlives the phase, so that it never expires before the deadline


@dataclass(frozen=True)
class Arrival:
    """An answer from a site: its content, or None and what the transport says of the failure."""

    site: str
    content: RecordDict | None
    failure: str = ""


class Exchange:
    """The coordinator's line to its sites.

    Args:
        grid: Flower's grid.
        sites: Name of the site behind each node id; who answers is decided by this, never by what an answer says.
        poll: Seconds between two looks for an answer.
        clock, sleep: For tests.
    """

    def __init__(
        self,
        grid: Grid,
        sites: Mapping[int, str],
        *,
        poll: float = 0.01,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._poll, self._clock, self._sleep = grid, poll, clock, sleep
        self._nodes = dict(sorted((site, node) for node, site in sites.items()))

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites by name, the order in which their answers are taken."""
        return tuple(self._nodes)

    def ask(self, contents: Mapping[str, RecordDict], kind: str, deadline: float) -> Iterator[Arrival]:
        """Send each site its content and yield what comes back; who is not yielded did not answer in time.

        A site may be yielded more than once if more than one answer comes: the caller counts the first.

        Args:
            contents: The request to each site; not changed, so that sites may share one.
            kind: Flower's message type, for example ``train``.
            deadline: Seconds to wait, for all of them together.
        """
        end = self._clock() + deadline
        messages = [
            Message(content, dst_node_id=self._nodes[site], message_type=kind, ttl=deadline + _SLACK)
            for site, content in contents.items()
        ]
        ids = [str(one) for one in self._grid.push_messages(messages)]
        for site, message_id in zip(contents, ids, strict=False):
            yield from self._wait(site, message_id, end)

    def _wait(self, site: str, message_id: str, end: float) -> Iterator[Arrival]:
        """Whatever came for one message, at the latest at ``end``; nothing if the grid did not take the message."""
        while message_id:
            late = self._clock() >= end
            found = [self._arrival(site, message_id, reply) for reply in self._grid.pull_messages([message_id])]
            if found or late:
                yield from found
                return
            self._sleep(min(self._poll, max(0.0, end - self._clock())))

    def _arrival(self, site: str, message_id: str, reply: Message) -> Arrival:
        if reply.metadata.reply_to_message_id != message_id:
            return Arrival(site, None, "an answer to another message")
        if reply.has_error():  # made by the transport, not by the site: its sender is the SuperLink
            return Arrival(site, None, f"no answer (Flower error {reply.error.code})")
        if reply.metadata.src_node_id != self._nodes[site]:
            return Arrival(site, None, "an answer from another node")
        return Arrival(site, reply.content)
