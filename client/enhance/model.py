"""The model that is applied: a release whose check holds, a personal model, or one of the public starting points."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from client.personal_models import is_personal, open_personal
from client.policy_file import DevicePlan
from client.released import checked_release, network_with
from client.training.device import device
from shared.errors import UsageError
from shared.imaging.denoise import Denoise
from shared.imaging.denoise_pair import DenoisePair
from shared.imaging.denoise_volume import DenoiseVolume, reach
from shared.imaging.public import PUBLIC, load_public, require_public
from shared.imaging.segment import Segment
from shared.imaging.segment_pair import SegmentPair
from shared.imaging.superres import SuperResolution
from shared.imaging.tasks import Task, get_task
from shared.vector import State

SHOWN: Final = 12
"""Digits of a digest that people are shown."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights, and where they come from.

    Attributes:
        name: What people call it: ``public-1``, or the run, and the version where the release has one.
        task: What it does.
        network: In evaluation mode, on the device where it runs.
        digest: SHA-256 of the file of the weights.
        manifest: SHA-256 of the release's manifest; empty for a public starting point.
        charter: SHA-256 of the charter in the release; empty for a public starting point.
        compared: Whether somebody else than the sender told us that SHA-256.
    """

    name: str
    task: Task
    network: nn.Module
    digest: str
    manifest: str = ""
    charter: str = ""
    compared: bool = False

    @property
    def factor(self) -> int:
        """Pixels of the result to one of the source, along rows and columns."""
        return self.task.factor if isinstance(self.task, SuperResolution) else 1

    @property
    def segments(self) -> bool:
        """Whether the result is a segmentation and no image."""
        return isinstance(self.task, Segment)

    @property
    def neighbours(self) -> bool:
        """Whether the result of a slice depends on other slices of its series, beyond their common scale."""
        return isinstance(self.task, DenoiseVolume)

    @property
    def pairs(self) -> bool:
        """Whether it sees two contrasts of a study."""
        return isinstance(self.task, DenoisePair | SegmentPair)

    @property
    def reach(self) -> tuple[int, int]:
        """How many slices before and after a slice its result is made of, beyond their common scale."""
        return reach(self.network) if self.neighbours else (0, 0)

    def called(self) -> str:
        """Which model it is, for headers: ASCII, at most 100 characters."""
        told = f"release {self.manifest[:SHOWN]}" if self.manifest else f"weights {self.digest[:SHOWN]}"
        return f"{self.name[:80]} ({told})".encode("ascii", "replace").decode()


def open_model(
    where: str,
    *,
    task: str | None = None,
    charter: str = "",
    quorum: int | None = None,
    plan: DevicePlan = DevicePlan(),  # noqa: B008  # it is frozen
    applied: bool = True,
) -> Model:
    """The model ``where``, checked, on the device that ``plan`` names.

    Args:
        where: The folder of a release or of a personal model, or the name of public weights; a folder of that name
            comes first.
        task: Which of the public models; a release says so itself.
        charter: SHA-256 of the charter of the release, or its first 32 digits or more, as somebody else than the sender
            told it; empty leaves that comparison to the reader.
        quorum: As in :func:`compliance.bundle_check.check_bundle`.
        plan: Where networks run.
        applied: Whether its results are to be written as DICOM; otherwise a model for any task will do.

    Raises:
        UsageError: There is no such model, it is for another task, its results cannot be written as DICOM, or the
            device is not there.
        RecordError: The release does not hold, or its weights are no weights of the task.
        DataError: The weights are those of another network, or a personal model is damaged.
    """
    found = _open(where, task, charter, quorum, plan)
    if applied:
        _require_dicom(found.task)
    return found


def _open(where: str, task: str | None, charter: str, quorum: int | None, plan: DevicePlan) -> Model:
    if is_personal(Path(where)):
        return _personal(Path(where), task, plan)
    if Path(where).exists() or where not in PUBLIC:
        return _released(Path(where), task, charter, quorum, plan)
    chosen = get_task(require_public(where, task))
    network = _network(chosen, load_public(where, chosen.name), plan)
    return Model(where, chosen, network, PUBLIC[where][chosen.name])


def _personal(folder: Path, task: str | None, plan: DevicePlan) -> Model:
    about, state = open_personal(folder)
    if task not in {None, about.task}:
        raise UsageError(f"{folder} is a model for {about.task}, not for {task}", hint="leave out --task")
    chosen = get_task(about.task)
    return Model(f"{about.site}'s own of {about.base}", chosen, _network(chosen, state, plan), about.weights_sha256)


def _released(folder: Path, task: str | None, charter: str, quorum: int | None, plan: DevicePlan) -> Model:
    if not folder.is_dir():
        raise UsageError(
            f"there is no released model {folder}", hint=f"name the folder of a release, or one of {', '.join(PUBLIC)}"
        )
    found = checked_release(folder, charter=charter, quorum=quorum)
    manifest = found.manifest
    if task not in {None, manifest.task}:
        raise UsageError(f"the release is a model for {manifest.task}, not for {task}", hint="leave out --task")
    chosen = get_task(manifest.task)
    name = f"{manifest.run} {manifest.change.version}".strip()
    network = _network(chosen, found.state, plan)
    return Model(name, chosen, network, found.digest, found.report.manifest, found.report.charter, bool(charter))


def _network(task: Task, state: State, plan: DevicePlan) -> nn.Module:
    """The network of ``task`` with all of ``state``, where it runs."""
    return network_with(task, state).to(device(plan, virtual=False))


def _require_dicom(task: Task) -> None:
    """Refuse a task whose results are not written as DICOM."""
    if not isinstance(task, Denoise | SuperResolution | Segment):
        raise UsageError(f"a model for {task.name} makes nothing that is written as DICOM", hint="use another model")
