"""What an importer reads out of the files of one patient, before it is written as DICOM."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from client.enhance.slices import UnusableError
from client.importing.grid import Grid

EQUIPMENT = "fedward data import"
LARGEST = 4 << 30
"""Bytes of a file that is read as a whole, and of what it expands to."""
LONGEST_SIDE = 4096
MOST_VOXELS = 1 << 29
"""Of a volume, 2 GB as it is worked on: LiTS goes to 512 x 512 x 1026."""


@dataclass(frozen=True, eq=False)
class Content:
    """The images of one study.

    Attributes:
        modality: ``MR`` or ``CT``.
        reference: float32 ``[n, rows, columns]``: Hounsfield units for CT, any unit that begins at 0 for MR.
        noisy: The same slices with less effort; None where the source has none, and it has to be made.
        label: Class of each pixel (:data:`shared.imaging.images.CLASSES`), or None.
        grid: Where the pixels lie.
        labels: What each label of the source became: its name or number, and the class.
        facts: Attributes of the patient and the scanner that go along, by DICOM keyword.
        notes: What was changed in the values on the way, in words.
    """

    modality: str
    reference: NDArray[np.float32]
    noisy: NDArray[np.float32] | None
    label: NDArray[np.uint8] | None
    grid: Grid
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("reference", "noisy", "label"):
            part = getattr(self, name)
            if part is not None and part.shape != self.grid.shape:
                raise UnusableError(f"the {name} images are {sized(part.shape)}, the place of {sized(self.grid.shape)}")
        for part in (self.reference, self.noisy):
            if part is not None:
                check_values(part)


class Case(Protocol):
    """The files of one patient's study, found and not read yet."""

    @property
    def patient(self) -> str:
        """The Patient ID that it will have; de-identification makes the pseudonym of it."""

    @property
    def name(self) -> str:
        """Where it is, for people: a path below the source."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is made of, each read by :func:`contained`."""

    def read(self) -> Content:
        """All of it.

        Raises:
            UnusableError: It cannot be used; the text says why in one line.
        """


def sized(shape: tuple[int, ...]) -> str:
    """``(3, 4, 5)`` as ``3 x 4 x 5``."""
    return " x ".join(map(str, shape))


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse a volume that is no volume or too large, before any of its voxels is read.

    Raises:
        UnusableError: It has not three axes, an empty one, or more pixels than are worked on at once.
    """
    if len(shape) != 3:
        raise UnusableError(f"it has {len(shape)} axes ({sized(shape)}): a series over time, or no volume")
    if min(shape) < 1:
        raise UnusableError(f"it has no voxels: {sized(shape)}")
    if max(shape) > LONGEST_SIDE or math.prod(shape) > MOST_VOXELS:
        raise UnusableError(f"{sized(shape)} are more voxels than are worked on at once")


def check_values(values: NDArray[np.float32]) -> None:
    """Refuse values that are no numbers.

    Raises:
        UnusableError: One is not finite.
    """
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise UnusableError(f"{wrong} of its values are not finite (NaN or infinite)")


def contained(path: Path, root: Path) -> Path:
    """``path`` if it is a plain file that lies below ``root``, links resolved.

    Raises:
        UnusableError: It leads out of the folder, or is no file.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnusableError("it is a link that leads out of the folder")
    if not path.is_file():
        raise UnusableError("it is no plain file")
    if path.stat().st_size > LARGEST:
        raise UnusableError(f"it is larger than {LARGEST >> 30} GiB")
    return path


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        UnusableError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnusableError(f"it cannot be read: {error.strerror}") from error
