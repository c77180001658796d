"""``NODE/policy.toml``: what a hospital allows, whatever charter it has pinned, and the device that it trains on.

The file is optional. Where a real hospital has none, masks and differential privacy are asked for and everything else
is left to the pinned charter and to the privacy budget. A virtual hospital asks for nothing of itself. Every key with
its range and the law that it serves is in docs/policy.md.
"""

import functools
import stat
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from client.node import Node
from shared.charter import Charter
from shared.charter_plans import CharterMember, CoordinatorPlan
from shared.errors import PolicyError
from shared.faults import first_fault
from shared.parsing import parse_toml
from shared.places import sound_country

FILE: Final = "policy.toml"
"""Its name in the node's folder."""

AfterErasure = Literal["record", "stop", "retrain"]
_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Country = Annotated[str, AfterValidator(sound_country)]
_Purpose = Annotated[str, Field(min_length=3, max_length=200)]


@dataclass(frozen=True)
class Decision:
    """Whether something is done, and why not: in words that are sent to the coordinator, so of nothing but itself."""

    allowed: bool
    reason: str = ""


YES: Final = Decision(True)


@dataclass(frozen=True)
class DevicePlan:
    """Where networks run, the ``[device]`` table.

    Attributes:
        use: ``auto`` (the GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        deterministic: Whether torch takes only algorithms that give the same numbers again on the same machine.
    """

    use: str = "auto"
    deterministic: bool = False


@dataclass(frozen=True)
class RecordPlan:
    """Who must have seen this hospital's audit log before it trains, the ``[record]`` table.

    Attributes:
        witnesses: So many other hospitals, and over half of the charter's others at least, must have cosigned one
            checkpoint; the coordinator does not count.
        hours: And the newest such checkpoint may be so old.
    """

    witnesses: int = 2
    hours: float = 24.0


@dataclass(frozen=True)
class HospitalPolicy:
    """What a hospital allows.

    Attributes:
        require_masks: Only charters with secure aggregation.
        require_privacy: Only charters with differential privacy of patients.
        tasks: Only these; None allows every task of the pinned charter.
        max_epsilon: Largest epsilon of one whole charter, at the delta of this hospital's budget; None: no limit here.
        max_rounds: Most rounds of one task; None: no limit here.
        min_patients: Fewest patients in training here; the charter's own number counts as well.
        purposes: Only charters for one of these, word for word; None allows the node's own.
        countries: Only charters whose coordinator and members all say that they are in one of these; None: anywhere.
        device: Where networks run.
        record: Who must have seen the audit log before a round of training; None asks for nobody.
        after_erasure: What follows an erasure for the runs that the patient could be drawn in: ``record`` the epsilon
            that bounds what they tell of him, ``stop`` taking part in them, or ask to ``retrain`` them.
    """

    require_masks: bool = True
    require_privacy: bool = True
    tasks: tuple[str, ...] | None = None
    max_epsilon: float | None = None
    max_rounds: int | None = None
    min_patients: int = 1
    purposes: tuple[str, ...] | None = None
    countries: tuple[str, ...] | None = None
    device: DevicePlan = DevicePlan()
    record: RecordPlan | None = None
    after_erasure: AfterErasure = "record"

    @classmethod
    def load(cls, folder: Path, *, virtual: bool = False) -> Self:
        """The policy of the node in ``folder``; the file is read again only when it has changed.

        Args:
            folder: The node's.
            virtual: Whether the node is a virtual hospital: then nothing is asked for that no file asks for.

        Raises:
            PolicyError: The file cannot be read, is damaged, has an unknown key, or others may change it; or the folder
                is a real node's in which others may put, replace or remove one. Nothing is allowed then.
        """
        path, without = folder / FILE, cls(require_masks=False, require_privacy=False) if virtual else cls()
        try:
            if not virtual:
                _require_own(folder)
            path.lstat()  # a link that leads nowhere is a file that cannot be read, and not none
        except FileNotFoundError:
            return without
        except OSError as error:
            raise _unread(path, error) from error
        try:
            found = path.stat()
            _require_own(path)
            if path.is_symlink() and not virtual:
                _require_own(path.resolve().parent)
        except OSError as error:
            raise _unread(path, error) from error
        form = _read(path, (found.st_mtime_ns, found.st_size, found.st_ino))
        return replace(without, **_given(form))

    def check(self, charter: Charter) -> Decision:
        """Hold a charter against everything here but ``max_epsilon`` and ``min_patients``; takes no time.

        What its patients would cost is a question for :func:`client.policy.allows_run`.
        """
        if self.require_masks and charter.masking is None:
            return _no("asks for secure aggregation, and the charter has none")
        if self.require_privacy and charter.privacy.mode == "off":
            return _no("asks for differential privacy, and the charter has none")
        if self.purposes is not None and charter.purpose not in self.purposes:
            return _no("does not allow the charter's purpose")
        if self.countries is not None and (elsewhere := self._elsewhere(charter)):
            return _no(f"allows no recipients in {elsewhere}")
        for plan in charter.tasks:
            if self.tasks is not None and plan.name not in self.tasks:
                return _no(f"does not allow the task {plan.name}")
            if self.max_rounds is not None and plan.rounds > self.max_rounds:
                return _no(f"allows {self.max_rounds} at most of a task's rounds, and {plan.name} has {plan.rounds}")
        return YES

    def _elsewhere(self, charter: Charter) -> str:
        """The first country of a recipient that is not among ``countries``; of the coordinator and every member."""
        recipients: list[CharterMember | CoordinatorPlan] = [*charter.members]
        recipients += [charter.coordinator] if charter.coordinator is not None else []
        said = {party.country or f"a country that the charter does not say ({party.name})" for party in recipients}
        return min(said - set(self.countries or ()), default="")


def policy_of(node: Node) -> HospitalPolicy:
    """The policy of a node.

    Raises:
        PolicyError: As :meth:`HospitalPolicy.load`.
    """
    return HospitalPolicy.load(node.folder, virtual=node.virtual)


def _no(why: str) -> Decision:
    return Decision(False, f"this hospital's policy {why}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DeviceTable(_Strict):
    """The ``[device]`` table."""

    use: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = DevicePlan.use
    deterministic: bool = DevicePlan.deterministic


class RecordTable(_Strict):
    """The ``[record]`` table."""

    witnesses: Annotated[int, Field(ge=1, le=100)] = RecordPlan.witnesses
    hours: Annotated[float, Field(gt=0, le=10_000)] = RecordPlan.hours


class ErasureTable(_Strict):
    """The ``[erasure]`` table."""

    after: AfterErasure = HospitalPolicy.after_erasure


class PolicyForm(_Strict):
    """The file, entry by entry; None is what was left out."""

    require_masks: bool = HospitalPolicy.require_masks
    require_privacy: bool = HospitalPolicy.require_privacy
    tasks: Annotated[list[_Name], Field(min_length=1, max_length=100)] | None = None
    max_epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    max_rounds: Annotated[int, Field(ge=1, le=100_000)] | None = None
    min_patients: Annotated[int, Field(ge=1, le=10_000_000)] = HospitalPolicy.min_patients
    purposes: Annotated[list[_Purpose], Field(min_length=1, max_length=100)] | None = None
    countries: Annotated[list[_Country], Field(min_length=1, max_length=250)] | None = None
    device: DeviceTable = DeviceTable()
    record: RecordTable | None = None
    erasure: ErasureTable = ErasureTable()


@functools.lru_cache(maxsize=256)
def _read(path: Path, state: tuple[int, ...]) -> PolicyForm:
    """The file in this ``state`` (time, size, inode): kept, since every request asks for it."""
    del state
    try:
        return PolicyForm.model_validate(parse_toml(path.read_bytes().decode()))
    except OSError as error:
        raise _unread(path, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} is not valid TOML: {error}", hint="mend it; nothing is allowed meanwhile") from error
    except ValidationError as error:
        raise PolicyError(
            f"{path}: {first_fault(error)}", hint="mend it (docs/policy.md has every key); nothing is allowed meanwhile"
        ) from error


def _require_own(path: Path) -> None:
    """Refuse what others may write to.

    Raises:
        PolicyError: They may.
        OSError: It cannot be looked at.
    """
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PolicyError(f"others may change {path}", hint=f"run: chmod go-w {path}")


def _unread(path: Path, error: OSError) -> PolicyError:
    return PolicyError(f"cannot read {path}: {error.strerror}", hint="nothing is allowed until it can be read")


def _given(form: PolicyForm) -> dict[str, Any]:
    """What the file says, as plain values; what it leaves out keeps its default."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in form.model_fields_set - {"device", "erasure", "record"}
        if (value := getattr(form, name)) is not None
    }
    if form.record is not None:
        values["record"] = RecordPlan(form.record.witnesses, form.record.hours)
    device = DevicePlan(form.device.use, form.device.deterministic)
    return values | {"device": device, "after_erasure": form.erasure.after}
