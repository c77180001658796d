"""Segmentations: classes under their codes, where the images lie, readable by others."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom

from client.cohort import in_window, window
from client.enhance.model import Model
from client.enhance.slices import frames
from shared.imaging.images import CLASSES, StudyImages
from tests.client.enhance.conftest import Apply
from tests.client.enhance.enhanced import enhanced_mr, written


def series_of(sites: Path) -> Path:
    return min((sites / "H2").rglob("*.dcm")).parent


def test_each_class_is_a_segment_under_its_code(
    apply: Apply, sites: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    series = series_of(sites)
    sources = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    values = np.stack([frames(one).values[0] for one in sources])
    unit = in_window(values, window("MR", values))
    wanted = models["segment"].task.predict(models["segment"].network, StudyImages("MR", unit, unit, None, (1.0, 1.0)))
    done = apply("segment", series)
    (path,) = done.results()
    assert done.counts["written"] == len(sources)
    seg = highdicom.seg.segread(tmp_path / "out" / path)
    assert {one.ReferencedSOPInstanceUID for one in sources_of(seg)} == {str(one.SOPInstanceUID) for one in sources}
    for number in seg.segment_numbers:
        described = seg.get_segment_description(number)
        kind = described.segmented_property_type
        assert CLASSES["MR"][str(kind.scheme_designator), str(kind.value)] == number
        assert described.algorithm_identification.name == "fedward segment"
    found = seg.get_pixels_by_source_instance(
        [str(one.SOPInstanceUID) for one in sources], combine_segments=True, relabel=False
    )
    assert np.array_equal(found, wanted)
    assert set(np.unique(found)) == {0, 1, 2, 3}


def sources_of(seg: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [one for item in seg.ReferencedSeriesSequence for one in item.ReferencedInstanceSequence]


def test_it_lies_where_its_images_lie_and_belongs_to_their_patient(apply: Apply, sites: Path, tmp_path: Path) -> None:
    series = series_of(sites)
    sources = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    (path,) = apply("segment", series).results()
    seg = pydicom.dcmread(tmp_path / "out" / path)
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == sources[0][name].value
    assert str(seg.PatientName) == str(sources[0].PatientName)
    assert (seg.Modality, seg.SegmentationType, seg.ContentQualification) == ("SEG", "BINARY", "RESEARCH")
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == sources[0].PixelSpacing
    places = {tuple(one.PlanePositionSequence[0].ImagePositionPatient) for one in seg.PerFrameFunctionalGroupsSequence}
    assert places == {tuple(one.ImagePositionPatient) for one in sources}


def test_frames_of_an_enhanced_image(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_mr()
    (path,) = apply("segment", written(source, tmp_path / "in" / "mr.dcm")).results()
    seg = highdicom.seg.segread(tmp_path / "out" / path)
    found = seg.get_pixels_by_source_frame(
        source.SOPInstanceUID, [1, 2, 3], combine_segments=True, ignore_spatial_locations=True
    )
    assert found.shape == (3, 48, 64)


def test_images_that_do_not_tell_where_they_lie_fail(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_mr()
    del source.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    (record,) = apply("segment", written(source, tmp_path / "in" / "mr.dcm")).records
    assert (record.status, "where they lie" in record.reason) == ("failed", True)
