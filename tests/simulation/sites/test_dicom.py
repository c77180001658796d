"""The files: what belongs together, what the pixels mean, and what a validator says."""

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from simulation.sites.dicom import REFERENCE, Context, write_series
from simulation.sites.headers import draw_person, draw_visits
from simulation.sites.segmentation import SEGMENTS, write_segmentation
from simulation.sites.specs import SITES, UNSEEN, SiteSpec
from simulation.sites.synthesize import Synthesized
from tests.simulation.sites import test_ct, test_mri

DICTIONARY: dict[str, dict[str, tuple[str, list[int]]]] = concepts["SCT"]  # type: ignore[assignment]


def studies(hospitals: Synthesized) -> list[Path]:
    return sorted(path.parent for path in hospitals.out.rglob("seg.dcm"))


def read(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def test_both_series_of_a_study_show_the_same_slices(hospitals: Synthesized) -> None:
    for study in studies(hospitals):
        fast, reference = read(study / "001"), read(study / "002")
        assert len(fast) == len(reference) == 3
        for a, b in zip(fast, reference, strict=True):
            assert a.StudyInstanceUID == b.StudyInstanceUID
            assert a.FrameOfReferenceUID == b.FrameOfReferenceUID
            assert a.ImagePositionPatient == b.ImagePositionPatient
            assert a.SeriesInstanceUID != b.SeriesInstanceUID
            if a.Modality == "MR":
                assert a.NumberOfAverages == 1 < b.NumberOfAverages
            else:
                assert a.Exposure < b.Exposure
                assert a.XRayTubeCurrent < b.XRayTubeCurrent
                assert a.Exposure == pytest.approx(a.XRayTubeCurrent * a.ExposureTime / 1000, abs=0.51)


def test_every_instance_has_its_own_identifier(hospitals: Synthesized) -> None:
    uids = [
        pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for path in hospitals.out.rglob("*.dcm")
    ]
    assert len(set(uids)) == len(uids) == hospitals.files


def test_sites_differ_in_scanner_contrast_noise_and_resolution(hospitals: Synthesized) -> None:
    firsts = [read(next((hospitals.out / site.id).rglob("001")))[0] for site in SITES + UNSEEN]
    assert len({(ds.Manufacturer, ds.ManufacturerModelName) for ds in firsts}) == 10
    assert len({(ds.Rows, float(ds.PixelSpacing[0])) for ds in firsts}) >= 7
    assert {ds.Modality for ds in firsts} == {"MR", "CT"}


def seg_label(ds: Dataset, slices: list[Dataset]) -> np.ndarray:
    """The label that a DICOM SEG describes, put together by its references alone."""
    order = {image.SOPInstanceUID: index for index, image in enumerate(slices)}
    label = np.zeros((len(slices), ds.Rows, ds.Columns), np.uint8)
    for frame, group in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        label[order[source]][frame > 0] = segment
    return label


@pytest.mark.parametrize("site", [SITES[0], SITES[5], SITES[6], SITES[7]], ids=lambda site: site.id)
def test_pixels_and_labels_come_back_as_they_went(site: SiteSpec, tmp_path: Path) -> None:
    acquired = test_mri.scan(site) if site.protocol.modality == "MR" else test_ct.scan(site, person=1)
    rng = np.random.default_rng(0)
    context = Context(site, draw_person(rng, site, 0), draw_visits(rng, 0)[0], seed=1, patient=0, current=20)
    headers, count = write_series(tmp_path / "002", context, acquired, REFERENCE)
    write_segmentation(tmp_path / "seg.dcm", context, headers, acquired.label)
    images = read(tmp_path / "002")
    assert count == len(images) == len(acquired.reference)
    for image, picture, height in zip(images, acquired.reference, acquired.heights, strict=True):
        values = image.pixel_array * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
        assert (values == picture).all()
        assert image.ImagePositionPatient[2] == pytest.approx(height)
        assert image.PixelSpacing[0] == pytest.approx(acquired.spacing, abs=1e-6)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (seg_label(segmentation, images) == acquired.label).all()
    assert segmentation.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    series = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert series == images[0].SeriesInstanceUID


@pytest.mark.parametrize(("modality", "segments"), SEGMENTS.items())
def test_segment_codes_are_in_the_standards_dictionary(
    modality: str, segments: tuple[tuple[str, Code, Code], ...]
) -> None:
    expected = {
        "MR": {"Cerebrospinal Fluid", "Gray Matter", "White Matter"},
        "CT": {"Liver", "Neoplasm"},
    }
    assert {kind.meaning for _, _, kind in segments} == expected[modality]
    for _, category, kind in segments:
        for code, groups in ((category, {7150}), (kind, {7192, 7194})):
            assert code.scheme_designator == "SCT"
            meanings = {
                DICTIONARY[keyword][code.value][0] for keyword in in_groups(groups) if code.value in DICTIONARY[keyword]
            }
            assert code.meaning in meanings


def in_groups(groups: set[int]) -> set[str]:
    return {keyword for group in groups for keyword in cid_concepts[group]["SCT"]}


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("site", SITES + UNSEEN, ids=lambda site: site.id)
def test_dciodvfy_finds_no_error(site: SiteSpec, hospitals: Synthesized) -> None:
    study = next(path for path in studies(hospitals) if path.relative_to(hospitals.out).parts[0] == site.id)
    for path in (study / "001" / "001.dcm", study / "002" / "003.dcm", study / "seg.dcm"):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace")
        said = (done.stdout + done.stderr).splitlines()
        assert any(line.strip() in {"MRImage", "CTImage", "Segmentation"} for line in said)
        assert [line for line in said if line.startswith("Error")] == []
