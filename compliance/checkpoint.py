"""Checkpoints: what a log says of itself at one size, who cosigned it, and how many of them are enough.

A checkpoint is a signed note (https://c2sp.org/tlog-checkpoint): origin, size, tree head. This file makes them; what
checks them is :mod:`compliance.verify`, which needs nothing of fedward.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from compliance.log import Scalar
from compliance.note import Signer, write_note
from compliance.verify import Checkpoint, Key, Note, NotVerifiedError, cosigners, signed_checkpoint
from shared.errors import ProtocolError, RecordError


@dataclass(frozen=True)
class Signed:
    """A checkpoint that its log signed, with the cosignatures that it has got.

    Attributes:
        raw: The whole note.
        checkpoint: What it says.
    """

    raw: bytes
    checkpoint: Checkpoint

    @classmethod
    def make(cls, signer: Signer, size: int, root: bytes) -> "Signed":
        """Sign a tree head. That no other one was signed at this size is the caller's duty."""
        checkpoint = Checkpoint(signer.name, size, root)
        text = str(checkpoint)
        return cls(write_note(text, signer.sign(text)), checkpoint)

    @classmethod
    def read(cls, raw: bytes, key: Key, where: str = "the checkpoint") -> "Signed":
        """The checkpoint in ``raw``, if the log with ``key`` signed it.

        Raises:
            RecordError: It did not, or it is none.
        """
        try:
            return cls(raw, signed_checkpoint(Note.parse(raw), key))
        except NotVerifiedError as error:
            raise RecordError(
                f"{where} does not verify: {error}", hint="keep it as evidence; ask its log anew"
            ) from error

    @cached_property
    def note(self) -> Note:
        """The note, taken apart."""
        return Note.parse(self.raw)

    @property
    def size(self) -> int:
        """Entries of the log up to this head."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The tree head, 32 bytes."""
        return self.checkpoint.root


LEAST: Final = 2
"""Witnesses in the smallest quorum where nobody says otherwise."""


def majority(others: int) -> int:
    """So many of a log's ``others`` that no two histories get as many cosignatures of honest witnesses: over half."""
    return others // 2 + 1


def needed_of(others: int) -> int:
    """So many of a log's ``others`` make a checkpoint a witnessed one where nobody says otherwise."""
    return max(LEAST, majority(others))


@dataclass(frozen=True)
class Quorum:
    """How many other sites must have cosigned a checkpoint.

    Attributes:
        sites: The witness keys of the federation's sites. The coordinator's is not among them: it carries all of these
            messages, so that its word alone shows nothing that a site could not be told by it.
        needed: So many of them, the log's own site left out; None for over half of these, and two at least. Whoever
            knows how many sites the charter has says the number: of those that were not met yet no key is here.
    """

    sites: tuple[Key, ...]
    needed: int | None = None

    def __post_init__(self) -> None:
        """Refuse a quorum of nobody."""
        if self.needed is not None and self.needed < 1:
            raise ValueError("a quorum has at least one witness")

    def of(self, origin: str) -> int:
        """How many must have cosigned a checkpoint of the log ``origin``."""
        if self.needed is not None:
            return self.needed
        return needed_of(len({key.public for key in self.sites if key.name != origin}))


def satisfied(note: Note, policy: Quorum) -> tuple[bool, str]:
    """Whether enough sites cosigned ``note``, and in words who did.

    A cosignature that is there and does not hold spoils the note (signed-note: verifiers should reject it).
    """
    try:
        seen = sorted(cosigners(note, policy.sites))
    except NotVerifiedError as error:
        return False, str(error)
    names, needed = ", ".join(seen) or "nobody", policy.of(note.text.partition("\n")[0])
    return len(seen) >= needed, f"cosigned by {names}: {len(seen)} of {needed} that are needed"


def head_of(shown: str) -> dict[str, Scalar]:
    """What an entry of another log says of a checkpoint that came with a message; nothing where there was none.

    Only its form is looked at: who signed it is the witnesses' question.

    Raises:
        ProtocolError: It is no checkpoint.
    """
    if not shown:
        return {}
    try:
        found = Checkpoint.parse(Note.parse(shown.encode()).text)
    except NotVerifiedError as error:
        raise ProtocolError(f"the message carries no checkpoint: {error}", hint="send the note as it is") from error
    return {"log": found.origin, "log_size": found.size, "log_root": found.root.hex()}
