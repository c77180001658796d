"""The adversary as a program: a coordinator with the keys of some hospitals, who really tries to read one update.

It is given the bytes that the coordinator saw and, of the colluding hospitals, identity keys and everything that they
ever held, what they should have forgotten included. It opens every box that it can, joins every secret of which it has
enough shares, opens every vault of which it has the secret, takes off every mask that it knows, and then looks for sums
of uploads in which the masks that it does not know cancel. Success is a vector that is the victim's, exactly in the
ring or by a correlation above 0.1.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from shared.errors import FedwardError
from shared.secagg import field as shamir
from shared.secagg import keys
from shared.secagg.codec import Codec
from shared.secagg.dealing import open_box, open_vault
from shared.secagg.keys import EpochState, Label
from shared.secagg.masks import Ring, apply_masks
from shared.secagg.round_messages import Reveal, RoundTask, Upload
from shared.vector import Vector
from tests.shared.secagg.world import World

SUCCESS = 0.1
B, R = "b", "R"
Pair = tuple[int, int]


@dataclass
class Sum:
    """A sum of uploads without masks: who is in it, and the words."""

    honest: frozenset[int]
    words: Ring


@dataclass
class Attacker:
    """What the adversary has, and what it makes of it; one epoch.

    Attributes:
        world: For public matters: the federation, the transcript, the deals, the boxes.
        colluding: Hospitals whose secrets it has.
    """

    world: World
    colluding: tuple[int, ...] = ()
    states: dict[int, EpochState] = field(default_factory=dict)
    seeds: dict[tuple[int, Pair], bytes] = field(default_factory=dict)
    shares: dict[tuple[int, int, str], dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    uploads: list[tuple[RoundTask, int, Upload]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index in self.colluding:
            state = self.world.ledgers[index].state(self.world.epoch.number)
            if state is not None:
                self.steal(state)

    @property
    def codec(self) -> Codec:
        return Codec.of(self.world.federation)

    def steal(self, state: EpochState) -> None:
        """Everything in a hospital's ledger at some moment."""
        self.states[state.index] = state

    def saw(self, task: RoundTask, uploads: Iterable[bytes]) -> None:
        """Uploads as they came over the link."""
        for raw in uploads:
            one = Upload.read(raw, task, self.codec)
            self.uploads.append((task, one.index, one))

    def got(self, raw: bytes, included: Collection[int]) -> None:
        """A reveal that a hospital gave for an included set."""
        told = Reveal.read(raw, self.world.federation)
        for member, share in zip(told.members, told.shares, strict=True):
            self.shares[told.round, member, B if member in included else R][told.index] = share

    def open_everything(self, number: int) -> None:
        """Boxes, pair seeds and secrets of a round, from all that is held; vaults last, as they need secrets."""
        members = self.world.epoch.members
        for state in self.states.values():
            if state.round > number:
                continue
            here = state.at(number)
            for peer, chain in here.pairs:
                self.seeds[number, self._pair(here.index, peer)] = keys.round_seed(chain)
                box = self.world.epoch.boxes(here.index, [peer], number)[0]
                try:
                    opened = open_box(here, peer, box, "victim")
                except (FedwardError, InvalidTag):
                    continue
                for kind, share in zip((B, R), opened, strict=True):
                    self.shares[number, peer, kind][here.index] = share
            self.secrets_of(here, number)
        for member in members:
            secret = self.secret(number, member, R)
            if secret is not None:
                vault = open_vault(secret, self.world.epoch.dealt(member, number)[0], number, "victim")
                for peer, seed in vault.items():
                    self.seeds[number, self._pair(member, peer)] = seed

    def secrets_of(self, here: EpochState, number: int) -> None:
        """A stolen ledger gives its own b and R at once: as many shares as are needed."""
        t = self.world.federation.threshold
        for kind, secret, label in (
            (B, keys.self_secret(here.own), Label.SELF_POLYNOMIAL),
            (R, keys.vault_secret(here.own), Label.VAULT_POLYNOMIAL),
        ):
            coefficients = keys.polynomial(here.own, label, t)
            self.shares[number, here.index, kind] |= shamir.split(secret, coefficients, self.world.epoch.members)

    def secret(self, number: int, member: int, kind: str) -> bytes | None:
        have = self.shares[number, member, kind]
        threshold = self.world.federation.threshold
        return shamir.combine(have, threshold) if len(have) >= threshold else None

    def strip(self, task: RoundTask, index: int, upload: Upload) -> tuple[Ring, set[Pair]]:
        """The body without every mask that is known, and the pairs whose masks are still on; (i, i) is the own one."""
        words = upload.body.copy()
        add: list[bytes] = []
        subtract: list[bytes] = []
        left: set[Pair] = set()
        b = self.secret(task.round, index, B)
        if b is None:
            left.add((index, index))
        else:
            subtract.append(b)
        for peer in task.participants:
            if peer == index:
                continue
            seed = self.seeds.get((task.round, self._pair(index, peer)))
            if seed is None:
                left.add(self._pair(index, peer))
            else:
                (subtract if peer > index else add).append(seed)
        body = (keys.mask_keys(some, Label.MASK_BODY, upload.context) for some in (add, subtract))
        apply_masks(words, *body)
        return words, left

    def sums(self) -> list[Sum]:
        """Every sum of uploads of one context in which all unknown masks cancel, as small as it gets."""
        found: list[Sum] = []
        for context in {upload.context for _, _, upload in self.uploads}:
            here = [one for one in self.uploads if one[2].context == context]
            by_member = {index: self.strip(*one) for one in here for index in [one[1]]}
            while by_member:
                group, reach = set[int](), {next(iter(by_member))}
                while reach:
                    group |= reach
                    pairs = {end for one in reach for pair in by_member[one][1] for end in pair}
                    reach = (pairs & by_member.keys()) - group
                open_pairs = {pair for one in group for pair in by_member[one][1]}
                if all(i != j and {i, j} <= group for i, j in open_pairs):
                    words = np.zeros_like(next(iter(by_member.values()))[0])
                    for one in group:
                        words += by_member[one][0]
                    found.append(Sum(frozenset(group - set(self.colluding)), words))
                for one in group:
                    del by_member[one]
        return found

    def smallest_sum(self, victim: int) -> int | None:
        """How many honest updates are in the smallest readable sum with the victim's; None if there is no sum."""
        self._open()
        sizes = [len(one.honest) for one in self.sums() if victim in one.honest]
        return min(sizes) if sizes else None

    def guesses(self, victim: int) -> list[Ring]:
        """Everything that could be the victim's update: stripped vectors, lone sums, differences of two uploads."""
        self._open()
        mine = [one for one in self.uploads if one[1] == victim]
        made = [self.strip(*one)[0] for one in mine]
        made += [one[2].body for one in mine]
        made += [one.words for one in self.sums() if one.honest == {victim}]
        made += [a[2].body - b[2].body for a in mine for b in mine if a is not b]
        return made

    def correlation(self, victim: int, truth: Vector) -> float:
        """The best correlation of any guess with the truth; 0 if there was nothing to guess from."""
        return max((abs(correlate(self.decode(one), truth)) for one in self.guesses(victim)), default=0.0)

    def reads(self, victim: int, truth: Vector) -> bool:
        """Whether the attack succeeded."""
        return self.correlation(victim, truth) > SUCCESS

    def decode(self, words: Ring) -> NDArray[np.float64]:
        out = np.zeros(words.size)
        self.codec.average(words, 1, out)
        return out

    def _open(self) -> None:
        for number in sorted({task.round for task, _, _ in self.uploads}):
            self.open_everything(number)

    @staticmethod
    def _pair(one: int, other: int) -> Pair:
        return (min(one, other), max(one, other))


def correlate(guess: NDArray[np.float64], truth: Vector) -> float:
    if guess.std() == 0 or truth.std() == 0:
        return 0.0
    return float(np.corrcoef(guess, truth.astype(np.float64))[0, 1])
