"""A masked federation of toy hospitals on this machine, whose messages can be lost or changed on their way."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from client.app import close_sessions
from client.node import Node
from compliance.log import AuditLog
from server.exchange import Exchange
from server.strategy import FederatedTraining, Result
from shared.charter import Charter, PrivacyPlan
from shared.imaging.tasks import get_task
from shared.vector import Layout
from shared.weights import weights_of
from simulation.federation import masked
from simulation.local_grid import LocalGrid
from tests.federation import toy

# Says of a message to a site, by its type and how many of that type came before, whether it is lost.
Lose = Callable[[str, str, int], bool]
# What becomes of an answer of a site.
Change = Callable[[str, str, RecordDict], RecordDict]


def nothing(*_: object) -> bool:
    return False


@dataclass
class Wire:
    """What happens on the way, and what was seen there."""

    lose: Lose = nothing
    change: Change | None = None
    absent: AbstractSet[str] = frozenset()
    forgetful: bool = False
    seen: list[tuple[str, str, RecordDict, RecordDict]] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)


class Line(LocalGrid):
    """A grid with losses; where the wire is ``forgetful``, every message meets a hospital that has just started."""

    def __init__(self, nodes: Mapping[int, Mapping[str, str]], wire: Wire) -> None:
        super().__init__(toy.APP, nodes, on_close=close_sessions)
        self._wire, self._sent = wire, dict[str, tuple[str, str, RecordDict]]()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            site, kind = self._nodes[message.metadata.dst_node_id]["site"], message.metadata.message_type
            before = self._wire.counts.get((site, kind), 0)
            self._wire.counts[site, kind] = before + 1
            lost = self._wire.lose(site, kind, before)
            if self._wire.forgetful:
                close_sessions()
            number = next(iter(super().push_messages([message])))
            if lost:  # the hospital did its part, and nobody hears of it
                list(super().send_and_receive([], timeout=0))
                with self._arrived:
                    self._arrived.wait_for(lambda number=number: number in self._replies)
                    self._replies[number] = Message(Error(ErrorCode.NODE_UNAVAILABLE, "lost"), reply_to=message)
            elif self._wire.forgetful:
                with self._arrived:
                    self._arrived.wait_for(lambda number=number: number in self._replies)
            self._sent[number] = (site, kind, message.content)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            site, kind, asked = self._sent[reply.metadata.reply_to_message_id]
            if reply.has_content():
                if self._wire.change:
                    reply.content = self._wire.change(site, kind, reply.content)
                self._wire.seen.append((site, kind, asked, reply.content))
        return replies


@dataclass(frozen=True)
class Federation:
    """Hospitals H1, H2, ... below ``root``, and the charter that they have pinned."""

    root: Path
    charter: Charter
    nodes: dict[int, dict[str, str]]

    @classmethod
    def make(
        cls, root: Path, sites: int = 4, *, masks: Mapping[str, Any] | None = None, **changes: Any
    ) -> "Federation":
        privacy = PrivacyPlan(**changes.pop("privacy", {}))
        rules = toy.charter(**changes)
        nodes = toy.make_nodes(root, rules, sites)
        agreed = masked(rules, {config["site"]: Path(config["node-dir"]) for config in nodes.values()})
        assert agreed.masking is not None
        agreed = replace(agreed, masking=replace(agreed.masking, **(masks or {})), privacy=privacy)
        made = cls(root, agreed, nodes)
        for site in made.sites:
            made.node(site).pin(agreed)
        return made

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(config["site"] for config in self.nodes.values())

    def node(self, site: str) -> Node:
        return Node.open(self.root / site)

    def run(self, wire: Wire | None = None, charter: Charter | None = None, *, run: str = "r") -> Result:
        """All rounds of the charter, with the real ClientApp and the real strategy."""
        task = self.charter.tasks[0].name
        state = weights_of(get_task(task).network(self.charter.seed))
        layout = Layout.of(state)
        log = AuditLog(self.root / "coordinator.jsonl", site="coordinator", purpose=toy.PURPOSE, subject_key=b"")
        with log, Line(self.nodes, wire or Wire()) as grid:
            training = FederatedTraining(charter or self.charter, task, run=run, layout=layout, log=log)
            away = wire.absent if wire else frozenset()
            sites = {number: config["site"] for number, config in self.nodes.items()}

            def names() -> dict[int, str]:
                return {number: site for number, site in sites.items() if site not in away}

            try:
                return training.start(Exchange(grid, names, poll=0.001), layout.flatten(state))
            finally:
                object.__setattr__(self, "history", training.history)
