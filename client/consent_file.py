"""Consents from a hospital's files, CSV or FHIR R4, read strictly: one line that is wrong, and nothing is taken.

CSV (RFC 4180, UTF-8, with a line of names; commas, semicolons or tabs): ``patient_id``, ``decision`` (given, withdrawn,
refused), ``purpose`` (word for word as the charter's; several with ``|`` between them; empty for the node's own, and in
a withdrawal or refusal for every purpose), ``date`` and ``until`` (2026-05-31, ``until`` the last day and optional) and
``basis`` (optional). Only the first two and ``date`` must be there. FHIR: :mod:`client.consent_fhir`.

Messages name lines and columns and never quote what stands in one: where columns are off by one, it is a Patient ID.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from client.basis import CONSENT, Basis
from client.consent import ALL, Choice, Decision
from shared.errors import FedwardError, UsageError

COLUMNS: Final = ("patient_id", "decision", "purpose", "date", "until", "basis")
NEEDED: Final = ("patient_id", "decision", "date")
LARGEST: Final = 256 << 20
_SEVERAL: Final = "|"
_MOST: Final = 5
_CHOICES: Final = ", ".join(choice.value for choice in Choice)


@dataclass(frozen=True)
class Row:
    """One decision as a file says it.

    Attributes:
        where: Where it stands, from 1: ``line 2``, or in a Bundle ``entry 2``.
        patient_id: The Patient ID (0010,0020) as the archive has it.
        purpose: One purpose, or :data:`~client.consent.ALL`.
        decision: What was decided.
    """

    where: str
    patient_id: str
    purpose: str
    decision: Decision


class LineError(Exception):
    """What is wrong with one decision, in words that quote no identifier."""


def read_consents(path: Path, *, purpose: str, today: date, system: str = "") -> list[Row]:
    """The decisions in a file; which of the two formats it is shows its first character.

    Args:
        path: CSV, or FHIR R4 as a resource, a Bundle or NDJSON.
        purpose: What a line without a purpose is for.
        today: UTC; a decision of a later day is an error.
        system: Of a patient's several FHIR identifiers, the one that is the Patient ID.

    Raises:
        UsageError: It cannot be read, or a line is wrong; the message names the lines.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST >> 20} MiB", hint="split it")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a CSV or FHIR file") from error
    text = _text(path, data)
    if text.lstrip()[:1] in {"{", "["}:
        from client.consent_fhir import fhir_rows  # noqa: PLC0415  # most hospitals send tables

        rows = _collected(path, lambda wrong: _checked(fhir_rows(text, purpose, system, today, wrong), today, wrong))
    else:
        rows = _collected(path, lambda wrong: _checked(_csv_rows(path, text, purpose, wrong), today, wrong))
    if not rows:
        raise UsageError(f"{path} holds no decision", hint="one line for each patient")
    return rows


Wrong = Callable[[str, str], None]
"""Takes where something stands and what is wrong with it."""


def day_of(text: str, what: str) -> date:
    """A day as ``2026-05-31``.

    Raises:
        LineError: It is none.
    """
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or text != found.isoformat():
        raise LineError(f"{what} is no day such as 2026-05-31")
    return found


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        hint = "save it as UTF-8" + (" (it looks like UTF-16)" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "")
        raise UsageError(f"{path} line {line}: the bytes are not UTF-8", hint=hint) from None


def _collected(path: Path, read: Callable[[Wrong], Iterator[Row]]) -> list[Row]:
    """All rows, or an error that names the first lines that are wrong."""
    faults: list[str] = []
    rows = list(read(lambda where, what: faults.append(f"{where}: {what}")))
    if faults:
        rest = f"; and {len(faults) - _MOST} more" if len(faults) > _MOST else ""
        raise UsageError(
            f"{path} {'; '.join(faults[:_MOST])}{rest}", hint="nothing was taken; mend that and import it again"
        )
    return rows


def _csv_rows(path: Path, text: str, purpose: str, wrong: Wrong) -> Iterator[Row]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    if "\0" in text:
        raise UsageError(
            f"{path} line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL character", hint="save it as UTF-8"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower().replace(" ", "_") for name in next(reader, [])]
        if problem := _names_problem(names):
            raise UsageError(f"{path} line 1: {problem}", hint=f"its columns are {', '.join(COLUMNS)}")
        line = reader.line_num
        for values in reader:
            line, at = reader.line_num, line + 1
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(names):
                wrong(f"line {at}", f"{len(values)} fields, and the first line names {len(names)}")
                continue
            try:
                yield from _csv_row(at, dict(zip(names, (one.strip() for one in values), strict=True)), purpose)
            except LineError as error:
                wrong(f"line {at}", str(error))
    except csv.Error as error:
        wrong(f"line {max(reader.line_num, 1)}", f"no CSV: {error}")


def _names_problem(names: list[str]) -> str:
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in names]
    if missing:
        return f"the column {missing[0]} is missing"
    if unknown:
        return "a column has no name that is known here" if not unknown[0].isidentifier() else f"no column {unknown[0]}"
    return "a column is there twice" if len(set(names)) < len(names) else ""


def _csv_row(line: int, row: Mapping[str, str], purpose: str) -> Iterator[Row]:
    if not row["patient_id"]:
        raise LineError("patient_id is empty")
    try:
        choice = Choice(row["decision"].lower())
    except ValueError:
        raise LineError(f"decision is not one of {_CHOICES}") from None
    since = day_of(row["date"], "date")
    until = day_of(row["until"], "until") if row.get("until") else None
    if choice is not Choice.GIVEN and until is not None:
        raise LineError(f"a decision that is {choice.value} has no until")
    if until is not None and until < since:
        raise LineError("until is before date")
    try:
        basis = Basis.parse(row["basis"]) if row.get("basis") else CONSENT
    except FedwardError:
        raise LineError("basis is no lawful basis for data on health") from None
    purposes = [one.strip() for one in row.get("purpose", "").split(_SEVERAL) if one.strip()]
    for one in purposes or [purpose if choice is Choice.GIVEN else ALL]:
        if one == ALL and choice is Choice.GIVEN:
            raise LineError("a consent is for a purpose, and * names none")
        if not one.isprintable():
            raise LineError("purpose has characters that cannot be printed")
        yield Row(f"line {line}", row["patient_id"], one, Decision(choice, since, until, basis, "csv"))


def _checked(rows: Iterator[Row], today: date, wrong: Wrong) -> Iterator[Row]:
    """The rows; told as wrong are decisions of the future, and two lines that contradict each other."""
    seen: dict[tuple[str, str, date], Row] = {}
    for row in rows:
        # A day ahead: east of Greenwich a day begins earlier than in UTC.
        if row.decision.since > today + timedelta(days=1):
            wrong(row.where, "the date lies in the future")
        before = seen.setdefault((row.patient_id, row.purpose, row.decision.since), row)
        if before.decision != row.decision:
            wrong(row.where, f"says otherwise than {before.where} of the same patient, purpose and day")
        yield row
