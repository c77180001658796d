"""What each act of the record is called in DICOM and FHIR: one table, read by both forms.

Event families and types are those of DICOM PS3.15 A.5.3 and PS3.16 CID 400 and CID 401. Where none fits, the act has a
code of its own under the private designator ``99FEDWARD`` (PS3.16, section 8.2): CID 400 and 401 may be extended. To
file a charge on a privacy budget under a family that means something else would mislead the one who reviews.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from compliance.log import Action, Outcome

DCM: Final = "DCM"
OWN: Final = "99FEDWARD"


@dataclass(frozen=True)
class Code:
    """A code of a terminology: its value, what it means, and whose it is."""

    value: str
    meaning: str
    scheme: str = DCM


@dataclass(frozen=True)
class Event:
    """How one act is filed.

    Attributes:
        family: The event's identifier (DICOM EventID, FHIR ``type``).
        action: ``C``, ``R``, ``U``, ``D`` or ``E`` (DICOM EventActionCode), as the family's table in A.5.3 asks.
        types: Closer types that the standard has (DICOM EventTypeCode, FHIR ``subtype``).
        role: What the site's software is in it (PS3.16 CID 402).
        lifecycle: The stage of its subject's life, 1 to 15 (A.5.1.2.3), or empty.
    """

    family: Code
    action: str
    types: tuple[Code, ...] = ()
    role: Code = Code("110150", "Application")
    lifecycle: str = ""


_ACTIVITY: Final = Code("110100", "Application Activity")
_ACCESSED: Final = Code("110103", "DICOM Instances Accessed")
_EXPORT: Final = Code("110106", "Export")
_IMPORT: Final = Code("110107", "Import")
_PATIENT: Final = Code("110110", "Patient Record")
_ALERT: Final = Code("110113", "Security Alert")
_START: Final = Code("110120", "Application Start")
_STOP: Final = Code("110121", "Application Stop")
_CONFIGURED: Final = Code("110129", "Security Configuration")
_RESTRICTED: Final = Code("110132", "Use of Restricted Function")
_RECORDING: Final = Code("110134", "Audit Recording Started")
_DESTINATION: Final = Code("110152", "Destination Role ID")
_SOURCE: Final = Code("110153", "Source Role ID")


def _own(name: str, meaning: str, code: str = "E", lifecycle: str = "") -> Event:
    return Event(Code(str(name), meaning, OWN), code, lifecycle=lifecycle)


EVENTS: Final[Mapping[str, Event]] = {
    Action.LOG_REPAIR: Event(_ALERT, "E", (_RECORDING,)),
    Action.MEMBER_REQUEST: Event(_ALERT, "E", (_CONFIGURED,)),
    Action.CHARTER_PIN: Event(_ALERT, "E", (_CONFIGURED,)),
    Action.LINK_CERTIFICATE: Event(_ALERT, "E", (_CONFIGURED,)),
    Action.INGEST: Event(_IMPORT, "C", role=_DESTINATION, lifecycle="2"),
    Action.DATA_IMPORT: _own(Action.DATA_IMPORT, "Data set of others imported", "C", "2"),
    Action.DEIDENTIFY: Event(_ACCESSED, "R", lifecycle="7"),
    Action.REVIEW: Event(_ACCESSED, "R", lifecycle="4"),
    Action.COHORT_BUILD: Event(_ACCESSED, "R", lifecycle="8"),
    Action.TRAIN: Event(_ACCESSED, "R", lifecycle="6"),
    Action.PERSONALISE: Event(_ACCESSED, "R", lifecycle="6"),
    Action.ENHANCE: Event(_ACCESSED, "C", lifecycle="6"),
    Action.EVALUATE: Event(_ACCESSED, "R", lifecycle="6"),
    Action.PRIVACY_BUDGET: Event(_ALERT, "E", (_CONFIGURED,)),
    Action.PRIVACY_CHARGE: _own(Action.PRIVACY_CHARGE, "Privacy budget charged"),
    Action.MESSAGE_IN: Event(_IMPORT, "C", role=_DESTINATION, lifecycle="2"),
    Action.MESSAGE_OUT: Event(_EXPORT, "R", role=_SOURCE, lifecycle="10"),
    Action.SECURE_AGGREGATION: _own(Action.SECURE_AGGREGATION, "Secure aggregation step", lifecycle="8"),
    Action.MODEL_WRITE: _own(Action.MODEL_WRITE, "Model written", "C", "1"),
    Action.RUN_START: Event(_ACTIVITY, "E", (_START,)),
    Action.RUN_END: Event(_ACTIVITY, "E", (_STOP,)),
    Action.ROUND: _own(Action.ROUND, "Federated round"),
    Action.REFUSAL: Event(_ALERT, "E", (_RESTRICTED,)),
    "witness": _own("witness", "Checkpoint of another log witnessed"),
    "legal.hold": Event(_ALERT, "E", (_CONFIGURED,)),
    "basis.set": Event(_ALERT, "E", (_CONFIGURED,)),
    "consent.import": _own("consent.import", "Consents imported", "C", "2"),
    "consent.withdraw": _own("consent.withdraw", "Consent withdrawn", "U", "3"),
    "rights.report": Event(_PATIENT, "R", lifecycle="9"),
    "rights.restrict": Event(_PATIENT, "U", lifecycle="3"),
    "rights.rectify": Event(_PATIENT, "U", lifecycle="3"),
    "rights.erase": Event(_PATIENT, "D", lifecycle="15"),
    "dataset.manifest": _own("dataset.manifest", "Data set manifest written", "C", "1"),
    "statement": _own("statement", "Statement about a run written", "C", "9"),
    "model.release": _own("model.release", "Model released", "C", "10"),
    "incident.open": Event(_ALERT, "E"),
    "incident.update": Event(_ALERT, "E"),
    "incident.notice": Event(_ALERT, "E"),
}
"""Every known act, by its name in the log. A test fails where one of :class:`compliance.log.Action` is missing.

Each message carries the act's own name as one more type, so that alerts without a closer type have one (A.5.3.11).
"""

OUTCOMES: Final[Mapping[str, str]] = {
    Outcome.STARTED: "0",
    Outcome.OK: "0",
    Outcome.REFUSED: "4",
    Outcome.FAILED: "8",
}
"""DICOM EventOutcomeIndicator and FHIR ``outcome``: 0 success or not known yet, 4 minor, 8 serious failure (A.5.1.1).

12, "the application is now unavailable", never comes: an application that is unavailable writes no entry.
"""
UNKNOWN_OUTCOME: Final = "4"
"""For an outcome of a later version: what is not understood should be looked at, and not pass for a success."""


def event_of(action: str) -> Event:
    """How ``action`` is filed; an act of a later version under its own name, as an execution."""
    return EVENTS.get(action) or Event(Code(action, action, OWN), "E")


def outcome_of(outcome: str) -> str:
    """``0``, ``4``, ``8`` or ``12`` for an outcome of the log."""
    return OUTCOMES.get(outcome, UNKNOWN_OUTCOME)
