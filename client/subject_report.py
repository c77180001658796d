"""What a hospital tells a patient of the processing of his data: access under GDPR Art. 15 and PIPL Art. 45."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from client.consent import ALL, Choice
from client.eligible import judged
from client.lineage import TRAIN, Lineage
from client.manifest import current, index_digest
from client.node import Node
from client.personal_models import made_with
from client.records import read_register, tombstone
from client.rights import side_of, spent_on
from client.splits import Split
from compliance.log import Action, Entry, Outcome
from shared.console import plural

CATEGORIES: Final = "medical images of the studies below, de-identified; derived tensors; this register of rights"
RETENTION: Final = (
    "images and index: until they are erased or the data set ends; audit log: at least six years (45 CFR "
    "164.316(b)(2)(i)), with a keyed digest in the place of the patient"
)
RIGHTS: Final = (
    "to ask this hospital for rectification or erasure of these data, for restriction of their processing, and to "
    "object to it (GDPR Art. 15(1)(e)); to complain to a supervisory authority (Art. 15(1)(f))"
)
CONTACT: Final = (
    "not recorded here; before this report is handed on, a person adds whom at the hospital to ask, and which "
    "authority is competent"
)
CANNOT: Final = (
    "models that were trained are not anonymous, and nobody can take one patient out of them; the coordinator and "
    "recipients answer for what they hold; rounds from before the lineage was kept are counted as the patient's where "
    "the privacy ledger has them"
)


@dataclass(frozen=True)
class SubjectReport:
    """The answer to a patient: ``body`` as JSON has it."""

    body: Mapping[str, Any]

    @property
    def lines(self) -> list[str]:
        """The same as text for print, a line each."""
        body = self.body
        said = [
            f"Report on the processing of a patient's data (GDPR Art. 15, PIPL Art. 45), {body['made']}",
            f"Hospital: {body['site']}    Purpose: {body['purpose']}",
            f"Pseudonym: {body['pseudonym']}    State: {body['state']}",
            f"Categories of data: {body['categories']}",
            "",
            "Lawful basis",
            *([_basis(row) for row in body["bases"]] or ["  none"]),
            "",
            "Studies",
            f"  in the data set: {body['dataset']['studies']}, side of the split: {body['dataset']['split'] or 'none'}",
            *_rows(body["taken_in"], "taken in on {day} from {source}"),
            "",
            "Rounds in which the patient could be drawn",
            *_rows(body["rounds"], "{time}: {act} of {task}, round {round}: {drawn} (run {run} of {federation})"),
            "",
            f"Privacy spent: {_epsilon(body['privacy'])}",
            "",
            "Models that were trained after the patient's first round (SHA-256)",
            *[f"  {one}" for one in body["models"] or ["none"]],
            "",
            "Models of this hospital's own, kept here, that the patient was trained into",
            *[f"  {one}" for one in body["personal_models"] or ["none"]],
            "",
            "Recipients of what this hospital sent: masked sums and scores, never an image",
            *_rows(body["recipients"], "{name} ({role}) {country}"),
            "",
            f"Kept: {body['retention']}",
            f"Rights: {body['rights']}",
            f"Contact: {body['contact']}",
            f"Not shown: {body['cannot']}",
        ]
        return [line.rstrip() for line in said]


def report(node: Node, patient: str) -> SubjectReport:
    """What this hospital did with a patient's data; that it was asked stands in the audit log first.

    Raises:
        RecordError: The log, the register, the lineage or the ledger cannot be read or written.
        DataError: The index of the cohort is damaged.
    """
    with node.open_log() as log:
        subject = ("patient", log.digest(patient))
        with log.act(Entry(Action.RIGHTS_REPORT, Outcome.STARTED, subject=subject)) as facts:
            body = _body(node, patient, why=judged([patient], node, log=log)[0][1])
            facts["rounds"] = len(body["rounds"])
    return SubjectReport(body)


def _body(node: Node, patient: str, *, why: str) -> dict[str, Any]:
    register, _ = read_register(node)
    lineage, side = Lineage(node), side_of(node, patient)
    traces = lineage.of(patient)
    trained = side is Split.TRAIN or any(trace.part.kind == TRAIN for trace in traces)
    spent = spent_on(node, traces, trained=trained)
    index = index_digest(node)
    erased = register.erased.get(tombstone(node, patient))
    return {
        "v": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "site": node.site,
        "purpose": node.purpose,
        "pseudonym": patient,
        "state": f"erased on {erased.isoformat()}" if erased else _state(why, present=side is not None),
        "holds": sorted(hold.value for hold in register.of(patient).holds),
        "categories": CATEGORIES,
        "bases": _bases(node, patient),
        "dataset": {
            "split": side.value if side else "",
            "studies": _studies(node, patient),
            "index_sha256": index,
            "manifest_sha256": current(node, index),
        },
        "taken_in": [
            {"day": row["day"], "source": row["source"]} for row in lineage.taken() if row["patient"] == patient
        ],
        "rounds": [
            {
                **{name: getattr(one.part, name) for name in _SHOWN},
                "act": "training" if one.part.kind == TRAIN else "test",
                "drawn": _drawn(one.part.kind, one.drawn),
            }
            for one in traces
        ],
        "models": list(lineage.after(traces)),
        "personal_models": [folder.name for folder in made_with(node, patient)],
        "privacy": {
            "epsilon": spent.epsilon,
            "delta": spent.delta,
            "charges": spent.charges,
            "rounds_without_privacy": spent.uncovered,
            "charges_not_in_lineage": spent.unknown,
        },
        "recipients": [
            one
            for one in lineage.recipients({trace.part.charter for trace in traces})
            if (one["role"], one["name"]) != ("member", node.site)
        ],
        "rights": RIGHTS,
        "contact": CONTACT,
        "retention": RETENTION,
        "cannot": CANNOT,
    }


def _state(why: str, *, present: bool) -> str:
    said = f"takes no part: {why}" if why else "takes part"
    return said if present else f"not in the cohort; {said if why else 'would take part if he came'}"


_SHOWN: Final = ("time", "kind", "federation", "charter", "run", "task", "round", "attempt", "model", "manifest")


def _bases(node: Node, patient: str) -> list[dict[str, str | None]]:
    register, _ = read_register(node)
    decisions, default = register.of(patient).decisions, register.default

    if decisions or default is None:
        return [
            {
                "purpose": "every purpose" if purpose == ALL else purpose,
                "choice": one.choice.value,
                "since": one.since.isoformat(),
                "until": one.until.isoformat() if one.until else None,
                "basis": str(one.basis) if one.choice is Choice.GIVEN else None,
                "source": one.source,
            }
            for purpose, one in sorted(decisions.items())
        ]
    return [
        {
            "purpose": purpose,
            "choice": "the data set's basis",
            "since": default.since.isoformat(),
            "until": default.until.isoformat() if default.until else None,
            "basis": str(default.basis),
            "source": default.act,
        }
        for purpose in default.purposes
    ]


def _basis(row: Mapping[str, str | None]) -> str:
    until, basis = (
        f"{before}{row[name]}" if row[name] else "" for before, name in ((" to ", "until"), (", ", "basis"))
    )
    return f"  {row['purpose']}: {row['choice']}, {row['since']}{until}{basis} ({row['source']})"


def _studies(node: Node, patient: str) -> int:
    if not index_digest(node):
        return 0
    return next((len(entry.studies) for entry in node.cohort.entries if entry.key == patient), 0)


def _drawn(kind: str, count: int | None) -> str:
    if kind != TRAIN:
        return "evaluated on"
    return "whether drawn is not known" if count is None else f"drawn in {plural(count, 'step')}"


def _rows(rows: list[dict[str, Any]], form: str) -> list[str]:
    return [f"  {form.format(**row)}" for row in rows] or ["  none"]


def _epsilon(privacy: Mapping[str, Any]) -> str:
    if privacy["rounds_without_privacy"]:
        return f"no bound: {plural(privacy['rounds_without_privacy'], 'round')} without differential privacy"
    if privacy["epsilon"] is None:
        return "no finite epsilon can be shown"
    spent = f"epsilon at most {privacy['epsilon']:.3f} at delta {privacy['delta']:g}"
    return f"{spent}, of {plural(privacy['charges'], 'charge')}"
