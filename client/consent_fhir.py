"""FHIR R4 Consent (hl7.org/fhir/R4/consent.html): a resource, a Bundle, or NDJSON, with the Patients that they name.

Read are: ``status``, ``scope`` (only ``research`` counts), ``patient`` (its identifier, or that of a Patient resource
in the same file), ``dateTime``, and of ``provision`` its ``type`` and ``period``. A resource says nothing here while it
is ``draft`` or ``proposed``. ``inactive`` and ``entered-in-error`` are withdrawals, ``rejected`` is a refusal. A permit
that is narrowed by what is not read here (nested provisions, actors, data, classes, codes, labels, a purpose that is
not research) is an error: a person decides what it means, and records that by CSV. So is whatever may turn the meaning
of what is read: a modifier extension and ``implicitRules`` (2.4.1: who does not understand one must not go on as if it
were not there), extensions of plain values (``_status``), and a name that stands twice in one JSON object.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.basis import CONSENT
from client.consent import ALL, Choice, Decision
from client.consent_file import LineError, Row, day_of
from shared.faults import first_fault
from shared.parsing import TooDeepError, parse_json

_STATUS: Final = {"inactive": Choice.WITHDRAWN, "entered-in-error": Choice.WITHDRAWN, "rejected": Choice.REFUSED}
_SILENT: Final = {"draft", "proposed"}
_RESEARCH: Final = {"HRESCH", "CLINTRCH", "BIORCH"}
_RESEARCH_SCOPE: Final = "research"
_MEDICAL_RECORD: Final = "MR"
_TURNS: Final = ("modifierExtension", "implicitRules")
_BESIDE: Final = frozenset({"text", "contained", "meta", "extension"})
"""Parts that say nothing of the consent itself, so that what stands in them turns nothing."""
_DEEP: Final = "it is nested too deep"
Wrong = Callable[[int, str], None]


class _Open(BaseModel):
    """A part of a resource of which only some entries are read; FHIR has many more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Coding(_Open):
    system: str = ""
    code: str = ""


class _Concept(_Open):
    coding: tuple[_Coding, ...] = ()

    @property
    def codes(self) -> set[str]:
        return {one.code for one in self.coding}


class _Identifier(_Open):
    system: str = ""
    value: str = ""
    type: _Concept = _Concept()


class _Reference(_Open):
    reference: str = ""
    identifier: _Identifier | None = None


class _Period(_Open):
    start: str = ""
    end: str = ""


class _Provision(_Open):
    type: str = ""
    period: _Period = _Period()
    purpose: tuple[_Coding, ...] = ()
    action: tuple[_Concept, ...] = ()
    actor: tuple[Any, ...] = ()
    data: tuple[Any, ...] = ()
    code: tuple[Any, ...] = ()
    security_label: tuple[Any, ...] = Field((), alias="securityLabel")
    classes: tuple[Any, ...] = Field((), alias="class")
    data_period: Any = Field(None, alias="dataPeriod")
    provision: tuple[Any, ...] = ()

    @property
    def narrows(self) -> str:
        """What of it narrows a permit and is not read; empty where nothing does."""
        names = ("provision", "actor", "data", "code", "security_label", "classes", "data_period")
        found = next((name for name in names if getattr(self, name)), "")
        if not found and self.purpose and not {one.code for one in self.purpose} & _RESEARCH:
            return "purpose"
        if not found and self.action and not any("use" in one.codes for one in self.action):
            return "action"
        return {"security_label": "securityLabel", "classes": "class", "data_period": "dataPeriod"}.get(found, found)


class _Consent(_Open):
    status: str
    scope: _Concept
    patient: _Reference
    date_time: str = Field("", alias="dateTime")
    provision: _Provision | None = None


class _Patient(_Open):
    id: str = ""
    identifier: tuple[_Identifier, ...] = ()


def fhir_rows(text: str, purpose: str, system: str, wrong: Wrong) -> Iterator[Row]:
    """The decisions on research in a FHIR file; ``wrong`` is told of each line (or entry) that is not understood.

    Args:
        text: One resource, a Bundle, or one resource a line.
        purpose: What a permit is for.
        system: Of several identifiers the one that is the Patient ID.
        wrong: Told what is wrong, and where.
    """
    resources = list(_resources(text, wrong))
    patients: dict[str, _Patient] = {}
    for line, one, url in resources:
        if one.get("resourceType") == "Patient":
            try:
                found = _Patient.model_validate(one)
            except ValidationError as error:
                wrong(line, f"Patient: {first_fault(error)}")
                continue
            patients |= {name: found for name in (f"Patient/{found.id}", url) if name}
    for line, one, _ in resources:
        if one.get("resourceType") != "Consent":
            continue
        try:
            form = _Consent.model_validate(one)
            if _RESEARCH_SCOPE in form.scope.codes:
                _require_plain(one)
            found_row = _row(line, form, purpose, system, patients)
        except ValidationError as error:
            wrong(line, f"Consent: {first_fault(error)}")
        except LineError as error:
            wrong(line, str(error))
        else:
            if found_row is not None:
                yield found_row


def _resources(text: str, wrong: Wrong) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Every resource with its line in NDJSON, its place in a Bundle, or 1; and the URL that a Bundle gives it."""
    try:
        whole = parse_json(text, pairs=_once)
    except LineError as error:
        wrong(1, str(error))
        return
    except TooDeepError:
        wrong(1, _DEEP)
        return
    except ValueError as fault:
        lines = text.splitlines()
        if len([line for line in lines if line.strip()]) < 2:
            wrong(getattr(fault, "lineno", 1), "it is no JSON")
            return
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                one = parse_json(line, pairs=_once)
            except LineError as error:
                wrong(number, str(error))
                continue
            except ValueError as error:
                wrong(number, _DEEP if isinstance(error, TooDeepError) else "it is no JSON; one resource a line")
                continue
            yield from _unpacked(number, one, wrong)
        return
    yield from _unpacked(1, whole, wrong)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no name stands twice: of two values nobody knows which was meant (RFC 8259, section 4)."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise LineError("a name stands twice in one object")
    return found


def _require_plain(one: object) -> None:
    """Refuse a Consent in which something may turn the meaning of what is read here.

    Raises:
        LineError: Something does; no value is quoted.
    """
    if isinstance(one, list):
        for part in one:
            _require_plain(part)
    elif isinstance(one, dict):
        if name := next((name for name in one if name in _TURNS and one[name] not in (None, [], "")), ""):
            raise LineError(f"{name} may turn its meaning and is not read; record the decision by CSV")
        if any(name.startswith("_") and value not in (None, [], {}) for name, value in one.items()):
            raise LineError("an extension of a plain value is not read; record the decision by CSV")
        for name, part in one.items():
            if name not in _BESIDE:
                _require_plain(part)


def _unpacked(line: int, one: object, wrong: Wrong) -> Iterator[tuple[int, dict[str, Any], str]]:
    if not isinstance(one, dict) or not isinstance(one.get("resourceType"), str):
        wrong(line, "it is no FHIR resource")
    elif one["resourceType"] in {"Bundle", "Patient"} and any(one.get(name) for name in _TURNS):
        wrong(line, f"the {one['resourceType']} has a modifier that is not read; record the decisions by CSV")
    elif one["resourceType"] == "Bundle":
        entries = one.get("entry", [])
        for number, entry in enumerate(entries if isinstance(entries, list) else [], start=1):
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if not isinstance(resource, dict):
                continue
            if resource.get("resourceType") == "Patient" and any(resource.get(name) for name in _TURNS):
                wrong(number, "the Patient has a modifier that is not read; record the decision by CSV")
                continue
            yield number, resource, str(entry.get("fullUrl", ""))
    else:
        yield line, one, ""


def _row(line: int, consent: _Consent, purpose: str, system: str, patients: dict[str, _Patient]) -> Row | None:
    if _RESEARCH_SCOPE not in consent.scope.codes or consent.status in _SILENT:
        return None
    if consent.status != "active" and consent.status not in _STATUS:
        raise LineError("status is none that FHIR R4 has")
    patient, since = _patient_id(consent.patient, system, patients), _day(consent.date_time, "dateTime")
    if consent.status in _STATUS:
        return Row(line, patient, ALL, Decision(_STATUS[consent.status], since, source="fhir"))
    provision = consent.provision
    if provision is None or provision.type not in {"permit", "deny"}:
        raise LineError("provision.type is neither permit nor deny")
    if provision.type == "deny":
        if provision.provision:
            raise LineError("exceptions to a deny (provision.provision) are not read; record the decision by CSV")
        return Row(line, patient, ALL, Decision(Choice.REFUSED, since, source="fhir"))
    if what := provision.narrows:
        raise LineError(f"provision.{what} narrows the permit and is not read; record the decision by CSV")
    if provision.period.start:
        since = max(since, _day(provision.period.start, "provision.period.start"))
    until = _day(provision.period.end, "provision.period.end") if provision.period.end else None
    if until is not None and until < since:
        raise LineError("provision.period ends before the consent begins")
    return Row(line, patient, purpose, Decision(Choice.GIVEN, since, until, CONSENT, "fhir"))


def _patient_id(patient: _Reference, system: str, patients: dict[str, _Patient]) -> str:
    known = patients.get(patient.reference)
    found = [one for one in (patient.identifier, *(known.identifier if known else ())) if one and one.value]
    if system:
        found = [one for one in found if one.system == system]
    elif len({one.value for one in found}) > 1:
        found = [one for one in found if _MEDICAL_RECORD in one.type.codes] or found
    values = {one.value for one in found}
    if not values:
        raise LineError("patient has no identifier here (patient.identifier, or a Patient resource in the same file)")
    if len(values) > 1:
        raise LineError("patient has several identifiers; say with --system which one is the Patient ID")
    return values.pop()


def _day(text: str, what: str) -> date:
    """The day of a FHIR dateTime (UTC where it has a zone); one without a day is not enough."""
    if "T" not in text:
        return day_of(text, what)
    try:
        found = datetime.fromisoformat(text)
        return (found.astimezone(UTC) if found.tzinfo else found).date()
    except (ValueError, OverflowError):
        raise LineError(f"{what} is no dateTime") from None
