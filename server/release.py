"""A model leaves the coordinator: weights and a description of where they come from, both whole or neither."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.numpy

from compliance.log import Action, AuditLog, Entry, Outcome
from server.history import HISTORY
from shared.errors import OutputError
from shared.files import output_errors, write_bytes, write_json
from shared.parsing import parse_json
from shared.vector import State

WEIGHTS, CARD = "model.safetensors", "model.json"


@dataclass(frozen=True)
class ModelCard:
    """Where a model comes from.

    Attributes:
        federation, charter, run, task: As in the header of every message of its training.
        rounds: Rounds of training.
        sites: Sites that gave at least one update.
        privacy: ``off``, ``patient`` or ``distributed``: what the charter asked of every site.
        parameters: Length of the vector of what was trained.
        model: Digest of layout and numbers of what was trained, as in the messages.
        start: What the parameters were before the first round; those that did not train still are.
        trained: Which of them trained.
    """

    federation: str
    charter: str
    run: str
    task: str
    rounds: int
    sites: tuple[str, ...]
    privacy: str
    parameters: int
    model: str
    start: str = "fresh"
    trained: str = "all"


def write_model(folder: Path, state: State, card: ModelCard, *, log: AuditLog) -> Path:
    """Write ``model.safetensors``, then ``model.json`` with its hash: a model without its description is unfinished.

    Returns:
        The file of the weights.

    Raises:
        OutputError: The folder cannot be written; an earlier model in it is kept or gone, never mixed with this one.
        RecordError: The record cannot be written; then neither is the model.
    """
    data = safetensors.numpy.save(dict(state), {"run": card.run, "task": card.task, "charter": card.charter})
    digest = hashlib.sha256(data).hexdigest()
    entry = Entry(
        Action.MODEL_WRITE,
        Outcome.STARTED,
        run=card.run,
        round=card.rounds,
        subject=("model", card.model),
        detail={"task": card.task, "bytes": len(data), "sha256": digest},
    )
    weights, described = folder / WEIGHTS, folder / CARD
    with log.act(entry):
        with output_errors(described):
            described.unlink(missing_ok=True)
        write_bytes(weights, data, durable=True)
        try:
            write_json(described, {"version": 1, **asdict(card), "weights_sha256": digest}, durable=True)
        except OutputError:
            weights.unlink(missing_ok=True)
            raise
    return weights


def ended_well(folder: Path, *, run: str, charter: str) -> bool:
    """Whether the history in ``folder`` says that this run has trained its task to the end.

    Args:
        folder: Of one task.
        run: Id of the run.
        charter: SHA-256 of the charter.
    """
    return _says(folder / HISTORY, run=run, charter=charter, outcome="ok")


def never_began(folder: Path, *, run: str, charter: str) -> bool:
    """Whether the history in ``folder`` says that this run ended before anybody was asked for anything."""
    return _says(folder / HISTORY, run=run, charter=charter, outcome="failed", rounds=[], failed=None)


def anything_is_left(folder: Path) -> bool:
    """Whether ``folder`` holds any of what a run writes when it ends, whole or not."""
    return any(os.path.lexists(folder / name) for name in (HISTORY, WEIGHTS, CARD))


def model_is_whole(folder: Path, *, run: str, charter: str) -> bool:
    """Whether ``folder`` holds the model of this run, as it was written."""
    try:
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except OSError:
        return False
    return _says(folder / CARD, run=run, charter=charter, weights_sha256=digest)


def _says(path: Path, **wanted: object) -> bool:
    try:
        found = parse_json(path.read_bytes())
        return all(found[name] == value for name, value in wanted.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False
