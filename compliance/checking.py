"""What ``fedward audit verify`` finds in one folder: the log, the checkpoints beside it, whose key signed them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from compliance.endorse import FILE, Endorsement, vouched
from compliance.lines import reading, settled
from compliance.trail import LOG, NEWEST, PUBLISHED, Trail
from compliance.verify import Key, NotVerifiedError, cosigners, read_log
from shared.certificates import read
from shared.charter import Charter
from shared.errors import RecordError, UsageError

_KEEP = "keep the folder as evidence and restore the log from a copy that verifies"


@dataclass(frozen=True)
class Known:
    """A log's key, and in words who says so."""

    key: Key
    trusted: str


@dataclass(frozen=True)
class Checked:
    """What was found of one log.

    Attributes:
        entries: How many it has.
        head: The hash of the last line.
        torn: Bytes behind it of an entry that was never finished.
        origin: The log's name, where its checkpoints were checked.
        trusted: Who says that this is its key.
        checkpoints: So many were checked, all that were published.
        published: Entries of the newest, or None where none was checked.
        root: Its tree head.
        witnessed: Entries of the newest that enough of the named witnesses cosigned, or None.
        witnesses: Which of them.
        claimed: Names under the newest whose cosignatures were not checked.
        unchecked: Checkpoints that lie there and that no key is known for.
    """

    entries: int
    head: str
    torn: int
    origin: str = ""
    trusted: str = ""
    checkpoints: int = 0
    published: int | None = None
    root: str = ""
    witnessed: int | None = None
    witnesses: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    unchecked: int = 0

    @property
    def unwitnessed(self) -> int:
        """Entries behind the newest witnessed size."""
        return self.entries - (self.witnessed or 0)

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {**asdict(self), "unwitnessed": self.unwitnessed, "verified": True}


def audit_folder(folder: Path) -> Path:
    """``folder``, or its ``audit/`` where the log lies there."""
    return folder if (folder / LOG).is_file() or not (folder / "audit").is_dir() else folder / "audit"


def key_of(audit: Path, given: Key | None, charter: Path | None = None) -> Known | None:
    """The key of the log in ``audit``: what was given, else what the endorsement beside it says.

    A charter (the one given, or that of the node around the folder) shows whose key it is. Without one the folder
    speaks for itself.

    Raises:
        ProtocolError: The endorsement does not hold.
        UsageError: A charter was given and there is no endorsement.
    """
    if given is not None:
        return Known(given, "you")
    path = audit / FILE
    if not path.exists():
        if charter is not None:
            raise UsageError(f"there is no {path}", hint="name the key with --log-key")
        return None
    one = Endorsement.load(path)
    beside = audit.parent / "charter.toml"
    if charter is None and not beside.exists():
        return Known(one.keys[0], "the folder itself")
    pinned = Charter.load(charter or beside)
    log = vouched(pinned, [one], authority_in(audit.parent)).logs.get(one.origin)
    if log is None:
        raise UsageError(f"the charter {pinned.id} has no member {one.origin}", hint="name another charter")
    return Known(log, f"the charter {pinned.id}")


def reading_trail(folder: Path, given: Key | None) -> Trail:
    """The checkpoints in ``folder``, to be read.

    Raises:
        UsageError: There is no log, or nothing says what its key is.
        ProtocolError: Its endorsement does not hold.
    """
    audit = audit_folder(folder)
    if not (audit / LOG).is_file():
        raise UsageError(f"there is no audit log in {folder}", hint="name the folder of a node or a coordinator")
    known = key_of(audit, given)
    if known is None:
        raise UsageError(f"nothing in {audit} says what the log's key is", hint="name it with --log-key")
    return Trail(audit, known.key)


def check(log: Path, known: Known | None, witnesses: Sequence[Key], quorum: int) -> Checked:
    """Read a whole log and every checkpoint beside it.

    Raises:
        RecordError: The log, a checkpoint or a cosignature does not verify, or fewer than ``quorum`` witnesses cosigned
            the newest.
    """
    trail = Trail(log.parent, known.key) if known else None
    there = (log.parent / PUBLISHED).is_dir()
    beside = log.name == LOG and (there or (log.parent / NEWEST).exists())
    published = {size: trail.at(size) for size in trail.sizes()} if trail and beside else {}
    newest = trail.newest() if trail and beside else None
    if newest is not None:
        published[newest.size] = newest
    stop, torn = settled(log)
    try:
        with reading(log) as stream:
            found = read_log(stream, set(published), stop)
    except NotVerifiedError as error:
        raise RecordError(f"{log} {error}", hint=_KEEP) from error
    for size, signed in sorted(published.items()):
        if found.roots.get(size) != signed.root:
            what = "was cut off" if size > found.entries else "is not the log that was signed"
            raise RecordError(f"{log} {what}: a checkpoint has {size} entries", hint=_KEEP)
    if trail is None or known is None or newest is None:
        if quorum:
            raise RecordError(
                f"{log} has no checkpoint that could be cosigned", hint="ask for it, or leave out --quorum"
            )
        waiting = sum(one.name.isdecimal() for one in (log.parent / PUBLISHED).iterdir()) if beside and there else 0
        return Checked(found.entries, found.head, torn, unchecked=waiting if known is None else 0)
    witnessed: int | None = None
    seen: tuple[str, ...] = ()
    for size, signed in sorted(published.items()):
        try:
            names = tuple(sorted(cosigners(signed.note, witnesses)))
        except NotVerifiedError as error:
            raise RecordError(f"the checkpoint of {size} entries: {error}", hint=_KEEP) from error
        if len(names) >= max(quorum, 1):
            witnessed, seen = size, names
    if quorum and witnessed is None:
        raise RecordError(
            f"no checkpoint of {log} has the cosignatures of {quorum} of these witnesses", hint="collect them"
        )
    return Checked(
        found.entries,
        found.head,
        torn,
        origin=trail.origin,
        trusted=known.trusted,
        checkpoints=len(published),
        published=newest.size,
        root=newest.root.hex(),
        witnessed=witnessed,
        witnesses=seen,
        claimed=tuple(sorted({name for name, _, _ in newest.note.signatures} - {trail.origin})),
    )


def authority_in(folder: Path) -> x509.Certificate | None:
    """The certificate of the coordinator's authority in the folder of a member, where it lies there."""
    for path in (folder / "authority.pem", folder / "link" / "authority.pem"):
        if path.exists():
            return read(path, count=1)[0]
    return None
