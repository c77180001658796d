"""Derived images: the intensities, the place and the header of what a model makes of real and synthetic files."""

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from client.cohort_scale import CT_WINDOW, scaled
from client.enhance.derive import refine
from client.enhance.model import Model
from client.enhance.slices import frames
from shared.imaging.images import StudyImages
from tests.client.enhance.conftest import Apply
from tests.client.enhance.enhanced import SPACING, enhanced_ct, enhanced_mr, written


def example(name: str) -> Path:
    return Path(str(get_testdata_file(name)))


def one(apply: Apply, task: str, source: Path, tmp_path: Path) -> Dataset:
    """The only result."""
    (path,) = apply(task, source).results()
    return pydicom.dcmread(tmp_path / "out" / path)


def corners(ds: Dataset) -> NDArray[np.float64]:
    """Where the outer corners of a slice lie, mm."""
    along_row, along_column = np.asarray(ds.ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = (float(one) for one in ds.PixelSpacing)
    first = np.asarray(ds.ImagePositionPatient, float) - (along_row * columns + along_column * rows) / 2
    ends = [(x, y) for x in (0, ds.Columns) for y in (0, ds.Rows)]
    return np.array([first + x * columns * along_row + y * rows * along_column for x, y in ends])


def complaints(path: Path) -> set[str]:
    """What dciodvfy calls an error."""
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


# --- intensities ------------------------------------------------------------------------------------------------------


def test_mr_goes_into_the_network_as_in_training_and_comes_back_on_its_own_scale(
    apply: Apply, sites: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    series = sorted((sites / "H2").rglob("*.dcm"))[0].parent
    sources = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    values = np.stack([frames(one).values[0] for one in sources])
    unit, _ = scaled("MR", values, values)
    high = max(np.percentile(values, 99.5), 1e-6)
    task = models["denoise"].task
    wanted = task.predict(models["denoise"].network, StudyImages("MR", unit, unit, None, (1.0, 1.0)))
    apply("denoise", series)
    made = {str(one.InstanceNumber): one for one in map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm"))}
    assert len(made) == 3
    for index, source in enumerate(sources):
        found = made[str(source.InstanceNumber)].pixel_array
        seen = values[index] <= high
        assert np.abs(found - wanted[index] * high)[seen].max() <= 0.51
        assert np.array_equal(found[~seen], source.pixel_array[~seen])
        assert not np.array_equal(found, source.pixel_array)


def test_ct_stays_in_hounsfield_units_and_keeps_what_the_network_cannot_see(apply: Apply, tmp_path: Path) -> None:
    source = pydicom.dcmread(example("CT_small.dcm"))
    made = one(apply, "denoise", example("CT_small.dcm"), tmp_path)
    assert (made.RescaleSlope, made.RescaleIntercept) == (source.RescaleSlope, source.RescaleIntercept)
    before, after = frames(source).values, frames(made).values
    outside = (before < CT_WINDOW[0]) | (before > CT_WINDOW[1])
    assert 0 < outside.mean() < 1
    assert np.array_equal(before[outside], after[outside])
    assert after[~outside].min() >= CT_WINDOW[0] - 1
    assert after[~outside].max() <= CT_WINDOW[1] + 1
    assert after[~outside].std() < before[~outside].std()


@pytest.mark.parametrize("task", ["denoise", "superres"])
def test_padding_stays_padding(apply: Apply, tmp_path: Path, task: str) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    source["PixelPaddingValue"] = pydicom.DataElement("PixelPaddingValue", "SS", -2000)
    pixels = source.pixel_array.copy()
    pixels[:5, 10:] = -2000
    source.PixelData = pixels.tobytes()
    source.save_as(tmp_path / "padded.dcm")
    made = one(apply, task, tmp_path / "padded.dcm", tmp_path)
    factor = 2 if task == "superres" else 1
    assert np.array_equal(made.pixel_array == -2000, (pixels == -2000).repeat(factor, 0).repeat(factor, 1))


def test_padding_that_was_written_without_its_sign_is_padding(tmp_path: Path) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    source["PixelPaddingValue"] = pydicom.DataElement("PixelPaddingValue", "US", 65536 - 2000)
    pixels = source.pixel_array.copy()
    pixels[7] = -2000
    source.PixelData = pixels.tobytes()
    found = frames(source)
    assert found.filler == -2000
    assert np.array_equal(found.padding[0], pixels == -2000)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_source_gives_the_same_result(apply: Apply, tmp_path: Path, syntax: str) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    plain = one(apply, "denoise", example("MR_small.dcm"), tmp_path).pixel_array
    name = {RLELossless: "MR_small_RLE.dcm", JPEG2000Lossless: "MR_small_jp2klossless.dcm"}[syntax]
    packed = pydicom.dcmread(example(name))
    assert packed.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(source.pixel_array, packed.pixel_array)
    found = apply("denoise", example(name), tmp_path / "other")
    (path,) = found.results()
    assert np.array_equal(pydicom.dcmread(tmp_path / "other" / path).pixel_array, plain)


def test_what_was_compressed_with_loss_says_so(apply: Apply, tmp_path: Path) -> None:
    made = one(apply, "denoise", example("693_J2KI.dcm"), tmp_path)
    assert made.LossyImageCompression == "01"


# --- place ------------------------------------------------------------------------------------------------------------


def test_the_corners_of_a_finer_image_lie_where_they_lay(apply: Apply, tmp_path: Path) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    source.PixelSpacing = [0.4, 0.7]
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    source.ImageOrientationPatient = [round(float(one), 8) for one in turned[:2].ravel()]
    source.save_as(tmp_path / "turned.dcm")
    made = one(apply, "superres", tmp_path / "turned.dcm", tmp_path)
    assert (made.Rows, made.Columns) == (2 * source.Rows, 2 * source.Columns)
    assert [float(one) for one in made.PixelSpacing] == [0.2, 0.35]
    assert np.allclose(corners(made), corners(source), atol=1e-6)


def test_a_finer_image_shows_the_same_where_it_lies(apply: Apply, tmp_path: Path) -> None:
    """A spot keeps its place in millimetres: the shift of half a fine pixel is the network's as well."""
    y, x = np.mgrid[0:64, 0:64]
    spot = (100 + 900 * np.exp(-((y - 20) ** 2 + (x - 43) ** 2) / 40)).astype(np.int16)
    source = pydicom.dcmread(example("MR_small.dcm"))
    source.PixelData = spot.tobytes()
    source.save_as(tmp_path / "spot.dcm")
    made = one(apply, "superres", tmp_path / "spot.dcm", tmp_path)

    def centre(ds: Dataset) -> NDArray[np.float64]:
        weights = np.clip(ds.pixel_array.astype(float) - 150, 0, None)
        rows, columns = np.indices(weights.shape)
        at = np.array([(weights * one).sum() for one in (columns, rows)]) / weights.sum()
        along = np.asarray(ds.ImageOrientationPatient, float).reshape(2, 3)
        steps = at * np.asarray([ds.PixelSpacing[1], ds.PixelSpacing[0]], float)
        return np.asarray(ds.ImagePositionPatient, float) + steps @ along

    assert np.linalg.norm(centre(made) - centre(source)) < 0.1 * float(source.PixelSpacing[0])


def test_three_times_as_fine_has_the_same_outline() -> None:
    ds = Dataset()
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.Rows, ds.Columns = [3, 6], 4, 5
    before = corners(ds)
    refine(ds, ds, ds.ImageOrientationPatient, 3)
    ds.Rows, ds.Columns = 12, 15
    assert np.allclose(corners(ds), before)


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_derived_image_is_the_same_patients_and_says_how_it_was_made(
    apply: Apply, models: dict[str, Model], tmp_path: Path
) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    made = one(apply, "denoise", example("MR_small.dcm"), tmp_path)
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "SOPClassUID"):
        assert made[name] == source[name]
    assert made.SOPInstanceUID != source.SOPInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert str(made.SOPInstanceUID).startswith("2.25.")
    assert made.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert (made.ContentQualification, made.SeriesDescription.isascii()) == ("RESEARCH", True)
    assert "denoised" in made.SeriesDescription
    assert models["denoise"].digest in made.DerivationDescription
    assert (made.DerivationCodeSequence[-1].CodeValue, made.DerivationCodeSequence[-1].CodingSchemeDesignator) == (
        "113087",
        "DCM",
    )
    reference = made.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    tool = made.ContributingEquipmentSequence[-1]
    assert (tool.PurposeOfReferenceCodeSequence[0].CodeValue, tool.Manufacturer) == ("109102", "fedward")
    assert tool.DeviceSerialNumber == models["denoise"].digest
    assert not {"SmallestImagePixelValue", "LargestImagePixelValue"} & set(made.dir())


def test_private_elements_stay_behind(apply: Apply, tmp_path: Path) -> None:
    assert any(element.tag.is_private for element in pydicom.dcmread(example("CT_small.dcm")).iterall())
    made = one(apply, "denoise", example("CT_small.dcm"), tmp_path)
    assert not any(element.tag.is_private for element in made.iterall())


def test_a_second_step_keeps_the_first(apply: Apply, tmp_path: Path) -> None:
    one(apply, "denoise", example("MR_small.dcm"), tmp_path)
    again = apply("superres", tmp_path / "out", tmp_path / "finer")
    made = pydicom.dcmread(tmp_path / "finer" / again.results()[0])
    assert [item.CodeValue for item in made.DerivationCodeSequence] == ["113087", "113085"]
    assert "denoised" in made.DerivationDescription
    assert "super-resolved" in made.DerivationDescription


def test_names_in_other_scripts_stay_as_they_are(apply: Apply, tmp_path: Path) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    source.SpecificCharacterSet, source.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
    source.SeriesDescription = "頭部"
    source.save_as(tmp_path / "japan.dcm")
    made = one(apply, "denoise", tmp_path / "japan.dcm", tmp_path)
    assert made.PatientName == "Yamada^Tarou=山田^太郎"
    assert made.SeriesDescription.startswith("頭部 | denoised")


def test_a_name_that_its_character_set_does_not_have_is_not_changed_but_refused(apply: Apply, tmp_path: Path) -> None:
    source = pydicom.dcmread(example("MR_small.dcm"))
    source.SpecificCharacterSet = "ISO_IR 192"
    source.PatientName = "Mueller^Eva"
    source.save_as(tmp_path / "x.dcm")
    raw = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(raw.replace(b"Mueller", b"M\xfcller "))
    (record,) = apply("denoise", tmp_path / "x.dcm").records
    assert (record.status, "character set" in record.reason, "ller" in record.reason) == ("failed", True, False)


def test_a_big_endian_overlay_survives(apply: Apply, tmp_path: Path) -> None:
    source = pydicom.dcmread(example("MR_small_bigendian.dcm"))
    shown = np.zeros((64, 64), np.uint8)
    shown[3:9, 20:40] = 1
    packed = np.packbits(shown.ravel(), bitorder="little")
    source.add_new(0x60000010, "US", 64)
    source.add_new(0x60000011, "US", 64)
    source.add_new(0x60000040, "CS", "G")
    source.add_new(0x60000050, "SS", [1, 1])
    source.add_new(0x60000100, "US", 1)
    source.add_new(0x60000102, "US", 0)
    source.add_new(0x60003000, "OW", packed.view("<u2").astype(">u2").tobytes())
    source.save_as(tmp_path / "big.dcm")
    made = one(apply, "denoise", tmp_path / "big.dcm", tmp_path)
    assert np.array_equal(made.overlay_array(0x6000), shown)
    finer = apply("superres", tmp_path / "big.dcm", tmp_path / "finer")
    assert 0x60003000 not in pydicom.dcmread(tmp_path / "finer" / finer.results()[0])


# --- multi-frame ------------------------------------------------------------------------------------------------------


def test_enhanced_stays_enhanced_and_tells_each_frame_where_it_comes_from(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_mr()
    made = one(apply, "denoise", written(source, tmp_path / "in" / "mr.dcm"), tmp_path)
    assert (made.SOPClassUID, made.NumberOfFrames) == (source.SOPClassUID, 3)
    assert made.ImageType[0] == "DERIVED"
    assert made.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence, start=1):
        (step,) = group.DerivationImageSequence
        (reference,) = step.SourceImageSequence
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == (source.SOPInstanceUID, number)
    assert not np.array_equal(made.pixel_array, source.pixel_array)
    assert made.pixel_array.shape == source.pixel_array.shape


def test_every_frame_of_a_finer_enhanced_image_keeps_its_corners(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_mr()
    made = one(apply, "superres", written(source, tmp_path / "in" / "mr.dcm"), tmp_path)
    assert made.pixel_array.shape == (3, 96, 128)
    for index in range(3):
        shown = []
        for ds in (source, made):
            flat = Dataset()
            shared, own = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[index]
            measures = own.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence
            flat.PixelSpacing, flat.Rows, flat.Columns = measures[0].PixelSpacing, ds.Rows, ds.Columns
            flat.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
            flat.ImagePositionPatient = own.PlanePositionSequence[0].ImagePositionPatient
            shown.append(flat)
        assert np.allclose(corners(shown[0]), corners(shown[1]))
        assert [float(one) for one in shown[1].PixelSpacing] == [one / 2 for one in SPACING]


def test_enhanced_ct_uses_the_rescale_of_its_frames(apply: Apply, tmp_path: Path) -> None:
    source = enhanced_ct()
    path = written(source, tmp_path / "in" / "ct.dcm")
    made = one(apply, "denoise", path, tmp_path)
    before, after = frames(pydicom.dcmread(path)).values, frames(made).values
    inside = (before >= CT_WINDOW[0]) & (before <= CT_WINDOW[1])
    assert np.isclose(before.min(), source.pixel_array.min() * 0.5 - 1000)
    assert np.array_equal(before[~inside], after[~inside])
    assert after[inside].std() < before[inside].std()


# --- another's judgement ----------------------------------------------------------------------------------------------


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize(
    ("name", "task"),
    [
        *((name, "denoise") for name in ("CT_small.dcm", "693_J2KI.dcm", "ct")),
        *(
            (name, task)
            for name in ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "mr")
            for task in ("denoise", "superres", "segment")
        ),
    ],
)
def test_dciodvfy_has_nothing_new_to_complain_of(apply: Apply, tmp_path: Path, name: str, task: str) -> None:
    made = {"mr": enhanced_mr, "ct": enhanced_ct}.get(name)
    source = written(made(), tmp_path / "in" / f"{name}.dcm") if made else example(name)
    (path,) = apply(task, source).results()
    assert complaints(tmp_path / "out" / path) <= complaints(source)


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize(
    ("task", "site"), [("denoise", "H2"), ("superres", "H2"), ("segment", "H2"), ("denoise", "H7")]
)
def test_dciodvfy_has_nothing_to_complain_of_a_hospitals_studies(
    apply: Apply, sites: Path, tmp_path: Path, task: str, site: str
) -> None:
    results = apply(task, sites / site).results()
    assert results
    for path in results:
        assert not complaints(tmp_path / "out" / path)


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("name", ["MR_small.dcm", "mr", "H2"])
def test_dciodvfy_has_nothing_to_complain_of_probabilities(
    apply: Apply, sites: Path, tmp_path: Path, name: str
) -> None:
    if name == "mr":
        source = written(enhanced_mr(), tmp_path / "in" / "mr.dcm")
    else:
        source = sites / "H2" if name == "H2" else example(name)
    results = apply("segment", source, fractional=True).results()
    assert results
    for path in results:
        assert pydicom.dcmread(tmp_path / "out" / path).SegmentationType == "FRACTIONAL"
        assert complaints(tmp_path / "out" / path) <= (complaints(source) if source.is_file() else set())
