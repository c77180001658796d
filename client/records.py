"""The register on disk: ``NODE/rights/records.json`` (folder 0700, file 0600), whole or unchanged, known to the log.

The audit log says before every change, and after it, which digest the file has then. A file that is missing, altered or
an older copy that was put back therefore lets nobody take part: else to lose the file would undo every withdrawal.
"""

import functools
import hashlib
import hmac
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.basis import Basis, DefaultBasis
from client.consent import Choice, Decision, Hold, Patient, Register
from client.node import Node
from client.private_lines import sweep_parts
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar, newest
from shared.errors import FedwardError, PolicyError, RecordError, UsageError
from shared.files import canonical_json, locked, private_folder, write_bytes

FOLDER: Final = "rights"
"""The folder of everything about patients' rights within the node's."""
FILE: Final = "records.json"
VERSION: Final = 1
ACTS: Final = (
    Action.BASIS_SET,
    Action.CONSENT_IMPORT,
    Action.CONSENT_WITHDRAW,
    Action.RIGHTS_RESTRICT,
    Action.RIGHTS_RECTIFY,
    Action.RIGHTS_ERASE,
)
"""What changes the register; the log's entries of these say which digest it has."""
BEFORE, AFTER = "records_before", "records"
_PATIENCE, _LOOKS, _PAUSE = 30.0, 10, 0.05
_LOST = "put back the newest copy of it; until then nobody takes part"


def folder_of(node: Node) -> Path:
    """The private folder of patients' rights."""
    return node.folder / FOLDER


def pseudonym_of(node: Node, patient_id: str) -> str:
    """What this hospital calls the patient with a Patient ID (0010,0020), as its de-identification does.

    Raises:
        UsageError: It is empty, or the node's key cannot be read.
    """
    from client.deid.pseudonyms import Pseudonyms, SiteKey  # noqa: PLC0415  # de-identification: a second

    identity = unicodedata.normalize("NFC", patient_id).strip(" \0")
    if not identity:
        raise UsageError("a Patient ID is empty", hint="give the ID as the archive has it")
    return Pseudonyms(SiteKey(node.key("pseudonym"))).patient(f"id:{identity}")


def marker(node: Node) -> Callable[[str], str]:
    """What makes of a pseudonym the keyed digest by which somebody who was erased is known again, and nothing else."""
    key = node.key("audit")
    return lambda patient: hmac.new(key, f"erased|{patient}".encode(), hashlib.sha256).hexdigest()


def tombstone(node: Node, patient: str) -> str:
    """As :func:`marker`, for one patient."""
    return marker(node)(patient)


def log_of(node: Node) -> Path:
    """The file of the audit log, for who only looks."""
    return node.folder / "audit" / "log.jsonl"


def read_register(node: Node, log: AuditLog | Path | None = None) -> tuple[Register, str]:
    """The register and its digest; empty ones where nothing was ever recorded.

    Args:
        node: The hospital's node.
        log: Its audit log, open or as a file, against which the register is held; None where the caller has done that.

    Raises:
        PolicyError: Others may read it.
        RecordError: It is damaged, or not the one that the log knows.
    """
    path = folder_of(node) / FILE
    for _ in range(_LOOKS):
        known = None if log is None else _known(log)
        register, digest = _load(path)
        # Somebody may be writing: read between two equal answers of the log, or look again.
        if log is None or (known == _known(log) and (known is None or digest in known)):
            return register, digest
        time.sleep(_PAUSE)
    raise RecordError(f"{path} is not the register that the audit log knows", hint=_LOST)


def change(
    node: Node,
    log: AuditLog,
    action: Action,
    make: Callable[[Register], Register],
    *,
    subject: str = "",
    detail: Mapping[str, Scalar] | None = None,
) -> tuple[Register, Register]:
    """Change the register: recorded, then durable, then recorded as done. Where nothing changes, nothing is recorded.

    These are two entries whoever and how many it is about: others see how long the log is.

    Args:
        node: The hospital's node.
        log: Its audit log, open.
        action: What is done, one of :data:`ACTS`.
        make: The new register from the one before; it may be called again.
        subject: The pseudonym that it is about; only its digest stands in the log.
        detail: Facts for the log.

    Returns:
        The register before and after.

    Raises:
        RecordError: The register is not the one that the log knows, or another process holds it, or the log cannot be
            written.
        OutputError: The disk does not take it; the register is as it was.
    """
    folder = folder_of(node)
    with unchanging(node):
        before, was = read_register(node, log)
        after = _without_erased(node, make(before))
        if after == before:
            return before, before
        after = replace(after, serial=before.serial + 1)
        data = canonical_json(_form(after)) + b"\n"
        facts: dict[str, Scalar] = {**(detail or {}), BEFORE: was, AFTER: hashlib.sha256(data).hexdigest()}
        about = ("patient", log.digest(subject)) if subject else None
        with log.act(Entry(action, Outcome.STARTED, subject=about, detail=facts)):
            sweep_parts(folder / FILE)
            write_bytes(folder / FILE, data, mode=0o600, durable=True)
    return before, after


@contextmanager
def unchanging(node: Node) -> Iterator[None]:
    """Nobody changes the register meanwhile.

    Raises:
        RecordError: Another process holds it.
    """
    folder = folder_of(node)
    private_folder(folder)
    with locked(folder / "lock", "another command changes the register", patience=_PATIENCE):
        yield


def _without_erased(node: Node, register: Register) -> Register:
    """Nobody who was erased is written down again, whatever is said of him later: he stays out by his digest."""
    if not register.erased:
        return register
    mark = marker(node)
    kept = {key: one for key, one in register.patients.items() if mark(key) not in register.erased}
    return replace(register, patients=MappingProxyType(kept))


def state_of(node: Node) -> tuple[int, ...]:
    """What changes whenever the register does; empty where there is none."""
    return _stat(folder_of(node) / FILE)


def _known(log: AuditLog | Path) -> frozenset[str] | None:
    """The digests that the file may have by the log; None where the log knows of no register."""
    find = functools.partial(newest, log) if isinstance(log, Path) else log.newest
    begun = find(*ACTS, outcome=Outcome.STARTED)
    if begun is None or AFTER not in begun:
        return None
    done = find(*ACTS)
    # A change that was begun and is not known to be done may have been made or not.
    if done is not None and done.get(AFTER) == begun[AFTER]:
        return frozenset({str(begun[AFTER])})
    return frozenset({str(begun[AFTER]), str(begun.get(BEFORE, ""))})


def _stat(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="nobody takes part until it can be") from error
    if found.st_mode & 0o077:
        raise PolicyError(f"others may read {path}", hint=f"run: chmod 600 {path}")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _load(path: Path) -> tuple[Register, str]:
    state = _stat(path)
    return _read(path, state) if state else (Register(), "")


@functools.lru_cache(maxsize=16)
def _read(path: Path, state: tuple[int, ...]) -> tuple[Register, str]:
    """The file in this ``state``: kept, since every request asks for it."""
    del state
    try:
        data = path.read_bytes()
        form = _RegisterForm.model_validate_json(data)
        return _register(form), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="nobody takes part until it can be") from error
    except (ValidationError, FedwardError) as error:
        raise RecordError(f"{path} is damaged", hint=_LOST) from error


# --- the file ---------------------------------------------------------------------------------------------------------


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _DecisionForm(_Form):
    choice: Choice
    since: date
    until: date | None
    basis: str
    source: str


class _PatientForm(_Form):
    decisions: dict[str, _DecisionForm] = {}
    holds: list[Hold] = []


class _DefaultForm(_Form):
    basis: str
    purposes: list[str]
    since: date
    until: date | None
    act: str
    who: str
    why: str


class _RegisterForm(_Form):
    v: int = Field(ge=VERSION, le=VERSION)
    serial: int = Field(ge=1)
    default: _DefaultForm | None
    patients: dict[str, _PatientForm]
    erased: dict[str, date]
    stopped: list[str]


def _register(form: _RegisterForm) -> Register:
    default = None
    if (said := form.default) is not None:
        about = (tuple(said.purposes), said.since, said.until, said.act, said.who, said.why)
        default = DefaultBasis(Basis.parse(said.basis), *about)
    patients = {key: Patient(_decisions(one), frozenset(one.holds)) for key, one in form.patients.items()}
    return Register(
        form.serial, default, MappingProxyType(patients), MappingProxyType(form.erased), frozenset(form.stopped)
    )


_basis: Final = functools.lru_cache(maxsize=64)(Basis.parse)  # few are ever written, and each stands there often


def _decisions(form: _PatientForm) -> Mapping[str, Decision]:
    found = {
        purpose: Decision(one.choice, one.since, one.until, _basis(one.basis), one.source)
        for purpose, one in form.decisions.items()
    }
    return MappingProxyType(found)


def _form(register: Register) -> dict[str, object]:
    def day(value: date | None) -> str | None:
        return None if value is None else value.isoformat()

    default = register.default
    return {
        "v": VERSION,
        "serial": register.serial,
        "default": default
        and {
            **{name: getattr(default, name) for name in ("act", "who", "why")},
            "basis": str(default.basis),
            "purposes": list(default.purposes),
            "since": day(default.since),
            "until": day(default.until),
        },
        "patients": {
            key: {
                "decisions": {
                    purpose: {
                        "choice": one.choice.value,
                        "since": day(one.since),
                        "until": day(one.until),
                        "basis": str(one.basis),
                        "source": one.source,
                    }
                    for purpose, one in record.decisions.items()
                },
                "holds": sorted(hold.value for hold in record.holds),
            }
            for key, record in register.patients.items()
        },
        "erased": {key: day(value) for key, value in register.erased.items()},
        "stopped": sorted(register.stopped),
    }
