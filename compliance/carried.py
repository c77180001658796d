"""Checkpoints and cosignatures as files, so that a coordinator that carries them cannot keep them back.

A log writes an *offer* (its newest checkpoint, proofs from what each witness has, who vouches for its key); a witness
reads it and writes an *answer* (its cosignature, or the size from which it wants a proof); the log takes that in. The
same two things travel over the network.
"""

import base64
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from cryptography import x509
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from compliance.checkpoint import Signed
from compliance.endorse import Endorsement, vouched
from compliance.trail import Trail
from compliance.verify import Key
from compliance.witness import MAX_PROOF, ConflictError, Witness
from shared.certificates import pem
from shared.charter import Charter
from shared.errors import ProtocolError, UsageError
from shared.faults import words_of
from shared.files import canonical_json, write_json

MAX_FILE: Final = 1 << 20  # bytes
_MAX_PROOFS: Final = 64


def _hash(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != 32:
        raise ValueError("is no hash")
    return text


_Hash = Annotated[str, AfterValidator(_hash)]
_Size = Annotated[int, Field(ge=0, lt=2**63)]
_Text = Annotated[str, Field(max_length=65536)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    v: Literal[1] = 1
    endorsement: dict[str, Any]
    authority: _Text | None = None

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            OutputError: It cannot be written.
        """
        write_json(path, self.model_dump(), durable=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it.

        Raises:
            UsageError: There is no such file.
            ProtocolError: It is none.
        """
        try:
            with path.open("rb") as stream:
                raw = stream.read(MAX_FILE)
            return cls.model_validate_json(raw)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the file that was brought") from error
        except ValidationError as error:
            fault = words_of(error.errors(include_url=False, include_input=False)[0])
            raise ProtocolError(f"{path} is no {cls.__name__.lower()}: {fault}", hint="ask for it again") from error

    def keys(self, charter: Charter) -> tuple[Key, Key]:
        """The log key and the witness key of its author, by the charter and his endorsement.

        Raises:
            ProtocolError: The charter does not know him, or his endorsement does not hold.
        """
        one = Endorsement.parse(canonical_json(self.endorsement))
        try:
            certificate = x509.load_pem_x509_certificate(self.authority.encode()) if self.authority else None
        except ValueError as error:
            raise ProtocolError("the certificate of the authority in it is damaged", hint="ask for it again") from error
        if one.origin not in vouched(charter, [one], certificate).logs:
            raise ProtocolError(f"the charter {charter.id} has no member {one.origin}", hint="compare both charters")
        return one.keys


class ProofFrom(BaseModel):
    """A consistency proof from one size."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: _Size
    hashes: Annotated[list[_Hash], Field(max_length=MAX_PROOF)]

    @property
    def proof(self) -> tuple[bytes, ...]:
        """The hashes, 32 bytes each."""
        return tuple(base64.b64decode(one) for one in self.hashes)


class Offer(_File):
    """A checkpoint that is to be cosigned, and proofs from what its witnesses have."""

    checkpoint: _Text
    proofs: Annotated[list[ProofFrom], Field(max_length=_MAX_PROOFS)]


class Answer(_File):
    """What a witness says to an offer: a cosignature, or the size from which it wants a proof."""

    origin: _Text
    size: _Size
    cosignature: _Text | None = None
    have: _Size | None = None


def offer(
    trail: Trail, endorsement: Endorsement, authority: x509.Certificate | None = None, have: tuple[int, ...] = ()
) -> Offer:
    """The newest checkpoint with proofs from 0, from what each witness has cosigned, and from the sizes in ``have``.

    Raises:
        UsageError: Nothing was published yet.
        RecordError: The log is not the one that was published.
    """
    newest = trail.newest()
    if newest is None:
        raise UsageError(f"{trail.folder} has no checkpoint yet", hint="run 'fedward audit checkpoints --publish'")
    wanted = {0, *cosigned_sizes(trail).values(), *have}
    sizes = sorted(size for size in wanted if size <= newest.size)[-_MAX_PROOFS:]
    proofs = []
    for size in sizes:
        hashes = [base64.b64encode(one).decode() for one in trail.consistency(size, newest.size)]
        proofs.append(ProofFrom(size=size, hashes=hashes))
    return Offer(
        endorsement=endorsement.as_json(),
        authority=pem(authority).decode() if authority else None,
        checkpoint=newest.raw.decode(),
        proofs=proofs,
    )


def cosigned_sizes(trail: Trail) -> dict[str, int]:
    """The greatest size that each witness has cosigned of this log, by name, as far as its cosignature came back."""
    found: dict[str, int] = {}
    for size in trail.sizes():
        for name, _, _ in trail.at(size).note.signatures:
            if name != trail.origin:
                found[name] = size
    return found


def answer(witness: Witness, given: Offer, own: Endorsement, authority: x509.Certificate | None = None) -> Answer:
    """Cosign what is offered, or say from which size a proof is wanted.

    Raises:
        FedwardError: See :meth:`compliance.witness.Witness.submit`.
    """
    origin, number, *_ = [*given.checkpoint.split("\n"), "", ""]
    made = Answer(
        endorsement=own.as_json(),
        authority=pem(authority).decode() if authority else None,
        origin=origin,
        size=int(number) if number.isdecimal() and len(number) < 19 else 0,
    )
    have = witness.size(origin)
    proof = next((one.proof for one in given.proofs if one.size == have), ())
    known = have in {one.size for one in given.proofs} | {made.size}
    try:
        line = witness.submit(have if known else 0, proof, given.checkpoint.encode())
    except ConflictError as error:
        return made.model_copy(update={"have": error.size})
    return made.model_copy(update={"cosignature": line})


def take(trail: Trail, given: Answer, witness: Key) -> Signed:
    """Put the cosignature of an answer under the checkpoint that it is for.

    Raises:
        ProtocolError: The answer is another log's, or has no cosignature.
        RecordError: The cosignature does not hold, or there is no such checkpoint.
    """
    if given.origin != trail.origin:
        raise ProtocolError(f"the answer is for the log {given.origin[:120]}", hint=f"this one is {trail.origin}")
    if given.cosignature is None:
        raise ProtocolError(
            f"{witness.name} has not cosigned: it has seen {given.have} entries",
            hint=f"export again with --have {given.have}",
        )
    return trail.add_cosignature(given.size, given.cosignature, witness)
