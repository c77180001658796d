"""What an Enhanced MR or CT image tells frame by frame (PS3.3 C.7.6.16), of one that was derived."""

from collections.abc import Collection

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.enhance.derive import Story, coded, copied, refine, source_reference
from client.enhance.slices import UnusableError, frame_count, group_of

_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")
# The MR Pulse Sequence module, which is there in original images alone (A.36.2, C.8.13.4).
_PULSES = (
    *("PulseSequenceName", "MRAcquisitionType", "EchoPulseSequence", "MultipleSpinEcho", "MultiPlanarExcitation"),
    *("PhaseContrast", "VelocityEncodingAcquisitionSequence", "TimeOfFlightContrast", "ArterialSpinLabelingContrast"),
    *("SteadyStatePulseSequence", "EchoPlanarPulseSequence", "SaturationRecovery", "SpectrallySelectedSuppression"),
    *("OversamplingPhase", "GeometryOfKSpaceTraversal", "RectilinearPhaseEncodeReordering"),
    *("SegmentedKSpaceTraversal", "CoverageOfKSpace", "NumberOfKSpaceTrajectories"),
)
# Derived Pixel Contrast, fourth value of Image Type and Frame Type (C.8.16.1.4): common terms have RESAMPLED, and of
# those special to a modality FILTERED comes nearest. The terms are defined ones, so others may be used.
_FILTERED, _RESAMPLED = "FILTERED", "RESAMPLED"


def derive_frames(
    made: Dataset, source: Dataset, story: Story, *, seen: Collection[list[int]], factor: int = 1
) -> None:
    """Change the functional groups of ``made``, a copy of ``source``: frame type, derivation, and place where finer.

    Args:
        made: Changed.
        source: What it was made of.
        story: How it was made.
        seen: For each frame of ``made`` the frames of ``source``, counted from 1, that it was made of.
        factor: Pixels of the result to one of the source.

    Raises:
        UnusableError: The place or spacing of a frame is not told, and has to change.
    """
    kind = _kind(made.ImageType, factor)
    made.ImageType = kind
    groups = made.get("PerFrameFunctionalGroupsSequence") or []
    shared = made.get("SharedFunctionalGroupsSequence") or []
    if len(groups) != frame_count(source):
        raise UnusableError("it does not describe each of its frames")
    for group in (*shared, *groups):
        for name in _FRAME_TYPES:
            for item in group.get(name) or []:
                item.FrameType = _kind(item.get("FrameType") or kind, factor)
        if "DerivationImageSequence" in group:  # what was done before is told in the source itself
            del group["DerivationImageSequence"]
    for numbers, group in zip(seen, groups, strict=True):
        item = Dataset()
        item.DerivationDescription, item.DerivationCodeSequence = story.told, Sequence([coded(story.code)])
        item.SourceImageSequence = Sequence([source_reference(source.SOPClassUID, source.SOPInstanceUID, numbers)])
        group.DerivationImageSequence = Sequence([item])
    if factor > 1:
        _refine(made, source, factor)
    for name in _PULSES:
        if name in made:
            del made[name]
    made.SourceImageEvidenceSequence = Sequence([_evidence(source)])
    # Both stand in the macro, frame by frame, and in no module of these objects.
    del made.DerivationDescription, made.DerivationCodeSequence


def _evidence(source: Dataset) -> Dataset:
    """Where the source is found (PS3.3 table 10-3b, Hierarchical SOP Instance Reference)."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = source.SeriesInstanceUID, Sequence([instance])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = source.StudyInstanceUID, Sequence([series])
    return study


def _kind(values: list[str], factor: int) -> list[str]:
    """Image Type or Frame Type: derived; these objects know PRIMARY alone as second value, and four values."""
    flavour = [str(one) for one in values][2:3] or ["OTHER"]
    return ["DERIVED", "PRIMARY", *flavour, _RESAMPLED if factor > 1 else _FILTERED]


def _refine(made: Dataset, source: Dataset, factor: int) -> None:
    """Place and spacing of every frame, wherever they are told."""
    for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        place, measures, turned = (
            group_of(source, index, macro)
            for macro in ("PlanePositionSequence", "PixelMeasuresSequence", "PlaneOrientationSequence")
        )
        if place is None or measures is None or turned is None:
            raise UnusableError("it does not tell where its pixels lie")
        new_place, new_measures = copied(place), copied(measures)
        refine(new_place, new_measures, turned.ImageOrientationPatient, factor)
        group.PlanePositionSequence = Sequence([new_place])
        group.PixelMeasuresSequence = Sequence([new_measures])
    for group in made.SharedFunctionalGroupsSequence or []:
        for macro in ("PlanePositionSequence", "PixelMeasuresSequence"):
            if macro in group:
                del group[macro]
