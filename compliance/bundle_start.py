"""The release that a charter starts from, as a party holds it: found by the SHA-256 of its manifest, and checked.

Hospitals and the coordinator both build the first model from it, so both use this: what one of them accepts the other
does. The charter fixes the manifest, and the manifest every file.
"""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from compliance.bundle_check import check_bundle
from compliance.bundle_form import MANIFEST, WEIGHTS, read_manifest
from compliance.bundle_model import read_weights
from shared.charter_plans import TaskPlan
from shared.errors import CharterError, RecordError
from shared.vector import State

RELEASES: Final = "releases"
"""The folder of held releases, in a node's folder and in the coordinator's; each is a folder of any name in it."""


class Held(NamedTuple):
    """A release that somebody holds and that was checked: its weights, and the run and the task that they come from."""

    weights: State
    run: str
    task: str


def start_weights(plan: TaskPlan, holder: Path) -> State | None:
    """The weights of :func:`start_release`; None where the plan starts from no release."""
    found = start_release(plan, holder)
    return found.weights if found else None


def start_release(plan: TaskPlan, holder: Path) -> Held | None:
    """The release that ``plan`` starts from; None where it starts from none.

    Args:
        plan: The task's plan.
        holder: The folder of the node, or of the coordinator.

    Raises:
        CharterError: The release is not there.
        RecordError: It is there and does not hold.
    """
    if plan.release is None:
        return None
    folder = _found(holder / RELEASES, plan.release)
    # No quorum: whoever agreed on the charter chose this very manifest.
    report = check_bundle(folder, quorum=0)
    if report.failed:
        first = report.failed[0]
        raise RecordError(
            f"the release {folder} that {plan.name} starts from does not hold: {first.what}: {first.detail}",
            hint="copy it anew; 'fedward model verify' shows every check",
        )
    described, raw = _bytes(folder / MANIFEST), _bytes(folder / WEIGHTS)
    manifest = read_manifest(described)
    expected = manifest.files[WEIGHTS].sha256
    # What was checked is what is used: the files were read a second time.
    if (_sha256(described), _sha256(raw)) != (plan.release, expected):
        raise RecordError(
            f"the release {folder} changed while it was checked", hint="copy it anew, to a place of yours"
        )
    return Held(read_weights(raw), manifest.run, manifest.task)


def _found(folder: Path, wanted: str) -> Path:
    """The folder of the release whose manifest has this SHA-256."""
    for one in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (one / MANIFEST).is_file() and _sha256(_bytes(one / MANIFEST)) == wanted:
            return one
    raise CharterError(
        f"the charter starts from the release {wanted[:16]}..., which is not in {folder}",
        hint=f"copy its folder there; the SHA-256 of its {MANIFEST} is {wanted}",
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}", hint="copy the release anew") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
