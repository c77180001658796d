"""What a hospital states of its part in a run, signed with its identity key, for the release of the model.

Whoever holds the charter checks it offline: the charter has the hospital's public key. The hospital writes it, reads
it, and sends it or does not; nothing sends it by itself. It tells what was charged to its patients' privacy, which data
set was used, and how well the model does on groups of its held-out patients that are large enough to be shown.
"""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.charter import Charter
from shared.errors import ProtocolError, UsageError
from shared.faults import first_fault
from shared.files import canonical_json
from shared.identity import forgeable
from shared.parsing import parse_json
from shared.quality import LEAST, MOST_CELLS, SUPPRESSED, Cell, CellForm

DOMAIN: Final = b"fedward statement of a hospital 1\0"
MAX_STATEMENT: Final = 262_144
"""Bytes of a file; a usual one has some 3000."""
MAX_CHECKPOINT: Final = 65_536
UNIT: Final = "patient"
NONE: Final = "none"
INFINITE: Final = "infinite"
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_AGAIN: Final = "ask the hospital to write it again with 'fedward node statement'"

Epsilon = float | Literal["none", "infinite"]
"""An upper bound; ``none`` where rounds were trained without differential privacy, ``infinite`` where none is shown."""
Mode = Literal["off", "patient", "distributed"]


@dataclass(frozen=True)
class TaskPart:
    """What a hospital did for one task of the run.

    Attributes:
        task: Its name.
        mode: Differential privacy that the charter asks for.
        rounds: Rounds that it trained in.
        charged: Rounds of these that its privacy ledger was charged for, repeats not counted twice.
        steps: Optimiser steps that were charged, repeats included.
        delta: The delta of both figures; None without differential privacy.
        alone: Epsilon of this task in this run alone.
        after: Epsilon of everything charged to the same patients up to and with the last round of it.
        accountant: ``prv`` or ``rdp``, of the greater one of both figures; ``none`` where there is no figure.
    """

    task: str
    mode: Mode
    rounds: int
    charged: int
    steps: int
    delta: float | None
    alone: Epsilon
    after: Epsilon
    accountant: Literal["prv", "rdp", "none"]


@dataclass(frozen=True)
class Statement:
    """One hospital's part in one run.

    Attributes:
        federation, charter, run: As in the header of every message.
        site: The hospital's name in the charter.
        created: When, in UTC, to the second.
        tasks: Those that it trained, in the charter's order.
        uncovered: Rounds without differential privacy on the same patients up to the end of the run, in any run.
        manifest: Digest of the manifest of the data set in the last round of the run; or None.
        patients: Patients in training in the last round, rounded down to tens; :data:`shared.quality.SUPPRESSED`, or
            None where that is not recorded.
        quality: Cells of held-out patients, suppressed where small.
        checkpoint: The newest checkpoint of its audit log, with cosignatures (C2SP signed note); empty without one.
        endorsement: Its endorsement of the key of that log; empty without one.
        signature: Under its identity key, over :meth:`signed_bytes`.
    """

    federation: str
    charter: str
    run: str
    site: str
    created: datetime
    tasks: tuple[TaskPart, ...]
    uncovered: int = 0
    manifest: str | None = None
    patients: int | str | None = None
    quality: tuple[Cell, ...] = ()
    checkpoint: str = ""
    endorsement: tuple[tuple[str, str | int], ...] = ()
    signature: bytes = field(default=b"", repr=False)

    def sign(self, key: Ed25519PrivateKey) -> "Statement":
        """The statement with its signature (Ed25519, RFC 8032)."""
        return replace(self, signature=key.sign(self.signed_bytes()))

    def signed_bytes(self) -> bytes:
        """What is signed: a separator of domains and the canonical JSON (RFC 8785) of all other fields."""
        return DOMAIN + canonical_json(self.facts())

    def facts(self) -> dict[str, Any]:
        """All but the signature, as plain values."""
        return {
            "v": 1,
            "federation": self.federation,
            "charter": self.charter,
            "run": self.run,
            "site": self.site,
            "created": self.created.strftime(_FORM),
            "unit": UNIT,
            "tasks": [dict(vars(one)) for one in self.tasks],
            "uncovered": self.uncovered,
            "manifest": self.manifest,
            "patients": self.patients,
            "quality": [one.to_json() for one in self.quality],
            "checkpoint": self.checkpoint,
            "endorsement": dict(self.endorsement),
        }

    def to_bytes(self) -> bytes:
        """The file: canonical JSON, so that a statement has one form."""
        return canonical_json({**self.facts(), "signature": self.signature.hex()})

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def task(self, name: str) -> TaskPart | None:
        """The part of it that is about a task; None where there is none."""
        return next((one for one in self.tasks if one.task == name), None)

    @classmethod
    def parse(cls, raw: bytes, where: str = "the statement") -> "Statement":
        """The statement that ``raw`` is, in its one form; whose it is, :meth:`check` says.

        Raises:
            ProtocolError: It is none, or not in canonical form, or shows what has to be suppressed.
        """
        if len(raw) > MAX_STATEMENT:
            raise ProtocolError(f"{where} is larger than {MAX_STATEMENT} bytes, so it is no statement", hint=_AGAIN)
        try:
            form = _Form.model_validate_json(raw)
            found = form.statement()
            canonical = canonical_json(parse_json(raw)) == raw == found.to_bytes()
        except ValidationError as error:
            what = "it is a request to join" if _is_request(raw) else first_fault(error)
            raise ProtocolError(f"{where} is no statement: {what}", hint=_AGAIN) from error
        except ValueError as error:
            raise ProtocolError(f"{where} is no statement: a value has no such form", hint=_AGAIN) from error
        if not canonical:
            raise ProtocolError(f"{where} is not in the canonical form of a statement", hint=_AGAIN)
        if any(isinstance(one.n, int) and one.n < LEAST for one in found.quality):
            raise ProtocolError(f"{where} shows a group of fewer than {LEAST} patients", hint=_AGAIN)
        return found

    @classmethod
    def read(cls, path: Path) -> "Statement":
        """The statement in a file.

        Raises:
            UsageError: The file cannot be read.
            ProtocolError: As :meth:`parse`.
        """
        try:
            with path.open("rb") as stream:
                raw = stream.read(MAX_STATEMENT + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a hospital's statement") from error
        return cls.parse(raw, str(path))

    def check(self, charter: Charter, run: str) -> None:
        """Refuse it unless a member of ``charter`` signed exactly this, of this charter and this run.

        Raises:
            ProtocolError: It is of another charter or run, no member's, or its signature does not hold.
        """
        if (self.federation, self.charter) != (charter.id, charter.sha256):
            raise ProtocolError(f"the statement of {self.site} is about another charter", hint=_AGAIN)
        if self.run != run:
            raise ProtocolError(f"the statement of {self.site} is about the run {self.run}, not {run}", hint=_AGAIN)
        member = next((one for one in charter.members if one.name == self.site), None)
        if member is None:
            raise ProtocolError(f"{self.site} is no member of the charter {charter.id}", hint="leave its statement out")
        if unknown := {one.task for one in self.tasks} - {one.name for one in charter.tasks}:
            raise ProtocolError(f"the charter has no task {min(unknown)}, which {self.site} states", hint=_AGAIN)
        public = bytes.fromhex(member.identity)
        if forgeable(public):
            raise ProtocolError(f"anybody could sign under the key of {self.site}", hint="do not use this charter")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, self.signed_bytes())
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(
                f"the statement of {self.site} is not signed with the identity key that the charter has of it",
                hint=_AGAIN,
            ) from error


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=10**9)]
_Epsilon = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | Literal["none", "infinite"]
_Tens = Annotated[int, Field(ge=LEAST, le=10**7, multiple_of=10)]


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    task: _Name
    mode: Mode
    rounds: _Count
    charged: _Count
    steps: _Count
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    alone: _Epsilon
    after: _Epsilon
    accountant: Literal["prv", "rdp", "none"]


class _Form(BaseModel):
    """The file of a statement."""

    model_config = ConfigDict(extra="forbid", strict=True)

    v: Literal[1]
    federation: _Name
    charter: _Sha256
    run: _Name
    site: _Name
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    unit: Literal["patient"]
    tasks: Annotated[list[_Task], Field(min_length=1, max_length=32)]
    uncovered: _Count
    manifest: _Sha256 | None
    patients: _Tens | Literal["fewer than 10"] | None
    quality: Annotated[list[CellForm], Field(max_length=MOST_CELLS)]
    checkpoint: Annotated[str, Field(max_length=MAX_CHECKPOINT)]
    endorsement: Annotated[dict[str, Annotated[str, Field(max_length=1024)] | int], Field(max_length=8)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    def statement(self) -> Statement:
        if len({one.task for one in self.tasks}) != len(self.tasks):
            raise ValueError("a task stands there twice")
        return Statement(
            federation=self.federation,
            charter=self.charter,
            run=self.run,
            site=self.site,
            created=datetime.strptime(self.created, _FORM).replace(tzinfo=UTC),
            tasks=tuple(TaskPart(**one.model_dump()) for one in self.tasks),
            uncovered=self.uncovered,
            manifest=self.manifest,
            patients=self.patients,
            quality=tuple(one.cell() for one in self.quality),
            checkpoint=self.checkpoint,
            endorsement=tuple(sorted(self.endorsement.items())),
            signature=bytes.fromhex(self.signature),
        )


def shown(count: int) -> int | str:
    """A number of patients as others may see it: rounded down to tens, suppressed where it is small."""
    return SUPPRESSED if count < LEAST else count - count % 10


def _is_request(raw: bytes) -> bool:
    """Whether it looks like a hospital's request to join: both files are a hospital's, often of the same name."""
    try:
        found = parse_json(raw)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= {"site", "public_key", "purpose", "created"}
