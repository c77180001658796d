"""The federation's charter: one TOML file that every member reads before it joins and pins by its hash.

A hospital trains only what the charter that it pinned asks for, and takes the settings of training and privacy from its
own copy, never from a message.
"""

import dataclasses
import difflib
import functools
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.charter_hints import how_to_mend, sound_identity
from shared.errors import CharterError
from shared.faults import words_of
from shared.files import canonical_json
from shared.secagg.federation import Federation, Peer
from shared.secagg.parameters import MAX_MEMBERS, MIN_MEMBERS

PrivacyMode = Literal["off", "patient"]


@dataclass(frozen=True)
class TaskPlan:
    """How one task is trained.

    Attributes:
        name: A registered task: ``denoise``, ``superres`` or ``segment``.
        rounds: Rounds of the federation.
        local_steps: Optimiser steps that each hospital takes in a round.
        batch: Patches in a step (without differential privacy).
        local_optimizer: Class name in ``torch.optim`` that a hospital uses within a round.
        local_lr: Its learning rate; with ``SGD`` at the coordinator it falls along a half cosine over the rounds.
        server_optimizer: Class name in ``torch.optim`` that the coordinator applies to the averaged update
            (Reddi et al. 2021, "Adaptive Federated Optimization"); ``SGD`` with rate 1 is federated averaging.
        server_lr: Its learning rate; for any but ``SGD`` it falls along a half cosine over the rounds.
        proximal: Weight mu of the FedProx term mu/2 |w - w_round|^2 (Li et al. 2020); 0 switches it off.
        evaluate_every: Hospitals evaluate on their held-out patients every so many rounds, and after the last.
    """

    name: str
    rounds: int
    local_steps: int
    batch: int = 8
    local_optimizer: str = "SGD"
    local_lr: float = 0.1
    server_optimizer: str = "SGD"
    server_lr: float = 1.0
    proximal: float = 0.0
    evaluate_every: int = 5


@dataclass(frozen=True)
class PrivacyPlan:
    """Patient-level differential privacy of every training step at every hospital.

    Attributes:
        mode: ``off``, or ``patient``: one patient more or less changes the updates that leave by no more than
            epsilon tells; scores on held-out patients leave without it.
        clip: Bound C on the L2 norm of one patient's gradient.
        sample_rate: Chance q of each patient to be in a step (Poisson sampling).
        slices_per_patient: Patches drawn from a sampled patient; costs no privacy.
        noise_multiplier: Standard deviation of the noise on the sum, in units of C.
        delta: The delta of the guarantee, or None for min(1e-5, 1/(10 N)) with N patients.
    """

    mode: PrivacyMode = "off"
    clip: float = 1.0
    sample_rate: float = 0.5
    slices_per_patient: int = 4
    noise_multiplier: float = 1.0
    delta: float | None = None


@dataclass(frozen=True)
class CharterMember:
    """One hospital of the federation.

    Attributes:
        name: Its name in the federation: that of its node (``node.json``).
        identity: Its Ed25519 public key (RFC 8032), 64 hexadecimal digits.
    """

    name: str
    identity: str


@dataclass(frozen=True)
class MaskingPlan:
    """Secure aggregation: the coordinator sees sums and no single update (docs/secure-aggregation.md).

    Attributes:
        threshold: T: so many members must confirm and unmask a round; the others may drop out of it.
        colluding: C: hospitals that might work with the coordinator without learning another one's update.
        min_included: A sum over fewer hospitals is refused; at least 3.
        ring_bits: Bits of a masked number: 32, or 16 with stochastic rounding at half the upload.
        clip: Every element of an update is clipped to [-clip, clip].
        w_max: The greatest weight (training slices) of one hospital; more count as this many.
        post_quantum: Whether ML-KEM-768 (FIPS 203) joins X25519.
        apps: SHA-256 of app bundles, 64 hexadecimal digits each; bound into every signature; not yet compared with what
            is installed.
    """

    threshold: int
    colluding: int = 1
    min_included: int = 3
    ring_bits: int = 32
    clip: float = 4.0
    w_max: int = 10_000
    post_quantum: bool = False
    apps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Charter:
    """What the members of a federation agreed on.

    Attributes:
        id: Name of the federation, in every message.
        purpose: Why the data is processed (GDPR Art. 5(1)(b)); each hospital compares it with its own.
        tasks: The tasks in the order in which they are trained.
        privacy: Differential privacy of the training.
        min_sites: A round with fewer hospitals than this has no result: a masked one is repeated up to twice, and then
            the run ends with an error.
        min_patients: A hospital with fewer training patients does not take part.
        deadline: Seconds that a phase of a round waits for answers.
        seed: Seed of the initial model and of training without differential privacy.
        members: The hospitals with their keys, in the order of their indices; needed for secure aggregation.
        masking: Secure aggregation, or None: then updates travel in the clear, which only virtual hospitals do.
    """

    id: str
    purpose: str
    tasks: tuple[TaskPlan, ...]
    privacy: PrivacyPlan = PrivacyPlan()
    min_sites: int = 2
    min_patients: int = 2
    deadline: float = 600.0
    seed: int = 0
    members: tuple[CharterMember, ...] = ()
    masking: MaskingPlan | None = None

    def __post_init__(self) -> None:
        """Refuse masks that would not protect the members, and members that nothing asks for."""
        if self.masking is not None:
            _ = self.federation
        elif self.members:
            raise CharterError(
                f"the charter {self.id} has members and no [secure_aggregation]", hint="add that table with a threshold"
            )

    @classmethod
    def load(cls, path: Path) -> "Charter":
        """Read and check a charter file.

        Raises:
            CharterError: The file cannot be read, is not TOML, or has an unknown, missing or impossible entry.
        """
        return cls.parse(charter_text(path), source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "charter") -> "Charter":
        """The charter that ``text`` (TOML) describes; ``source`` names it in errors."""
        model = read_form(text, source=source)
        try:
            return cls._of(model)
        except CharterError as error:
            raise CharterError(f"{source}: {error.message}", hint=error.hint) from error

    @classmethod
    def _of(cls, model: "CharterForm") -> "Charter":
        federation = model.federation
        return cls(
            id=federation.id,
            purpose=federation.purpose,
            tasks=tuple(TaskPlan(**task.model_dump()) for task in model.task),
            privacy=PrivacyPlan(**model.privacy.model_dump()),
            min_sites=federation.min_sites,
            min_patients=federation.min_patients,
            deadline=federation.deadline,
            seed=federation.seed,
            members=tuple(CharterMember(**member.model_dump()) for member in model.member),
            masking=None if (masks := model.secure_aggregation) is None else MaskingPlan(**_plain(masks)),
        )

    def to_toml(self) -> str:
        """The charter as the TOML text that :meth:`parse` reads back to an equal charter."""
        federation = {
            name: getattr(self, name) for name in ("id", "purpose", "min_sites", "min_patients", "deadline", "seed")
        }
        parts = [_table("[federation]", federation), _table("[privacy]", dataclasses.asdict(self.privacy))]
        if self.masking is not None:
            parts.append(_table("[secure_aggregation]", dataclasses.asdict(self.masking)))
        parts += [_table("[[member]]", dataclasses.asdict(member)) for member in self.members]
        parts += [_table("[[task]]", dataclasses.asdict(task)) for task in self.tasks]
        return "\n".join(parts)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the charter's content in canonical form (RFC 8785): layout and comments do not matter."""
        return hashlib.sha256(canonical_json(dataclasses.asdict(self))).hexdigest()

    @functools.cached_property
    def federation(self) -> Federation:
        """What secure aggregation needs to know, all of it from this charter.

        Under patient-level privacy every weight is 1 (a count of slices is not covered by the guarantee), and so is
        the greatest weight: a larger one would only coarsen the fixed-point numbers.

        Raises:
            CharterError: The charter asks for no masks, or its numbers would not protect the members.
        """
        plan = self.masking
        if plan is None:
            raise CharterError(f"the charter {self.id} asks for no secure aggregation", hint="add [secure_aggregation]")
        return Federation(
            id=self.id,
            charter=self.sha256,
            peers=tuple(
                Peer(index, member.name, bytes.fromhex(member.identity))
                for index, member in enumerate(self.members, start=1)
            ),
            threshold=plan.threshold,
            min_included=plan.min_included,
            ring_bits=plan.ring_bits,
            clip=plan.clip,
            w_max=plan.w_max if self.privacy.mode == "off" else 1,
            apps=plan.apps,
            colluding=plan.colluding,
            post_quantum=plan.post_quantum,
        )

    def task(self, name: str) -> TaskPlan:
        """The plan of task ``name``.

        Raises:
            CharterError: The charter does not have that task.
        """
        for plan in self.tasks:
            if plan.name == name:
                return plan
        known = ", ".join(plan.name for plan in self.tasks)
        raise CharterError(f"the charter {self.id} has no task '{name}'", hint=f"its tasks are {known}")


def charter_text(path: Path) -> str:
    """The text of a charter file.

    Raises:
        CharterError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise CharterError(
            f"cannot read the charter {path}: {error.strerror}", hint="give the path of a TOML file"
        ) from error
    except UnicodeDecodeError as error:
        raise CharterError(f"cannot read the charter {path}: it is not UTF-8", hint="save it as UTF-8") from error


def _table(head: str, values: Mapping[str, object]) -> str:
    rows = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join([head, *rows, ""])


def _plain(model: BaseModel) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in model.model_dump().items()}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # TOML basic strings share JSON's escapes; DEL is the one character that JSON leaves bare and TOML forbids.
        return canonical_json(value).decode().replace("\x7f", "\\u007f")
    return repr(value)


# --- the file's form (pydantic at the edge; inside, only the dataclasses above) ---------------------------------------

_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, le=100_000)]
_Rate = Annotated[float, Field(gt=0, le=100)]
_Optimizer = Literal["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _TaskTable(_Strict):
    name: _Name
    rounds: _Count
    local_steps: _Count
    batch: Annotated[int, Field(ge=1, le=4096)] = TaskPlan.batch
    local_optimizer: _Optimizer = "SGD"
    local_lr: _Rate = TaskPlan.local_lr
    server_optimizer: _Optimizer = "SGD"
    server_lr: _Rate = TaskPlan.server_lr
    proximal: Annotated[float, Field(ge=0, le=1000)] = TaskPlan.proximal
    evaluate_every: _Count = TaskPlan.evaluate_every


class _PrivacyTable(_Strict):
    mode: PrivacyMode = PrivacyPlan.mode
    clip: _Rate = PrivacyPlan.clip
    sample_rate: Annotated[float, Field(gt=0, le=1)] = PrivacyPlan.sample_rate
    slices_per_patient: Annotated[int, Field(ge=1, le=1024)] = PrivacyPlan.slices_per_patient
    noise_multiplier: Annotated[float, Field(gt=0, le=10_000)] = PrivacyPlan.noise_multiplier
    delta: Annotated[float, Field(gt=0, lt=1)] | None = PrivacyPlan.delta


class _FederationTable(_Strict):
    id: _Name
    purpose: Annotated[str, Field(min_length=3, max_length=200)]
    min_sites: _Count = 2
    min_patients: _Count = 2
    deadline: Annotated[float, Field(gt=0, le=604_800)] = 600.0
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0


class _MaskingTable(_Strict):
    threshold: Annotated[int, Field(ge=1, le=MAX_MEMBERS)]
    colluding: Annotated[int, Field(ge=0, le=MAX_MEMBERS)] = MaskingPlan.colluding
    min_included: Annotated[int, Field(ge=MIN_MEMBERS, le=MAX_MEMBERS)] = MaskingPlan.min_included
    ring_bits: Literal[16, 32] = 32
    clip: Annotated[float, Field(gt=0, le=1e6)] = MaskingPlan.clip
    w_max: Annotated[int, Field(ge=1, le=1_000_000)] = MaskingPlan.w_max
    post_quantum: bool = MaskingPlan.post_quantum
    apps: Annotated[list[_Hex32], Field(max_length=100)] = []


class _MemberTable(_Strict):
    name: _Name
    identity: Annotated[_Hex32, AfterValidator(sound_identity)]


class CharterForm(_Strict):
    """A charter file, entry by entry."""

    federation: _FederationTable
    privacy: _PrivacyTable = _PrivacyTable()
    secure_aggregation: _MaskingTable | None = None
    member: Annotated[list[_MemberTable], Field(max_length=MAX_MEMBERS)] = []
    task: Annotated[list[_TaskTable], Field(min_length=1)]


_TABLES: dict[str, type[_Strict]] = {
    "federation": _FederationTable,
    "privacy": _PrivacyTable,
    "task": _TaskTable,
    "secure_aggregation": _MaskingTable,
    "member": _MemberTable,
}


def read_form(text: str, *, source: str) -> CharterForm:
    """The entries of a charter file, each checked by itself: also of a draft whose members are not all there yet.

    Raises:
        CharterError: It is not TOML, or has an unknown, missing or impossible entry.
    """
    try:
        form = CharterForm.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CharterError(f"{source} is not valid TOML: {error}", hint="mend the line that it names") from error
    except ValidationError as error:
        raise _explain(error, source) from error
    names = [task.name for task in form.task]
    if len(set(names)) != len(names):
        raise CharterError(f"{source}: a task stands twice: {', '.join(names)}", hint="name each task once")
    return form


def _explain(error: ValidationError, source: str) -> CharterError:
    """One mistake of those that pydantic found, as one line for the person who wrote the file.

    An unknown key goes before a missing one: it is often the missing one, misspelt.
    """
    mistakes: list[Any] = error.errors(include_url=False)
    found = next((one for one in mistakes if one["type"] == "extra_forbidden"), mistakes[0])
    place: Sequence[str | int] = found["loc"]
    where = ".".join(str(part) for part in place)
    if found["type"] != "extra_forbidden":
        return CharterError(f"{source}: {where}: {words_of(found)}", hint=how_to_mend(place))
    model = CharterForm if len(place) == 1 else _TABLES[str(place[0])]
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
    return CharterError(f"{source}: unknown key '{where}'", hint=hint)
