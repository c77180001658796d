"""What a card says of an evaluation that the provider attaches: figures of ``fedward evaluate``, and of which file.

Nothing is computed here, and nothing is shown of fewer than :data:`shared.quality.LEAST` patients.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from shared.errors import UsageError
from shared.faults import first_fault
from shared.parsing import parse_json
from shared.quality import LEAST, SUPPRESSED

MAX_FILE: Final = 4_194_304  # bytes
_Text = Annotated[str, Field(max_length=200)]


class _Form(BaseModel):
    """Of the file only what the card shows is looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Estimate(_Form):
    mean: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    patients: Annotated[int, Field(ge=1)]


class _Tried(_Form):
    change: _Text
    title: _Text
    size: FiniteFloat | None
    figures: dict[str, _Estimate]


class _Sure(_Form):
    model: _Text
    method: _Text
    spearman: _Estimate | None
    ause: _Estimate | None
    ause_random: _Estimate | None


class _Why(_Form):
    sites: list[_Text]
    uncertainty: list[_Sure]
    attacks: list[_Tried]
    shifts: list[_Tried]


class _Explained(_Form):
    parts: list[_Why]


class _Part(_Form):
    hospitals: _Text
    sites: list[_Text]
    patients: Annotated[int, Field(ge=1)]
    methods: dict[str, dict[str, _Estimate]]
    best_classical: _Text | None


class _Model(_Form):
    label: _Text
    weights_sha256: _Text


class _Report(_Form):
    v: Literal[1]
    made: _Text
    task: _Text
    main: _Text
    models: list[_Model]
    parts: Annotated[list[_Part], Field(min_length=1)]
    explained: _Explained | None = None


@dataclass(frozen=True)
class Line:
    """One figure: what it is, of how many patients, and its value with the interval where there is one."""

    what: str
    patients: int | str
    value: str


@dataclass(frozen=True)
class Evaluation:
    """What a card shows of a file.

    Attributes:
        sha256: Of the file.
        made: When it was made, as it says.
        label: What it calls this model.
        metric: Its main figure.
        parts: Lines, by the hospitals that they are of.
    """

    sha256: str
    made: str
    label: str
    metric: str
    parts: Mapping[str, tuple[Line, ...]]


def read_evaluation(raw: bytes, where: str, *, task: str, weights: str) -> Evaluation:
    """The evaluation of a model, from the file of figures beside a quality report.

    Args:
        raw: The file's bytes.
        where: Its name, for messages.
        task: What the model does.
        weights: SHA-256 of the file of its weights.

    Raises:
        UsageError: It is no such file, or not of this model.
    """
    hint = "name the JSON file that 'fedward evaluate' wrote beside its page for this very model"
    if len(raw) > MAX_FILE:
        raise UsageError(f"{where} is larger than {MAX_FILE} bytes", hint=hint)
    try:
        report = _Report.model_validate(parse_json(raw))
    except ValidationError as error:
        raise UsageError(f"{where} is no evaluation: {first_fault(error)}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"{where} is no evaluation", hint=hint) from error
    labels = [one.label for one in report.models if one.weights_sha256 == weights]
    if report.task != task or not labels:
        raise UsageError(f"{where} is an evaluation of another model: none of its models has these weights", hint=hint)
    told = {tuple(one.sites): one for one in report.explained.parts} if report.explained else {}
    parts = {
        f"{', '.join(part.sites)} ({part.hospitals})": tuple(
            _lines(report.main, labels[0], part, told.get(tuple(part.sites)))
        )
        for part in report.parts
    }
    return Evaluation(hashlib.sha256(raw).hexdigest(), report.made, labels[0], report.main, parts)


def _lines(main: str, label: str, part: _Part, why: _Why | None) -> Iterator[Line]:
    if part.patients < LEAST:
        yield Line("every figure", SUPPRESSED, "suppressed")
        return
    for what, method in (("this model", label), ("best classical method", part.best_classical)):
        if method and main in part.methods.get(method, {}):
            name = f"{what}, {method}" if method != label else what
            yield _line(f"{name}: {main}", part.methods[method][main])
    if why is None:
        return
    for one in why.uncertainty:
        if one.model == label:
            for title, found in (
                ("rank correlation with the error", one.spearman),
                ("AUSE", one.ause),
                ("AUSE of a random order", one.ause_random),
            ):
                if found is not None:
                    yield _line(f"uncertainty from {one.method.removeprefix(label).lstrip(', ')}: {title}", found)
    for tried in (*why.attacks, *why.shifts[1:]):
        if label in tried.figures:
            size = "" if tried.size is None else f", {100 * tried.size:g} % of the range"
            # What the changed ones are held against is of the middle slice of each study too.
            changed = (
                "input unchanged, middle slices" if tried.change == "unchanged" else f"input changed, {tried.title}"
            )
            yield _line(f"{changed}{size}: {main}", tried.figures[label])


def _line(what: str, found: _Estimate) -> Line:
    if found.patients < LEAST:
        return Line(what, SUPPRESSED, "suppressed")
    ends = "" if found.low is None or found.high is None else f" ({found.low:.4g} to {found.high:.4g})"
    return Line(what, found.patients, f"{found.mean:.4g}{ends}")
