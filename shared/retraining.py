"""A hospital's request to train a task again without a patient who was erased (GDPR Art. 17), signed by its identity.

It names a run, a task, and the last round before the first one that the patient could be drawn in; nothing about him.
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.charter import Charter
from shared.errors import ProtocolError, UsageError
from shared.faults import first_fault
from shared.files import canonical_json, write_json

DOMAIN: Final = b"fedward retraining request 1\0"
LARGEST: Final = 8192
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_AGAIN: Final = "ask the hospital to send the file of its erasure again"


@dataclass(frozen=True)
class Retraining:
    """A request.

    Attributes:
        site: Who asks.
        federation: Id of the federation.
        charter: SHA-256 of the charter of the run.
        run: Id of the run.
        task: Name of the task.
        clean_round: The last round before the patient; 0 where he could be drawn from the first on.
        time: When it was asked (RFC 3339, UTC).
        signature: Ed25519, by the identity of the hospital, over all of that.
    """

    site: str
    federation: str
    charter: str
    run: str
    task: str
    clean_round: int
    time: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature is over: a separator of domains, and the canonical JSON of all other fields."""
        return DOMAIN + canonical_json({name: value for name, value in asdict(self).items() if name != "signature"})

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """The same with the signature of ``key``, made now."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        bare = replace(self, time=now)
        return replace(bare, signature=key.sign(bare.signed_bytes()).hex())

    def write(self, path: Path) -> None:
        """Write it for the coordinator; nothing in it is secret from it.

        Raises:
            OutputError: It cannot be written.
        """
        write_json(path, asdict(self), mode=0o600, durable=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A request as it is, whoever wrote it: see :meth:`check`.

        Raises:
            UsageError: It cannot be read, or is none.
        """
        try:
            with path.open("rb") as stream:
                form = _Form.model_validate_json(stream.read(LARGEST))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the hospital's request") from error
        except ValidationError as error:
            raise UsageError(f"{path} is no request to train again: {first_fault(error)}", hint=_AGAIN) from error
        return cls(**form.model_dump())

    def check(self, charter: Charter) -> None:
        """See that a member of ``charter`` asks for a task and a round of it.

        Raises:
            ProtocolError: No member signed this, or it is about something else.
        """
        member = next((one for one in charter.members if one.name == self.site), None)
        if member is None or (self.federation, self.charter) != (charter.id, charter.sha256):
            raise ProtocolError(f"{self.site} asks as a member of another charter", hint="ask the hospital")
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(member.identity))
            key.verify(bytes.fromhex(self.signature), self.signed_bytes())
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(f"{self.site} did not sign this request", hint=_AGAIN) from error
        if self.clean_round >= charter.task(self.task).rounds:
            raise ProtocolError(f"the charter has no round after {self.clean_round} of {self.task}", hint=_AGAIN)


class _Form(BaseModel):
    """The file of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: Annotated[str, Field(pattern=_NAME)]
    federation: Annotated[str, Field(pattern=_NAME)]
    charter: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    run: Annotated[str, Field(pattern=_NAME)]
    task: Annotated[str, Field(pattern=_NAME)]
    clean_round: Annotated[int, Field(ge=0, le=100_000)]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
