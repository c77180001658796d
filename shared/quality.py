"""How well a model does on held-out patients, group by group, with the small groups left out.

A figure over few patients tells of each of them. A cell is therefore shown only where it counts at least
:data:`LEAST` patients; one that is left out is shown as suppressed, not as zero, and the cells that are left out of one
grouping stand for :data:`LEAST` patients together at least, and for each of them the total, with what is shown, leaves
at least two numbers open: else a larger cell is left out as well.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import UsageError
from shared.faults import first_fault

LEAST: Final = 10
"""Patients in the smallest count that others than the hospital see."""
SUPPRESSED: Final = "fewer than 10"
HIDDEN: Final = "suppressed"
"""For a cell that is large enough itself, and would give a smaller one away."""
MOST_CELLS: Final = 200
MAX_FILE: Final = 65536  # bytes

Metrics = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Cell:
    """One group of held-out patients.

    Attributes:
        task: The task.
        grouping: What the patients are grouped by, such as ``sex``, ``age band`` or ``scanner``.
        group: Which of the groups.
        n: Its patients; or a word where the cell is suppressed, and then it has no figures.
        metrics: Figures of the model, by name.
        baseline: Name of the classical method that the model is compared with; empty where there is none.
        compared: Its figures on the same patients.
    """

    task: str
    grouping: str
    group: str
    n: int | str
    metrics: Metrics = ()
    baseline: str = ""
    compared: Metrics = ()

    @property
    def shown(self) -> bool:
        """Whether its figures stand in it."""
        return isinstance(self.n, int)

    def to_json(self) -> dict[str, Any]:
        """The cell as it stands in a file."""
        return {
            "task": self.task,
            "grouping": self.grouping,
            "group": self.group,
            "n": self.n,
            "metrics": dict(self.metrics),
            "baseline": self.baseline,
            "compared": dict(self.compared),
        }


def suppressed(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells as others may see them: see the module's text for the rule. Their order stays."""
    found = list(cells)
    places = sorted(range(len(found)), key=lambda place: (found[place].task, found[place].grouping))
    hidden: dict[int, str] = {}
    for _, members in itertools.groupby(places, key=lambda place: (found[place].task, found[place].grouping)):
        ascending = sorted(members, key=lambda place: _count(found[place]))
        hidden |= _hidden([_count(found[place]) for place in ascending], ascending)
    return tuple(
        Cell(one.task, one.grouping, one.group, hidden[place]) if place in hidden else one
        for place, one in enumerate(found)
    )


def _hidden(counts: Sequence[int], places: Sequence[int]) -> dict[int, str]:
    """Which cells of one grouping are left out, smallest first, with the word that stands for their number."""
    hidden, together = dict[int, str](), 0
    small = sum(count < LEAST for count in counts)
    for number, (count, place) in enumerate(zip(counts, places, strict=True)):
        if count < LEAST:
            hidden[place] = SUPPRESSED
        elif hidden and (together < LEAST or _told(small, number - small, together, count)):
            hidden[place] = HIDDEN
        else:
            break
        together += count
    return hidden


def _told(small: int, large: int, together: int, following: int) -> bool:
    """Whether the sum of the cells that are left out tells one of those below :data:`LEAST`.

    Args:
        small: How many of them are.
        large: How many are not; these are below what follows, since the smallest go first.
        together: Their sum.
        following: The smallest that would be shown.
    """
    most = together - LEAST * large
    least = together - (LEAST - 1) * (small - 1) - max(following - 1, LEAST) * large
    return min(LEAST - 1, most) <= max(0, least)


def _count(cell: Cell) -> int:
    return cell.n if isinstance(cell.n, int) else 0


def read_quality(raw: bytes, where: str) -> tuple[Cell, ...]:
    """The cells of a file that a hospital wrote, as they are in it: ``{"cells": [{"task", ...}, ...]}``.

    Raises:
        UsageError: It is no such file.
    """
    hint = "see docs/release.md for its form"
    if len(raw) > MAX_FILE:
        raise UsageError(f"{where} is larger than {MAX_FILE} bytes", hint=hint)
    try:
        form = _File.model_validate_json(raw)
    except ValidationError as error:
        raise UsageError(f"{where} is no file of quality by group: {first_fault(error)}", hint=hint) from error
    cells = tuple(one.cell() for one in form.cells)
    if any(not one.shown for one in cells):
        raise UsageError(f"{where}: n must be the number of patients", hint="small cells are suppressed by fedward")
    if len({(one.task, one.grouping, one.group) for one in cells}) != len(cells):
        raise UsageError(f"{where}: a group stands there twice", hint="give each group of a task once")
    return cells


def _readable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without blanks around it")
    return text


Word = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_readable)]
Figure = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]


class CellForm(BaseModel):
    """The form of a cell in a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    grouping: Word
    group: Word
    n: Annotated[int, Field(ge=0, le=10_000_000)] | Literal["fewer than 10", "suppressed"]
    metrics: Annotated[dict[Word, Figure], Field(max_length=16)] = {}
    baseline: Annotated[str, Field(max_length=64), AfterValidator(_readable)] = ""
    compared: Annotated[dict[Word, Figure], Field(max_length=16)] = {}

    @model_validator(mode="after")
    def _whole(self) -> "CellForm":
        if bool(self.baseline) != bool(self.compared):
            raise ValueError("a baseline has a name and figures")
        if not isinstance(self.n, int) and (self.metrics or self.compared):
            raise ValueError("a suppressed cell has no figures")
        return self

    def cell(self) -> Cell:
        """The cell."""
        return Cell(
            self.task,
            self.grouping,
            self.group,
            self.n,
            tuple(sorted(self.metrics.items())),
            self.baseline,
            tuple(sorted(self.compared.items())),
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    cells: Annotated[list[CellForm], Field(max_length=MOST_CELLS)]
