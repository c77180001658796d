"""The coordinator's book of one epoch: adverts, key encapsulations and deals, checked as they come.

Everything in it may be public. A coordinator that was restarted builds the book again from the same messages.
"""

from collections.abc import Iterable

from shared.errors import ProtocolError
from shared.secagg.federation import Federation
from shared.secagg.setup_messages import Advert, Deal, DealtRound, KemOffer, ShareRequest, transcript


class Epoch:
    """One epoch at the coordinator.

    Args:
        federation: From the charter, as at the hospitals.
        number: Higher than every epoch before.

    Every method that takes a message raises :class:`ProtocolError` where it is malformed, forged or of another epoch;
    nothing of it is kept then.
    """

    def __init__(self, federation: Federation, number: int) -> None:
        self.federation, self.number = federation, number
        self._adverts: dict[int, tuple[Advert, bytes]] = {}
        self._offers: dict[int, KemOffer] = {}
        self._deals: dict[int, list[Deal]] = {}
        self._closed = False
        self._transcript: bytes | None = None

    @property
    def members(self) -> tuple[int, ...]:
        """Who advertised, ascending; fixed by the first call of :meth:`adverts`."""
        return tuple(sorted(self._adverts))

    @property
    def transcript(self) -> bytes:
        """T, 32 bytes, of those who have advertised so far; kept once nobody can join."""
        if self._transcript is not None:
            return self._transcript
        made = transcript(self.federation, self.number, (advert for advert, _ in self._adverts.values()))
        if self._closed:
            self._transcript = made
        return made

    def advert(self, raw: bytes) -> int:
        """Take an advert; gives its sender's index."""
        read = Advert.read(raw, self.federation)
        name = self.federation.peer(read.index).name
        if read.epoch != self.number or self._closed:
            raise ProtocolError(
                f"the advert of {name} is late or of another epoch", hint="it can join when the next epoch begins"
            )
        known = self._adverts.get(read.index)
        if known is not None and known[0] != read:
            raise ProtocolError(
                f"{name} advertises two keys in epoch {self.number}", hint="its ledger was lost: begin a new epoch"
            )
        if any(read.exchange == other.exchange for other, _ in self._adverts.values() if other.index != read.index):
            raise ProtocolError(f"{name} advertises another hospital's key", hint="leave it out and ask it why")
        self._adverts[read.index] = read, raw
        return read.index

    def adverts(self) -> tuple[bytes, ...]:
        """All adverts, for ``query.secagg_kem``; nobody can join this epoch afterwards.

        Raises:
            ProtocolError: Fewer hospitals than the quorum.
        """
        if len(self._adverts) < self.federation.quorum:
            raise ProtocolError(
                f"{len(self._adverts)} hospitals are there, fewer than {self.federation.quorum}",
                hint="wait for more, or begin again later",
            )
        self._closed = True
        return tuple(self._adverts[index][1] for index in self.members)

    def kem(self, raw: bytes) -> int:
        """Take a key encapsulation; gives its sender's index."""
        offer = KemOffer.read(raw, self.federation)
        name = self.federation.peer(offer.index).name
        if offer.transcript != self.transcript or offer.peers != tuple(m for m in self.members if m > offer.index):
            raise ProtocolError(f"the key encapsulation of {name} is of another epoch", hint="begin a new epoch")
        if not all(offer.ciphertexts) or self._offers.get(offer.index, offer) != offer:
            raise ProtocolError(f"{name} sends two key encapsulations, or half of one", hint="begin a new epoch")
        self._offers[offer.index] = offer
        return offer.index

    def share_request(self, index: int, first: int, count: int) -> bytes:
        """``query.secagg_share`` for member ``index``: deal rounds [first, first + count).

        Raises:
            ProtocolError: With ML-KEM, a member has sent no key encapsulation: the epoch must begin again without it.
        """
        kems: tuple[bytes, ...] = ()
        if self.federation.post_quantum:
            missing = [member for member in self.members if member not in self._offers]
            if missing:
                raise ProtocolError(
                    f"{self.federation.peer(missing[0]).name} has sent no key encapsulation",
                    hint="begin a new epoch without it",
                )
            kems = tuple(self._offers[member].to_bytes(index) for member in self.members if member <= index)
        return ShareRequest(self.number, first, count, self.adverts(), kems).to_bytes()

    def deal(self, raw: bytes) -> int:
        """Take the deal of a hospital; gives its index.

        Two hospitals that deal for one round sign the hashes of the seed that they share, so that a wrong key is found
        here and not in a sum that does not come out.
        """
        deal = Deal.read(raw, self.federation)
        name = self.federation.peer(deal.index).name
        if deal.transcript != self.transcript or deal.members != self.members:
            raise ProtocolError(f"the shares of {name} are of another epoch", hint="begin a new epoch")
        for known in self._deals.get(deal.index, ()):
            if known == deal:
                return deal.index
            if known.first < deal.first + len(deal.rounds) and deal.first < known.first + len(known.rounds):
                raise ProtocolError(f"{name} deals one round twice", hint="its ledger was lost: begin a new epoch")
        for other in (one for index, deals in self._deals.items() if index != deal.index for one in deals):
            self._check_pair(deal, other)
        self._deals.setdefault(deal.index, []).append(deal)
        return deal.index

    def ready(self, number: int) -> tuple[int, ...]:
        """Who has dealt for round ``number`` and can take part in it, ascending."""
        return tuple(sorted(index for index in self._deals if self._find(index, number) is not None))

    def dealt(self, index: int, number: int) -> tuple[Deal, DealtRound]:
        """What a hospital dealt for a round: the whole deal and its round.

        Raises:
            ProtocolError: It did not.
        """
        deal = self._find(index, number)
        if deal is None:
            raise ProtocolError(
                f"{self.federation.peer(index).name} has dealt no shares for round {number}",
                hint="leave it out of the round, or ask it to share first",
            )
        return deal, deal.rounds[number - deal.first]

    def boxes(self, reader: int, sources: Iterable[int], number: int) -> tuple[bytes, ...]:
        """The boxes of a round that ``sources`` sealed for ``reader``, in their order."""
        found = []
        for source in sources:
            deal, _ = self.dealt(source, number)
            found.append(deal.boxes[deal.peers.index(reader)][number - deal.first])
        return tuple(found)

    def _find(self, index: int, number: int) -> Deal | None:
        deals = self._deals.get(index, ())
        return next((deal for deal in deals if 0 <= number - deal.first < len(deal.rounds)), None)

    def _check_pair(self, one: Deal, other: Deal) -> None:
        start = max(one.first, other.first)
        stop = min(one.first + len(one.rounds), other.first + len(other.rounds))
        for number in range(start, stop):
            mine = one.rounds[number - one.first].seeds[one.peers.index(other.index)]
            theirs = other.rounds[number - other.first].seeds[other.peers.index(one.index)]
            if mine != theirs:
                names = [self.federation.peer(deal.index).name for deal in (one, other)]
                raise ProtocolError(
                    f"{names[0]} and {names[1]} do not hold the same secret for round {number}",
                    hint="one of the two is wrong: begin a new epoch, and leave one out if it happens again",
                )
