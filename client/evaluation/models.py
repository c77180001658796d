"""What is evaluated or exported: a release that was checked first, a run's or a personal model as it lies there, or a
public one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationError
from torch import nn

from client.personal_models import is_personal, open_personal
from client.released import checked_release, network_with
from compliance.bundle_form import DESCRIBED, MANIFEST, WEIGHTS
from compliance.bundle_model import read_weights
from compliance.bundle_report import Verdict
from shared.charter_plans import PrivacyMode
from shared.errors import DataError, RecordError, UsageError
from shared.faults import first_fault
from shared.header import NAME
from shared.imaging.public import PUBLIC, load_public, require_public, weights_file
from shared.imaging.tasks import Task, get_task
from shared.parsing import parse_json

_Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Described(BaseModel):
    """What a run's model says of itself (:class:`server.release.ModelCard`), and anybody could have written."""

    task: _Text
    run: _Text
    federation: _Text
    sites: Annotated[list[Annotated[str, Field(pattern=f"^{NAME.pattern}$")]], Field(max_length=1000)]
    privacy: PrivacyMode | Literal["unknown"] = "unknown"
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


RELEASE, RUN, PUBLISHED, PERSONAL = "release", "run", "public", "personal"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Model:
    """A network that can be applied.

    Attributes:
        label: What tables call it; no other model of the report is called so.
        task: What it was trained for.
        network: With its weights, in evaluation mode.
        digest: SHA-256 of the file of its weights.
        kind: :data:`RELEASE`, :data:`RUN`, :data:`PUBLISHED` or :data:`PERSONAL`.
        sites: The hospitals that trained it.
        origin: Where it is from, in words.
        checks: What was checked of it, line by line; empty where nothing was.
        privacy: Modes of differential privacy under which patients were trained on, as the statements or the run say
            (``off``, ``patient``, ``distributed``); ``unknown`` where nobody says; empty where no patient was.
    """

    label: str
    task: Task
    network: nn.Module
    digest: str
    kind: str
    sites: frozenset[str]
    origin: str
    checks: tuple[tuple[str, str, str], ...] = ()
    privacy: frozenset[str] = frozenset()


_HINT: Final = "name a release folder, the folder of a run's or a personal model, or a public model: " + ", ".join(
    PUBLIC
)


def open_models(names: Sequence[str], *, task: str | None, charter: str, quorum: int | None) -> tuple[Model, ...]:
    """The models, all of one task.

    Args:
        names: Folders or public names; no two the same.
        task: For public models, which have several; else a task that all must have.
        charter: SHA-256 of the charter of releases as the reader was told it; empty leaves that comparison to him.
        quorum: So many hospitals must have cosigned a release's checkpoint; None for over half.

    Raises:
        UsageError: There is no such model, or they are of different tasks.
        RecordError: A release does not hold.
        DataError: The weights are damaged, or not of this release of fedward.
    """
    if len(set(names)) != len(names):
        raise UsageError("a model is named twice", hint="name each once")
    opened: list[Model] = []
    for name in names:
        wanted = task or (opened[0].task.name if opened else None)
        opened.append(_open(name, wanted, charter, quorum))
    tasks = dict.fromkeys(model.task.name for model in opened)
    if task is not None:
        tasks[get_task(task).name] = None
    if len(tasks) > 1:
        raise UsageError(
            f"these models are for different tasks: {', '.join(tasks)}", hint="make a report for each task"
        )
    labels = [model.label for model in opened]
    return tuple(
        replace(model, label=f"{model.label} ({number})") if labels.count(model.label) > 1 else model
        for number, model in enumerate(opened, start=1)
    )


def _open(name: str, task: str | None, charter: str, quorum: int | None) -> Model:
    folder = Path(name)
    if not folder.exists() and name in PUBLIC:
        return _public(name, task)
    if not folder.is_dir():
        raise UsageError(f"there is no model {name}", hint=_HINT)
    if (folder / MANIFEST).exists():
        return _release(folder, charter, quorum)
    if is_personal(folder):
        return _personal(folder)
    if (folder / DESCRIBED).exists() and (folder / WEIGHTS).exists():
        return _run(folder)
    raise UsageError(f"{folder} holds no model", hint=_HINT)


def _public(name: str, task: str | None) -> Model:
    task = require_public(name, task)
    state = load_public(name, task)
    origin = f"{weights_file(name, task)} of this installation, trained on synthetic phantoms; its SHA-256 is pinned"
    return Model(
        name, get_task(task), network_with(get_task(task), state), PUBLIC[name][task], PUBLISHED, frozenset(), origin
    )


def _release(folder: Path, charter: str, quorum: int | None) -> Model:
    found = checked_release(folder, charter=charter, quorum=quorum)
    manifest, report, task = found.manifest, found.report, get_task(found.manifest.task)
    return Model(
        label=manifest.change.version,
        task=task,
        network=network_with(task, found.state),
        digest=found.digest,
        kind=RELEASE,
        sites=frozenset(str(row.get("site")) for row in manifest.sites),
        origin=f"release of {manifest.federation}, run {manifest.run}, {manifest.released}, charter {manifest.charter}",
        checks=(
            ("ok", "release", f"{sum(one.verdict is Verdict.OK for one in report.findings)} checks hold"),
            *((one.verdict.value, one.what, one.detail) for one in report.findings if one.verdict is not Verdict.OK),
        ),
        privacy=frozenset(str(row.get("mode") or UNKNOWN) for row in manifest.sites) or frozenset({UNKNOWN}),
    )


def _personal(folder: Path) -> Model:
    about, state = open_personal(folder)
    task = get_task(about.task)
    origin = f"{about.site}'s own, {about.mix:.0%} of the way from {about.base} to training at home; {about.warning}"
    label = f"personal {folder.resolve().name}"
    network = network_with(task, state)
    sites, privacy = frozenset({about.site}), frozenset({"off"})
    return Model(label, task, network, about.weights_sha256, PERSONAL, sites, origin, privacy=privacy)


def _run(folder: Path) -> Model:
    """A model as a run wrote it: nobody signed for it, and what it says of itself is all that is known."""
    try:
        said = _Described.model_validate(parse_json(_read(folder / DESCRIBED)))
    except ValidationError as error:
        where = f"{folder / DESCRIBED} does not describe a model"
        raise DataError(f"{where}: {first_fault(error)}", hint="restore it from a copy") from error
    except ValueError as error:
        raise DataError(f"{folder / DESCRIBED} does not describe a model", hint="restore it from a copy") from error
    weights = _read(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != said.weights_sha256:
        raise DataError(f"{folder / WEIGHTS} is not what {DESCRIBED} describes", hint="restore it from a copy")
    try:
        state = read_weights(weights)
    except RecordError as error:
        raise DataError(f"{folder / WEIGHTS} cannot be read", hint="restore it from a copy") from error
    origin = f"run {said.run} of {said.federation}, unsigned: no release, so nothing was checked but its own SHA-256"
    task, privacy = get_task(said.task), frozenset({said.privacy})
    network = network_with(task, state)
    return Model(folder.name or said.run, task, network, digest, RUN, frozenset(said.sites), origin, privacy=privacy)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
