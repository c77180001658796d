"""The runs that a link has met: what the coordinator says of each, and why this hospital takes no part in it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from client.flower_node import Fleet, Run
from client.link_place import Post, version
from client.link_trouble import MovedError
from client.link_work import POLICY, question
from client.node import Node
from client.policy_file import FILE
from client.run_check import check_run
from client.worker import Worker
from shared.errors import FedwardError
from shared.wire import RefusalCode

_RUNS: Final = 16


@dataclass(frozen=True)
class Objection:
    """Why this hospital takes no part in a run.

    Attributes:
        code: ``policy``: it decided so, and need not be asked again in this run. ``error``: it cannot decide now.
        reason: In one line for the coordinator.
    """

    code: RefusalCode
    reason: str


class Runs:
    """The runs.

    Args:
        node: The hospital's node.
        fleet: The coordinator.
        post: Where the link stands.
        worker: Asked what the hospital's policy says.
        expected: The app bundle of the release that is installed here.
        say: Told in one line of what keeps this hospital from deciding.
    """

    def __init__(
        self, node: Node, fleet: Fleet, post: Post, worker: Worker, *, expected: bytes, say: Callable[[str], None]
    ) -> None:
        self._node, self._fleet, self._post, self._worker = node, fleet, post, worker
        self._expected, self._say = expected, say
        self._known: OrderedDict[int, Run] = OrderedDict()
        self._policy: tuple[object, str] | None = None

    def get(self, run_id: int) -> Run:
        """What the coordinator says of a run, asked once.

        Raises:
            RunOverError: It has ended, or is not for this node.
            GarbledError: What it says is none.
        """
        if run_id not in self._known:
            while len(self._known) >= _RUNS:
                self._known.popitem(last=False)
            self._known[run_id] = self._fleet.run(run_id)
        return self._known[run_id]

    def objection(self, run: Run) -> Objection | None:
        """Why this hospital takes no part in a run, by what is pinned and allowed here at this moment.

        Raises:
            MovedError: It belongs to another coordinator by now.
        """
        try:
            self._post.hold()
            charter = self._node.charter
            reason = check_run(run.fab, run.task_type, run.config, charter, self._expected) or self._policy_says()
        except MovedError:
            raise
        except FedwardError as error:
            self._say(str(error))
            return Objection("error", f"this hospital cannot say what it allows: {type(error).__name__}")
        return Objection("policy", reason) if reason else None

    def _policy_says(self) -> str:
        """Why its policy allows no run of the pinned charter, or nothing; asked anew where either has changed."""
        folder = self._node.folder
        given = (self._node.pinned, version(folder / FILE), folder.stat().st_mode)
        if self._policy is None or self._policy[0] != given:
            (line,) = self._worker.answer(question(POLICY, folder))
            self._policy = (given, line.decode())
        return self._policy[1]
