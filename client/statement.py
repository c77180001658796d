"""A hospital's statement of its part in a run, put together from its own record, ledger and charter, and signed."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from client.charge import Charge
from client.ledger_file import Book, read_book
from client.node import Node
from client.paying import ACTS, known
from client.training import accounting
from client.training.accounting import default_delta, merged
from client.uncovered import Uncovered
from compliance.checkpoint import Signed
from compliance.log import Action, Entry, Outcome, Scalar, entries
from compliance.place import Place
from compliance.verify import MAX_NOTE
from shared.charter import Charter
from shared.errors import BudgetError, RecordError, UsageError
from shared.files import write_bytes
from shared.quality import Cell, read_quality, suppressed
from shared.statement import INFINITE, NONE, Epsilon, Statement, TaskPart, shown

MANIFEST: Final = "dataset.manifest"
"""What the record calls it that the manifest of the data set was written."""
_DIGITS: Final = 10**4
Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """What the audit log says of a run under one charter.

    Attributes:
        rounds: Rounds that were trained, by task.
        patients: Patients in training in the last of them; None where the log does not say.
        manifest: Digest of the manifest of the data set that the last of them names, else of the newest before its end;
            None without one.
        uncovered: Rounds on these patients without differential privacy up to then, in any run.
    """

    rounds: Mapping[str, frozenset[int]]
    patients: int | None
    manifest: str | None
    uncovered: int


def write_statement(node: Node, run: str, out: Path, *, quality: Path | None = None) -> Statement:
    """Write what ``node`` states of its part in ``run``; nothing is sent, and nothing but files is read.

    It is recorded before it is written (45 CFR 164.312(b), audit controls).

    Args:
        node: A real hospital's node, with the charter of the run pinned.
        run: Id of the run.
        out: Where it goes; must not be there.
        quality: The hospital's own figures by groups of held-out patients (JSON); small groups are left out.

    Raises:
        UsageError: The node knows no such run under its charter, ``out`` is there, or ``quality`` is no such file.
        PolicyError: The node is a virtual hospital, has pinned no charter, or others may read a key.
        RecordError: Log or ledger was altered, or cannot be written.
        OutputError: The statement cannot be written.
    """
    node.require_real()
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already", hint="choose another name, such as H1.statement.json")
    cells = _quality(quality, node.charter) if quality else ()
    with node.open_log() as log:
        made = make_statement(node, run, cells)
        raw = made.to_bytes()
        detail: dict[str, Scalar] = {"sha256": made.digest, "charter": made.charter, "cells": len(made.quality)}
        with log.act(Entry(Action.STATEMENT, Outcome.STARTED, run=run, detail=detail)):
            write_bytes(out, raw, durable=True)
    return made


def make_statement(node: Node, run: str, quality: Sequence[Cell] = (), *, now: datetime | None = None) -> Statement:
    """The signed statement; as :func:`write_statement`, and nothing is written.

    Args:
        node: The hospital's node.
        run: Id of the run.
        quality: Cells, small ones among them.
        now: The time; the clock's where None.
    """
    charter, path = node.charter, node.folder / "audit" / "log.jsonl"
    act: Mapping[str, Scalar] | None = None  # the newest of those that say how far the ledger had come

    def rows() -> Iterator[Mapping[str, Any]]:
        nonlocal act
        for row in entries(path) if path.exists() else ():
            if row["action"] in ACTS and row["outcome"] == Outcome.OK:
                act = row["detail"]
            yield row

    part = part_of(rows(), run, charter)
    book = read_book(node.ledger(), known(act), data_set=node.site)
    note, endorsement = _checkpoint(node)
    draft = Statement(
        federation=charter.id,
        charter=charter.sha256,
        run=run,
        site=node.site,
        created=(now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0),
        tasks=tuple(
            _task(charter, plan.name, run, part.rounds[plan.name], book)
            for plan in charter.tasks
            if plan.name in part.rounds
        ),
        uncovered=part.uncovered,
        manifest=part.manifest,
        patients=None if part.patients is None else shown(part.patients),
        quality=suppressed(quality),
        checkpoint=note,
        endorsement=endorsement,
    )
    signed = replace(draft, signature=node.identity.sign(draft.signed_bytes()))
    signed.check(charter, run)  # the charter has this node's key, or nobody could check it
    return Statement.parse(signed.to_bytes())


def part_of(rows: Rows, run: str, charter: Charter) -> Part:
    """What the log says of ``run`` while ``charter`` was pinned, in one walk that keeps no entry: a log is long.

    Raises:
        UsageError: Nothing was trained in it then.
    """
    pinned, written, without = "", "", Uncovered()
    rounds: dict[str, set[int]] = {}
    patients: int | None = None
    quoted, uncovered = "", 0  # by the last round: the manifest that it names, empty where none fitted its data
    for row in rows:
        detail = row.get("detail") or {}
        without.add(row)
        if (row["action"], row["outcome"]) == (MANIFEST, Outcome.OK):
            written = str(detail["manifest"])
        if (row["action"], row["outcome"]) == (Action.CHARTER_PIN, Outcome.OK):
            pinned = str(detail.get("charter", ""))
        if row["action"] != Action.TRAIN or row["run"] != run or pinned not in {"", charter.sha256}:
            continue
        if row["outcome"] == Outcome.STARTED:
            patients = detail.get("patients", patients)
        if row["outcome"] == Outcome.OK:
            rounds.setdefault(str(detail.get("task")), set()).add(int(row["round"]))
            named = detail.get("manifest")
            quoted, uncovered = written if named is None else str(named), without.count
    if not rounds:
        raise UsageError(
            f"this node has trained nothing in a run {run} of the charter {charter.id} that it has pinned",
            hint="look for the run's name in the audit log, and have the run's charter pinned",
        )
    return Part({task: frozenset(done) for task, done in rounds.items()}, patients, quoted or None, uncovered)


def _task(charter: Charter, task: str, run: str, trained: Iterable[int], book: Book) -> TaskPart:
    """What was done and charged for one task."""

    def own(charge: Charge) -> bool:
        return (charge.federation, charge.run, charge.task) == (charter.id, run, task)

    charges = book.charges
    mine = [charge for charge in charges if own(charge)]
    rounds, charged = set(trained), {charge.round for charge in mine}
    mode, steps = charter.privacy.mode, sum(charge.steps for charge in mine)
    if mode == "off" or not rounds <= charged:
        return TaskPart(task, mode, len(rounds), len(charged), steps, None, NONE, NONE, "none")
    most = max(charge.patients for charge in charges)
    delta = book.budget.delta if book.budget else charter.privacy.delta or default_delta(most)
    end = max(place for place, charge in enumerate(charges) if own(charge)) + 1
    alone, first = _epsilon(mine, delta)
    after, second = _epsilon(charges[:end], delta)
    loose: Literal["prv", "rdp"] = "rdp" if "rdp" in {first, second} else "prv"
    return TaskPart(task, mode, len(rounds | charged), len(charged), steps, delta, alone, after, loose)


def _epsilon(charges: Sequence[Charge], delta: float) -> tuple[Epsilon, str]:
    """The bound, rounded up, and its accountant."""
    try:
        value, accountant = accounting.epsilon(merged(charge.mechanism for charge in charges), delta)
    except BudgetError:
        return INFINITE, "rdp"
    return math.ceil(value * _DIGITS) / _DIGITS, accountant


def _quality(path: Path, charter: Charter) -> tuple[Cell, ...]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the file of figures (JSON)") from error
    cells = read_quality(raw, str(path))
    for one in cells:
        charter.task(one.task)
    return cells


def _checkpoint(node: Node) -> tuple[str, tuple[tuple[str, str | int], ...]]:
    """The newest checkpoint of the node's log with its cosignatures, and the endorsement of its key.

    Raises:
        RecordError: They are there, and cannot be read, or do not belong together.
    """
    place = Place.open(node.folder)
    path = place.audit / "checkpoint"
    if not path.exists():
        return "", ()
    endorsement = place.endorsement
    try:
        raw = path.read_bytes()[: MAX_NOTE + 1]
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="restore it from a copy") from error
    Signed.read(raw, endorsement.keys[0], str(path))
    facts = endorsement.as_json()
    return raw.decode(), tuple(sorted((name, str(value) if name != "v" else 1) for name, value in facts.items()))
