"""A charter file, entry by entry: pydantic at the edge; inside there are only the plans."""

import difflib
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.charter_hints import how_to_mend, sound_identity
from shared.charter_plans import (
    Clipping,
    MaskingPlan,
    Precision,
    PrivacyMode,
    PrivacyPlan,
    Scores,
    Start,
    TaskPlan,
    Trained,
)
from shared.errors import CharterError
from shared.faults import words_of
from shared.parsing import parse_toml
from shared.places import sound_address, sound_country
from shared.secagg.parameters import MAX_MEMBERS, MIN_MEMBERS

_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, le=100_000)]
_Country = Annotated[str, AfterValidator(sound_country)]
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
    network: _Name | None = TaskPlan.network
    start: Start = TaskPlan.start
    trained: Trained = TaskPlan.trained
    precision: Precision = TaskPlan.precision
    average: Annotated[float, Field(ge=0, lt=1)] = TaskPlan.average
    weight_decay: Annotated[float, Field(ge=0, le=10)] | None = TaskPlan.weight_decay
    dropout: Annotated[float, Field(gt=0, le=0.9)] | None = TaskPlan.dropout
    zoom: Annotated[float, Field(gt=0, le=1)] | None = TaskPlan.zoom
    rotation: Annotated[float, Field(gt=0, le=45)] | None = TaskPlan.rotation
    input_noise: Annotated[float, Field(gt=0, le=1)] | None = TaskPlan.input_noise
    foreground: Annotated[float, Field(gt=0, le=1)] | None = TaskPlan.foreground
    adversarial: Annotated[float, Field(gt=0, le=0.1)] | None = TaskPlan.adversarial
    release: _Hex32 | None = TaskPlan.release


class _PrivacyTable(_Strict):
    mode: PrivacyMode = PrivacyPlan.mode
    clip: _Rate = PrivacyPlan.clip
    clipping: Clipping = PrivacyPlan.clipping
    sample_rate: Annotated[float, Field(gt=0, le=1)] = PrivacyPlan.sample_rate
    slices_per_patient: Annotated[int, Field(ge=1, le=1024)] = PrivacyPlan.slices_per_patient
    noise_multiplier: Annotated[float, Field(ge=0.01, le=10_000)] = PrivacyPlan.noise_multiplier
    delta: Annotated[float, Field(gt=0, lt=1)] | None = PrivacyPlan.delta
    patients: Annotated[int, Field(ge=2, le=10_000_000)] | None = PrivacyPlan.patients
    scores: Scores = PrivacyPlan.scores


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
    country: _Country | None = None


class _CoordinatorTable(_Strict):
    name: _Name
    address: Annotated[str, AfterValidator(sound_address)]
    authority: _Hex32
    country: _Country | None = None


class CharterForm(_Strict):
    """A charter file, entry by entry."""

    federation: _FederationTable
    privacy: _PrivacyTable = _PrivacyTable()
    secure_aggregation: _MaskingTable | None = None
    coordinator: _CoordinatorTable | None = None
    member: Annotated[list[_MemberTable], Field(max_length=MAX_MEMBERS)] = []
    task: Annotated[list[_TaskTable], Field(min_length=1)]


TABLES: dict[str, type[_Strict]] = {
    "federation": _FederationTable,
    "privacy": _PrivacyTable,
    "task": _TaskTable,
    "secure_aggregation": _MaskingTable,
    "coordinator": _CoordinatorTable,
    "member": _MemberTable,
}


def read_form(text: str, *, source: str) -> CharterForm:
    """The entries of a charter file, each checked by itself: also of a draft whose members are not all there yet.

    Raises:
        CharterError: It is not TOML, or has an unknown, missing or impossible entry.
    """
    try:
        form = CharterForm.model_validate(parse_toml(text))
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
    model = CharterForm if len(place) == 1 else TABLES[str(place[0])]
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
    return CharterError(f"{source}: unknown key '{where}'", hint=hint)
