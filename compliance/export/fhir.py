"""FHIR R4 (4.0.1) ``AuditEvent`` resources, one an entry.

Codes, agents and entities follow the conventions of IHE BALP (Basic Audit Log Patterns): DICOM families as ``type``,
role codes of CID 402 on agents, patient entities of type 1 and role 1, others of type 2. No ``meta.profile`` is
claimed: BALP's patterns are for RESTful exchanges and for disclosures, and ask for network addresses and references to
Patient resources; the record has neither. A subject is named by ``what.identifier`` alone, a keyed digest, and never by
a reference.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from compliance.export.events import DCM, OWN, Code, Event, event_of, outcome_of
from compliance.export.reading import Record, clean

_SYSTEMS: Final = {DCM: "http://dicom.nema.org/resources/ontology/DCM", OWN: "urn:fedward:action"}
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_ACTOR, _SITE, _LEAF, _SUBJECT = "urn:fedward:actor", "urn:fedward:site", "urn:fedward:leaf", "urn:fedward:subject"

Json = dict[str, Any]


def resource(record: Record, checkpoint: str = "") -> Json:
    """The ``AuditEvent`` of ``record``; its ``id`` is the leaf hash, so that a second import changes nothing."""
    event = event_of(record.action)
    found: Json = {
        "resourceType": "AuditEvent",
        "id": record.leaf,
        "type": _coding(event.family),
        "subtype": [*map(_coding, event.types), _coding(Code(record.action, record.action, OWN))],
        "action": event.action,
        "recorded": record.stamp,
        "outcome": outcome_of(record.outcome),
        "outcomeDesc": clean(record.outcome) or "unknown",
        "agent": _agents(record, event),
        "source": {
            "site": clean(record.site) or "unknown",
            "observer": _logical(_SITE, record.site),
            "type": [_coded("security-source-type", "4")],
        },
        "entity": [_leaf(record, checkpoint), *_subject(record, event)],
    }
    if purpose := clean(record.purpose):
        found["purposeOfEvent"] = [{"text": purpose}]
    return found


def ndjson(records: Iterable[Record], checkpoint: str = "") -> Iterator[bytes]:
    """One resource a line (``application/fhir+ndjson``)."""
    for record in records:
        yield _dumps(resource(record, checkpoint)) + b"\n"


def bundle(records: Iterable[Record], checkpoint: str = "") -> Iterator[bytes]:
    """One ``Bundle`` of type ``collection``, in pieces, since a log may have a million entries."""
    head = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    before = _dumps(head)[:-1] + b',"entry":[\n'
    for record in records:
        made = resource(record, checkpoint)
        yield before + _dumps({"fullUrl": uuid.uuid5(uuid.NAMESPACE_URL, made["id"]).urn, "resource": made})
        before = b",\n"
    # An empty array is no FHIR (JSON format, section 2.6.2): a bundle without entries has no such member.
    yield b"\n]}\n" if before == b",\n" else _dumps(head) + b"\n"


def _agents(record: Record, event: Event) -> list[Json]:
    kind, name = record.actor
    who = {
        "type": {"coding": [_coding(event.role)]},
        "who": _logical(_ACTOR, name),
        "altId": clean(kind) or "unknown",
        "requestor": True,
    }
    site = {
        "type": {"coding": [_coded("v3-ParticipationType", "CST")]},
        "who": _logical(_SITE, record.site),
        "requestor": False,
    }
    return [who, site]


def _leaf(record: Record, checkpoint: str) -> Json:
    """The entry itself: a security resource, with what it takes to find and to prove it in the log."""
    facts = [("leaf-index", str(record.index)), ("leaf-hash", record.leaf), ("prev", record.prev), *record.facts()]
    details = [{"type": clean(name) or "unknown", "valueString": clean(text)} for name, text in facts if clean(text)]
    if checkpoint:
        details.append({"type": "checkpoint", "valueString": checkpoint.strip()})  # its line ends are part of it
    return {
        "what": {"identifier": {"system": _LEAF, "value": record.leaf}},
        "type": _coded("audit-entity-type", "2"),
        "role": _coded("object-role", "13"),
        "name": "Security Audit Log",
        "detail": details,
    }


def _subject(record: Record, event: Event) -> Iterator[Json]:
    if record.subject is None:
        return
    kind, digest = record.subject
    person = kind == "patient"
    found: Json = {
        "what": _logical(f"{_SUBJECT}:{'-'.join(clean(kind).split()) or 'unknown'}", digest),
        "type": _coded("audit-entity-type", "1" if person else "2"),
        "role": _coded("object-role", "1" if person else "3"),
        "description": f"{clean(kind)}, named by a keyed digest",
    }
    if event.lifecycle:
        found["lifecycle"] = _coded("dicom-audit-lifecycle", event.lifecycle)
    yield found


def _logical(system: str, value: str) -> Json:
    """A reference by identifier alone."""
    return {"identifier": {"system": system, "value": clean(value) or "unknown"}}


def _coding(code: Code) -> Json:
    return {
        "system": _SYSTEMS[code.scheme],
        "code": clean(code.value) or "unknown",
        "display": clean(code.meaning) or "unknown",
    }


def _coded(system: str, code: str) -> Json:
    return {"system": f"{_TERMINOLOGY}/{system}", "code": code}


def _dumps(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
