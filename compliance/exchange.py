"""The audit exchange: how the sites of a federation become each other's witnesses, one turn of one site at a time.

Every site calls and nobody calls a site. In a turn a site shows its newest checkpoint with the proofs that the others
want, gives the cosignatures that it made since, and gets the others' checkpoints and the cosignatures on its own. The
coordinator passes these on (:class:`Relay`) and takes turns itself. It is believed nothing: a checkpoint, a proof and a
cosignature hold by themselves or not at all (:class:`Correspondent`). It can hold them back; then no quorum comes
together, and the same texts go by file (``fedward audit witness export | import | collect``).
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from compliance.checkpoint import Signed
from compliance.endorse import Endorsement, Vouched
from compliance.log import Entry, entries
from compliance.note import lines_of
from compliance.proto.audit_pb2 import Cosignature, Head, Proof, Seen, TurnReply, TurnRequest
from compliance.trail import LOG, Trail
from compliance.verify import COSIGNATURE, Checkpoint, Key, Note, NotVerifiedError
from compliance.witness import MAX_PROOF, ConflictError, InconsistentError, Witness, recalled
from shared.errors import FedwardError, PolicyError, ProtocolError, RecordError
from shared.files import canonical_json, private_folder

MAX_OFFERED: Final = 64
"""Proofs, cosignatures and sizes of one site in one turn."""
MAX_NOTE: Final = 16384  # bytes
MAX_ENDORSEMENT: Final = 4096  # bytes
_HASH: Final = 32  # bytes
MAX_LINE: Final = 512  # bytes of a cosignature
KEPT_SIZES: Final = 16
"""Of so many of the newest checkpoints of a log each witness's cosignatures wait for its site."""


@dataclass
class _Shelf:
    """What one site has shown, and what waits for it."""

    head: Head | None = None
    size: int = 0
    proofs: dict[int, Proof] = field(default_factory=dict)  # by old size, each to the size of the head
    seen: dict[str, int] = field(default_factory=dict)
    cosigned: dict[str, dict[int, bytes]] = field(default_factory=dict)  # by witness and size


class Relay:
    """What the coordinator passes on. It keeps nothing on the disk: every site shows its newest in every turn.

    Args:
        origins: The origin of each site's log by the site's name, of the members of this moment; the coordinator's
            own is among them.
    """

    def __init__(self, origins: Callable[[], Mapping[str, str]]) -> None:
        self._origins = origins
        self._shelves: dict[str, _Shelf] = {}
        self._lock = threading.Lock()

    def turn(self, site: str, request: TurnRequest) -> TurnReply:
        """Answer one turn of ``site``, as its certificate names it.

        Raises:
            PolicyError: It is no party, or shows the checkpoint of another log than its own.
            ProtocolError: What it shows has a wrong form.
        """
        known = self._origins()
        origin = known.get(site)
        if origin is None:
            raise PolicyError(f"{site} has no log in this federation", hint="its charter must name its identity")
        if max(len(request.cosignatures), len(request.seen), len(request.own.proofs)) > MAX_OFFERED:
            raise ProtocolError(f"a turn has at most {MAX_OFFERED} of each", hint="send fewer")
        with self._lock:
            for gone in self._shelves.keys() - set(known.values()):
                del self._shelves[gone]
            shelf = self._shelves.setdefault(origin, _Shelf())
            if request.HasField("own"):
                _show(shelf, origin, request.own)
            shelf.seen = {one.origin: int(one.size) for one in request.seen if one.origin in known.values()}
            for given in request.cosignatures:
                self._keep(origin, given)
            return self._answer(origin, shelf)

    def _keep(self, witness: str, given: Cosignature) -> None:
        """Keep a cosignature for the site whose log it is under; whether it holds, that site finds out."""
        shelf = self._shelves.get(given.origin)
        if shelf is None or given.origin == witness or len(given.line) > MAX_LINE or given.size > shelf.size:
            return
        lines = shelf.cosigned.setdefault(witness, {})
        lines[int(given.size)] = bytes(given.line)
        for old in sorted(lines)[:-KEPT_SIZES]:
            del lines[old]

    def _answer(self, origin: str, shelf: _Shelf) -> TurnReply:
        reply = TurnReply()
        for name, other in self._shelves.items():
            if name == origin:
                continue
            if (size := other.seen.get(origin, 0)) and size not in reply.wanted:
                reply.wanted.append(size)
            if other.head is None:
                continue
            position = shelf.seen.get(name, 0)
            if 0 < position < other.size and position not in other.proofs:
                continue  # its site learns in its next turn that this proof is wanted
            proofs = [other.proofs[position]] if position in other.proofs else []
            reply.others.append(
                Head(checkpoint=other.head.checkpoint, endorsement=other.head.endorsement, proofs=proofs)
            )
        for lines in shelf.cosigned.values():
            reply.cosignatures.extend(Cosignature(origin=origin, size=size, line=line) for size, line in lines.items())
            lines.clear()  # one that is lost on its way is given again by the witness, who sees that it is not there
        return reply


def _show(shelf: _Shelf, origin: str, own: Head) -> None:
    if len(own.checkpoint) > MAX_NOTE or len(own.endorsement) > MAX_ENDORSEMENT:
        raise ProtocolError("the checkpoint or the endorsement is too long", hint="send them as they are")
    if not own.checkpoint:
        shelf.head, shelf.size, shelf.proofs = own, 0, {}
        return
    try:
        found = Checkpoint.parse(Note.parse(own.checkpoint).text)
    except NotVerifiedError as error:
        raise ProtocolError(f"what was shown is no checkpoint: {error}", hint="send the note as it is") from error
    if found.origin != origin:
        raise PolicyError(f"the checkpoint is one of {found.origin[:120]}", hint="show that of the own log")
    if any(len(one.hashes) > MAX_PROOF or any(len(each) != _HASH for each in one.hashes) for one in own.proofs):
        raise ProtocolError(f"a proof has at most {MAX_PROOF} hashes of {_HASH} bytes", hint="send it as it is")
    shelf.head, shelf.size = own, found.size
    shelf.proofs = {int(one.old_size): one for one in own.proofs if one.new_size == found.size}


@dataclass(frozen=True)
class Turned:
    """What came of a turn.

    Attributes:
        cosigned: Checkpoints of other logs that this site cosigned.
        received: Cosignatures on its own that are new and hold.
        entries: What is to be appended to the site's log before anything else: alerts.
        problems: A line each of what did not hold.
    """

    cosigned: int
    received: int
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]


class Correspondent:
    """One party's side of the exchange: its own log, and its witness of the others.

    Args:
        trail: Its own log's checkpoints.
        endorsement: Of its own log key.
        witness: Made anew for every turn from the log keys that are vouched for by then.
        vouch: Tells of endorsements which log keys the federation's parties vouch for, at this moment.
        known: Folder in which the endorsements that were believed are kept.
    """

    def __init__(
        self,
        trail: Trail,
        endorsement: Endorsement,
        witness: Callable[[Mapping[str, Key]], Witness],
        vouch: Callable[[Iterable[Endorsement]], Vouched],
        *,
        known: Path,
    ) -> None:
        self._trail, self._endorsement, self._make = trail, endorsement, witness
        self._vouch, self._known = vouch, known
        self._endorsements = believed(known)
        self._wanted: tuple[int, ...] = ()
        self._pending: dict[tuple[str, int], str] = {}
        self._told: set[str] = set()
        self._recalled: dict[str, tuple[int, str]] = {}
        self._read = -1  # bytes of the own log when it was read for that

    def offer(self) -> TurnRequest:
        """What this party says in its next turn.

        Raises:
            RecordError: Its own log was altered, or its newest checkpoint.
        """
        own = Head(endorsement=canonical_json(self._endorsement.as_json()))
        if (newest := self._trail.newest()) is not None:  # who has no log yet is a witness all the same
            own.checkpoint = newest.raw
            for size in [one for one in self._wanted if 0 < one < newest.size][:MAX_OFFERED]:
                hashes = self._trail.consistency(size, newest.size)
                own.proofs.append(Proof(old_size=size, new_size=newest.size, hashes=hashes))
        request, witness = TurnRequest(own=own), self._witness()
        for origin in self._endorsements:
            if size := witness.size(origin):
                request.seen.append(Seen(origin=origin, size=size))
        for (origin, size), line in list(self._pending.items())[:MAX_OFFERED]:
            request.cosignatures.append(Cosignature(origin=origin, size=size, line=line.encode()))
        return request

    def take(self, sent: TurnRequest, reply: TurnReply) -> Turned:
        """Take in what came back: cosign what goes on from what was seen, and keep cosignatures that hold.

        Nothing of it ends the exchange: what does not hold is a line in :attr:`Turned.problems`.

        Raises:
            OutputError: The disk does not take it.
        """
        for given in sent.cosignatures:
            self._pending.pop((given.origin, int(given.size)), None)
        self._wanted = tuple(sorted({int(one) for one in reply.wanted}))[-MAX_OFFERED:]
        problems: list[str] = []
        entries: list[Entry] = []
        for head in reply.others[:MAX_OFFERED]:
            self._meet(head, problems)
        witness = self._witness()
        cosigned = sum(self._cosign(witness, head, entries, problems) for head in reply.others[:MAX_OFFERED])
        received = sum(self._receive(given, problems) for given in reply.cosignatures)
        fresh = tuple(one for one in problems if one not in self._told)
        self._told = set(problems)
        return Turned(cosigned, received, tuple(entries), fresh)

    def vouched(self) -> Vouched:
        """The log keys that the parties of the pinned charter vouched for, as far as they have shown them."""
        return self._vouch([*self._endorsements.values(), self._endorsement])

    def _witness(self) -> Witness:
        return self._make(self.vouched().logs)

    def _meet(self, head: Head, problems: list[str]) -> None:
        """Believe an endorsement that the charter's keys vouch for; the later of two holds."""
        try:
            one = Endorsement.parse(bytes(head.endorsement))
            if one.origin == self._endorsement.origin:
                return
            before = self._endorsements.get(one.origin)
            if before is not None and before.created >= one.created:
                return
            if one.origin not in self._vouch([one]).logs:
                problems.append(f"nobody of this federation vouches for the log key of {one.origin}")
                return
            private_folder(self._known)
            one.save(self._known / f"{quote(one.origin, safe='')}.json")
            self._endorsements[one.origin] = one
        except FedwardError as error:
            problems.append(error.message)

    def _cosign(self, witness: Witness, head: Head, entries: list[Entry], problems: list[str]) -> bool:
        if not head.checkpoint:
            return False
        try:
            text = Note.parse(bytes(head.checkpoint)).text
            checkpoint = Checkpoint.parse(text)
            if checkpoint.origin not in self._endorsements:
                return False
            seen = witness.state(checkpoint.origin)
            size = seen.size if seen else 0
            proof = next((tuple(one.hashes) for one in head.proofs if one.old_size == size), None)
            if seen is not None and (size, seen.root) == (checkpoint.size, checkpoint.root):
                self._again(seen, Note.parse(bytes(head.checkpoint)))
                return False
            if 0 < size < checkpoint.size and proof is None:
                return False  # its site learns in its next turn that this proof is wanted
            if checkpoint.size < size:
                problems.append(
                    f"{checkpoint.origin} shows {checkpoint.size} entries, and {size} were cosigned: the log was "
                    "cut or set back, or somebody holds its newest checkpoint back"
                )
                return False
            self._require_memory(witness, checkpoint.origin)
            line = witness.submit(size, proof or (), bytes(head.checkpoint))
        except ConflictError:
            return False  # another turn of this site was quicker
        except InconsistentError as error:
            entries += [error.entry] if error.entry else []
            problems.append(error.message)
            return False
        except NotVerifiedError as error:
            problems.append(f"what came is no checkpoint: {error}")
            return False
        except (PolicyError, ProtocolError, RecordError) as error:
            problems.append(error.message)
            return False
        self._pending[checkpoint.origin, checkpoint.size] = line
        return True

    def _require_memory(self, witness: Witness, origin: str) -> None:
        """Cosign nothing of a log where the own log says that more of it was cosigned than the witness remembers.

        The own log is read once for it, and again where it has grown: a person may have decided meanwhile.

        Raises:
            RecordError: The witness was set back to an older copy, or the own log does not verify.
        """
        path = self._trail.folder / LOG
        bytes_now = path.stat().st_size if path.exists() else 0
        if self._read < 0:
            self._recall(path, bytes_now)
        try:
            if origin in self._recalled:
                witness.require(origin, *self._recalled[origin])
        except RecordError:
            if bytes_now == self._read:
                raise
            self._recall(path, bytes_now)
            if origin in self._recalled:
                witness.require(origin, *self._recalled[origin])

    def _recall(self, path: Path, size: int) -> None:
        self._recalled, self._read = recalled(entries(path)) if size else {}, size

    def _again(self, seen: Signed, shown: Note) -> None:
        """Give a cosignature again that did not reach its site."""
        own = self._endorsement.keys[1]
        if shown.of(own) is None:
            lines = [line for line in lines_of(seen.raw) if line.split(" ")[1] == own.name]
            self._pending[seen.checkpoint.origin, seen.size] = lines[-1]

    def _receive(self, given: Cosignature, problems: list[str]) -> bool:
        """Put a cosignature under the own checkpoint, if it is new, holds, and is one of a party's."""
        try:
            line = bytes(given.line).decode()
            name = line.split(" ")[1]
            one = self._endorsements.get(name)
            if one is None or given.origin != self._endorsement.origin:
                return False
            key = Key(name, COSIGNATURE, one.log_key)
            if int(given.size) not in self._trail.sizes() or self._trail.at(int(given.size)).note.of(key) is not None:
                return False  # of nothing that was published here, or known
            self._trail.add_cosignature(int(given.size), line, key)
        except (ValueError, IndexError):
            problems.append("a cosignature that is none")
            return False
        except RecordError as error:
            problems.append(error.message)
            return False
        return True


def believed(folder: Path) -> dict[str, Endorsement]:
    """The endorsements that a party keeps of the others, by origin; they are checked against its charter when used.

    Raises:
        ProtocolError: A file was altered.
    """
    found = [Endorsement.load(path) for path in sorted(folder.glob("*.json"))]
    return {one.origin: one for one in found}
