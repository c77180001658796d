"""How a party's log stands with the others: what it published, which hospitals cosigned it and when, who was split.

Everything is verified here, against the keys that the party's own charter or its approved members vouch for: the whole
log, every checkpoint, every cosignature (45 CFR 164.312(c)(1), integrity). The coordinator's cosignature counts for
nothing, since it carries all of these messages.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from compliance.checking import Checked, Known, audit_folder, check
from compliance.checkpoint import Quorum
from compliance.endorse import FILE, Endorsement
from compliance.exchange import believed
from compliance.party import party_in
from compliance.shown import KNOWN, Vouch, newest_witnessed, reached
from compliance.trail import LOG, NEWEST, PUBLISHED, Trail
from compliance.verify import Key, cosigners
from compliance.witness import FOLDER, split_logs
from shared.errors import RecordError, UsageError

UNKNOWN_KEY: Final = "nothing here says whose key signed it"


@dataclass(frozen=True)
class Standing:
    """A log, and what others have seen of it.

    Attributes:
        checked: The log itself, and its checkpoints as far as a key was known for them.
        cosigned: Hospitals that cosigned the newest checkpoint, as many as there are.
        needed: So many make a checkpoint a witnessed one; None where none was checked.
        witnessed: Entries of the newest checkpoint that so many cosigned; None without one.
        when: When so many had cosigned that one: the moment of the cosignature that made the number full.
        split: Logs that showed this party's witness two histories, and that nobody has decided on.
        unchecked: Why the checkpoints that are there were not checked; empty where they were, or where there are none.
    """

    checked: Checked
    cosigned: tuple[str, ...] = ()
    needed: int | None = None
    witnessed: int | None = None
    when: datetime | None = None
    split: tuple[str, ...] = ()
    unchecked: str = ""


def members_keys(folder: Path) -> tuple[Key, ...]:
    """The witness keys that the federation of the party in ``folder`` vouches for; none where nobody can say.

    Raises:
        FedwardError: The party's charter or an endorsement is damaged.
    """
    audit = audit_folder(folder)
    try:
        party = party_in(audit.parent)
    except UsageError:
        return ()  # a log by itself
    if party.vouch is None or not (audit / FILE).exists():
        return ()
    return party.vouch([*believed(audit / KNOWN).values(), Endorsement.load(audit / FILE)]).sites


def standing(audit: Path, vouch: Vouch | None, needed: int | None = None, *, now: datetime | None = None) -> Standing:
    """How the log in the folder ``audit`` stands.

    Args:
        audit: The folder; its log must be there.
        vouch: Tells which log keys the federation's parties vouch for; None where nobody can say.
        needed: So many hospitals make a checkpoint a witnessed one; None for what :class:`Quorum` asks of those that
            this party has met.
        now: UTC; a cosignature that is dated far ahead of it counts for nothing.

    Raises:
        RecordError: The log, a checkpoint or a cosignature does not verify; or the log does not go on from one.
        ProtocolError: An endorsement does not hold, or the log's is that of nobody in the federation.
        FedwardError: ``vouch`` cannot say.
    """
    split = tuple(split_logs(audit / FOLDER))
    if vouch is None or not (audit / FILE).exists():
        there = (audit / NEWEST).exists() or (audit / PUBLISHED).is_dir()
        return Standing(check(audit / LOG, None, (), 0), split=split, unchecked=UNKNOWN_KEY if there else "")
    own = Endorsement.load(audit / FILE)
    keys = vouch([*believed(audit / KNOWN).values(), own])
    key = keys.logs.get(own.origin)
    if key is None:
        raise RecordError(
            f"the log key of {own.origin} is endorsed by nobody of this federation",
            hint="restore audit/endorsement.json and keys/log.key from a copy of one moment",
        )
    checked = check(audit / LOG, Known(key, "the federation"), keys.sites, 0)
    trail, moment = Trail(audit, key), now or datetime.now(UTC)
    enough = Quorum(keys.sites, needed).of(own.origin)
    newest, found = trail.newest(), newest_witnessed(trail, keys, enough, now=moment)
    under = {} if newest is None else cosigners(newest.note, keys.sites)
    return Standing(
        checked,
        tuple(sorted(name.split("/")[1] for name in under)),
        enough,
        found[0].size if found else None,
        reached(found[0].note, keys.sites, enough, now=moment) if found else None,
        split,
    )
