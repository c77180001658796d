"""Segmentations: classes under their codes, where the images lie, readable by others."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from typer.testing import CliRunner

from client.cli import app
from client.cohort_scale import in_window, window
from client.enhance.model import Model
from client.enhance.slices import frames
from shared.errors import UsageError
from shared.imaging import inference
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


# --- probabilities ----------------------------------------------------------------------------------------------------


def shares_of(model: Model, sources: list[pydicom.Dataset]) -> NDArray[np.float32]:
    """What the network says of a series, ``[n, rows, columns, classes]``, without the background."""
    values = np.stack([frames(one).values[0] for one in sources])
    unit = in_window(values, window("MR", values))
    scores = inference.run(model.network, model.task.inputs(StudyImages("MR", unit, unit, None, (1.0, 1.0))))
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return np.asarray(np.moveaxis(powers / powers.sum(axis=1, keepdims=True), 1, -1)[..., 1:], np.float32)


def test_probabilities_are_those_of_the_network(
    apply: Apply, sites: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    series = series_of(sites)
    sources = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    wanted = shares_of(models["segment"], sources)
    (path,) = apply("segment", series, fractional=True).results()
    seg = highdicom.seg.segread(tmp_path / "out" / path)
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert (seg.MaximumFractionalValue, seg.BitsAllocated) == (255, 8)
    assert list(seg.segment_numbers) == [1, 2, 3]
    for number in seg.segment_numbers:
        kind = seg.get_segment_description(number).segmented_property_type
        assert CLASSES["MR"][str(kind.scheme_designator), str(kind.value)] == number
    found = seg.get_pixels_by_source_instance(
        [str(one.SOPInstanceUID) for one in sources], assert_missing_frames_are_empty=True
    )
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 0.5 / 255 + 1e-6
    assert ((found > 0.05) & (found < 0.95)).any()  # and not the classes in another form
    assert {one.ReferencedSOPInstanceUID for one in sources_of(seg)} == {str(one.SOPInstanceUID) for one in sources}


def test_classes_and_probabilities_lie_beside_each_other(apply: Apply, sites: Path, tmp_path: Path) -> None:
    series = series_of(sites)
    binary = apply("segment", series)
    both = apply("segment", series, fractional=True)
    assert both.counts["written"] == 3
    assert apply("segment", series, fractional=True).counts["there"] == 3
    found = [pydicom.dcmread(tmp_path / "out" / one.results()[0]) for one in (binary, both)]
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert found[0][name].value != found[1][name].value
    assert [one.ContentQualification for one in found] == ["RESEARCH"] * 2


def test_probabilities_of_an_enhanced_image(apply: Apply, models: dict[str, Model], tmp_path: Path) -> None:
    source = enhanced_mr()
    (path,) = apply("segment", written(source, tmp_path / "in" / "mr.dcm"), fractional=True).results()
    found = highdicom.seg.segread(tmp_path / "out" / path).get_pixels_by_source_frame(
        source.SOPInstanceUID, [1, 2, 3], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert found.shape == (3, 48, 64, 3)
    assert (found.sum(axis=-1) <= 1 + 1.5 / 255 + 1e-6).all()


def test_images_have_no_probabilities(sites: Path, tmp_path: Path) -> None:
    words = ["public-1", str(series_of(sites)), str(tmp_path / "out"), "--task", "denoise", "--fractional"]
    done = CliRunner().invoke(app, ["enhance", *words])
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_tell_where_they_lie_fail(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_mr()
    del source.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    (record,) = apply("segment", written(source, tmp_path / "in" / "mr.dcm")).records
    assert (record.status, "where they lie" in record.reason) == ("failed", True)
