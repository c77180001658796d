"""Malicious coordinators as programs: they ask honest hospitals for anything, and colluders sign what they want."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from shared.errors import FedwardError
from shared.secagg.round_messages import RoundTask
from shared.vector import Vector
from tests.attacks.secagg.arena import REFUSALS, ask_confirm, ask_unmask, forge_confirmation, send_all
from tests.attacks.secagg.attacker import Attacker
from tests.shared.secagg.world import World

Set = tuple[int, ...]


@dataclass
class Liar:
    """A coordinator with colluding hospitals, in one round in which all masked vectors came.

    Attributes:
        world: The hospitals.
        task: The round.
        attacker: What it has learnt.
        refusals: What honest hospitals said no to, by the name of the error.
    """

    world: World
    task: RoundTask
    attacker: Attacker
    refusals: list[str] = field(default_factory=list)
    confirmed: dict[Set, dict[int, bytes]] = field(default_factory=dict)

    @classmethod
    def at(cls, world: World, task: RoundTask, updates: Mapping[int, Vector], colluding: Collection[int]) -> "Liar":
        attacker = Attacker(world, tuple(colluding))
        attacker.saw(task, send_all(world, task, updates).values())
        return cls(world, task, attacker)

    @property
    def honest(self) -> Set:
        return tuple(one for one in self.task.participants if one not in self.attacker.colluding)

    def confirm(self, included: Set, whom: Collection[int]) -> None:
        """Ask ``whom`` for a set; the colluders sign every set."""
        signed = self.confirmed.setdefault(included, {})
        for index in self.attacker.colluding:
            if index in included:
                signed[index] = forge_confirmation(self.world, self.task, index, included)
        for index in whom:
            try:
                signed[index] = ask_confirm(self.world, self.task, index, included)
            except REFUSALS as error:
                self._refused(error)

    def unmask(self, included: Set, confirmations: Mapping[int, bytes] | None = None) -> None:
        """Ask every honest hospital for its shares of a set, whatever was signed."""
        have = self.confirmed.get(included, {}) if confirmations is None else confirmations
        for index in self.honest:
            try:
                self.attacker.got(ask_unmask(self.world, self.task, index, included, have), included)
            except REFUSALS as error:
                self._refused(error)

    def tell(self, stories: Mapping[int, Set]) -> None:
        """Tell each hospital its own included set, and ask everyone for every set that was told."""
        for included in set(stories.values()):
            self.confirm(included, [index for index, told in stories.items() if told == included])
        for included in set(stories.values()):
            self.unmask(included)

    def _refused(self, error: FedwardError) -> None:
        self.refusals.append(type(error).__name__)
