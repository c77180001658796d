"""What a hospital's node can show of itself: the facts of its files for the evidence report.

Numbers of patients are suppressed below ten, or below ``min_patients`` of the hospital's policy where that is more.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from client.budget_words import figure
from client.charge import Charge
from client.evidence_rights import rights
from client.ledger import history_of
from client.ledger_file import Book, read_book
from client.node import Node
from client.paying import ACTS, known
from client.policy_file import HospitalPolicy
from client.training import accounting
from client.uncovered import uncovered
from client.witnessing import vouched_here
from compliance.charter_facts import operations, recipients
from compliance.checkpoint import needed_of
from compliance.log import Action, Outcome, entries
from compliance.party import Facts, Figure, Kind, Party, Table, Topic
from compliance.suppress import LEAST, belonging, split
from shared.charter import Charter
from shared.errors import BudgetError, PolicyError
from shared.parsing import parse_json

_LOG: Final = Path("audit") / "log.jsonl"
_MANY: Final = frozenset({Action.MESSAGE_OUT, Action.SECURE_AGGREGATION})
"""Kinds of entries that say nothing here but that they were made."""
Row = Mapping[str, Any]


def party(folder: Path) -> Party | None:
    """The node in ``folder``; None where there is none.

    Raises:
        UsageError: Its description is damaged.
    """
    if not (folder / "node.json").is_file():
        return None
    node = Node.open(folder)
    return Party(
        folder=folder,
        kind=Kind.HOSPITAL,
        name=node.site,
        logs=(folder / _LOG,),
        open_log=node.open_log,
        facts=lambda: facts_of(node),
        knows_pseudonyms=True,
        vouch=(lambda found: vouched_here(node, found)) if node.pinned else None,
        needed=lambda: needed_of(len(node.charter.members) - 1),
    )


def facts_of(node: Node) -> Facts:
    """What the files of a node say.

    Raises:
        RecordError: Its audit log or a ledger does not verify.
        FedwardError: Another file is damaged.
    """
    log = _Log.read(node.folder / _LOG)
    rows = log.rows
    charter = node.charter if node.pinned else None
    policy = _policy(node)
    least = max(LEAST, policy.min_patients if policy else 0)
    return Facts(
        figures={
            Topic.PROCESSING: [*_processing(node, charter, least), *rights(rows, least)],
            Topic.DPIA: [*operations(charter), *_many(node), *_assessment(node, log, policy)],
            Topic.DEIDENTIFICATION: _deidentification(node, rows, _patients(node), least),
            Topic.PRIVACY: _privacy_figures(node, rows),
        },
        tables={Topic.PRIVACY: _ledgers(node, rows), Topic.LINEAGE: _lineage(log)},
        least=least,
    )


@dataclass(frozen=True)
class _Log:
    """What is kept of an audit log: most of a long one are messages and steps of secure aggregation.

    Attributes:
        rows: The other entries, in order.
        heard: Of the messages that came, the first of each run and task, and the newest that brought a model.
        span: Times of the first and the last entry; empty where there is none.
    """

    rows: tuple[Row, ...] = ()
    heard: Mapping[tuple[str, str], tuple[Row, Row]] = field(default_factory=dict)
    span: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "_Log":
        """The log of a node.

        Raises:
            RecordError: It does not verify.
        """
        rows: list[Row] = []
        heard: dict[tuple[str, str], tuple[Row, Row]] = {}
        first = last = ""
        for row in entries(path) if path.exists() else ():
            last = _day(row)
            first = first or last
            if row["action"] == Action.MESSAGE_IN:
                key = (str(row["run"]), str((row.get("detail") or {}).get("task")))
                first_of, newest = heard.get(key, (row, row))
                heard[key] = (first_of, row if (row.get("detail") or {}).get("model") else newest)
            elif row["action"] not in _MANY:
                rows.append(row)
        return cls(tuple(rows), heard, (first, last) if first else ())


def _policy(node: Node) -> HospitalPolicy | None:
    try:
        return HospitalPolicy.load(node.folder, virtual=node.virtual)
    except PolicyError:
        return None  # said by the figure of the policy


# --- the cohort -------------------------------------------------------------------------------------------------------


def _index(node: Node) -> Sequence[Row]:
    """The patients of the cohort's index, read as a file: the cohort's own reader brings the DICOM libraries."""
    try:
        found = parse_json((node.folder / "cohort" / "index.json").read_bytes())["patients"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return found if isinstance(found, list) else ()


def _patients(node: Node) -> int:
    return len(_index(node))


def _processing(node: Node, charter: Charter | None, least: int) -> list[Figure]:
    index = _index(node)
    splits = Counter(str(one.get("split")) for one in index)
    parts, whole = split({"in training": splits["train"], "held out": splits["held_out"]}, least)
    kinds = sorted({str(study.get("modality")) for one in index for study in one.get("studies", ())})
    studies = belonging(sum(len(one.get("studies", ())) for one in index), len(index), least)
    where = "cohort/index.json" if index else "cohort/index.json: there is none"
    return [
        Figure("Controller (Art. 30(1)(a))", node.site, "node.json: site"),
        Figure("Contact details, data protection officer (Art. 30(1)(a))", None, "no file of fedward has them"),
        Figure("Purpose (Art. 30(1)(b))", node.purpose, "node.json: purpose"),
        Figure(
            "Categories of people (Art. 30(1)(c))",
            f"patients whose images were taken in: {whole}" if index else None,
            where,
        ),
        *(Figure(f"Patients {name}", number if index else None, where) for name, number in parts.items()),
        Figure(
            "Categories of data (Art. 30(1)(c))",
            f"de-identified images, {', '.join(kinds)}; studies: {studies}" if index else None,
            where,
        ),
        *recipients(charter, node.site),
    ]


# --- the assessment ---------------------------------------------------------------------------------------------------


def _many(node: Node) -> list[Figure]:
    """A word for whoever takes a virtual hospital's charter for all that it did."""
    said = "one of several: a virtual hospital pins one for each training of its simulation, and this is the last"
    return [Figure("Which charter this is", said, "node.json: virtual")] if node.virtual and node.pinned else []


def _assessment(node: Node, log: _Log, policy: HospitalPolicy | None) -> list[Figure]:
    rows = log.rows
    sources = sorted({str(row["detail"].get("source")) for row in rows if row["action"] == Action.INGEST})
    refused = sum(row["outcome"] == Outcome.REFUSED for row in rows)
    own = (node.folder / "policy.toml").exists()
    if policy is None:
        said = "there is one that cannot be read: nothing is allowed"
    elif own:
        asks = [word for word, on in (("masks", policy.require_masks), ("privacy", policy.require_privacy)) if on]
        countries = ", ".join(policy.countries or ()) or "any country"
        said = f"asks for {' and '.join(asks) or 'nothing'}; recipients in {countries}"
    else:
        said = "none; the defaults hold" + ("" if node.virtual else ": masks and privacy are asked for")
    return [
        Figure("Id of the assessment (Art. 35; PIPL Art. 55, 56)", None, "no file of fedward has it"),
        Figure("The hospital's own policy", said, "policy.toml"),
        Figure("Where images come from", ", ".join(sources) or None, "audit/log.jsonl: ingest, source"),
        Figure("Requests refused", str(refused) if log.span else None, "audit/log.jsonl: outcome refused"),
        Figure("Record begins", log.span[0] if log.span else None, "audit/log.jsonl: first entry"),
        Figure("Record ends", log.span[1] if log.span else None, "audit/log.jsonl: last entry"),
        Figure("Virtual hospital", "yes: synthetic patients only" if node.virtual else "no", "node.json: virtual"),
    ]


def _day(row: Row) -> str:
    return str(row["time"])[:19].replace("T", " ") + " UTC"


# --- de-identification ------------------------------------------------------------------------------------------------


def _deidentification(node: Node, rows: Sequence[Row], patients: int, least: int) -> list[Figure]:
    done = [row for row in rows if row["action"] == Action.DEIDENTIFY and row["outcome"] == Outcome.OK]
    if not done:
        return [Figure("De-identification", None, "audit/log.jsonl: no entry deidentify")]
    last = done[-1]["detail"]
    profiles = sorted({str(row["detail"].get("profile")) for row in done})
    totals = Counter[str]()
    for row in done:
        totals.update({name: int(row["detail"].get(name, 0)) for name in ("released", "quarantined", "refused")})
    looked = Counter(
        str(row["detail"].get("decision"))
        for row in rows
        if row["action"] == Action.REVIEW and row["outcome"] == Outcome.OK
    )
    return [
        Figure("Profile in force", f"{last.get('profile')}", "audit/log.jsonl: the newest deidentify"),
        Figure("SHA-256 of the profile", str(last.get("profile_sha256")), "audit/log.jsonl: the newest deidentify"),
        Figure("Profiles ever used", ", ".join(profiles), "audit/log.jsonl: deidentify"),
        _method(node, str(last.get("profile_sha256"))),
        *(
            Figure(f"Files {name}", belonging(totals[name], patients, least), "audit/log.jsonl: deidentify, summed")
            for name in ("released", "quarantined", "refused")
        ),
        Figure(
            "Decisions of people on files that waited",
            ", ".join(f"{number} {name}" for name, number in sorted(looked.items())) or "none",
            "audit/log.jsonl: review",
        ),
    ]


def _method(node: Node, profile: str) -> Figure:
    """Safe Harbor or an expert's determination, by the heads of the reports of this profile."""
    found: dict[str, tuple[str, str, str]] = {}
    reports = node.folder / "reports"
    seen = False
    for path in sorted(reports.rglob("deid.json")):
        head = _head(path)
        if head.get("profile_sha256") != profile:
            continue
        seen = True
        if "expert" in head:
            found[str(head.get("expert_key"))] = (str(head["expert"]), str(head.get("expires")), str(path.name))
    if not seen:
        return Figure("Method (45 CFR 164.514(b))", None, "reports/: no report of this profile")
    if not found:
        return Figure(
            "Method (45 CFR 164.514(b))",
            "no determination was needed: evidence for the removal under (b)(2)(i), and nothing of actual knowledge",
            "reports/**/deid.json: no expert",
        )
    words = [
        f"determination by {name}, key {key[:16]}…, until {until}{_expired(until)}"
        for key, (name, until, _) in sorted(found.items())
    ]
    return Figure("Method (45 CFR 164.514(b)(1))", "; ".join(words), "reports/**/deid.json: expert, expires")


def _expired(until: str) -> str:
    try:
        return " (expired)" if date.fromisoformat(until) < datetime.now(UTC).date() else ""
    except ValueError:
        return ""


def _head(path: Path) -> dict[str, Any]:
    """The first line of a report: the files follow from the second line on."""
    try:
        with path.open("rb") as stream:
            found = parse_json(stream.readline() + b"]}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- privacy ----------------------------------------------------------------------------------------------------------


def _books(node: Node, rows: Sequence[Row]) -> list[tuple[str, Book]]:
    """The ledgers, a real node's compared with what its audit log knows."""
    if node.virtual:
        return [(f"privacy/{path.name}", read_book(path)) for path in sorted((node.folder / "privacy").glob("*.jsonl"))]
    done = [row["detail"] for row in rows if row["action"] in ACTS and row["outcome"] == Outcome.OK]
    book = read_book(node.ledger(), known(done[-1] if done else None), data_set=node.site)
    return [("privacy/ledger.jsonl", book)] if book.rows else []


def _privacy_figures(node: Node, rows: Sequence[Row]) -> list[Figure]:
    without = uncovered(rows)
    figures = [
        Figure("Unit", "the patient, with all slices and studies at this hospital", "privacy/: first line"),
        Figure("Rounds without differential privacy", str(without) if rows else None, "audit/log.jsonl: train"),
    ]
    if node.virtual:
        return [
            *figures,
            Figure("Budget", "none: a virtual hospital has one ledger for each run", "node.json: virtual"),
        ]
    budgets = [change for _, book in _books(node, rows) for change in book.changes]
    if not budgets:
        return [*figures, Figure("Budget", None, "privacy/ledger.jsonl: no budget")]
    last = budgets[-1]
    words = f"ε = {last.budget.epsilon:g} at δ = {last.budget.delta:g}, {last.budget.patients} patients declared"
    by = f"by {last.who} on {last.time[:10]}: {last.why}"
    return [*figures, Figure("Budget", f"{words}; set {by}", "privacy/ledger.jsonl: budget")]


def _ledgers(node: Node, rows: Sequence[Row]) -> list[Table]:
    lines: list[tuple[str | None, ...]] = []
    for name, book in _books(node, rows):
        by_task: defaultdict[tuple[str, str], list[Charge]] = defaultdict(list)
        for charge in book.charges:
            by_task[charge.task, charge.mode].append(charge)
        for (task, mode), charges in sorted(by_task.items()):
            lines.append((name, task, mode, *_spent(charges, book)))
        if len(by_task) > 1:
            lines.append((name, "all together", "", *_spent(book.charges, book)))
    columns = ("Ledger", "Task", "Noise", "Rounds charged", "Steps", "ε", "δ")
    return [Table("Charged for the privacy of patients", columns, tuple(lines), "privacy/: charge")] if lines else []


def _spent(charges: Sequence[Charge], book: Book) -> tuple[str, ...]:
    """Rounds, steps, epsilon and delta of some of a ledger's charges, by themselves."""
    most = max(charge.patients for charge in charges)
    delta = accounting.default_delta(most) if book.budget is None else book.budget.delta
    mechanisms = history_of(Book(charges=tuple(charges)))
    try:
        epsilon = figure(accounting.epsilon(mechanisms, delta)[0])
    except BudgetError:
        epsilon = "no finite value"
    return str(len(charges)), str(sum(charge.steps for charge in charges)), epsilon, f"{delta:g}"


# --- lineage ----------------------------------------------------------------------------------------------------------


def _lineage(log: _Log) -> list[Table]:
    """Which runs this hospital's patients were in, and which charters it followed."""
    runs: dict[tuple[str, str], dict[str, Any]] = {
        key: {"train": 0, "evaluate": 0, "model": newest["detail"].get("model"), "day": _day(first)}
        for key, (first, newest) in log.heard.items()
        if key[0] and "task" in (first.get("detail") or {})
    }
    pins: list[tuple[str | None, ...]] = []
    for row in log.rows:
        detail = row.get("detail") or {}
        if row["action"] == Action.CHARTER_PIN and row["outcome"] == Outcome.OK:
            pins.append((_day(row), str(detail.get("federation")), str(detail.get("charter"))))
        if not row.get("run") or "task" not in detail:
            continue
        one = runs.setdefault(
            (row["run"], detail["task"]), {"train": 0, "evaluate": 0, "model": None, "day": _day(row)}
        )
        if row["outcome"] == Outcome.OK and row["action"] in {Action.TRAIN, Action.EVALUATE}:
            one[row["action"]] += 1
    lines = tuple(
        (run, task, str(one["train"]), str(one["evaluate"]), one["day"], one["model"])
        for (run, task), one in runs.items()
    )
    columns = ("Run", "Task", "Rounds trained", "Evaluations", "First message", "Newest model received")
    tables = [Table("Runs that read this hospital's patients", columns, lines, "audit/log.jsonl", frozenset({5}))]
    if pins:
        pinned = ("Pinned", "Federation", "SHA-256 of the charter")
        tables.append(Table("Charters followed", pinned, tuple(pins), "audit/log.jsonl: charter.pin", frozenset({2})))
    return tables if lines or pins else []
