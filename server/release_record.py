"""What of the record goes into a release: the hospitals' statements, and a checkpoint of the coordinator's log."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from compliance.checkpoint import LEAST, Quorum, Signed, majority, satisfied
from compliance.endorse import Endorsement, origins, vouched
from compliance.exchange import believed
from compliance.log import Action, Outcome, entries
from compliance.place import Place
from compliance.shown import KNOWN
from compliance.verify import Key, NotVerifiedError, cosigners
from shared.charter import Charter
from shared.errors import UsageError
from shared.files import canonical_json
from shared.statement import Statement

_MOST: Final = 1000
"""Checkpoints that are looked at for one with enough cosignatures, the newest first."""


@dataclass(frozen=True)
class Head:
    """The checkpoint that goes into a release.

    Attributes:
        raw: The note.
        size: Entries up to it.
        entry: The number of the entry about the model; None where the log has none.
        proof: That this entry stands in the log of the checkpoint, as it goes into the release; empty without one.
        cosigned: Hospitals that cosigned it, as far as their keys are known here.
    """

    raw: bytes
    size: int
    entry: int | None
    proof: bytes
    cosigned: tuple[str, ...]


def quorum_of(charter: Charter) -> int:
    """So many hospitals 'fedward model verify' asks for where its reader does not say otherwise."""
    return max(LEAST, majority(len(charter.members)))


def head_of(
    place: Place,
    charter: Charter,
    authority: x509.Certificate,
    endorsements: Sequence[Endorsement],
    *,
    entry: int | None,
) -> Head:
    """The newest checkpoint that reaches the model's entry and has a quorum; else the newest, if need be one of now.

    Raises:
        ProtocolError: An endorsement does not hold.
        RecordError: The log or its checkpoints were altered.
        OutputError: One cannot be published.
    """
    keys = vouched(charter, [place.endorsement, *endorsements], authority)
    trail, reach = place.trail, -1 if entry is None else entry
    found: Signed | None = None
    for size in list(reversed(trail.sizes()))[:_MOST]:
        if size <= reach:
            break
        one = trail.at(size)
        found = found or one
        if keys.sites and satisfied(one.note, Quorum(keys.sites, quorum_of(charter)))[0]:
            found = one
            break
    signed = found or trail.checkpoint()
    proof = b""
    if entry is not None:
        hashes = [one.hex() for one in trail.inclusion(entry, signed.size)]
        proof = canonical_json({"line": trail.line(entry).decode(), "proof": hashes})
    return Head(signed.raw, signed.size, entry, proof, _names(signed, keys.sites))


def endorsements_of(
    place: Place, charter: Charter, given: Sequence[Path], stated: Sequence[Endorsement], *, now: datetime
) -> tuple[Endorsement, ...]:
    """The endorsements of witnesses' log keys that go into a release in files of their own.

    Those that were named, and those that the coordinator has met in the audit exchange, of hospitals of the charter.
    Of two of one hospital the later one holds, as everywhere; what its statement carries as well stands there.

    Args:
        place: The coordinator's folder.
        charter: Of the run.
        given: Files that were named.
        stated: Those in statements.
        now: The time of the release: what was met and is over by then is left out.

    Raises:
        UsageError: A file that was named cannot be read.
        ProtocolError: One was altered.
    """
    named = [Endorsement.load(path) for path in given]
    known, own = origins(charter), place.endorsement.origin
    met = [
        one
        for one in believed(place.audit / KNOWN).values()
        if one.origin in known and one.origin != own and (one.until is None or now < one.until)
    ]
    newest: dict[str, Endorsement] = {}
    for one in sorted([*met, *named], key=lambda each: each.created):
        newest[one.origin] = one
    there = {one.origin: one for one in stated}
    return tuple(
        one for origin, one in sorted(newest.items()) if origin not in there or there[origin].created < one.created
    )


def entry_of(log: Path, run: str, task: str, weights: str) -> int | None:
    """The number of the entry that says that these weights were written; None where there is none.

    Args:
        log: The coordinator's log.
        run: Id of the run.
        task: Name of the task.
        weights: SHA-256 of the file.

    Raises:
        RecordError: The log does not verify.
    """
    found = None
    for row in entries(log):
        if (row["action"], row["outcome"], row["run"]) == (Action.MODEL_WRITE, Outcome.OK, run) and (
            (row["detail"].get("task"), row["detail"].get("sha256")) == (task, weights)
        ):
            found = int(row["seq"])
    return found


def _names(signed: Signed, sites: Sequence[Key]) -> tuple[str, ...]:
    try:
        seen = cosigners(signed.note, sites)
    except NotVerifiedError:
        return ()
    return tuple(sorted(name.split("/")[1] for name in seen))


def read_statements(paths: Sequence[Path], charter: Charter, run: str, sites: Collection[str]) -> tuple[Statement, ...]:
    """The statements in files, each checked, by the name of the hospital.

    Raises:
        UsageError: A file cannot be read, a hospital stands there twice, or its updates are not in the model.
        ProtocolError: One does not hold.
    """
    found: dict[str, Statement] = {}
    for path in paths:
        one = Statement.read(path)
        one.check(charter, run)
        if one.site in found:
            raise UsageError(f"{path} is a second statement of {one.site}", hint="give the one that it wants released")
        if one.site not in sites:
            raise UsageError(f"no update of {one.site} is in the model", hint=f"leave {path} out")
        found[one.site] = one
    return tuple(found[site] for site in sorted(found))
