"""The witness of all other logs: it remembers the newest head of each and cosigns what goes on from it.

The rules are those of https://c2sp.org/tlog-witness. The state of an origin is one file: the newest checkpoint that was
cosigned, with that cosignature, so that an altered state does not pass for one. It is on disk before the cosignature is
given away; who asks again after a crash is told the stored size and asks from there.

What shows that the state itself was set back to an older copy: a checkpoint that carries this witness's own cosignature
of a size which the state does not know, and an entry of the site's own log (:meth:`Witness.entry`,
:func:`recalled`). Where an older copy of everything was put back at once and nobody shows a later cosignature,
nothing does; then this witness may cosign a second history, and it takes the others of the quorum to stop it.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

from compliance.alerts import evidence_entry
from compliance.checkpoint import Signed
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from compliance.note import Signer, signature_line, write_note
from compliance.verify import EMPTY_ROOT, Checkpoint, Key, Note, NotVerifiedError, root_from_consistency
from shared.errors import PolicyError, ProtocolError, RecordError, UsageError
from shared.files import locked, private_folder, write_bytes, write_json

FOLDER: Final = "witness"
"""Its folder in an ``audit/`` folder."""
MAX_PROOF: Final = 63  # hashes (tlog-witness)
MAX_EVIDENCE: Final = 16
"""So many submissions without a proof are kept for one origin: a stranger must not fill the disk."""
_PATIENCE: Final = 30.0  # seconds
_KEEP: Final = "keep the folder as evidence, and ask that log's owner and another witness by telephone"


class UnknownOriginError(PolicyError):
    """The log is none of this federation's (404 in tlog-witness)."""

    status: ClassVar[int] = 404


class NotSignedError(ProtocolError):
    """The log's key did not sign the checkpoint, or it is none (403)."""

    status: ClassVar[int] = 403


class ConflictError(ProtocolError):
    """The old size is not that of the newest checkpoint that was cosigned (409).

    Attributes:
        size: That size; ask again with a proof from there.
    """

    status: ClassVar[int] = 409

    def __init__(self, origin: str, size: int) -> None:
        super().__init__(
            f"of {origin} this witness has cosigned {size} entries", hint=f"send the proof from {size} entries on"
        )
        self.size = size


class InconsistentError(RecordError):
    """The checkpoint does not go on from the one that was cosigned (422; 409 for two heads of one size).

    Attributes:
        proven: Whether the two notes alone prove two histories: one size, two heads, both signed. Then the origin is
            marked, and nothing of it is cosigned before a person decides. A proof that does not lead from one to the
            other proves nothing by itself, since whoever carried it may have spoilt it: it is refused, and kept.
        entry: What to append to the audit log, or None where that was done before.
    """

    status: ClassVar[int] = 422

    def __init__(self, message: str, *, proven: bool, entry: Entry | None) -> None:
        super().__init__(message, hint=_KEEP)
        self.proven, self.entry = proven, entry


class Decision(StrEnum):
    """What a person decides of a log that showed two histories."""

    SEEN = "seen"
    """Go on from the head that this witness cosigned."""
    ANEW = "anew"
    """Forget it, and trust the next head that comes (after a log was lost and restored, say)."""


@dataclass(frozen=True)
class Submission:
    """What a log asks to be cosigned: the body of tlog-witness' add-checkpoint."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


class Witness:
    """One site's witness.

    Args:
        folder: ``audit/witness``.
        signer: This member's log key; it cosigns under its origin.
        known: The key of each log that it witnesses, by origin (:func:`compliance.endorse.vouched`); its own is left
            out, since nobody is his own witness.
        clock: The time.
    """

    def __init__(
        self,
        folder: Path,
        signer: Signer,
        known: Mapping[str, Key],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder, self._signer, self._clock = folder, signer, clock
        self._known = {origin: key for origin, key in known.items() if origin != signer.name}

    def submit(self, old_size: int, proof: Sequence[bytes], note: bytes) -> str:
        """Check a checkpoint against what was seen of its log, remember it durably, and cosign it.

        Args:
            old_size: The size that the proof leads from; 0 where this witness has seen nothing of the log.
            proof: The consistency proof; empty from 0, and between equal sizes.
            note: The signed checkpoint.

        Returns:
            The cosignature line, with its line feed.

        Raises:
            UnknownOriginError: The log is none of the federation's.
            NotSignedError: Its key did not sign this.
            ConflictError: The old size is not that of the newest head that was cosigned.
            InconsistentError: The log shows two histories, or one was marked so before.
            ProtocolError: The proof has a wrong form.
            RecordError: This witness's own state was altered or set back.
            OutputError: The state cannot be stored; nothing was cosigned.
        """
        given = self._checked(note)
        origin = given.checkpoint.origin
        with self._alone():
            self._refuse_marked(origin)
            seen = self.state(origin)
            self._not_set_back(given, seen)
            size, root = (seen.size, seen.root) if seen else (0, EMPTY_ROOT)
            if given.size == size and given.root != root:
                raise self._evidence(seen, given, Submission(old_size, tuple(proof), note), proven=True)
            if old_size > given.size or len(proof) > MAX_PROOF or (proof and old_size in {0, given.size}):
                raise ProtocolError(
                    f"the submission of {origin} has a wrong form", hint="send an old size and its consistency proof"
                )
            if old_size != size:
                raise ConflictError(origin, size)
            if 0 < size < given.size and not _leads(given, size, root, proof):
                raise self._evidence(seen, given, Submission(old_size, tuple(proof), note), proven=False)
            line = self._signer.cosign(given.note.text, self._clock())
            # Of the other lines only the log's own: whoever carried the note may have added any number of them.
            key = self._known[origin]
            signed = signature_line(key, given.note.of(key) or b"")
            write_bytes(self._state_path(origin), write_note(given.note.text, signed, line), durable=True)
            return line

    def state(self, origin: str) -> Signed | None:
        """The newest checkpoint of ``origin`` that was cosigned here; None where none was.

        Raises:
            RecordError: The file was altered.
        """
        path = self._state_path(origin)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror}", hint="check the folder") from error
        try:
            note = Note.parse(raw)
            found = Checkpoint.parse(note.text)
            own = note.of(self._signer.witness_key)
        except NotVerifiedError as error:
            raise RecordError(f"the state of this witness in {path} was altered: {error}", hint=_KEEP) from error
        if own is None or found.origin != origin:
            raise RecordError(f"the state in {path} is not one that this witness wrote", hint=_KEEP)
        return Signed(raw, found)

    def size(self, origin: str) -> int:
        """The size from which ``origin`` must prove; 0 where nothing was cosigned."""
        seen = self.state(origin)
        return seen.size if seen else 0

    def origins(self) -> list[str]:
        """The logs that this witness has a state or a mark of."""
        names = {unquote(path.stem) for kind in ("*.note", "*.split") for path in self._folder.glob(kind)}
        return sorted(names)

    def marked(self) -> dict[str, str]:
        """The origins that showed two histories, each with the file of the evidence."""
        return split_logs(self._folder)

    def entry(self, origin: str) -> Entry:
        """What this witness has seen of ``origin``, for the site's own log: there it is witnessed by the others.

        Raises:
            RecordError: The state was altered.
            UsageError: Nothing was seen of it.
        """
        if (seen := self.state(origin)) is None:
            raise UsageError(f"this witness has cosigned nothing of {origin}", hint="see 'audit witness status'")
        detail: dict[str, Scalar] = {"origin": origin, "size": seen.size, "root": seen.root.hex()}
        return Entry(Action.WITNESS, Outcome.OK, detail=detail)

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Hold the state against what the site's own log has of it.

        Args:
            rows: The log's entries (:func:`compliance.log.entries`).

        Raises:
            RecordError: The state is older than an entry says, or has another head at the same size.
        """
        for origin, (size, root) in recalled(rows).items():
            self.require(origin, size, root)

    def require(self, origin: str, size: int, root: str) -> None:
        """Refuse where this witness once cosigned ``origin`` with that head (hex), and its state does not go so far.

        Raises:
            RecordError: The state is older, or has another head at the same size.
        """
        seen = self.state(origin)
        if seen is None or seen.size < size or (seen.size == size and seen.root.hex() != root):
            raise self._set_back(origin, seen, size)

    def decide(self, log: AuditLog, origin: str, decision: Decision, *, who: str, why: str) -> None:
        """Take the mark off ``origin``, once that is recorded in ``log``; the evidence stays.

        Raises:
            UsageError: It is not marked.
            RecordError: It cannot be recorded, so that the mark stays.
        """
        with self._alone():
            mark = self._mark_path(origin)
            if not mark.exists():
                raise UsageError(f"{origin} is not marked", hint="see 'fedward audit witness status'")
            detail = {"origin": origin, "decision": decision.value, "who": who, "why": why}
            log.append(Entry(Action.WITNESS, Outcome.OK, detail=detail))
            if decision is Decision.ANEW:
                self._state_path(origin).unlink(missing_ok=True)
            mark.unlink()

    def _checked(self, raw: bytes) -> Signed:
        try:
            origin = Note.parse(raw).text.partition("\n")[0]
        except NotVerifiedError as error:
            raise NotSignedError(f"what came is no checkpoint: {error}", hint="send the note as it is") from error
        if (key := self._known.get(origin)) is None:
            raise UnknownOriginError(
                f"this witness knows no log {origin[:120]}", hint="its member must endorse a log key"
            )
        try:
            return Signed.read(raw, key, f"the checkpoint of {origin}")
        except RecordError as error:
            raise NotSignedError(error.message, hint="send the note as it is") from error

    def _not_set_back(self, given: Signed, seen: Signed | None) -> None:
        """Refuse where the note carries an own cosignature that the state does not know of."""
        try:
            own = given.note.of(self._signer.witness_key)
        except NotVerifiedError as error:
            raise NotSignedError(str(error), hint="send the note without that line") from error
        if own and (seen is None or seen.size < given.size):
            raise self._set_back(given.checkpoint.origin, seen, given.size)

    def _set_back(self, origin: str, seen: Signed | None, size: int) -> RecordError:
        return RecordError(
            f"this witness has cosigned {size} entries of {origin}, and its state says {seen.size if seen else 0}: "
            "it was set back to an older copy",
            hint="restore the newest copy of audit/witness; cosign nothing before",
        )

    def _refuse_marked(self, origin: str) -> None:
        if self._mark_path(origin).exists():
            raise InconsistentError(
                f"{origin} showed two histories; nothing of it is cosigned before a person decides",
                proven=True,
                entry=None,
            )

    def _evidence(self, seen: Signed | None, given: Signed, what: Submission, *, proven: bool) -> InconsistentError:
        """Keep both notes and the proof; mark the origin where they prove two histories."""
        origin = given.checkpoint.origin
        kept = {
            "v": 1,
            "origin": origin,
            "proven": proven,
            "seen": seen.raw.decode() if seen else None,
            "given": what.note.decode(),
            "old_size": what.old_size,
            "proof": [one.hex() for one in what.proof],
            "time": self._clock().astimezone(UTC).isoformat(timespec="seconds"),
        }
        number = hashlib.sha256(given.note.text.encode()).hexdigest()[:16]
        name = f"{quote(origin, safe='')}-{number}.json"
        path = self._folder / "evidence" / name
        earlier = len(list(path.parent.glob(f"{quote(origin, safe='')}-*.json")))
        entry: Entry | None = None
        if proven or (not path.exists() and earlier < MAX_EVIDENCE):
            private_folder(path.parent)
            write_json(path, kept, durable=True)
            entry = evidence_entry(kept, number)
        if proven:
            write_bytes(self._mark_path(origin), name.encode(), durable=True)
            message = f"{origin} signed two heads of {given.size} entries"
        else:
            message = f"nothing proves that {origin} at {given.size} entries goes on from its {what.old_size}"
        return InconsistentError(message, proven=proven, entry=entry)

    def _state_path(self, origin: str) -> Path:
        return self._folder / f"{quote(origin, safe='')}.note"

    def _mark_path(self, origin: str) -> Path:
        return self._folder / f"{quote(origin, safe='')}.split"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else submits between the check and the storing (tlog-witness: both are one step)."""
        private_folder(self._folder)
        with locked(self._folder / "lock", "another process of this site is cosigning", patience=_PATIENCE):
            yield


def recalled(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """The newest size and head (hex) of each log that a site cosigned, as far as its own log has entries of it."""
    newest: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.get("action") == Action.WITNESS and row.get("outcome") == Outcome.OK:
            detail = row.get("detail") or {}
            if detail.get("decision") == Decision.ANEW:
                newest.pop(str(detail.get("origin")), None)
            elif "size" in detail:
                newest[str(detail["origin"])] = int(detail["size"]), str(detail["root"])
    return newest


def split_logs(folder: Path) -> dict[str, str]:
    """The origins that showed the witness in ``folder`` two histories, each with the file of the evidence."""
    found = {}
    for path in sorted(folder.glob("*.split")):
        found[unquote(path.name.removesuffix(".split"))] = path.read_text(encoding="utf-8").strip()
    return found


def _leads(given: Signed, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        return root_from_consistency(size, given.size, root, proof) == given.root
    except NotVerifiedError:
        return False
