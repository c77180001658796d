"""What a hospital recorded of bases, consents and requests of patients, for the evidence report.

Counts are of entries of the audit log, each about one patient but for imports; small ones are suppressed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from client.subject_report import RETENTION
from compliance.log import Action, Outcome
from compliance.party import Figure
from compliance.suppress import shown

LOG: Final = "audit/log.jsonl"
_REQUESTS: Final = {
    Action.CONSENT_WITHDRAW: "Consents withdrawn, objections (Art. 7(3), 21)",
    Action.RIGHTS_REPORT: "Reports to patients (Art. 15)",
    Action.RIGHTS_RECTIFY: "Rectifications (Art. 16)",
    Action.RIGHTS_ERASE: "Erasures (Art. 17)",
    Action.RIGHTS_RESTRICT: "Restrictions placed or lifted (Art. 18)",
}


def rights(rows: Sequence[Mapping[str, Any]], least: int) -> list[Figure]:
    """What was recorded, from the log's entries in order, and what time limits stand for it.

    Args:
        rows: Entries of the hospital's audit log.
        least: The smallest number that is shown.
    """
    done = [row for row in rows if row["outcome"] == Outcome.OK]
    bases = [row for row in done if row["action"] == Action.BASIS_SET]
    imports = [row for row in done if row["action"] == Action.CONSENT_IMPORT]
    return [
        Figure("Lawful basis of whoever has no decision of his own (Art. 6, 9)", _basis(bases), f"{LOG}: basis.set"),
        Figure("Imports of consents", _count(imports, str(len(imports))), f"{LOG}: consent.import"),
        *(
            Figure(words, _count(found, shown(len(found), least)), f"{LOG}: {action}")
            for action, words in _REQUESTS.items()
            for found in [[row for row in done if row["action"] == action and _finished(row)]]
        ),
        Figure("Legal holds in force", _holds(done), f"{LOG}: legal.hold"),
        Figure("Time limits for erasure (Art. 30(1)(f))", RETENTION, "the rules of the software; no file sets others"),
    ]


def _finished(row: Mapping[str, Any]) -> bool:
    """An erasure has an entry for its beginning too."""
    return bool((row.get("detail") or {}).get("step", "done") == "done")


def _basis(rows: Sequence[Mapping[str, Any]]) -> str | None:
    if not rows:
        return None
    detail = rows[-1].get("detail") or {}
    until = f" until {detail['until']}" if detail.get("until") else ""
    return f"{detail['basis']}{until}, recorded {_day(rows[-1])}" if detail.get("basis") else "taken away again"


def _count(rows: Sequence[Mapping[str, Any]], number: str) -> str:
    return f"{number}, the newest {_day(rows[-1])}" if rows else "none"


def _holds(rows: Iterable[Mapping[str, Any]]) -> str:
    standing: dict[str, str] = {}
    for row in rows:
        if row["action"] != Action.LEGAL_HOLD:
            continue
        detail = row["detail"]
        if detail.get("state") == "lifted":
            standing.pop(detail["hold"], None)
        else:
            standing[detail["hold"]] = f"{detail['who']}, since {_day(row)}: {detail['why']}"
    return "; ".join(standing.values()) or "none"


def _day(row: Mapping[str, Any]) -> str:
    return str(row["time"])[:10]
