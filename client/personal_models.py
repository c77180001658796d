"""A hospital's own models: made at home from a federated one, kept in the node, and gone when a patient of theirs is.

A personal model has no differential privacy and was trained on this hospital's patients alone, so it must not leave. It
lies in ``NODE/personal/NAME`` (0700, files 0600) with the pseudonyms of those whom it was trained on. Where one of them
is erased or rectified the whole model is deleted (GDPR Art. 16, 17): made again without him, it never knew him.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from client.node import PRIVATE, Node
from compliance.bundle_form import WEIGHTS
from compliance.bundle_model import read_weights
from shared.errors import DataError, RecordError, UsageError
from shared.files import output_errors, private_folder, sync_folder, write_bytes, write_json
from shared.parsing import load_json
from shared.vector import State

FOLDER: Final = "personal"
ABOUT: Final = "personal.json"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
WARNING: Final = "trained without differential privacy on this hospital's patients: it must not leave the hospital"


@dataclass(frozen=True)
class PersonalModel:
    """What a personal model says of itself.

    Attributes:
        task: Name of its task.
        base: Which model it was made from, in words.
        base_sha256: SHA-256 of that model's weights.
        weights_sha256: SHA-256 of its own.
        mix: How far it went from that model towards the one that was trained at home: 0 to 1.
        scores: The task's main metric on patients who were kept back while that was decided, by mix.
        steps: Optimiser steps.
        site: The hospital.
        dataset: SHA-256 of the index of the cohort.
        time: When it was made (RFC 3339, UTC).
        patients: Pseudonyms of those whom it was trained on.
        warning: :data:`WARNING`.
    """

    task: str
    base: str
    base_sha256: str
    weights_sha256: str
    mix: float
    scores: Mapping[str, float]
    steps: int
    site: str
    dataset: str
    time: str
    patients: tuple[str, ...]
    warning: str = WARNING


def now() -> str:
    """The moment, for :attr:`PersonalModel.time`."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def place_of(node: Node, name: str) -> Path:
    """The folder of a new personal model.

    Raises:
        UsageError: The name is no name, or there is one of that name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a model", hint="use up to 64 letters, digits, dots, - and _")
    folder = node.folder / FOLDER / name
    if folder.exists() and (not is_personal(folder) or (folder / WEIGHTS).exists()):  # else one that was broken off
        raise UsageError(f"there is a personal model {folder}", hint="choose another --name, or delete the folder")
    return folder


def encoded(state: State) -> bytes:
    """The file of a model's weights."""
    return safetensors.numpy.save(dict(state))


def keep(folder: Path, about: PersonalModel, weights: bytes) -> None:
    """Write a personal model: first whom it is of, so that an erasure finds it whenever it comes.

    Raises:
        OutputError: The disk does not take it; then nothing of it is left, and the name is free.
    """
    with ExitStack() as undone:
        undone.callback(shutil.rmtree, folder, ignore_errors=True)
        private_folder(folder)
        write_json(folder / ABOUT, asdict(about), mode=PRIVATE, durable=True)
        write_bytes(folder / WEIGHTS, weights, mode=PRIVATE, durable=True)
        sync_folder(folder.parent)
        undone.pop_all()


def is_personal(folder: Path) -> bool:
    """Whether a folder holds a personal model."""
    return (folder / ABOUT).exists()


def open_personal(folder: Path) -> tuple[PersonalModel, State]:
    """A personal model and its weights.

    Raises:
        DataError: It is damaged, or not whole.
    """
    about = _about(folder)
    try:
        weights = (folder / WEIGHTS).read_bytes()
        state = read_weights(weights)
    except (OSError, RecordError) as error:
        raise DataError(f"{folder / WEIGHTS} cannot be read", hint="make the personal model again") from error
    if hashlib.sha256(weights).hexdigest() != about.weights_sha256:
        raise DataError(f"{folder / WEIGHTS} is not what {ABOUT} describes", hint="make the personal model again")
    return about, state


def made_with(node: Node, patient: str) -> tuple[Path, ...]:
    """The personal models that a patient was trained into; those that cannot be read count as his.

    What is not described, or not readably, may be anybody's, a copy of weights that lies there too: an erasure that
    passed it over would leave him in it.
    """
    found = []
    for folder in _all(node):
        try:
            his = patient in _about(folder).patients
        except DataError:
            his = True
        if his:
            found.append(folder)
    return tuple(found)


def forget(node: Node, patient: str) -> int:
    """Delete the personal models that a patient was trained into; how many.

    Raises:
        OutputError: One cannot be deleted.
    """
    found = made_with(node, patient)
    for folder in found:
        with output_errors(folder):
            if not folder.is_dir():
                folder.unlink()
                sync_folder(folder.parent)
                continue
            (folder / WEIGHTS).unlink(missing_ok=True)  # what tells of him first, and last what names him
            if folder.is_symlink():  # somebody made room on another disk
                (folder / ABOUT).unlink(missing_ok=True)
                folder.unlink()
            else:
                shutil.rmtree(folder)
            sync_folder(folder.parent)
    return len(found)


def _all(node: Node) -> tuple[Path, ...]:
    folder = node.folder / FOLDER
    return tuple(sorted(folder.iterdir())) if folder.is_dir() else ()


def _about(folder: Path) -> PersonalModel:
    hint = "make the personal model again"
    raw = load_json(folder / ABOUT, error=DataError, hint=hint)
    try:
        return TypeAdapter(PersonalModel).validate_python(raw)
    except ValidationError as error:
        raise DataError(f"{folder / ABOUT} is damaged", hint=hint) from error
