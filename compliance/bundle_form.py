"""The form of a released model: the names of its files, its manifest, and the note that is signed under it.

The coordinator writes it (:mod:`server.release_bundle`) and anybody checks it (:mod:`compliance.bundle_check`), so the
form stands here, below both. The manifest has the SHA-256 of every other file, and the signature is one over the
SHA-256 of the manifest.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import RecordError
from shared.faults import first_fault
from shared.files import canonical_json
from shared.parsing import parse_json
from shared.statement import Statement

KIND: Final = "fedward model release"
WEIGHTS: Final = "model.safetensors"
DESCRIBED: Final = "model.json"
LAYOUT: Final = "layout.json"
HISTORY: Final = "history.json"
CARD: Final = "MODEL_CARD.md"
CHARTER: Final = "charter.toml"
AUTHORITY: Final = "authority.pem"
ENDORSEMENT: Final = "endorsement.json"
CHECKPOINT: Final = "checkpoints/coordinator"
ENTRY: Final = "entry.json"
"""The line of the coordinator's log about the model, with the proof that it stands in the log of the checkpoint."""
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "SIGNATURE"
REQUIRED: Final = frozenset(
    {WEIGHTS, DESCRIBED, LAYOUT, HISTORY, CARD, CHARTER, AUTHORITY, ENDORSEMENT, CHECKPOINT},
)
MAX_MANIFEST: Final = 1_048_576
"""Bytes; a usual one has some 5000."""
TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_TITLE: Final = f"{KIND} 1"


def statement_file(site: str) -> str:
    """Where the statement of a hospital lies."""
    return f"statements/{site}.json"


def checkpoint_file(site: str) -> str:
    """Where the checkpoint of a hospital lies, as its statement has it."""
    return f"checkpoints/sites/{site}"


def endorsement_file(site: str) -> str:
    """Where the endorsement of a witness lies that gave no statement."""
    return f"endorsements/{site}.json"


def release_text(manifest: bytes) -> str:
    """What the coordinator's log key signs (https://c2sp.org/signed-note): a title, and the manifest's SHA-256.

    No checkpoint has this first line, since no origin has blanks: a release cannot be taken for a tree head.
    """
    return f"{_TITLE}\n{hashlib.sha256(manifest).hexdigest()}\n"


def site_row(statement: Statement, task: str) -> dict[str, Any]:
    """What the manifest says of a hospital by its statement.

    Raises:
        RecordError: The statement says nothing of the task.
    """
    part = statement.task(task)
    if part is None:
        raise RecordError(f"the statement of {statement.site} says nothing of {task}", hint="ask for one that does")
    return {
        "site": statement.site,
        "statement": statement.digest,
        "rounds": part.rounds,
        "charged": part.charged,
        "steps": part.steps,
        "mode": part.mode,
        "delta": part.delta,
        "epsilon": part.alone,
        "epsilon_after": part.after,
        "accountant": part.accountant,
        "uncovered": statement.uncovered,
        "dataset": statement.manifest,
        "patients": statement.patients,
    }


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Path = Annotated[
    str,
    Field(pattern=r"^((statements|checkpoints|checkpoints/sites|endorsements)/)?[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"),
]
_Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
_Text = Annotated[str, Field(max_length=32_768)]
_Figures = Annotated[dict[str, float], Field(max_length=64)]


class Form(BaseModel):
    """Nothing missing, nothing extra, no conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class FileForm(Form):
    """A file of the release."""

    sha256: _Sha256
    bytes: _Count


class ModelForm(Form):
    """The model."""

    digest: _Sha256
    layout_sha256: _Sha256
    parameters: _Count
    rounds: _Count
    start: str
    trained: str
    aggregation: str


class CodeForm(Form):
    """The release of fedward that wrote it, by its version and its bundle (:mod:`shared.bundle`)."""

    version: str
    bundle_sha256: _Sha256


class BundleRow(Form):
    """The release that this one replaces."""

    version: str
    run: str
    manifest_sha256: _Sha256


class ChangeForm(Form):
    """The change record: which version it is, what it replaces, and why."""

    version: str
    replaces: BundleRow | None
    reason: _Text | None


class MetricsForm(Form):
    """Figures on held-out patients of all hospitals together: before the first round, and of the model."""

    first: _Figures
    last: _Figures
    baselines: Literal["in the statements", "not recorded"]


class RecordForm(Form):
    """The coordinator's log: its name, the checkpoint's size, and the number of the model's entry, if proved."""

    origin: str
    size: _Count
    entry: _Count | None


class EntryForm(Form):
    """The file ``entry.json``: a line of the log without its line end, and its inclusion proof (RFC 6962)."""

    line: _Text
    proof: Annotated[list[_Sha256], Field(max_length=64)]


class ManifestForm(Form):
    """The file ``manifest.json``."""

    v: Literal[1]
    kind: Literal["fedward model release"]
    federation: _Name
    charter: _Sha256
    run: _Name
    task: _Name
    released: _Time
    model: ModelForm
    code: CodeForm
    sites: Annotated[list[dict[str, Any]], Field(max_length=1024)]
    metrics: MetricsForm
    change: ChangeForm
    intended_use: Annotated[list[_Text], Field(max_length=32)]
    record: RecordForm
    files: Annotated[dict[_Path, FileForm], Field(max_length=4096)]

    @property
    def moment(self) -> datetime:
        """When it was released."""
        return datetime.strptime(self.released, TIME).replace(tzinfo=UTC)


def read_manifest(raw: bytes) -> ManifestForm:
    """The manifest that ``raw`` is, in its one form.

    Raises:
        RecordError: It is none, or not in canonical form (RFC 8785).
    """
    hint = "ask the coordinator for the release again"
    try:
        if len(raw) > MAX_MANIFEST:
            raise RecordError(f"{MANIFEST} is larger than {MAX_MANIFEST} bytes", hint=hint)
        form = ManifestForm.model_validate_json(raw)
        canonical = canonical_json(parse_json(raw)) == raw
        _ = form.moment
    except ValidationError as error:
        raise RecordError(f"{MANIFEST} is none of a release: {first_fault(error)}", hint=hint) from error
    except ValueError as error:
        raise RecordError(f"{MANIFEST} has a value without a canonical form", hint=hint) from error
    if not canonical:
        raise RecordError(f"{MANIFEST} is not in canonical form", hint=hint)
    return form
