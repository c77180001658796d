"""A party of a federation with its log, as the others see it: what it publishes, and its side of the exchange."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from compliance.checkpoint import Quorum, Signed, satisfied
from compliance.endorse import Endorsement, Vouched
from compliance.exchange import Correspondent, believed, holding
from compliance.note import lines_of, write_note
from compliance.place import Place, establish
from compliance.trail import Trail
from compliance.verify import Key, cosigners
from compliance.witness import Witness

KNOWN: Final = "known"
"""The folder, in ``audit/``, of the endorsements of the others' log keys."""

Vouch = Callable[[Iterable[Endorsement]], Vouched]
"""Which log keys the federation's parties vouch for by these endorsements."""


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
    return vouch(holding([*believed(place.audit / KNOWN).values(), place.endorsement], vouch))


def newest_witnessed(trail: Trail, keys: Vouched, needed: int) -> tuple[Signed, datetime] | None:
    """The newest checkpoint of a log that enough sites cosigned, and when the last of them did; None without one.

    Raises:
        RecordError: A checkpoint was altered.
    """
    for size in reversed(trail.sizes()):
        signed = trail.at(size)
        if satisfied(signed.note, Quorum(keys.sites, needed))[0]:
            return signed, datetime.fromtimestamp(max(cosigners(signed.note, keys.sites).values()), UTC)
    return None
