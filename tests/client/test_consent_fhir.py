"""FHIR Consents as other software writes them: who is allowed what after they were imported.

Built and validated with the R4B (4.3.0) models of fhir.resources 8, as in tests/compliance/test_export_fhir.py.
Consent, Patient and Bundle have the same elements in R4 (4.0.1).
"""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.consent import Consent
from fhir.resources.R4B.patient import Patient
from hypothesis import given, settings
from hypothesis import strategies as st

from client.basis import Basis, DefaultBasis
from client.consent import ALL, Choice, Register
from client.consent_fhir import fhir_rows
from client.consent_file import Row, read_consents
from client.consenting import import_consents
from client.node import Node
from client.records import pseudonym_of, read_register
from shared.errors import UsageError

TODAY = date(2026, 6, 15)
PURPOSE = "research on image quality"
SYSTEM = "urn:oid:1.2.276.0.76.4.8"
SCOPES = "http://terminology.hl7.org/CodeSystem/consentscope"
ACT_CODES = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
REASONS = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
LAW = DefaultBasis(Basis.parse("GDPR 6(1)(e), 9(2)(j)"), (PURPOSE,), date(2020, 1, 1), None, "a law", "Ada", "agreed")

Json = dict[str, Any]


def concept(code: str, system: str = "") -> Json:
    return {"coding": [{"system": system, "code": code} if system else {"code": code}]}


def consent(number: str = "7", **changes: Any) -> Json:
    """A valid Consent as JSON; None takes an element away."""
    body = {
        "status": "active",
        "scope": concept("research", SCOPES),
        "category": [concept("59284-0", "http://loinc.org")],
        "patient": {"identifier": {"system": SYSTEM, "value": number}},
        "dateTime": "2026-01-02T09:00:00Z",
        "policyRule": concept("OPTIN", ACT_CODES),
        "provision": {"type": "permit"},
    } | changes
    made = Consent.model_validate({name: value for name, value in body.items() if value is not None})
    found: Json = json.loads(made.model_dump_json(exclude_none=True))
    return found


def patient(*identifiers: Json, id: str = "p") -> Json:  # noqa: A002  # FHIR's name
    made = Patient.model_validate({"id": id, "identifier": list(identifiers)})
    found: Json = json.loads(made.model_dump_json(exclude_none=True))
    return found


def bundle(*entries: Json | tuple[str, Json]) -> str:
    rows = [{"fullUrl": one[0], "resource": one[1]} if isinstance(one, tuple) else {"resource": one} for one in entries]
    return Bundle.model_validate({"type": "collection", "entry": rows}).model_dump_json(exclude_none=True)


def lines(*resources: Json) -> str:
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in resources) + "\n"


def read(folder: Path, text: str, **options: Any) -> list[Row]:
    path = folder / "consents.json"
    path.write_text(text, encoding="utf-8")
    return read_consents(path, purpose=PURPOSE, today=TODAY, **options)


def fault(folder: Path, text: str, **options: Any) -> str:
    """What an import says that takes nothing: one line, and what to do."""
    with pytest.raises(UsageError) as caught:
        read(folder, text, **options)
    assert caught.value.message.isprintable()
    assert caught.value.hint
    return caught.value.message.partition("consents.json")[2].strip()


def why_not(rows: Sequence[Row], *, default: DefaultBasis | None = None, day: date = TODAY) -> str:
    """Why the one patient of some rows takes no part on ``day``; empty where he does."""
    register = Register(default=default).decided([("P", row.purpose, row.decision) for row in rows])
    return register.why_not("P", PURPOSE, day)


# --- who is allowed what ----------------------------------------------------------------------------------------------

OUTCOMES = {
    "permit": ({}, ""),
    "permit within its period": ({"provision": {"type": "permit", "period": {"end": "2026-06-15"}}}, ""),
    "permit that ended": ({"provision": {"type": "permit", "period": {"end": "2026-06-14"}}}, "consent expired"),
    "permit for research": ({"provision": {"type": "permit", "purpose": [{"system": REASONS, "code": "HRESCH"}]}}, ""),
    "permit to use": ({"provision": {"type": "permit", "action": [concept("use"), concept("disclose")]}}, ""),
    "deny": ({"provision": {"type": "deny"}}, "refused"),
    "deny that ended": ({"provision": {"type": "deny", "period": {"end": "2026-01-31"}}}, "refused"),
    "deny of one purpose": ({"provision": {"type": "deny", "purpose": [{"code": "HMARKT"}]}}, "refused"),
    "inactive": ({"status": "inactive"}, "withdrawn"),
    "entered in error": ({"status": "entered-in-error"}, "withdrawn"),
    "rejected": ({"status": "rejected"}, "refused"),
    "opted in by the base policy": ({"provision": None}, ""),
    "opted in for a time": ({"provision": {"period": {"end": "2026-06-14"}}}, "consent expired"),
    "opted out by the base policy": ({"policyRule": concept("OPTOUT", ACT_CODES), "provision": None}, "refused"),
    "opted out but for exceptions": ({"policyRule": concept("OPTOUTE", ACT_CODES), "provision": {}}, "refused"),
}


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("what", OUTCOMES)
def test_who_has_consented_takes_part_and_whoever_says_no_does_not(tmp_path: Path, what: str) -> None:
    changes, expected = OUTCOMES[what]
    for text in (json.dumps(consent(**changes), indent=2), lines(consent(**changes)), bundle(consent(**changes))):
        rows = read(tmp_path, text)
        assert [(row.patient_id, row.decision.source) for row in rows] == [("7", "fhir")]
        assert why_not(rows) == expected
        assert why_not(rows, default=LAW) == expected, "a decision counts, whatever the hospital rests on"


def nested(outer: str, inner: str) -> Json:
    return {"provision": {"type": outer, "provision": [{"type": inner, "purpose": [{"code": "HRESCH"}]}]}}


REFUSED = {
    "an exception to a permit": (nested("permit", "deny"), "provision.provision narrows the permit"),
    "an exception to a deny": (nested("deny", "permit"), "exceptions to a deny"),
    "a clinical trial": (
        {"provision": {"type": "permit", "purpose": [{"system": REASONS, "code": "CLINTRCH"}]}},
        "provision.purpose narrows",
    ),
    "treatment": ({"provision": {"type": "permit", "purpose": [{"code": "TREAT"}]}}, "provision.purpose narrows"),
    "an actor": (
        {"provision": {"type": "permit", "actor": [{"role": concept("PRCP"), "reference": {"display": "one firm"}}]}},
        "provision.actor narrows",
    ),
    "some data": (
        {"provision": {"type": "permit", "data": [{"meaning": "instance", "reference": {"display": "one study"}}]}},
        "provision.data narrows",
    ),
    "some classes": ({"provision": {"type": "permit", "class": [{"code": "ImagingStudy"}]}}, "provision.class narrows"),
    "data of some years": (
        {"provision": {"type": "permit", "dataPeriod": {"end": "2020-01-01"}}},
        "provision.dataPeriod narrows",
    ),
    "neither policy nor type": ({"policyRule": None, "provision": None}, "policyRule neither OPTIN nor OPTOUT"),
    "a policy that is not read": ({"policyRule": concept("cric"), "provision": {}}, "policyRule neither OPTIN nor"),
    "a policy of another system": ({"policyRule": concept("OPTIN", "urn:x"), "provision": None}, "neither OPTIN nor"),
    "an exception without a type": ({"provision": {"purpose": [{"code": "HRESCH"}]}}, "provision.purpose beside"),
    "a permit under an opt-out": ({"policyRule": concept("OPTOUT", ACT_CODES)}, "policyRule opts out"),
    "a permit under restrictions": ({"policyRule": concept("OPTINR", ACT_CODES)}, "policyRule opts out"),
    "a period to come": ({"provision": {"type": "permit", "period": {"start": "2026-06-16"}}}, "has not begun"),
    "a day to come": ({"dateTime": "2026-07-01"}, "the date lies in the future"),
    "a month": ({"dateTime": "2026-01"}, "dateTime is no day"),
    "no day": ({"dateTime": None}, "dateTime is no day"),
    "no patient": ({"patient": None}, "patient has no identifier here"),
    "nobody's number": ({"patient": {"reference": "Patient/gone"}}, "patient has no identifier here"),
    "an empty number": ({"patient": {"identifier": {"system": SYSTEM, "value": " "}}}, "patient has no identifier"),
    "an old number": ({"patient": {"identifier": {"use": "old", "value": "7"}}}, "patient has no identifier"),
    "a modifier": ({"modifierExtension": [{"url": "urn:not", "valueBoolean": True}]}, "modifierExtension may turn"),
    "a scope in words": ({"scope": {"text": "Forschung"}}, "scope is none of FHIR's"),
    "a scope of the house": ({"scope": concept("FORSCHUNG", "urn:kis")}, "scope is none of FHIR's"),
    "research under another scope": (
        {"scope": concept("patient-privacy", SCOPES)} | nested("permit", "deny"),
        "research is a purpose in it, and its scope is another",
    ),
}


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_told_with_where_it_stands_and_nothing_is_taken(tmp_path: Path, what: str) -> None:
    changes, said = REFUSED[what]
    good, bad = consent("1"), consent("2", **changes)
    for text, where in (
        (lines(good, bad), "line 2: "),
        (bundle(good, bad), "entry 2: "),
        (lines(good, json.loads(bundle(good, bad))), "line 2 entry 2: "),
        (json.dumps(bad, indent=1), "line 1: "),
    ):
        found = fault(tmp_path, text)
        assert found.startswith(where)
        assert said in found
        assert found.count(": ") == 1, "one fault, and no value of the file"


@pytest.mark.parametrize("status", ["draft", "proposed"])
def test_what_is_not_decided_says_nothing(tmp_path: Path, status: str) -> None:
    later = consent(status=status, dateTime="2026-05-01", provision={"type": "deny"})
    assert why_not(read(tmp_path, lines(consent(), later))) == ""


def test_a_consent_to_something_else_says_nothing_and_stops_nobody(tmp_path: Path) -> None:
    others = [
        consent(scope=concept("treatment", SCOPES), patient=None, dateTime=None),
        consent(scope=concept("adr", SCOPES), policyRule=None, provision=None),
        consent(scope=concept("patient-privacy", SCOPES), provision={"type": "deny"}),
    ]
    assert why_not(read(tmp_path, lines(*others, consent()))) == ""
    assert "holds no decision" in fault(tmp_path, lines(*others))


# --- what comes later -------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("status", ["inactive", "entered-in-error", "rejected"])
def test_the_same_consent_withdrawn_is_a_no_also_where_its_period_began_after_its_day(
    tmp_path: Path, status: str
) -> None:
    """An update keeps ``dateTime``: the day that the consent was made."""
    period = {"provision": {"type": "permit", "period": {"start": "2026-05-01"}}}
    given, withdrawn = read(tmp_path, lines(consent(**period))), read(tmp_path, lines(consent(status=status, **period)))
    assert why_not(given) == ""
    for rows in ([*given, *withdrawn], [*withdrawn, *given]):
        assert why_not(rows)


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_a_no_between_the_day_of_a_consent_and_its_period_is_the_later_word(tmp_path: Path) -> None:
    given = consent(provision={"type": "permit", "period": {"start": "2026-05-01"}})
    refused = consent(dateTime="2026-03-01", provision={"type": "deny"})
    assert why_not(read(tmp_path, lines(given, refused))) == "refused"
    again = consent(dateTime="2026-04-01")
    assert why_not(read(tmp_path, lines(given, refused, again))) == "", "and a consent after that"


# --- whose it is ------------------------------------------------------------------------------------------------------


def number(value: str, system: str = SYSTEM, **more: Any) -> Json:
    return {"system": system, "value": value, **more}


@pytest.mark.parametrize("reference", ["Patient/p", "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"])
def test_a_patient_is_named_by_his_id_or_his_place_in_a_bundle(tmp_path: Path, reference: str) -> None:
    text = bundle(
        ("urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", patient(number("7"))),
        consent(patient={"reference": reference}),
    )
    assert [row.patient_id for row in read(tmp_path, text)] == ["7"]


def test_of_two_patients_of_one_id_nobody_is_taken_for_the_other(tmp_path: Path) -> None:
    """Ids are unique on one server alone, and an export may be of two."""
    named = consent(patient={"reference": "Patient/p"})
    both = [(f"https://{one}.example/Patient/p", patient(number(one))) for one in "ab"]
    assert "stands there several times" in fault(tmp_path, bundle(*both, named))
    assert [row.patient_id for row in read(tmp_path, lines(patient(number("7")), patient(number("7")), named))] == ["7"]


def test_of_several_numbers_the_valid_one_of_the_archive_counts(tmp_path: Path) -> None:
    medical = concept("MR", "http://terminology.hl7.org/CodeSystem/v2-0203")
    named = consent(patient={"reference": "Patient/p"})
    several = patient(number("AOK-1", "urn:insurance"), number("7", type=medical), number("6", use="old", type=medical))
    assert [row.patient_id for row in read(tmp_path, lines(several, named))] == ["7"]
    unnamed = patient(number("AOK-1", "urn:insurance"), number("7"))
    assert "--system" in fault(tmp_path, lines(unnamed, named))
    assert [row.patient_id for row in read(tmp_path, lines(unnamed, named), system=SYSTEM)] == ["7"]
    assert "no identifier" in fault(
        tmp_path, lines(consent(patient={"identifier": number("7", "urn:x")})), system=SYSTEM
    )


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_unicode_calls_the_end_of_a_line_stands_within_a_resource(tmp_path: Path) -> None:
    told = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">a\u2028b\u0085c</div>'}
    assert [row.where for row in read(tmp_path, lines(consent("1", text=told), consent("2")))] == ["line 1", "line 2"]


def test_a_bundle_in_a_bundle_is_told(tmp_path: Path) -> None:
    assert fault(tmp_path, bundle(consent(), json.loads(bundle(consent())))).startswith("entry 2: a Bundle in a Bundle")


@pytest.mark.parametrize("entry", [["x"], [{"resource": [1]}], 7])
def test_a_bundle_whose_entries_are_none_is_told(tmp_path: Path, entry: Any) -> None:
    assert "it is no entry of a Bundle" in fault(tmp_path, json.dumps({"resourceType": "Bundle", "entry": entry}))


def test_two_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    assert fault(tmp_path, bundle(consent(), consent(**OUTCOMES["permit within its period"][0]))).startswith(
        "entry 2: says otherwise than entry 1 of the same patient"
    )


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_a_bundle_is_taken_into_the_register(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "node", site="H1", purpose=PURPOSE)
    rows = read(
        tmp_path, bundle(consent("1"), consent("2", provision={"type": "deny"}), consent("3", status="inactive"))
    )
    assert import_consents(node, rows, file=tmp_path / "consents.json").stopped == 2
    register, _ = read_register(node)
    states = {name: register.why_not(pseudonym_of(node, name), PURPOSE, TODAY) for name in ("1", "2", "3", "4")}
    assert states == {"1": "", "2": "refused", "3": "withdrawn", "4": "no basis"}


# --- whatever is valid ------------------------------------------------------------------------------------------------

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2026, 6, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds
STATUSES = ("draft", "proposed", "active", "rejected", "inactive", "entered-in-error")
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["permit", "deny"]),
    "period": st.fixed_dictionaries(
        {}, optional={name: st.dates(date(2020, 1, 1), date(2030, 1, 1)).map(str) for name in ("start", "end")}
    ).filter(lambda one: one.get("start", "") <= one.get("end", "9")),
    "purpose": st.lists(st.sampled_from(["HRESCH", "BIORCH", "CLINTRCH", "TREAT"]), min_size=1, max_size=2).map(
        lambda codes: [{"system": REASONS, "code": one} for one in codes]
    ),
    "class": st.just([{"code": "ImagingStudy"}]),
    "securityLabel": st.just([{"code": "R"}]),
    "action": st.sampled_from(["use", "collect"]).map(lambda one: [concept(one)]),
    "provision": st.just([{"type": "deny", "code": [concept("x")]}]),
}
CONSENTS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(STATUSES),
        "scope": st.sampled_from(["research", "treatment", "patient-privacy"]).map(lambda code: concept(code, SCOPES)),
        "when": st.tuples(MOMENTS, ZONES).map(lambda both: both[0].astimezone(both[1])),
        "policyRule": st.sampled_from([None, "OPTIN", "OPTINR", "OPTOUT", "OPTOUTE", "cric"]).map(
            lambda code: code and concept(code, ACT_CODES)
        ),
        "provision": st.none() | st.fixed_dictionaries({}, optional=PARTS),
    }
)


def rows_of(text: str) -> tuple[list[Row], list[str]]:
    faults: list[str] = []
    rows = list(fhir_rows(text, PURPOSE, "", TODAY, lambda where, what: faults.append(f"{where}: {what}")))
    return rows, faults


@settings(max_examples=300, deadline=None)
@given(CONSENTS)
def test_nobody_takes_part_by_a_valid_consent_but_by_a_plain_permit(drawn: Json) -> None:
    when = drawn.pop("when")
    body = consent(dateTime=when.isoformat(), **drawn)
    rows, faults = rows_of(json.dumps(body))
    assert len(rows) + len(faults) <= 1
    provision = body.get("provision", {})
    rule = body.get("policyRule", {"coding": [{"code": ""}]})["coding"][0]["code"]
    codes = {one["code"] for one in provision.get("purpose", [])}
    if drawn["scope"] != concept("research", SCOPES) or drawn["status"] in {"draft", "proposed"}:
        assert not rows
        if drawn["status"] not in {"draft", "proposed"}:
            assert bool(faults) == bool(codes - {"TREAT"}), "research is not passed over"
        return
    if drawn["status"] != "active":
        assert [row.decision.choice is not Choice.GIVEN and row.purpose == ALL for row in rows] == [True]
        assert rows[0].decision.since == when.astimezone(UTC).date()
    elif provision.get("type") == "deny" or (not provision.get("type") and rule in {"OPTOUT", "OPTOUTE"}):
        assert [row.decision.choice for row in rows] == ([] if provision.get("provision") else [Choice.REFUSED])
    if rows and not why_not(rows):
        assert drawn["status"] == "active"
        assert provision.get("type", "permit") == "permit"
        assert rule not in {"OPTINR", "OPTOUT", "OPTOUTE"}
        assert not set(provision) - {"type", "period", "purpose", "action"}
        assert not codes or codes & {"HRESCH", "BIORCH"}
        assert provision.get("action", [concept("use")]) == [concept("use")]
        assert provision.get("period", {}).get("start", "2020-01-01") <= TODAY.isoformat()
        assert provision.get("period", {}).get("end", "2030-01-01") >= TODAY.isoformat()
        assert provision.get("type") or rule == "OPTIN"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STATUSES), MOMENTS, st.sampled_from(["permit", "deny"])), max_size=6))
def test_the_newest_word_of_a_patient_counts_in_whatever_order_a_file_has_it(said: list[Any]) -> None:
    made = [consent(status=status, dateTime=when.isoformat(), provision={"type": kind}) for status, when, kind in said]
    texts = [lines(*made), lines(*reversed(made)), bundle(*made)] if made else []
    answers = set()
    for text in texts:
        rows, faults = rows_of(text)
        assert not faults
        answers.add(bool(why_not(rows)))
    assert len(answers) <= 1
    told = [
        (when.date(), kind == "permit" and status == "active") for status, when, kind in said if status[0] not in "dp"
    ]
    if told:
        newest = max(day for day, _ in told)
        assert (answers == {False}) == all(yes for day, yes in told if day == newest)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=64))
def test_a_number_of_any_characters_comes_through_or_is_told(value: str) -> None:
    rows, faults = rows_of(lines(consent() | {"patient": {"identifier": number(value)}}, consent("other")))
    assert [row.patient_id for row in rows] == ([value] if value.strip() else []) + ["other"]
    assert bool(faults) != bool(value.strip())
