"""The classes of a series as a DICOM Segmentation (PS3.3 A.51), written with highdicom."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from client.deid.known import UNREADABLE
from client.enhance.derive import (
    EQUIPMENT,
    MANUFACTURER,
    SERIES_OFFSET,
    Story,
    copied,
    equipment,
    release,
)
from client.enhance.found import Image
from client.enhance.slices import UnusableError
from shared.imaging.images import CLASSES

_ANATOMICAL: Final = codes.cid7150.AnatomicalStructure
NAMES: Final[Mapping[tuple[str, str], tuple[str, Code, Code]]] = {
    (code.scheme_designator, code.value): (label, category, code)
    for label, category, code in (
        ("Cerebrospinal fluid", _ANATOMICAL, codes.cid7192.CerebrospinalFluid),
        ("Grey matter", _ANATOMICAL, codes.cid7192.GrayMatter),
        ("White matter", _ANATOMICAL, codes.cid7192.WhiteMatter),
        ("Liver", _ANATOMICAL, codes.cid7192.Liver),
        ("Neoplasm", codes.cid7150.MorphologicallyAbnormalStructure, codes.cid7194.Neoplasm),
    )
}
"""Label, category (PS3.16 CID 7150) and type (CID 7192, 7194) of a segment, by the code that :data:`CLASSES` has."""


MAXIMUM: Final = 255
"""Maximum Fractional Value (0062,000E): what stands for a probability of 1."""


def segmentation(
    sources: Sequence[Dataset],
    classes: NDArray[np.uint8] | NDArray[np.float32],
    story: Story,
    second: Sequence[Image] = (),
) -> Dataset:
    """One segment for each class, binary or, where the story is one of probabilities, fractional.

    Args:
        sources: The images of one series in slice order, or one multi-frame image; pixels are not looked at.
        classes: ``[n, rows, columns]``, the class of each pixel of each slice or frame; 0 is in no segment. Of
            probabilities ``[n, rows, columns, classes]`` in [0, 1], without that of class 0.
        story: How it was made.
        second: Images of the same study in another series, which were seen beside the sources.

    Raises:
        UnusableError: The sources do not tell where they lie, or are no one series.
    """
    first = sources[0]
    wanted = CLASSES[str(first.Modality)]
    told = f"{story.label}, {story.model.called()}"
    try:
        made: Dataset = Segmentation(
            [_in_unicode(one) for one in sources],
            classes,
            SegmentationTypeValues.FRACTIONAL if story.fractional else SegmentationTypeValues.BINARY,
            [_described(number, code, story) for code, number in sorted(wanted.items(), key=lambda item: item[1])],
            story.uid("series", str(first.SeriesInstanceUID)),
            SERIES_OFFSET + int(first.get("SeriesNumber") or 0) % 100_000,
            story.uid("instance", str(first.SOPInstanceUID)),
            1,
            MANUFACTURER,
            EQUIPMENT,
            release(),
            (story.model.manifest or story.model.digest),
            fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
            max_fractional_value=MAXIMUM,
            content_label="TISSUES",
            content_description=told[:64],
            series_description=told[:64],
            omit_empty_frames=True,
        )
    except UNREADABLE as error:
        raise UnusableError("its slices do not tell where they lie, or are not of one series") from error
    dimensions = story.uid("dimensions", str(first.SeriesInstanceUID))
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    if second:
        made.ReferencedSeriesSequence.append(_series_of(second))
    made.ContentQualification = "RESEARCH"
    made.ContributingEquipmentSequence = [*(made.get("ContributingEquipmentSequence") or []), equipment(story)]
    return made


def _series_of(images: Sequence[Image]) -> Dataset:
    """A series in the same study as an item of Referenced Series Sequence (PS3.3 C.12.2)."""
    item = Dataset()
    item.SeriesInstanceUID = images[0].series
    item.ReferencedInstanceSequence = []
    for one in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.sop_class, one.uid
        item.ReferencedInstanceSequence.append(reference)
    return item


def _described(number: int, code: tuple[str, str], story: Story) -> SegmentDescription:
    label, category, kind = NAMES[code]
    algorithm = AlgorithmIdentificationSequence(
        name=f"fedward {story.model.task.name}",
        family=codes.cid7162.ArtificialIntelligence,
        version=(story.model.manifest or story.model.digest)[:64],
        source=MANUFACTURER,
    )
    return SegmentDescription(
        number, label, category, kind, SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=algorithm
    )


def _in_unicode(source: Dataset) -> Dataset:
    """The same header in UTF-8: highdicom refuses the legal empty first value of character sets (PS3.5 6.1.2.5.3)."""
    made = copied(source)
    if "SpecificCharacterSet" in made:
        del made["SpecificCharacterSet"]
    made.SpecificCharacterSet = "ISO_IR 192"
    made.file_meta = source.file_meta
    return made
