"""What a task is given: one patient's images as arrays, without any header."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final[Mapping[str, Mapping[tuple[str, str], int]]] = {
    "MR": {("SCT", "65216001"): 1, ("SCT", "389081007"): 2, ("SCT", "389080008"): 3},
    "CT": {("SCT", "10200004"): 1, ("SCT", "108369006"): 2},
}
"""Class of a segment by modality and coded type (scheme, code): MR cerebrospinal fluid, grey and white matter; CT liver
and neoplasm (PS3.16 CID 7192 and 7194). Hospitals number their segments as they like; codes are what they share."""


@dataclass(frozen=True, eq=False)
class StudyImages:
    """The slices of one study, in order. Studies are compared by identity, so that they can be keys of a cache.

    Attributes:
        modality: ``MR`` or ``CT`` (DICOM Modality, C.7.3.1.1.1).
        noisy: The fast or low-dose series, float32 ``[n, height, width]`` in [0, 1].
        reference: The high-quality series of the same slices, same shape and scale; or ``[0, height, width]``, no
            slice at all, where only one series was acquired.
        label: Class of each pixel, uint8 ``[n, height, width]``, 0 is background; None where nobody segmented it.
        spacing: Distance of pixel centres between rows and between columns, mm.
        second: Another contrast of the patient at the same visit, registered onto the pixels of ``noisy``, float32
            ``[n, height, width]`` in [0, 1]; None where there is none.
    """

    modality: str
    noisy: NDArray[np.float32]
    reference: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    spacing: tuple[float, float]
    second: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        reference = self.reference.shape if self.paired else (len(self.noisy), *self.reference.shape[1:])
        others = [one.shape for one in (self.label, self.second) if one is not None]
        shapes = {self.noisy.shape, reference, *others}
        if len(shapes) != 1 or self.noisy.ndim != 3:
            raise ValueError(f"the series of one study must be [n, height, width] alike, not {sorted(shapes)}")

    def __len__(self) -> int:
        return len(self.noisy)

    @property
    def paired(self) -> bool:
        """Whether there is a reference."""
        return len(self.reference) > 0


@dataclass(frozen=True)
class PatientImages:
    """All studies of one patient; the unit of the split, of sampling and of the privacy guarantee.

    Attributes:
        key: The patient's pseudonym at this site.
        studies: At least one study.
    """

    key: str
    studies: tuple[StudyImages, ...]

    @property
    def slices(self) -> int:
        """The number of slices in all studies."""
        return sum(len(study) for study in self.studies)
