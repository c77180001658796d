"""This hospital's audit log as the others see it, and whether they have seen enough of it.

A round begins only with a log that others hold to what it said (45 CFR 164.312(c)(1), integrity): where the hospital's
policy asks for witnesses, their cosignatures must be there and fresh; and where any log of the federation showed two
histories, nothing is trained before a person has decided.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from client.node import Node
from client.policy_file import RecordPlan, policy_of
from client.session import Session
from compliance import shown
from compliance.checkpoint import majority
from compliance.endorse import Endorsement, Vouched, vouched
from compliance.exchange import Correspondent, believed
from compliance.place import Place
from compliance.trail import Occasion
from compliance.verify import Note, NotVerifiedError
from compliance.witness import split_logs
from shared.certificates import read
from shared.errors import ProtocolError, RecordError

_RENEWED: Final = timedelta(hours=12)
"""After which a log that rests asks for new cosignatures, where the policy does not want them earlier."""
_STALE: Final = "see 'fedward audit witness status', and the coordinator's 'fedward server status'"


def correspondent(node: Node) -> Correspondent:
    """This hospital's side of the audit exchange.

    Raises:
        FedwardError: A key is missing or damaged, or something cannot be written.
    """
    return shown.correspondent(Place.open(node.folder), lambda found: vouched_here(node, found))


def vouched_here(node: Node, endorsements: Iterable[Endorsement]) -> Vouched:
    """The log keys that the parties of the pinned charter vouch for; an endorsement that does not hold is left out.

    Raises:
        FedwardError: No charter is pinned.
    """
    return vouched(node.charter, endorsements, _authority(node), strict=False)


def _authority(node: Node) -> x509.Certificate | None:
    return read(node.authority, count=1)[0] if node.authority.exists() else None


def checkpoint_for(session: Session, occasion: Occasion) -> str:
    """The checkpoint that goes with an answer, published now where one is due; empty for a virtual hospital.

    Raises:
        RecordError: The log was altered, or cannot be read.
    """
    if session.node.virtual:
        return ""
    place = Place.open(session.node.folder)
    if not (place.audit / "endorsement.json").exists() or place.trail.due(len(session.log), occasion):
        return shown.published(place)
    newest = place.trail.newest()
    return shown.bare(newest) if newest else ""


def check_shown(node: Node, text: str) -> None:
    """Refuse a request whose checkpoint the coordinator's log key did not sign, where that key is known here.

    Raises:
        ProtocolError: It did not.
    """
    charter = node.charter
    if not text or node.virtual or charter.coordinator is None:
        return
    kept = believed(node.folder / "audit" / shown.KNOWN).values()
    keys = vouched_here(node, kept)
    if keys.coordinator is None:
        return  # not met yet
    own = keys.logs[keys.coordinator.name]
    try:
        note = Note.parse(text.encode())
        signed = note.of(own)
    except NotVerifiedError as error:
        raise ProtocolError(f"the coordinator's checkpoint does not hold: {error}") from error
    if note.text.partition("\n")[0] != own.name or signed is None:
        raise ProtocolError("the request carries a checkpoint that is not one of the coordinator's log")


def require_witnessed(node: Node, *, now: datetime | None = None) -> None:
    """Refuse to go on where too few have seen this log, if the policy asks for that, or where a log was split.

    Raises:
        RecordError: It is so.
        PolicyError: The policy cannot be read.
    """
    place = Place.open(node.folder)
    if split := split_logs(place.witness_folder):
        raise RecordError(
            f"{next(iter(split))} showed two histories of its log",
            hint="decide with 'fedward audit witness resolve' once it is known what happened; the evidence is kept",
        )
    plan = policy_of(node).record
    if plan is not None:
        _require_fresh(node, place, plan, now or datetime.now(UTC))


def stale(node: Node, *, now: datetime | None = None) -> bool:
    """Whether the newest checkpoint is witnessed and half of the policy's hours have gone since: time for a new one.

    Where it is not witnessed there is nothing to renew: whoever cosigns it does so with the time of then.

    Raises:
        RecordError: A checkpoint was altered.
        PolicyError: The policy cannot be read.
        ProtocolError: An endorsement does not hold.
    """
    place, moment = Place.open(node.folder), now or datetime.now(UTC)
    if not (place.audit / "endorsement.json").exists() or (newest := place.trail.newest()) is None:
        return False
    plan = policy_of(node).record or RecordPlan()
    keys = shown.keys_of(place, lambda given: vouched_here(node, given))
    found = shown.newest_witnessed(place.trail, keys, needed_here(node, plan), since=moment, now=moment)
    return (
        found is not None
        and found[0].size == newest.size
        and moment - found[1] > min(timedelta(hours=plan.hours) / 2, _RENEWED)
    )


def needed_here(node: Node, plan: RecordPlan | None) -> int:
    """So many others must have cosigned: as the policy says, and over half of the charter's others at least."""
    return max((plan or RecordPlan()).witnesses, majority(len(node.charter.members) - 1))


def _require_fresh(node: Node, place: Place, plan: RecordPlan, now: datetime) -> None:
    found, needed = None, needed_here(node, plan)
    if (place.audit / "endorsement.json").exists():
        keys = shown.keys_of(place, lambda given: vouched_here(node, given))
        since = now - timedelta(hours=plan.hours)
        found = shown.newest_witnessed(place.trail, keys, needed, since=since, now=now)
    if found is None:
        raise RecordError(
            f"{needed} other sites have not cosigned this log yet, or not within {plan.hours:g} hours",
            hint=_STALE,
        )
    if now - found[1] > timedelta(hours=plan.hours):
        raise RecordError(
            f"the newest checkpoint that {needed} other sites cosigned is of {found[1]:%Y-%m-%d %H:%M} UTC, "
            f"and the policy allows {plan.hours:g} hours",
            hint=_STALE,
        )
