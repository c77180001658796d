"""The catalogue of controls: what a law asks for, what the code does about it, and what that cannot show.

The catalogue is data, ``compliance/data/controls-*.toml``, one table for each control; this module reads it strictly.
It cites articles and sections and quotes none. A control is *evidence for* something a person has to judge; none says
that anything is compliant. docs/controls.md says how a control is added.
"""

import functools
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import RecordError
from shared.faults import first_fault
from shared.parsing import parse_toml

ID: Final = r"^[A-Z]+(-[0-9A-Za-z.]+)+$"
"""Of a control: the law, the place in it, and a word or two for people, such as ``HIPAA-164.312-b-audit``."""
_CODE: Final = r"^[a-z_]+(\.[a-z_0-9]+)+(:[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*)?$"


class Status(StrEnum):
    """How much of a control the code keeps today."""

    ENFORCED = "enforced"
    PARTLY = "partly"
    PLANNED = "planned"


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        id: Stable; tests carry it (``@pytest.mark.control``).
        title: For people, in a few words.
        sources: Laws and standards with article or section.
        enforced: What the code keeps, in one or two sentences.
        code: Where: ``module`` or ``module:qualname``.
        evidence: What of a node's, a coordinator's or a run's files shows it.
        cannot: What it cannot show.
        status: How much of it is built.
        missing: What is not built; empty where it is enforced.
    """

    id: str
    title: str
    sources: tuple[str, ...]
    enforced: str
    code: tuple[str, ...]
    evidence: tuple[str, ...]
    cannot: str
    status: Status
    missing: str = ""


_Sentence = Annotated[str, Field(min_length=10, max_length=400, pattern=r"\.$")]
_Word = Annotated[str, Field(min_length=3, max_length=200)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=60, pattern=ID)]
    title: Annotated[str, Field(min_length=5, max_length=120)]
    sources: Annotated[list[_Word], Field(min_length=1)]
    enforced: _Sentence
    code: list[Annotated[str, Field(pattern=_CODE)]]
    evidence: list[_Word]
    cannot: _Sentence
    status: Status
    missing: _Sentence | None = None

    @model_validator(mode="after")
    def _whole(self) -> "_Form":
        """What is enforced has code and evidence; what is not says what is missing."""
        if self.status is Status.ENFORCED and not (self.code and self.evidence and self.missing is None):
            raise ValueError(f"{self.id}: an enforced control has code and evidence, and nothing missing")
        if self.status is not Status.ENFORCED and self.missing is None:
            raise ValueError(f"{self.id}: say in 'missing' what is not built")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    control: Annotated[list[_Form], Field(min_length=1)]


def parse(text: str, *, source: str) -> tuple[Control, ...]:
    """The controls that a file of the catalogue holds.

    Raises:
        RecordError: It is no TOML, or an entry is missing, unknown or impossible.
    """
    try:
        forms = _File.model_validate(parse_toml(text)).control
    except tomllib.TOMLDecodeError as error:
        raise RecordError(f"{source} is no TOML: {error}", hint="install this release again") from error
    except ValidationError as error:
        raise RecordError(f"{source}: {first_fault(error)}", hint="docs/controls.md says what a control has") from error
    return tuple(
        Control(
            form.id,
            form.title,
            tuple(form.sources),
            form.enforced,
            tuple(form.code),
            tuple(form.evidence),
            form.cannot,
            form.status,
            form.missing or "",
        )
        for form in forms
    )


@functools.cache
def catalogue() -> tuple[Control, ...]:
    """All controls of this release, in the order of their files.

    Raises:
        RecordError: A file is damaged, or an id stands twice.
    """
    found: list[Control] = []
    for path in sorted((files("compliance") / "data").iterdir(), key=lambda one: one.name):
        if path.name.startswith("controls-") and path.name.endswith(".toml"):
            found += parse(path.read_text("utf-8"), source=path.name)
    ids = [one.id for one in found]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise RecordError(f"the controls {', '.join(twice)} stand twice", hint="give each an id of its own")
    return tuple(found)
