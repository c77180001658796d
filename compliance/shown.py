"""A party of a federation with its log, as the others see it: what it publishes, and its side of the exchange."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from compliance.checkpoint import Quorum, Signed, satisfied
from compliance.endorse import Endorsement, Vouched
from compliance.exchange import Correspondent, believed
from compliance.note import lines_of, write_note
from compliance.place import Place, establish
from compliance.trail import Trail
from compliance.verify import Key, Note, cosigners
from compliance.witness import Witness

KNOWN: Final = "known"
"""The folder, in ``audit/``, of the endorsements of the others' log keys."""

AHEAD: Final = timedelta(minutes=10)
"""How far another site's clock may be ahead of the own one."""
_MOST: Final = 4096  # checkpoints to look at for one that is witnessed

Vouch = Callable[[Iterable[Endorsement]], Vouched]
"""Which log keys the federation's parties vouch for by those of these endorsements that hold."""


def correspondent(place: Place, vouch: Vouch) -> Correspondent:
    """A party's side of the audit exchange; its log key is made where there is none.

    Raises:
        UsageError: A key is missing or damaged.
        PolicyError: Others may read one.
        OutputError: Something cannot be written.
    """
    signer = establish(place)

    def witness(known: Mapping[str, Key]) -> Witness:
        return Witness(place.witness_folder, signer, known)

    return Correspondent(place.trail, place.endorsement, witness, vouch, known=place.audit / KNOWN)


def published(place: Place) -> str:
    """A checkpoint of a party's log as it is at this moment: signed, and on the disk before it is given.

    Raises:
        RecordError: The log was cut off, rewritten or set back, or cannot be read.
        OutputError: The disk does not take it.
        FedwardError: Its key cannot be used.
    """
    establish(place)
    return bare(place.trail.checkpoint())


def bare(signed: Signed) -> str:
    """A checkpoint as its log signed it, without the cosignatures that it got."""
    own = [line for line in lines_of(signed.raw) if line.split(" ")[1] == signed.checkpoint.origin]
    return write_note(signed.note.text, *own).decode()


def keys_of(place: Place, vouch: Vouch) -> Vouched:
    """The log keys of the federation as far as this party has met them, its own among them.

    Raises:
        ProtocolError: A file of an endorsement was altered.
    """
    return vouch([*believed(place.audit / KNOWN).values(), place.endorsement])


def newest_witnessed(
    trail: Trail, keys: Vouched, needed: int, *, since: datetime | None = None, now: datetime | None = None
) -> tuple[Signed, datetime] | None:
    """The newest checkpoint of a log that enough sites cosigned, and since when; None without one.

    That is the moment of the last but ``needed - 1`` of them, so that no site alone decides how fresh it is. A time
    that is more than :data:`AHEAD` ahead of the own clock counts as no cosignature.

    Args:
        trail: The checkpoints.
        keys: The log keys of the federation.
        needed: So many sites.
        since: What is older is of no use to the caller. Whoever cosigns takes the newest that there is, so that one
            which was not the newest any more at that moment is not looked at, nor any before it.
        now: UTC.

    Raises:
        RecordError: A checkpoint was altered.
    """
    moment = now or datetime.now(UTC)
    newest = trail.newest()
    if newest is None:
        return None
    if found := _witnessed(newest, keys, needed, moment):
        return found
    size = newest.size
    older = (one for one in reversed(trail.sizes()[-_MOST:]) if one < newest.size)
    while since is None or trail.published(size) >= since:
        if (before := next(older, None)) is None:
            return None
        size = before
        if found := _witnessed(trail.at(size), keys, needed, moment):
            return found
    return None


def reached(note: Note, sites: Sequence[Key], needed: int, *, now: datetime) -> datetime | None:
    """When as many as ``needed`` of ``sites`` had cosigned ``note``; None where too few have.

    That is the moment of the ``needed``-th of them: whoever comes later neither puts it off nor, with a clock of his
    own, decides it alone. A time that is more than :data:`AHEAD` ahead of ``now`` counts as no cosignature.

    Raises:
        NotVerifiedError: A cosignature does not hold.
    """
    times = _times(note, sites, now)
    return times[needed - 1] if len(times) >= needed else None


def _times(note: Note, sites: Sequence[Key], now: datetime) -> list[datetime]:
    """When each cosigned, the earliest first."""
    latest = (now + AHEAD).timestamp()
    return sorted(datetime.fromtimestamp(one, UTC) for one in cosigners(note, sites).values() if one <= latest)


def _witnessed(signed: Signed, keys: Vouched, needed: int, now: datetime) -> tuple[Signed, datetime] | None:
    if not satisfied(signed.note, Quorum(keys.sites, needed))[0]:
        return None
    times = _times(signed.note, keys.sites, now)
    return (signed, times[-needed]) if len(times) >= needed else None
