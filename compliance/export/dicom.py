"""DICOM audit messages: the XML of PS3.15 section A.5, one document an entry.

Every message keeps to the schema of A.5.1. The tables of A.5.3 ask for more in some families than the record holds:
Study Instance UIDs, Patient IDs and media are in none of its entries, on purpose. Where a table wants them, the message
has the keyed digest of its subject under a private code, or nothing; ``docs/record-exports.md`` lists it.
"""

import base64
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from typing import Final

from compliance.export.events import OWN, Code, Event, event_of, outcome_of
from compliance.export.reading import Record, clean

_SECURITY_ALERT: Final = "110113"
_NODE: Final = Code("110182", "Node ID")
_LEAF: Final = Code("leaf-hash", "RFC 6962 leaf hash", OWN)
_DIGEST: Final = Code("keyed-digest", "HMAC-SHA-256 under a key of the site", OWN)
_RUN: Final = Code("run", "Federated run", OWN)


def message(record: Record, checkpoint: str = "") -> bytes:
    """The audit message of ``record``: one line of UTF-8, without an XML declaration."""
    event = event_of(record.action)
    root = ET.Element("AuditMessage")
    _identification(root, record, event)
    _participant(root, record.actor[1], requestor=True, role=event.role, other=record.actor[0])
    _participant(root, record.site, requestor=False)
    source = ET.SubElement(
        root, "AuditSourceIdentification", AuditEnterpriseSiteID=_token(record.site), AuditSourceID="fedward"
    )
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    facts = [("leaf-index", str(record.index)), ("prev", record.prev), ("action", record.action), *record.facts()]
    if record.purpose:
        facts.append(("purpose", record.purpose))
    if checkpoint:
        facts.append(("checkpoint", checkpoint))
    _object(root, _LEAF, record.leaf, "Security Audit Log", ("2", "13"), facts=facts)
    if event.family.value == _SECURITY_ALERT:
        alert = f"{record.action}: {record.outcome}"
        _object(root, _NODE, record.site, record.site, ("2", "13"), facts=[("Alert Description", alert)])
    if record.run:
        _object(root, _RUN, record.run, record.run, ("2", "20"))
    if record.subject:
        kind, digest = record.subject
        place = ("1", "1") if kind == "patient" else ("2", "3")
        _object(root, _DIGEST, digest, kind, place, lifecycle=event.lifecycle)
    made: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return made


def documents(records: Iterable[Record], checkpoint: str = "") -> Iterator[bytes]:
    """One document a line: the standard has no element that would hold several messages."""
    for record in records:
        yield message(record, checkpoint) + b"\n"


def _identification(root: ET.Element, record: Record, event: Event) -> None:
    found = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=record.stamp,
        EventOutcomeIndicator=outcome_of(record.outcome),
    )
    _code(found, "EventID", event.family)
    for one in (*event.types, Code(record.action, record.action, OWN)):
        _code(found, "EventTypeCode", one)
    ET.SubElement(found, "EventOutcomeDescription").text = clean(record.outcome)


def _participant(root: ET.Element, user: str, *, requestor: bool, role: Code | None = None, other: str = "") -> None:
    found = ET.SubElement(root, "ActiveParticipant", UserID=_token(user), UserIsRequestor=str(requestor).lower())
    if other:
        found.set("AlternativeUserID", _token(other))
    if role:
        _code(found, "RoleIDCode", role)


def _object(
    root: ET.Element,
    kind: Code,
    value: str,
    name: str,
    place: tuple[str, str],
    *,
    facts: Iterable[tuple[str, str]] = (),
    lifecycle: str = "",
) -> None:
    """A participant object; ``place`` is its type and its role (A.5.1.2.2)."""
    found = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_token(value),
        ParticipantObjectTypeCode=place[0],
        ParticipantObjectTypeCodeRole=place[1],
    )
    if lifecycle:
        found.set("ParticipantObjectDataLifeCycle", lifecycle)
    _code(found, "ParticipantObjectIDTypeCode", kind)
    ET.SubElement(found, "ParticipantObjectName").text = _token(name)
    for label, text in facts:
        encoded = base64.b64encode(text.encode()).decode()  # values may hold anything (A.5.1.1, ValuePair)
        ET.SubElement(found, "ParticipantObjectDetail", type=_token(label), value=encoded)


def _code(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": _token(code.value),
        "codeSystemName": code.scheme,
        "displayName": _token(code.meaning),
        "originalText": _token(code.meaning),
    }
    ET.SubElement(parent, name, attributes)


def _token(text: str) -> str:
    return clean(text) or "unknown"
