"""Lineage: from a patient to the data set, the rounds in which he could be drawn and was drawn, and the models.

One durable line a round, before an image is looked at: what the round is, the digest of the data set and the set of
those who can be drawn. Sets are kept once, however many rounds they are in. Who was drawn is noted after the round, as
far as it is known; it never leaves, since the guarantee of differential privacy rests on its being secret. Everything
lies in ``NODE/rights/`` (0700, files 0600) and holds pseudonyms, so that an erasure can be carried through it.

Here it is also seen that no test patient is ever trained on: a set is held against all sets of the other side of the
split before it is used for the first time.

The audit log's entry of each round says how long ``rounds.jsonl`` is then, and its SHA-256; the file only grows. A set
is named by a keyed digest of who is in it, an erased patient by what stands in his place. So a round or a set that was
taken out or altered is missed: before the next round, which is refused, and wherever somebody's lineage is read.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from client.node import Node
from client.private_lines import Lines, Row, sweep_parts
from client.records import folder_of, log_of, marker, read_register, tombstone
from compliance.log import Action, AuditLog, Outcome, Scalar, entries
from shared.charter import Charter
from shared.errors import RecordError
from shared.files import write_json
from shared.header import Header
from shared.parsing import load_json, parse_json

TRAIN, EVALUATE = "train", "evaluate"
GONE: Final = "erased:"
"""What stands before the keyed digest of somebody who was erased, in his place."""
SIZE, HEAD = "lineage_bytes", "lineage"
"""What a round's entry in the audit log says of ``rounds.jsonl``: its size, and its SHA-256."""
_OTHER: Final = {TRAIN: EVALUATE, EVALUATE: TRAIN}
_ACTS: Final = (Action.TRAIN, Action.EVALUATE)
_LOST: Final = "put back the newest copy of rights/; until then no round begins"


@dataclass(frozen=True)
class Part:
    """One round that this hospital took part in.

    Attributes:
        time: When it began (RFC 3339, UTC).
        kind: ``train`` or ``evaluate``.
        federation: Id of the federation.
        charter: SHA-256 of the charter.
        run: Id of the run.
        task: Name of the task.
        round: Round of the task.
        attempt: Which attempt at it.
        model: Digest of the model that the round began with: the one that all rounds before made.
        privacy: Mode of differential privacy; ``off`` is none.
        rate: Chance of each patient to be in a step; 1 where nobody is drawn by chance.
        steps: Optimiser steps.
        dataset: SHA-256 of the index of the cohort.
        manifest: Digest of the manifest of the data set; empty where it has none that is up to date.
        patients: Name of the set of those who could be drawn.
        origin: ``RUN/TASK`` of the release that this run started from; empty where it started from none. Not all of
            a release's weights need be in the first model, so that its digest does not tell.
    """

    time: str
    kind: str
    federation: str
    charter: str
    run: str
    task: str
    round: int
    attempt: int
    model: str
    privacy: str
    rate: float
    steps: int
    dataset: str
    manifest: str
    patients: str
    origin: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What a charge of the privacy ledger is for."""
        return self.run, self.task, self.round


@dataclass(frozen=True)
class Trace:
    """A round in a patient's lineage: ``drawn`` is in how many of its steps; None where it is not known."""

    part: Part
    drawn: int | None


class Lineage:
    """The lineage of a node."""

    def __init__(self, node: Node) -> None:
        self._node, self._folder = node, folder_of(node)
        self._rounds, self._drawn = (Lines(self._folder / f"{name}.jsonl") for name in ("rounds", "drawn"))
        self._taken = Lines(self._folder / "taken.jsonl")

    # --- rounds -------------------------------------------------------------------------------------------------------

    def begin(
        self,
        header: Header,
        kind: str,
        patients: Collection[str],
        *,
        charter: Charter,
        rate: float,
        steps: int,
        dataset: str,
        manifest: str,
        origin: str = "",
        log: AuditLog | None = None,
    ) -> Part:
        """Note a round before it begins; durable when this returns.

        ``log`` is the node's audit log, open: against its newest entry the lineage is held first. The entry of this
        round is to have :meth:`head`.

        Raises:
            RecordError: It would train on somebody who was tested on, or the other way round; or the record is damaged,
                or not the one that the log knows.
            OutputError: The disk does not take it.
        """
        if log is not None:
            newest = log.newest(*_ACTS, outcome=Outcome.STARTED)
            self._hold_against([newest] if newest else [])
        self._remember(charter)
        part = Part(
            datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            kind,
            *(header.federation, header.charter, header.run, header.task, header.round, header.attempt, header.model),
            *(charter.privacy.mode, rate, steps, dataset, manifest, self._set(kind, patients), origin),
        )
        self._rounds.append(asdict(part))
        return part

    def head(self) -> dict[str, Scalar]:
        """What the audit log is to say of the rounds so far."""
        data = self._rounds.raw()
        return {SIZE: len(data), HEAD: hashlib.sha256(data).hexdigest()}

    def check(self) -> None:
        """Hold all of the lineage against all of the audit log.

        A round at the end that the log does not name may stand there: it broke off before it was recorded.

        Raises:
            RecordError: A round or a set is missing or was altered, or the log does not verify.
        """
        path = log_of(self._node)
        rows = entries(path) if path.exists() else ()
        self._hold_against(row.get("detail") or {} for row in rows if row.get("action") in _ACTS)
        for one in self._sets():
            self._members(one)

    def drawn(self, part: Part, counts: Mapping[str, int]) -> None:
        """Note who was drawn in how many steps; not made durable, since the round is noted already."""
        now = self._now()
        who = {now(key): count for key, count in counts.items()}
        row = {"run": part.run, "task": part.task, "round": part.round, "time": part.time, "drawn": who}
        self._drawn.append(row, durable=False)

    def parts(self) -> Iterator[Part]:
        """All rounds in their order.

        Raises:
            RecordError: The record is damaged.
        """
        for row in self._rounds.rows():
            try:
                yield Part(**row)
            except TypeError as error:
                raise RecordError(f"{self._folder / 'rounds.jsonl'} is damaged", hint="put it back") from error

    def of(self, patient: str) -> tuple[Trace, ...]:
        """The rounds in which a patient could be drawn, also where he has been erased since.

        Raises:
            RecordError: As :meth:`check`.
        """
        self.check()
        names = {patient, GONE + tombstone(self._node, patient)}
        sets = {path.stem for path in self._sets() if names & set(self._members(path))}
        drawn = {
            row["time"]: next((row["drawn"][name] for name in names if name in row["drawn"]), 0)
            for row in self._drawn.rows()
        }
        return tuple(Trace(part, drawn.get(part.time)) for part in self.parts() if part.patients in sets)

    def after(self, traces: Collection[Trace]) -> tuple[str, ...]:
        """Digests of the models that came after a patient's first round of training, in each task of each run.

        A run that began with one of them, since a task was trained again, has only such models.
        """
        return self._reach(traces)[0]

    def heirs(self, traces: Collection[Trace]) -> frozenset[tuple[str, str]]:
        """The tasks of runs (run, task) that began with a model that a patient was trained into in another run.

        Whether that model itself was handed over, or a release of that run.
        """
        return self._reach(traces)[1]

    def _reach(self, traces: Collection[Trace]) -> tuple[tuple[str, ...], frozenset[tuple[str, str]]]:
        first: dict[tuple[str, str], int] = {}
        for trace in traces:
            if trace.part.kind == TRAIN:
                key = (trace.part.run, trace.part.task)
                first[key] = min(first.get(key, trace.part.round), trace.part.round)
        found: dict[str, tuple[str, str]] = {}
        heirs: set[tuple[str, str]] = set()
        for part in self.parts():
            key = (part.run, part.task)
            begun = first.get(key)
            heir = found.get(part.model, key) != key or tuple(part.origin.split("/")) in first
            if heir and (begun is None or part.round <= begun):
                heirs.add(key)
                first[key] = begun = part.round - 1
            # A round of training begins with the model of the rounds before, an evaluation has its own round's.
            if begun is not None and (part.round > begun or (part.kind == EVALUATE and part.round == begun)):
                found.setdefault(part.model, key)
        return tuple(found), frozenset(heirs)

    def recipients(self, charters: Collection[str]) -> list[dict[str, str]]:
        """Who got what this hospital sent under some charters: name, role and country as the charter says them.

        Raises:
            RecordError: A file of them is damaged.
        """
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for name in sorted(charters):
            path = self._folder / "parties" / f"{name}.json"
            rows = load_json(path, error=RecordError, hint=_LOST) if path.exists() else []
            if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
                raise RecordError(f"{path} is damaged", hint=_LOST)
            for row in rows:
                found[tuple(row.values())] = row
        return list(found.values())

    # --- studies ------------------------------------------------------------------------------------------------------

    def take_in(self, patient: str, study: str, *, source: str, profile: str) -> None:
        """Note that a study (by its keyed digest) of a patient was taken in today."""
        day = datetime.now(UTC).date().isoformat()
        row = {"patient": patient, "study": study, "day": day, "source": source, "profile": profile}
        self._taken.append(row)

    def taken(self) -> Iterator[Row]:
        """All studies that were taken in since this is noted."""
        return self._taken.rows()

    # --- the frozen split ---------------------------------------------------------------------------------------------

    def mixed(self) -> int:
        """How many patients were both trained and tested on; 0 unless the split was changed by hand.

        Raises:
            RecordError: As :meth:`check`.
        """
        self.check()
        sides: dict[str, set[str]] = {TRAIN: set(), EVALUATE: set()}
        for path in self._sets():
            sides[path.name.partition("-")[0]] |= set(self._members(path))
        return len(sides[TRAIN] & sides[EVALUATE])

    # --- erasure ------------------------------------------------------------------------------------------------------

    def forget(self, patient: str, *, studies: bool = True) -> None:
        """Put the keyed digest of a patient in his place, and drop what was noted of his studies."""
        gone = GONE + tombstone(self._node, patient)
        for path in list(self._sets()):
            members = self._members(path)
            sweep_parts(path)
            if patient in members:
                write_json(path, [gone if one == patient else one for one in members], mode=0o600, durable=True)

        def marked(row: Row) -> Row:
            if patient in row["drawn"]:
                row["drawn"] = {gone if key == patient else key: count for key, count in row["drawn"].items()}
            return row

        self._drawn.rewrite(marked)
        if studies:
            self._taken.rewrite(lambda row: None if row["patient"] == patient else row)

    # --- the files ----------------------------------------------------------------------------------------------------

    def _set(self, kind: str, patients: Collection[str]) -> str:
        """The name of a set, kept from its first use on."""
        members = sorted(map(self._now(), patients))
        name = self.name(kind, members)
        path = self._folder / "sets" / f"{name}.json"
        if not path.exists():
            wanted = set(members)
            for other in self._sets(_OTHER[kind]):
                if wanted & set(self._members(other)):
                    raise RecordError(
                        "a patient would be trained on here and tested on as well",
                        hint="put back the index of the cohort: a split is for ever",
                    )
            path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            write_json(path, members, mode=0o600, durable=True)
        return name

    def name(self, kind: str, members: Collection[str]) -> str:
        """The name of a set; it stays when one of its patients is erased."""
        mark = marker(self._node)
        marks = sorted(one.removeprefix(GONE) if one.startswith(GONE) else mark(one) for one in members)
        text = "\n".join([kind, *marks]).encode()
        return f"{kind}-{hmac.new(self._node.key('audit'), text, hashlib.sha256).hexdigest()}"

    def _members(self, path: Path) -> list[str]:
        """Who is in the set at ``path``; its name says whether that is all of them, and nobody else."""
        try:
            found: Any = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is damaged", hint="put it back from a copy") from error
        if not isinstance(found, list) or self.name(path.name.partition("-")[0], list(map(str, found))) != path.stem:
            raise RecordError(f"{path} was altered", hint=_LOST)
        return [str(one) for one in found]

    def _hold_against(self, facts: Iterable[Mapping[str, Scalar]]) -> None:
        """See that the rounds are those that some entries of the log name, and that their sets are there."""
        data, seen, place = self._rounds.raw(), hashlib.sha256(), 0
        for size, head in sorted({(int(str(one[SIZE])), str(one[HEAD])) for one in facts if SIZE in one}):
            seen.update(data[place:size])
            place = size
            if size > len(data) or seen.hexdigest() != head:
                raise RecordError(f"{self._folder / 'rounds.jsonl'} is not what the audit log knows", hint=_LOST)
        for name in {part.patients for part in self.parts()}:
            if not (self._folder / "sets" / f"{name}.json").exists():
                raise RecordError(f"{self._folder / 'sets'} lacks a set of patients of a round", hint=_LOST)

    def _now(self) -> Callable[[str], str]:
        """How a patient stands in the lineage: one who was erased while the round began is never named again."""
        erased, mark = read_register(self._node)[0].erased, marker(self._node)
        if not erased:
            return str
        return lambda patient: GONE + mark(patient) if mark(patient) in erased else patient

    def _sets(self, kind: str = "") -> Iterator[Path]:
        yield from sorted((self._folder / "sets").glob(f"{kind}*.json"))

    def _remember(self, charter: Charter) -> None:
        """Keep who is in a charter, for as long as somebody may ask to whom something went."""
        path = self._folder / "parties" / f"{charter.sha256}.json"
        if path.exists():
            return
        rows = [{"name": one.name, "role": "member", "country": one.country or ""} for one in charter.members]
        if charter.coordinator is not None:
            plan = charter.coordinator
            rows.append({"name": plan.name, "role": "coordinator", "country": plan.country or ""})
        path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
        write_json(path, rows, mode=0o600, durable=True)
