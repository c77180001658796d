"""A trained model leaves the federation: weights, card, history, statements, checkpoints, and a signature over all.

``fedward model verify`` checks the folder offline (:mod:`compliance.bundle_check`). It is written whole or not at all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from compliance.bundle_form import (
    AUTHORITY,
    CARD,
    CHARTER,
    CHECKPOINT,
    DESCRIBED,
    ENDORSEMENT,
    ENTRY,
    HISTORY,
    KIND,
    LAYOUT,
    MANIFEST,
    SIGNATURE,
    TIME,
    WEIGHTS,
    checkpoint_file,
    endorsement_file,
    read_manifest,
    release_text,
    site_row,
    statement_file,
)
from compliance.bundle_model import layout_bytes, read_weights
from compliance.endorse import Endorsement, origins
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.note import write_note
from compliance.place import Place, establish
from server.card import Known, write_card
from server.card_evaluation import MAX_FILE, read_evaluation
from server.coordinator import Coordinator
from server.release import ended_well, model_is_whole
from server.release_folder import require_free, write_folder
from server.release_record import endorsements_of, entry_of, head_of, quorum_of, read_statements
from server.runs import RunFolder
from shared.bundle import digest as bundle_digest
from shared.certificates import digest, pem, read
from shared.charter import Charter
from shared.errors import DataError, PolicyError, RecordError, UsageError
from shared.files import canonical_json
from shared.imaging.metrics import summarise
from shared.imaging.start import shaped
from shared.imaging.tasks import Sums, get_task
from shared.parsing import parse_json
from shared.statement import Statement
from shared.vector import Layout
from shared.weights import travelling

_FIGURES: Final = 6  # digits behind the point


@dataclass(frozen=True)
class Order:
    """What to release.

    Attributes:
        run: Name of the run.
        out: The folder to write; must not be there.
        task: Which task; None where the run has one.
        statements: Files of the hospitals.
        endorsements: Files of witnesses' endorsements of their log keys, beside those that this coordinator has met.
        intended_use: Texts of the provider.
        facts: What else the provider says (:data:`server.card.FACTS`).
        evaluations: Files of figures of 'fedward evaluate' for this model.
        version: Of the model; None for the run's name.
        replaces: Folder of the release that this one replaces.
        reason: Why.
    """

    run: str
    out: Path
    task: str | None = None
    statements: tuple[Path, ...] = ()
    endorsements: tuple[Path, ...] = ()
    intended_use: tuple[str, ...] = ()
    facts: Mapping[str, str] | None = None
    evaluations: tuple[Path, ...] = ()
    version: str | None = None
    replaces: Path | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Released:
    """What was released.

    Attributes:
        folder: Where it is.
        manifest: SHA-256 of its manifest.
        charter: SHA-256 of the charter.
        silent: Hospitals whose updates are in the model and that stated nothing.
        gaps: What the card lacks.
        cosigned: Hospitals that cosigned the coordinator's checkpoint.
        quorum: So many of them a reader asks for who does not say otherwise.
    """

    folder: Path
    manifest: str
    charter: str
    silent: tuple[str, ...]
    gaps: tuple[str, ...]
    cosigned: tuple[str, ...]
    quorum: int


@dataclass(frozen=True)
class Source:
    """A finished task as it lies in the coordinator's folder.

    Attributes:
        charter, task: What was trained.
        authority: The certificate that the charter names.
        described, history: ``model.json`` and ``history.json``.
        layout: Of what was trained.
        files: The bytes of what is released as it is.
    """

    charter: Charter
    authority: x509.Certificate
    task: str
    described: Mapping[str, Any]
    history: Mapping[str, Any]
    layout: Layout
    files: Mapping[str, bytes]


def release(coordinator: Coordinator, order: Order, *, now: datetime | None = None) -> Released:
    """Write a release.

    Args:
        coordinator: Whose run.
        order: What to release.
        now: The time; the clock's where None.

    Raises:
        UsageError: There is no such run or task, it did not end well, the folder is there, or a file is not what it
            should be.
        DataError: The model or its history is damaged.
        PolicyError: The charter names another coordinator, or others may read a key.
        ProtocolError: A statement or an endorsement does not hold.
        RecordError: The audit log does not verify, or cannot be written; then nothing is released.
        OutputError: The folder cannot be written.
    """
    require_free(order.out)
    moment = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    source = source_of(coordinator, order)
    place = Place.open(coordinator.folder)
    signer = establish(place)
    statements = read_statements(order.statements, source.charter, order.run, source.described["sites"])
    stated = [Endorsement.parse(canonical_json(dict(one.endorsement))) for one in statements if one.endorsement]
    witnesses = endorsements_of(place, source.charter, order.endorsements, stated, now=moment)
    entry = entry_of(coordinator.log_path, order.run, source.task, source.described["weights_sha256"])
    head = head_of(place, source.charter, source.authority, [*witnesses, *stated], entry=entry)
    files = dict(source.files) | {ENDORSEMENT: canonical_json(place.endorsement.as_json()), CHECKPOINT: head.raw}
    files |= {ENTRY: head.proof} if head.proof else {}
    files |= _stated(statements) | _witnesses(witnesses, source.charter)
    facts = _manifest(source, order, statements) | {
        "released": moment.strftime(TIME),
        "record": {"origin": signer.name, "size": head.size, "entry": head.entry},
    }
    card, gaps = _card(source, order, statements, facts)
    files[CARD] = card.encode()
    facts["files"] = {
        name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in sorted(files.items())
    }
    manifest = canonical_json(facts)
    read_manifest(manifest)
    text = release_text(manifest)
    files |= {MANIFEST: manifest, SIGNATURE: write_note(text, signer.sign(text))}
    digest_of = hashlib.sha256(manifest).hexdigest()
    act = Entry(
        Action.MODEL_RELEASE,
        Outcome.STARTED,
        run=order.run,
        round=source.described["rounds"],
        subject=("model", str(source.described["model"])),
        detail={"task": source.task, "manifest": digest_of, "statements": len(statements), "checkpoint": head.size},
    )
    purpose = source.charter.purpose
    with (
        AuditLog(coordinator.log_path, site="coordinator", purpose=purpose, subject_key=b"") as log,
        log.act(act),
    ):
        write_folder(order.out, files)
    silent = tuple(sorted(set(source.described["sites"]) - {one.site for one in statements}))
    return Released(order.out, digest_of, source.charter.sha256, silent, gaps, head.cosigned, quorum_of(source.charter))


def source_of(coordinator: Coordinator, order: Order) -> Source:
    """The finished task that ``order`` names, checked.

    Raises:
        UsageError, DataError, PolicyError: As :func:`release`.
    """
    run = RunFolder.open(coordinator, order.run)
    ending = run.outcome()
    if ending is None or ending.outcome != "ok":
        word = "has not ended" if ending is None else f"ended as '{ending.outcome}'"
        raise UsageError(f"the run {run.name} {word}", hint="only a run that ended well is released")
    text = run.charter_path.read_bytes()
    charter = Charter.parse(text.decode(), source=str(run.charter_path))
    if charter.sha256 != run.charter:
        raise DataError(f"{run.charter_path} is not the charter of the run", hint="restore it from a copy")
    (authority,) = read(coordinator.authority_path, count=1)
    if charter.coordinator is None or charter.coordinator.authority != digest(authority):
        raise PolicyError(
            f"the charter {charter.id} does not name the authority of {coordinator.folder}",
            hint="a release is signed under the authority that the charter names",
        )
    names = [one.name for one in charter.tasks]
    if order.task is None and len(names) > 1:
        raise UsageError(f"the run has the tasks {', '.join(names)}", hint="name one with --task")
    task = order.task or names[0]
    charter.task(task)
    folder, about = run.path / task, {"run": run.name, "charter": charter.sha256}
    if not (ended_well(folder, **about) and model_is_whole(folder, **about)):
        raise DataError(f"{folder} holds no whole model of this run", hint="restore it from a copy")
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, DESCRIBED, HISTORY)}
    described, history = parse_json(files[DESCRIBED]), parse_json(files[HISTORY])
    layout = _layout(charter, task, files[WEIGHTS], described, history)
    files |= {CHARTER: text, AUTHORITY: pem(authority), LAYOUT: layout_bytes(layout)}
    return Source(charter, authority, task, described, history, layout, files)


def _layout(
    charter: Charter, task: str, weights: bytes, described: Mapping[str, Any], history: Mapping[str, Any]
) -> Layout:
    """The layout of what was trained, by the network itself; the weights must be those of the history's last round.

    Raises:
        DataError: They are not.
    """
    layout = Layout.of(travelling(shaped(get_task(task), charter.task(task), charter.seed)))
    found = read_weights(weights)
    trained = layout.flatten({slot.name: found[slot.name] for slot in layout.slots if slot.name in found})
    if not history["rounds"] or not layout.digest(trained) == described["model"] == history["rounds"][-1]["model"]:
        raise DataError(f"the weights of {task} are not the model of the last round", hint="restore them from a copy")
    return layout


def _stated(statements: Sequence[Statement]) -> dict[str, bytes]:
    files = {statement_file(one.site): one.to_bytes() for one in statements}
    return files | {checkpoint_file(one.site): one.checkpoint.encode() for one in statements if one.checkpoint}


def _witnesses(found: Sequence[Endorsement], charter: Charter) -> dict[str, bytes]:
    names = origins(charter)
    return {endorsement_file(names[one.origin]): canonical_json(one.as_json()) for one in found if one.origin in names}


def _manifest(source: Source, order: Order, statements: Sequence[Statement]) -> dict[str, Any]:
    described, stated = source.described, {one.site: one for one in statements}
    compared = any(cell.baseline and cell.task == source.task for one in statements for cell in one.quality)
    first, last = metrics_of(source.history)
    return {
        "v": 1,
        "kind": KIND,
        "federation": source.charter.id,
        "charter": source.charter.sha256,
        "run": order.run,
        "task": source.task,
        "model": {
            "digest": described["model"],
            "layout_sha256": source.layout.sha256,
            "parameters": described["parameters"],
            "rounds": described["rounds"],
            "start": described["start"],
            "trained": described["trained"],
            "aggregation": source.history["aggregation"],
        },
        "code": {"version": _version(), "bundle_sha256": bundle_digest()},
        "sites": [
            site_row(stated[site], source.task) if site in stated else {"site": site, "statement": None}
            for site in described["sites"]
        ],
        "metrics": {"first": first, "last": last, "baselines": "in the statements" if compared else "not recorded"},
        "change": {"version": order.version or order.run, "replaces": _replaced(order), "reason": order.reason},
        "intended_use": list(order.intended_use),
    }


def metrics_of(history: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures on held-out patients before the first round and of the model; empty where none were recorded."""
    rows = {one["round"]: one["evaluation"]["sums"] for one in history["rounds"] if one["evaluation"]}
    last = history["rounds"][-1]["round"]

    def figures(sums: Mapping[str, float] | None) -> dict[str, float]:
        try:
            found = summarise(history["task"], Sums(dict(sums))) if sums else {}
        except DataError:
            return {}
        return {name: round(value, _FIGURES) for name, value in found.items()}

    return figures(rows.get(0)), figures(rows.get(last))


def _replaced(order: Order) -> dict[str, str] | None:
    if order.replaces is None:
        return None
    path = order.replaces / MANIFEST
    try:
        raw = path.read_bytes()
        found = read_manifest(raw)
    except (OSError, RecordError) as error:
        raise UsageError(
            f"{order.replaces} is no release", hint="name the folder of the one that is replaced"
        ) from error
    return {"version": found.change.version, "run": found.run, "manifest_sha256": hashlib.sha256(raw).hexdigest()}


def _card(
    source: Source, order: Order, statements: Sequence[Statement], facts: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    task = get_task(source.task)
    weights = str(source.described["weights_sha256"])
    evaluations = [
        read_evaluation(_bytes(path), str(path), task=source.task, weights=weights) for path in order.evaluations
    ]
    known = Known(
        facts,
        source.charter,
        statements,
        source.history,
        order.facts or {},
        evaluations,
        task.title,
        task.main_metric,
    )
    return write_card(known)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a file of figures") from error


def _version() -> str:
    try:
        return version("fedward")
    except PackageNotFoundError as error:
        raise UsageError("fedward is not installed here", hint="install it with pip") from error
