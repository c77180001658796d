"""Classes as a DICOM Segmentation (PS3.3 A.51), written with highdicom, with the codes that the cohort reads."""

from collections.abc import Sequence

import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from client.deid.known import UNREADABLE
from client.enhance.derive import release
from client.enhance.segment import NAMES
from client.enhance.slices import UnusableError
from client.importing.content import EQUIPMENT
from shared.imaging.images import CLASSES


def written(
    images: Sequence[Dataset], classes: NDArray[np.uint8], *, modality: str, series: UID, instance: UID, dimensions: UID
) -> Dataset:
    """One binary segment for each class of the modality.

    Args:
        images: The headers of the reference series, in slice order.
        classes: ``[n, rows, columns]``; 0 is in no segment.
        modality: Whose classes.
        series: Series Instance UID of what is made.
        instance: Its SOP Instance UID.
        dimensions: Its Dimension Organization UID.

    Raises:
        UnusableError: The slices are no regular stack.
    """
    wanted = sorted(CLASSES[modality].items(), key=lambda item: item[1])
    described = [
        SegmentDescription(number, *_named(code), SegmentAlgorithmTypeValues.MANUAL) for code, number in wanted
    ]
    try:
        made: Dataset = Segmentation(
            list(images),
            classes,
            SegmentationTypeValues.BINARY,
            described,
            series,
            10,
            instance,
            1,
            "fedward",
            EQUIPMENT,
            release(),
            "import",
            content_label="IMPORTED",
            omit_empty_frames=False,  # the cohort wants every slice of the series to be spoken of
        )
    except UNREADABLE as error:
        raise UnusableError(f"its labels cannot be written as a segmentation: {error}") from error
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    made.ContentQualification = "RESEARCH"
    return made


def _named(code: tuple[str, str]) -> tuple[str, object, object]:
    label, category, kind = NAMES[code]
    return label, category, kind
