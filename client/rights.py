"""What a patient may ask of a hospital, done: access, restriction and objection, rectification, erasure.

GDPR Art. 15 to 18 and 21; PIPL Art. 44 to 47. Everything is recorded before it is done, under the patient's keyed
digest. A hold on the patient is durable first, so that no later round reads his studies; what takes longer then goes on
behind it, and whatever broke it off, the next command of ``fedward node subject`` and the next ingest finish it.

What nobody can do is take a patient out of a model that he was trained into. What follows an erasure for those runs the
hospital's policy says (``policy.toml``, ``[erasure]``): see :class:`Aftermath`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from client.consent import Hold, Register
from client.eligible import today
from client.forgetting import Forgotten, forget_answers, forget_patient
from client.ledger_file import read_book
from client.ledger_rows import require_reason
from client.lineage import TRAIN, Lineage, Part, Trace
from client.manifest import index_digest, write_manifest
from client.node import Node
from client.policy import policy_of
from client.policy_file import AfterErasure
from client.records import change, folder_of, read_register, tombstone
from client.splits import Split
from compliance.log import Action, AuditLog
from shared.errors import BudgetError, DataError
from shared.files import locked, private_folder
from shared.parsing import load_json
from shared.retraining import Retraining

INGEST_LOCK: Final = "ingest.lock"
REQUESTS: Final = "requests"
"""The folder of requests to the coordinator, for a person to send."""
_BUSY: Final = "an ingest of this node runs"
_LATER: Final = "the patient takes no part from now on; run the same command again when it has ended"


@dataclass(frozen=True)
class Aftermath:
    """What follows an erasure for the runs that the patient could be drawn in.

    Attributes:
        policy: ``record``: epsilon bounds what those models tell of him, and stands in the record. ``stop``: this
            hospital takes no further part in those runs. ``retrain``: neither does it, and a signed request to train
            again from the last model before him lies in ``requests``. Where a round was trained without differential
            privacy no epsilon bounds anything, and ``record`` becomes ``stop``.
        runs: Those runs, and those that began with a model of one of them, after him.
        epsilon: Upper bound; None where there is none.
        requests: Files for the coordinator.
    """

    policy: AfterErasure
    runs: tuple[str, ...]
    epsilon: float | None
    requests: tuple[Path, ...]


@dataclass(frozen=True)
class Erased:
    """A finished erasure."""

    taken_out: Forgotten
    aftermath: Aftermath


@dataclass(frozen=True)
class Spent:
    """What was spent of a patient's privacy: the guarantee of all charges of rounds that he could be drawn in.

    Attributes:
        epsilon: Upper bound; None where none can be shown.
        delta: At which.
        charges: How many.
        uncovered: Rounds of his without differential privacy, which no epsilon covers.
        unknown: How many of the charges are of rounds that the lineage does not know; they count as his.
    """

    epsilon: float | None
    delta: float
    charges: int
    uncovered: int
    unknown: int


def restrict(node: Node, patient: str, *, who: str, objection: bool = False, lift: bool = False) -> bool:
    """Stop the processing of a patient's data, or let it go on (GDPR Art. 18, 21); from the next round on.

    Args:
        node: The hospital's node.
        patient: His pseudonym.
        who: Who decided.
        objection: Whether he objects, rather than asks for a restriction.
        lift: Whether it ends.

    Returns:
        Whether anything changed.

    Raises:
        UsageError: Nobody decided it.
        RecordError: The record cannot be written.
    """
    require_reason(who, who)
    hold = Hold.OBJECTED if objection else Hold.RESTRICTED
    detail = {"hold": hold.value, "lift": lift, "who": who}
    with node.open_log() as log:
        before, after = change(
            node,
            log,
            Action.RIGHTS_RESTRICT,
            lambda register: register.hold(patient, hold, on=not lift),
            subject=patient,
            detail=detail,
        )
    if not lift:
        forget_answers(node)
    return before != after


def rectify(node: Node, patient: str, *, who: str) -> Forgotten:
    """Take out a patient's studies, so that the next ingest takes them in anew as they are then (GDPR Art. 16).

    He takes no part until an ingest has brought them, and keeps his side of the split.

    Raises:
        UsageError: Nobody decided it.
        RecordError: An ingest runs, or the record cannot be written.
    """
    require_reason(who, who)
    with node.open_log() as log:
        change(
            node,
            log,
            Action.RIGHTS_RECTIFY,
            lambda register: register.hold(patient, Hold.RECTIFYING, on=True),
            subject=patient,
            detail={"step": "begin", "who": who},
        )
        with _no_ingest(node):
            taken_out = forget_patient(node, patient, returns=True)
            _write_manifest(node, log)
    return taken_out


def rectified(node: Node, log: AuditLog, present: Sequence[str]) -> int:
    """After an ingest: whoever was to be taken in anew, and is in the cohort again, takes part again; how many.

    Raises:
        RecordError: The record cannot be written.
    """
    register, _ = read_register(node, log)
    back = [key for key in present if Hold.RECTIFYING in register.of(key).holds]
    if back:  # one change for all, so that the log's length does not say how many

        def lifted(one: Register) -> Register:
            for patient in back:
                one = one.hold(patient, Hold.RECTIFYING, on=False)
            return one

        change(node, log, Action.RIGHTS_RECTIFY, lifted, detail={"step": "done"})
    return len(back)


def erase(node: Node, patient: str, *, who: str) -> Erased | None:
    """Delete what a node has of a patient, and see that he is not taken in again (GDPR Art. 17; PIPL Art. 47).

    What stays: a keyed digest that keeps him out, digests of his studies in the ledger of ingest, and the audit log.

    Returns:
        What was done; None where he was erased before.

    Raises:
        UsageError: Nobody decided it.
        RecordError: An ingest runs, or the record cannot be written; he takes no part meanwhile.
    """
    require_reason(who, who)
    with node.open_log() as log:
        register, _ = read_register(node, log)
        if tombstone(node, patient) in register.erased:
            return None
        change(
            node,
            log,
            Action.RIGHTS_ERASE,
            lambda one: one.hold(patient, Hold.ERASING, on=True),
            subject=patient,
            detail={"step": "begin", "who": who},
        )
        with _no_ingest(node):
            return _finish_erasure(node, log, patient)


def resume(node: Node) -> int:
    """Finish erasures that broke off; how many. Nothing is done where there are none.

    Raises:
        RecordError: An ingest runs, or the record cannot be written.
    """
    with node.open_log() as log:
        if not _erasing(read_register(node, log)[0]):
            return 0
        with _no_ingest(node):
            return finish_erasures(node, log)


def finish_erasures(node: Node, log: AuditLog) -> int:
    """As :func:`resume`, for one who holds the lock of ingest."""
    found = _erasing(read_register(node, log)[0])
    for patient in found:
        _finish_erasure(node, log, patient)
    return len(found)


def spent_on(node: Node, traces: Sequence[Trace], *, trained: bool) -> Spent:
    """What was spent of a patient's privacy.

    Args:
        node: The hospital's node.
        traces: His lineage.
        trained: Whether he was ever on the side that is trained on: then charges that the lineage does not know count.

    Raises:
        RecordError: A ledger cannot be read.
    """
    from client.training import accounting  # noqa: PLC0415  # scipy: half a second
    from client.training.accounting import Mechanism, merged  # noqa: PLC0415

    mine = {trace.part.key for trace in traces if trace.part.kind == TRAIN}
    known = {part.key for part in Lineage(node).parts() if part.kind == TRAIN}
    runs = sorted({part.run for part in Lineage(node).parts()}) if node.virtual else [""]
    books = [read_book(node.ledger(run), data_set=node.site) for run in runs]
    charges = [charge for book in books for charge in book.charges]
    unknown = [one for one in charges if trained and (one.run, one.task, one.round) not in known]
    his = [one for one in charges if (one.run, one.task, one.round) in mine] + unknown
    budget = next((book.budget for book in books if book.budget), None)
    largest = max((charge.patients for charge in charges), default=1)
    delta = budget.delta if budget else accounting.default_delta(largest)
    history: list[Mechanism] = list(merged(charge.mechanism for charge in his))
    try:
        epsilon = accounting.epsilon(history, delta)[0] if history else 0.0
    except BudgetError:
        epsilon = None
    bare = sum(trace.part.kind == TRAIN and trace.part.privacy == "off" for trace in traces)
    return Spent(epsilon if not bare else None, delta, len(his), bare, len(unknown))


def _finish_erasure(node: Node, log: AuditLog, patient: str) -> Erased:
    # First what can be deleted whatever became of the lineage; without it nobody knows which runs were his.
    taken_out = forget_patient(node, patient, returns=False)
    lineage = Lineage(node)
    traces = lineage.of(patient)
    aftermath = _aftermath(node, patient, traces)
    lineage.forget(patient)
    stopped = frozenset(aftermath.runs) if aftermath.policy != "record" else frozenset[str]()

    def buried(register: Register) -> Register:
        patients = {key: one for key, one in register.patients.items() if key != patient}
        erased = {**register.erased, tombstone(node, patient): today()}
        return replace(
            register,
            patients=MappingProxyType(patients),
            erased=MappingProxyType(erased),
            stopped=register.stopped | stopped,
        )

    change(
        node,
        log,
        Action.RIGHTS_ERASE,
        buried,
        subject=patient,
        detail={
            "step": "done",
            **asdict(taken_out),
            "after": aftermath.policy,
            "runs": len(aftermath.runs),
            "epsilon": aftermath.epsilon,
        },
    )
    _write_manifest(node, log)  # of the register as it is from now on
    return Erased(taken_out, aftermath)


def _aftermath(node: Node, patient: str, traces: Sequence[Trace]) -> Aftermath:
    trained = [trace.part for trace in traces if trace.part.kind == TRAIN]
    heirs = Lineage(node).heirs(traces)
    runs = tuple(sorted({part.run for part in trained} | {run for run, _ in heirs}))
    spent = spent_on(node, traces, trained=bool(trained))
    policy = policy_of(node).after_erasure
    if policy == "record" and spent.epsilon is None:
        policy = "stop"
    requests: list[Path] = []
    if policy == "retrain":
        first: dict[tuple[str, str], int] = {}
        for part in trained:
            key = (part.run, part.task)
            if key in heirs:  # it has no model from before him; the run that it went on from is asked for
                continue
            first[key] = min(first.get(key, part.round), part.round)
        requests = [
            _request(node, next(part for part in trained if (part.run, part.task) == key), number - 1, patient)
            for key, number in sorted(first.items())
        ]
    return Aftermath(policy, runs, spent.epsilon, tuple(requests))


def _request(node: Node, part: Part, clean: int, patient: str) -> Path:
    """A signed request to train a task again from the model after round ``clean``; it tells nothing else."""
    folder = folder_of(node) / REQUESTS
    private_folder(folder)
    path = folder / f"retrain-{part.run}-{part.task}-{tombstone(node, patient)[:16]}.json"
    if not path.exists():
        about = (part.federation, part.charter, part.run, part.task)
        Retraining(node.site, *about, clean_round=clean, time="").signed(node.identity).write(path)
    return path


def _erasing(register: Register) -> list[str]:
    return [key for key, one in register.patients.items() if Hold.ERASING in one.holds]


def _write_manifest(node: Node, log: AuditLog) -> None:
    if index_digest(node):
        write_manifest(node, log)


def side_of(node: Node, patient: str) -> Split | None:
    """Which side of the split a patient is on, by the index; None where he is in none.

    Raises:
        DataError: The index is damaged.
    """
    path = node.folder / "cohort" / "index.json"
    if not path.exists():
        return None
    raw = load_json(path, error=DataError, hint="restore it from a copy")
    try:
        return next((Split(row["split"]) for row in raw["patients"] if row["key"] == patient), None)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged", hint="restore it from a copy") from error


@contextmanager
def _no_ingest(node: Node) -> Iterator[None]:
    with locked(node.folder / INGEST_LOCK, _BUSY, hint=_LATER):
        yield
