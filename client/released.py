"""A release as this hospital applies it: checked first, and what was checked is what is loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from compliance.bundle_check import check_bundle
from compliance.bundle_form import MANIFEST, WEIGHTS, ManifestForm, read_manifest
from compliance.bundle_model import read_weights
from compliance.bundle_report import Report
from shared.console import plural
from shared.errors import DataError, RecordError
from shared.imaging.tasks import Task
from shared.vector import State
from shared.weights import load_weights, weights_of


@dataclass(frozen=True, eq=False)
class Release:
    """A release that holds.

    Attributes:
        report: What was checked.
        manifest: What it says of itself.
        state: Its weights, by name.
        digest: SHA-256 of the file of the weights.
    """

    report: Report
    manifest: ManifestForm
    state: State
    digest: str


def checked_release(folder: Path, *, charter: str, quorum: int | None) -> Release:
    """The release in ``folder``.

    Args:
        folder: Must be there.
        charter: SHA-256 of its charter, or its first 32 digits or more, as somebody else than the sender told it; empty
            leaves that comparison to the reader.
        quorum: As in :func:`compliance.bundle_check.check_bundle`.

    Raises:
        RecordError: It does not hold, or changed while it was checked.
    """
    report = check_bundle(folder, charter=charter, quorum=quorum)
    if report.failed:
        first = report.failed[0]
        raise RecordError(
            f"{plural(len(report.failed), 'check')} of the release {folder} failed; the first: {first.what}: "
            f"{first.detail}",
            hint="do not use this model; 'fedward model verify' shows every check",
        )
    try:
        described, raw = (folder / MANIFEST).read_bytes(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise RecordError(f"the release {folder} cannot be read any more", hint="copy it anew") from error
    # What was checked is what is used: the files are read a second time here.
    changed = RecordError(
        f"the release {folder} changed while it was checked", hint="copy it anew, to a place of yours"
    )
    if hashlib.sha256(described).hexdigest() != report.manifest:
        raise changed
    manifest, digest = read_manifest(described), hashlib.sha256(raw).hexdigest()
    if digest != manifest.files[WEIGHTS].sha256:
        raise changed
    return Release(report, manifest, read_weights(raw), digest)


def network_with(task: Task, state: State) -> nn.Module:
    """That network of ``task`` whose parameters have the names and shapes of ``state``, with it, in evaluation mode.

    Raises:
        DataError: The weights are those of no network of the task, or are no finite numbers.
    """
    if not all(np.isfinite(array).all() for array in state.values()):  # images of it would come out black
        raise DataError(
            f"the weights for {task.name} are not finite (NaN or infinite)",
            hint="their training went wrong: take another model, and tell whoever gave you this one",
        )
    found = {name: (array.shape, array.dtype) for name, array in state.items()}
    for one in task.networks or [None]:
        network = task.network(0, one)
        if found == {name: (array.shape, array.dtype) for name, array in weights_of(network).items()}:
            load_weights(network, state)
            return network.eval()
    raise DataError(
        f"the weights are not those of a network for {task.name}",
        hint="they may be of another version of fedward; what lies beside them says which",
    )
