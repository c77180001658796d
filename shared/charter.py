"""The federation's charter: one TOML file that every member reads before it joins and pins by its hash.

A hospital trains only what the charter that it pinned asks for, and takes the settings of training and privacy from its
own copy, never from a message.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from shared.charter_form import CharterForm, read_form
from shared.charter_plans import CharterMember, CoordinatorPlan, MaskingPlan, PrivacyMode, PrivacyPlan, TaskPlan
from shared.errors import CharterError
from shared.files import canonical_json
from shared.noise_shares import NoisePlan
from shared.secagg.federation import Federation, Peer

__all__ = [
    "Charter",
    "CharterMember",
    "CoordinatorPlan",
    "MaskingPlan",
    "PrivacyMode",
    "PrivacyPlan",
    "TaskPlan",
    "charter_text",
    "read_form",
]


_LATER: Final = (
    "network",
    "weight_decay",
    "dropout",
    "zoom",
    "rotation",
    "input_noise",
    "foreground",
    "adversarial",
    "release",
)
"""Keys of a task that came after charters were pinned; None where a charter does not have them."""


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
        coordinator: Whom the hospitals connect to, or None: then they connect to nobody, as in a simulation.
    """

    id: str
    purpose: str
    tasks: tuple[TaskPlan, ...]
    privacy: PrivacyPlan = field(default=PrivacyPlan())
    min_sites: int = 2
    min_patients: int = 2
    deadline: float = 600.0
    seed: int = 0
    members: tuple[CharterMember, ...] = ()
    masking: MaskingPlan | None = None
    coordinator: CoordinatorPlan | None = None

    def __post_init__(self) -> None:
        """Refuse masks that would not protect the members, members that nothing asks for, and noise without masks."""
        if self.masking is not None:
            _ = self.federation
        elif self.members:
            raise CharterError(
                f"the charter {self.id} has members and no [secure_aggregation]", hint="add that table with a threshold"
            )
        if self.privacy.mode == "distributed":
            self._check_distributed()
        for plan in self.tasks:
            if (plan.start == "release") != (plan.release is not None):
                raise CharterError(
                    f"{plan.name}: start = 'release' and the key release belong together",
                    hint="release is the SHA-256 of the manifest of the release to start from",
                )

    def _check_distributed(self) -> None:
        """Shared noise protects the sum of one clipped step, and nothing less or more than that."""
        if self.masking is None or self.masking.ring_bits != 32:
            raise CharterError(
                "distributed noise protects a sum alone: it needs [secure_aggregation] with 32 bits",
                hint="add that table, or let every hospital add all of the noise with mode = 'patient'",
            )
        if self.privacy.patients is None:
            raise CharterError(
                "distributed noise needs privacy.patients, the agreed number of patients of all hospitals",
                hint="agree on a round number; it divides the sum and is public",
            )
        for plan in self.tasks:
            if plan.local_steps != 1 or plan.proximal or plan.weight_decay or plan.local_optimizer != "SGD":
                raise CharterError(
                    f"{plan.name}: under distributed noise a round is one clipped sum of patients",
                    hint="say local_steps = 1, local_optimizer = 'SGD', no proximal and no weight_decay",
                )
        _ = NoisePlan.of(self)

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
    def _of(cls, model: CharterForm) -> "Charter":
        federation = model.federation
        masks, link = model.secure_aggregation, model.coordinator
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
            masking=None if masks is None else MaskingPlan(**_plain(masks)),
            coordinator=None if link is None else CoordinatorPlan(**link.model_dump()),
        )

    def to_toml(self) -> str:
        """The charter as the TOML text that :meth:`parse` reads back to an equal charter."""
        federation = {
            name: getattr(self, name) for name in ("id", "purpose", "min_sites", "min_patients", "deadline", "seed")
        }
        parts = [_table("[federation]", federation), _table("[privacy]", dataclasses.asdict(self.privacy))]
        if self.masking is not None:
            parts.append(_table("[secure_aggregation]", dataclasses.asdict(self.masking)))
        if self.coordinator is not None:
            parts.append(_table("[coordinator]", dataclasses.asdict(self.coordinator)))
        parts += [_table("[[member]]", dataclasses.asdict(member)) for member in self.members]
        parts += [_table("[[task]]", dataclasses.asdict(task)) for task in self.tasks]
        return "\n".join(parts)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the charter's content in canonical form (RFC 8785): layout and comments do not matter.

        A coordinator, countries and the later keys of tasks count where they stand: without them a charter has the
        hash that it had before charters could name them.
        """
        content = dataclasses.asdict(self)
        if self.coordinator is None:
            del content["coordinator"]
        for member in content["members"]:
            if member["country"] is None:
                del member["country"]
        for task in content["tasks"]:
            for key in _LATER:
                if task[key] is None:
                    del task[key]
        return hashlib.sha256(canonical_json(content)).hexdigest()

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
            integers=self.privacy.mode == "distributed",
        )

    @property
    def scores_leave(self) -> bool:
        """Whether sums of losses and scores may leave a hospital: under masks, or by the charter's explicit consent.

        They are computed from patients without noise, so that no epsilon covers them.
        """
        return self.masking is not None or self.privacy.scores == "open"

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
