"""FHIR R4 Consent (hl7.org/fhir/R4/consent.html): a resource, a Bundle, or NDJSON, with the Patients that they name.

Read are: ``status``, ``scope`` (only ``research`` counts), ``patient`` (its identifier, or that of a Patient resource
in the same file), ``dateTime``, and of ``provision`` its ``type`` and ``period``. The standard has no type in the root
provision, but an exception to the base policy: where there is no type, ``policyRule`` decides (``OPTIN``, ``OPTOUT`` of
v3-ActCode), and a provision beside it may have a period alone. A resource says nothing here while it is ``draft`` or
``proposed``. ``inactive`` and ``entered-in-error`` are withdrawals, ``rejected`` is a refusal. A permit that is
narrowed by what is not read here (nested provisions, actors, data, classes, codes, labels, a purpose that is not
research at large) is an error: a person decides what it means, and records that by CSV. So is whatever may turn the
meaning of what is read: a base policy that opts out, a modifier extension and ``implicitRules`` (2.4.1: who does not
understand one must not go on as if it were not there), extensions of plain values (``_status``), and a name that stands
twice in one JSON object; and what may be a no to research and is not read as one: a scope that is none of FHIR's, and
another scope with research among its purposes.

The day of a decision is that of ``dateTime``, also where its period begins later: it is the day by which a later
resource, or the same one when it is withdrawn, takes its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.basis import CONSENT
from client.consent import ALL, Choice, Decision
from client.consent_file import LineError, Row, Wrong, day_of
from shared.faults import first_fault
from shared.parsing import TooDeepError, parse_json

_STATUS: Final = {"inactive": Choice.WITHDRAWN, "entered-in-error": Choice.WITHDRAWN, "rejected": Choice.REFUSED}
_SILENT: Final = {"draft", "proposed"}
_RESEARCH: Final = {"HRESCH", "BIORCH"}
_SOME_RESEARCH: Final = {"CLINTRCH", "CLINTRCHNPC", "CLINTRCHPC", "PRECLINTRCH", "DSRCH", "POARCH", "TRANSRCH"}
"""What v3-ActReason has below HRESCH: consent to a clinical trial is none to other research."""
_RESEARCH_SCOPE: Final = "research"
_SCOPES: Final = {_RESEARCH_SCOPE, "adr", "patient-privacy", "treatment"}
_ACT_CODE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_OPTS_OUT: Final = {"OPTOUT", "OPTOUTE"}
_NOT_VALID: Final = {"old", "temp"}
"""Identifiers that are somebody's no longer, or for a while (Identifier.use is a modifier)."""
_MEDICAL_RECORD: Final = "MR"
_TURNS: Final = ("modifierExtension", "implicitRules")
_BESIDE: Final = frozenset({"text", "contained", "meta", "extension"})
"""Parts that say nothing of the consent itself, so that what stands in them turns nothing."""
_DEEP: Final = "it is nested too deep"
_BY_CSV: Final = "record the decision by CSV"


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
    use: str = ""
    type: _Concept = _Concept()

    @property
    def names(self) -> bool:
        """Whether it says who somebody is, today."""
        return bool(self.value.strip()) and self.use not in _NOT_VALID


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


_NOTHING_MORE: Final = _Provision.model_validate({})


class _Consent(_Open):
    status: str
    scope: _Concept
    patient: _Reference = _Reference()
    date_time: str = Field("", alias="dateTime")
    policy_rule: _Concept = Field(_Concept(), alias="policyRule")
    provision: _Provision | None = None


class _Patient(_Open):
    id: str = ""
    identifier: tuple[_Identifier, ...] = ()


@dataclass(frozen=True)
class _Resource:
    """A resource, where it stands, and the URL that a Bundle gives it."""

    where: str
    body: dict[str, Any]
    url: str = ""

    @property
    def type(self) -> str:
        return str(self.body.get("resourceType", ""))


_Patients = dict[str, list[_Patient]]


def fhir_rows(text: str, purpose: str, system: str, today: date, wrong: Wrong) -> Iterator[Row]:
    """The decisions on research in a FHIR file; ``wrong`` is told of each line (or entry) that is not understood.

    Args:
        text: One resource, a Bundle, or one resource a line.
        purpose: What a permit is for.
        system: Of several identifiers the one that is the Patient ID.
        today: UTC; a permit whose period begins later is an error.
        wrong: Told what is wrong, and where.
    """
    resources = list(_resources(text, wrong))
    patients: _Patients = {}
    for one in resources:
        if one.type == "Patient":
            try:
                found = _Patient.model_validate(one.body)
            except ValidationError as error:
                wrong(one.where, f"Patient: {first_fault(error)}")
                continue
            for name in filter(None, (f"Patient/{found.id}" if found.id else "", one.url)):
                patients.setdefault(name, []).append(found)
    for one in resources:
        if one.type != "Consent":
            continue
        try:
            form = _Consent.model_validate(one.body)
            if _about_research(form, one.body):
                _require_plain(one.body)
                yield _row(one.where, form, purpose, today, _patient_id(form.patient, system, patients))
        except ValidationError as error:
            wrong(one.where, f"Consent: {first_fault(error)}")
        except LineError as error:
            wrong(one.where, str(error))


def _resources(text: str, wrong: Wrong) -> Iterator[_Resource]:
    """Every resource, with its line in NDJSON or its place in a Bundle."""
    try:
        yield from _unpacked("line 1", parse_json(text, pairs=_once), wrong, whole=True)
    except LineError as error:
        wrong("line 1", str(error))
    except TooDeepError:
        wrong("line 1", _DEEP)
    except ValueError as fault:
        # Not splitlines: JSON strings may hold what Unicode calls the end of a line (RFC 8259, section 7).
        lines = text.split("\n")
        if len([line for line in lines if line.strip()]) < 2:
            wrong(f"line {getattr(fault, 'lineno', 1)}", "it is no JSON")
            return
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                one = parse_json(line, pairs=_once)
            except LineError as error:
                wrong(f"line {number}", str(error))
            except TooDeepError:
                wrong(f"line {number}", _DEEP)
            except ValueError:
                wrong(f"line {number}", "it is no JSON; one resource a line")
            else:
                yield from _unpacked(f"line {number}", one, wrong)


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
            raise LineError(f"{name} may turn its meaning and is not read; {_BY_CSV}")
        if any(name.startswith("_") and value not in (None, [], {}) for name, value in one.items()):
            raise LineError(f"an extension of a plain value is not read; {_BY_CSV}")
        for name, part in one.items():
            if name not in _BESIDE:
                _require_plain(part)


def _unpacked(where: str, one: object, wrong: Wrong, *, whole: bool = False) -> Iterator[_Resource]:
    """A resource, or those in a Bundle; ``whole``: it is the whole file, so that its entries have no line."""
    if not isinstance(one, dict) or not isinstance(one.get("resourceType"), str):
        wrong(where, "it is no FHIR resource")
    elif one["resourceType"] in {"Bundle", "Patient"} and any(one.get(name) for name in _TURNS):
        wrong(where, f"the {one['resourceType']} has a modifier that is not read; record the decisions by CSV")
    elif one["resourceType"] == "Bundle":
        entries = one.get("entry", [])
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
            place = f"entry {number}" if whole else f"{where} entry {number}"
            resource = entry.get("resource", {}) if isinstance(entry, dict) else None
            if not isinstance(resource, dict):
                wrong(place, "it is no entry of a Bundle")
            elif resource.get("resourceType") == "Bundle":
                wrong(place, "a Bundle in a Bundle is not read; import it alone")
            elif resource.get("resourceType") == "Patient" and any(resource.get(name) for name in _TURNS):
                wrong(place, f"the Patient has a modifier that is not read; {_BY_CSV}")
            else:
                yield _Resource(place, resource, str(entry.get("fullUrl", "")))
    else:
        yield _Resource(where, one)


def _about_research(consent: _Consent, body: dict[str, Any]) -> bool:
    """Whether a Consent says anything here.

    Raises:
        LineError: It may, and nobody can tell.
    """
    if consent.status in _SILENT:
        return False
    if _RESEARCH_SCOPE in consent.scope.codes:
        return True
    if not consent.scope.codes & _SCOPES:
        raise LineError(f"scope is none of FHIR's, so that it may be research; {_BY_CSV}")
    if _purposes(body.get("provision")) & (_RESEARCH | _SOME_RESEARCH):
        raise LineError(f"research is a purpose in it, and its scope is another; {_BY_CSV}")
    return False


def _purposes(provision: object) -> set[str]:
    """The codes of all purposes in a provision and the exceptions to it."""
    if not isinstance(provision, dict):
        return set()
    codings, nested = (one if isinstance(one, list) else [] for one in map(provision.get, ("purpose", "provision")))
    found = {str(one.get("code")) for one in codings if isinstance(one, dict)}
    return found.union(*map(_purposes, nested))


def _row(where: str, consent: _Consent, purpose: str, today: date, patient: str) -> Row:
    if consent.status != "active" and consent.status not in _STATUS:
        raise LineError("status is none that FHIR R4 has")
    since = _day(consent.date_time, "dateTime")
    if consent.status in _STATUS:
        return Row(where, patient, ALL, Decision(_STATUS[consent.status], since, source="fhir"))
    provision = consent.provision or _NOTHING_MORE
    if not _permits(consent, provision):
        if provision.provision:
            raise LineError(f"exceptions to a deny (provision.provision) are not read; {_BY_CSV}")
        return Row(where, patient, ALL, Decision(Choice.REFUSED, since, source="fhir"))
    if what := provision.narrows:
        raise LineError(f"provision.{what} narrows the permit and is not read; {_BY_CSV}")
    begins = _day(provision.period.start, "provision.period.start") if provision.period.start else since
    until = _day(provision.period.end, "provision.period.end") if provision.period.end else None
    if until is not None and until < max(begins, since):
        raise LineError("provision.period ends before the consent begins")
    if begins > max(since, today):
        raise LineError("provision.period has not begun; import it once it has")
    return Row(where, patient, purpose, Decision(Choice.GIVEN, since, until, CONSENT, "fhir"))


def _permits(consent: _Consent, provision: _Provision) -> bool:
    """Whether an active Consent permits; else it denies.

    Raises:
        LineError: It says neither, or both.
    """
    if provision.type not in {"permit", "deny", ""}:
        raise LineError("provision.type is neither permit nor deny")
    rule = consent.policy_rule
    if not provision.type:
        base = {one.code for one in rule.coding if one.system == _ACT_CODE}
        if base & _OPTS_OUT:
            return False
        if base != {"OPTIN"}:
            raise LineError("provision.type is neither permit nor deny, and policyRule neither OPTIN nor OPTOUT")
        if what := provision.narrows or ("purpose" if provision.purpose else "action" if provision.action else ""):
            raise LineError(f"provision.{what} beside policyRule is not read; {_BY_CSV}")
    elif provision.type == "permit" and rule.codes & (_OPTS_OUT | {"OPTINR"}):
        raise LineError(f"policyRule opts out of what provision.type permits, or restricts it; {_BY_CSV}")
    return provision.type != "deny"


def _patient_id(patient: _Reference, system: str, patients: _Patients) -> str:
    known = patients.get(patient.reference, []) if patient.reference else []
    if len({frozenset((one.system, one.value) for one in each.identifier) for each in known}) > 1:
        raise LineError("patient is a Patient that stands there several times with other identifiers")
    named = (patient.identifier, *(known[0].identifier if known else ()))
    found = [one for one in named if one and one.names]
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
