"""The truth of a study as a DICOM Segmentation (PS3.3 A.51), written with highdicom."""

from pathlib import Path

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from simulation.sites.dicom import SECONDS_PER_SERIES, Context, encode
from simulation.sites.headers import clock, day

SERIES = 10
MINUTES_AFTER = 30 * 60

# Categories are those of CID 7150. Types: CSF, grey and white matter and liver are in CID 7192 (Anatomical Structure),
# the neoplasm is in CID 7194 (Morphologically Abnormal Structure); names as in pydicom's dictionary of PS3.16.
_ANATOMICAL = codes.cid7150.AnatomicalStructure
_ABNORMAL = codes.cid7150.MorphologicallyAbnormalStructure
SEGMENTS: dict[str, tuple[tuple[str, Code, Code], ...]] = {
    "MR": (
        ("Cerebrospinal fluid", _ANATOMICAL, codes.cid7192.CerebrospinalFluid),
        ("Grey matter", _ANATOMICAL, codes.cid7192.GrayMatter),
        ("White matter", _ANATOMICAL, codes.cid7192.WhiteMatter),
    ),
    "CT": (
        ("Liver", _ANATOMICAL, codes.cid7192.Liver),
        ("Tumour", _ABNORMAL, codes.cid7194.Neoplasm),
    ),
}
"""Per modality and in order of the label's values from 1: label, category, type."""


def _descriptions(modality: str) -> list[SegmentDescription]:
    algorithm = AlgorithmIdentificationSequence(
        name="simulated anatomy", family=codes.cid7162.MorphologicalOperations, version="1"
    )
    return [
        SegmentDescription(
            number,
            label,
            category,
            kind,
            SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (label, category, kind) in enumerate(SEGMENTS[modality], start=1)
    ]


def _in_unicode(image: Dataset) -> Dataset:
    """The same header without its character set, whose legal empty first value (PS3.5 6.1.2.5.3) highdicom refuses."""
    copy = Dataset()
    copy.update(image)
    copy.pop("SpecificCharacterSet", None)  # the elements are shared: a new one, not another value in the image's own
    copy.SpecificCharacterSet = "ISO_IR 192"
    return copy


def write_segmentation(path: Path, context: Context, images: list[Dataset], label: NDArray[np.uint8]) -> None:
    """Write ``label`` (``[n, height, width]``) as binary segments that refer to ``images``, slice by slice.

    Raises:
        OSError: The disk would not take it.
    """
    visit = context.visit
    seg = Segmentation(
        [_in_unicode(image) for image in images],
        label,
        SegmentationTypeValues.BINARY,
        _descriptions(context.site.protocol.modality),
        context.uid("series", SERIES),
        SERIES,
        context.uid("segmentation"),
        1,
        context.site.vendor,
        "Contouring workstation",
        "syn 1.0",
        "4711",
        content_label="TRUTH",
        content_description=f"Tissues of {context.person.id}",
        content_creator_name=visit.reading,
        omit_empty_frames=False,
        series_description="Segmentation",
    )
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = context.uid("dimensions")
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = context.uid("dimensions")
    seg.pop("SpecificCharacterSet")
    if context.site.charset:
        seg.SpecificCharacterSet = images[0].SpecificCharacterSet
    moment = clock(visit.start + SECONDS_PER_SERIES * 2 + MINUTES_AFTER)
    seg.InstanceCreationDate = seg.ContentDate = seg.SeriesDate = day(visit.day)
    seg.InstanceCreationTime = seg.ContentTime = seg.SeriesTime = moment
    seg.InstitutionName, seg.StationName = context.site.title, f"{context.site.id}WS1"
    for item in seg.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:  # highdicom enters the present
            item.ContributionDateTime = day(visit.day) + moment
    path.write_bytes(encode(seg, seg.StationName))
