"""What comes out of the engine: true markers, living references, intervals that hold, files that are still valid."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SegmentationStorage,
)

from client.deid import Profile
from client.deid.engine import IMPLEMENTATION_UID
from tests.client.deid.experts import determination, digest_of
from tests.client.deid.files import KEY, OTHER_KEY, done, image, out

IMAGE_ATTRIBUTES = {
    "Rows": 4,
    "NumberOfAverages": 8,
    "Exposure": 120,
    "PixelSpacing": [0.5, 0.5],
    "ImagePositionPatient": [1, 2, 3],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
    "RepetitionTime": 500,
    "WindowCenter": 40,
    "SliceThickness": 5,
    "ConvolutionKernel": "B30f",
    "Manufacturer": "Scanners Inc",
    "SoftwareVersions": ["syngo CT VA48A", "SL07P12"],
    "BodyPartExamined": "HEAD",
}


def described(dataset: Dataset) -> None:
    for keyword, value in IMAGE_ATTRIBUTES.items():
        setattr(dataset, keyword, value)


@pytest.mark.parametrize("name", ["basic", "harbor", "research"])
def test_what_describes_the_image_stays(name: str, request: pytest.FixtureRequest) -> None:
    original = image(described)
    result = out(original, request.getfixturevalue(name))
    assert {keyword: result[keyword].value for keyword in IMAGE_ATTRIBUTES} == IMAGE_ATTRIBUTES
    assert result.PixelData == original.PixelData


@pytest.mark.parametrize(
    ("name", "codes", "temporal"),
    [
        ("basic", ["113100"], "REMOVED"),
        ("harbor", ["113100"], "MODIFIED"),
        ("research", ["113100", "113105", "113107", "113108", "113111"], "MODIFIED"),
    ],
)
def test_the_markers_say_what_was_done(
    name: str, codes: list[str], temporal: str, request: pytest.FixtureRequest
) -> None:
    """No code stands for an option that was not carried out: 113101, Clean Pixel Data, is claimed by nobody yet."""
    profile: Profile = request.getfixturevalue(name)
    result = out(image(), profile)
    assert result.PatientIdentityRemoved == "YES"
    assert result.LongitudinalTemporalInformationModified == temporal
    assert sorted(item.CodeValue for item in result.DeidentificationMethodCodeSequence) == codes
    assert {item.CodingSchemeDesignator for item in result.DeidentificationMethodCodeSequence} == {"DCM"}
    assert result.DeidentificationMethod[0] == f"fedward profile {profile.name}"
    assert result.DeidentificationMethod[1] == profile.sha256
    assert all(len(value) <= 64 for value in result.DeidentificationMethod)


def test_earlier_markers_do_not_survive(basic: Profile) -> None:
    def claims(dataset: Dataset) -> None:
        dataset.DeidentificationMethod = "trust me"
        dataset.LongitudinalTemporalInformationModified = "UNMODIFIED"
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
        dataset.DeidentificationMethodCodeSequence = [item]

    result = out(image(claims), basic)
    assert "trust me" not in result.DeidentificationMethod
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == ["113100"]
    assert result.LongitudinalTemporalInformationModified == "REMOVED"


def test_the_file_meta_information_is_ours(basic: Profile) -> None:
    result = out(image(), basic)
    assert result.preamble == b"\0" * 128
    assert result.file_meta.ImplementationClassUID == IMPLEMENTATION_UID
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID != "1.2.3.4.1"
    assert {element.tag.elem for element in result.file_meta} == {0, 1, 2, 3, 0x10, 0x12, 0x13}


def test_pseudonyms_are_the_same_in_every_file_of_a_patient(basic: Profile) -> None:
    first, second = (out(image(number=number), basic) for number in (1, 2))
    assert first.PatientID == second.PatientID == first.PatientName
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    other = out(image(lambda dataset: setattr(dataset, "PatientID", "MRN-7654321")), basic)
    assert other.PatientID != first.PatientID


def test_one_key_one_result_another_key_another(research: Profile) -> None:
    assert done(image(), research).chunks() == done(image(), research).chunks()
    ours, theirs = out(image(), research), out(image(), research, OTHER_KEY)
    for keyword in ("PatientID", "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert ours[keyword].value != theirs[keyword].value


def test_patients_without_a_number_are_not_merged(basic: Profile) -> None:
    def nameless(name: str, study: str) -> Dataset:
        def change(dataset: Dataset) -> None:
            dataset.PatientID, dataset.PatientName, dataset.StudyInstanceUID = "", name, study

        return out(image(change), basic)

    identities = {nameless(*who).PatientID for who in (("A^B", "1.2"), ("C^D", "1.2"), ("", "1.2"), ("", "1.3"))}
    assert len(identities) == 4


def references(dataset: Dataset) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4.2"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "121311", "DCM", "Localizer"
    reference.PurposeOfReferenceCodeSequence = [purpose]
    reference.PatientName = "Roe^Jane"
    dataset.ReferencedImageSequence = [reference]
    dataset.SourceImageSequence = [reference]
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = "1.2.3.2", [reference]
    dataset.ReferencedSeriesSequence = [series]


def test_references_between_instances_survive(basic: Profile) -> None:
    target, result = out(image(number=2), basic), out(image(references), basic)
    assert result.ReferencedImageSequence[0].ReferencedSOPInstanceUID == target.SOPInstanceUID
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == target.SOPInstanceUID
    assert result.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage
    assert result.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121311"
    series = result.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == result.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == target.SOPInstanceUID
    assert "PatientName" not in result.ReferencedImageSequence[0]


def test_basic_dates_are_those_of_the_table(basic: Profile) -> None:
    result = out(image(lambda dataset: setattr(dataset, "SeriesDate", "20240229")), basic)
    assert (result.StudyDate, result.StudyTime, result.ContentDate) == ("", "", "")
    assert "SeriesDate" not in result
    assert result.PatientBirthDate == ""
    assert "PatientAge" not in result


def test_safe_harbor_keeps_years_and_caps_ages(harbor: Profile) -> None:
    result = out(image(lambda dataset: setattr(dataset, "AcquisitionDateTime", "20240229101112.5+0100")), harbor)
    assert (result.StudyDate, result.StudyTime, result.ContentDate) == ("20240101", "", "20240101")
    assert result.AcquisitionDateTime == "2024"
    assert result.PatientAge == "090Y"
    assert result.PatientBirthDate == ""


def injected(dataset: Dataset) -> None:
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime = "094500.000000"
    drug.RadiopharmaceuticalStartDateTime = "20240229094500.000000+0100"
    dataset.RadiopharmaceuticalInformationSequence = [drug]
    dataset.SeriesDate, dataset.SeriesTime = "20240229", "104500"
    dataset.AcquisitionDate, dataset.AcquisitionTime, dataset.AcquisitionDateTime = (
        "20240301",
        "001500",
        "20240301001500",
    )


def test_research_keeps_intervals_within_a_patient(research: Profile) -> None:
    """PET: what decayed between injection and acquisition is only known if nested dates move with the others."""
    result = out(image(injected, sop_class=PositronEmissionTomographyImageStorage), research)
    drug = result.RadiopharmaceuticalInformationSequence[0]
    study, acquired = np.datetime64(_iso(result.StudyDate)), np.datetime64(_iso(result.AcquisitionDate))
    start = np.datetime64(_iso(drug.RadiopharmaceuticalStartDateTime[:8]))
    assert result.StudyDate != "20240229"
    assert (acquired - study).astype(int) == 1
    assert start == study
    assert drug.RadiopharmaceuticalStartDateTime[8:] == "094500.000000+0100"
    assert drug.RadiopharmaceuticalStartTime == "094500.000000"
    assert result.AcquisitionTime == "001500"
    assert result.AcquisitionDateTime[:8] == result.AcquisitionDate
    assert result.PatientAge == "090Y"
    assert result.PatientSex == "F"


def _iso(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def test_legacy_and_broken_dates(research: Profile) -> None:
    def change(dataset: Dataset) -> None:
        dataset.StudyDate = "2024.02.29"
        dataset["AcquisitionDate"] = pydicom.DataElement(0x00080022, "LO", "Leap day 2024")
        dataset["AcquisitionDate"].VR = "DA"
        dataset["SeriesDate"] = pydicom.DataElement(0x00080021, "LO", "20241301")
        dataset["SeriesDate"].VR = "DA"

    finished = done(image(change), research)
    result = pydicom.dcmread(io.BytesIO(b"".join(finished.chunks())))
    assert len(result.StudyDate) == 8
    assert "AcquisitionDate" not in result
    assert "SeriesDate" not in result
    assert finished.counts["invalid_date"] == 2


def test_descriptions_keep_the_words_of_imaging(research: Profile) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SeriesDescription = "T1 AX 3mm post GAD for Jane Roe, Dr House, 12.03.2024"
        dataset.StudyDescription = "Jane Roe"
        dataset.ProtocolName = "Head routine"

    result = out(image(change), research)
    assert result.SeriesDescription == "T1 AX 3mm post GAD"
    assert "StudyDescription" not in result
    assert result.ProtocolName == "Head routine"


def test_local_codes_are_free_text(basic: Profile) -> None:
    def change(dataset: Dataset) -> None:
        public, local = Dataset(), Dataset()
        public.CodeValue, public.CodingSchemeDesignator, public.CodeMeaning = "T-D1100", "SRT", "Head"
        local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "X1", "99OURS", "as Dr House likes it"
        dataset.AnatomicRegionSequence, dataset.ProcedureCodeSequence = [public], [local]

    result = out(image(change), basic)
    assert result.AnatomicRegionSequence[0].CodeMeaning == "Head"
    code = result.ProcedureCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("REMOVED", "99LOCAL", "REMOVED")


def test_types_of_the_iod_decide_between_x_z_and_d(basic: Profile) -> None:
    """PET requires Series Date (type 1), CT knows it as type 3."""

    def change(dataset: Dataset) -> None:
        dataset.SeriesDate, dataset.SeriesTime, dataset.AcquisitionDate = "20240229", "101112", "20240229"

    pet = out(image(change, sop_class=PositronEmissionTomographyImageStorage), basic)
    ct = out(image(change), basic)
    assert (pet.SeriesDate, pet.SeriesTime, pet.AcquisitionDate) == ("19000101", "000000", "")
    assert not {"SeriesDate", "SeriesTime", "AcquisitionDate"} & set(ct.dir())


def test_a_patient_called_like_a_value_does_not_cost_the_image(basic: Profile) -> None:
    result = out(image(lambda dataset: setattr(dataset, "PatientName", "Monochrome2^Primary")), basic)
    assert result.PhotometricInterpretation == "MONOCHROME2"


def test_device_identity_is_not_found_in_itself(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "basic"\noptions = ["retain_device_identity", "retain_long_full_dates"]\n')
    profile = Profile.load(str(own), determination=determination(tmp_path / "expert", digest_of(str(own))))

    def change(dataset: Dataset) -> None:
        dataset.DeviceSerialNumber, dataset.StationName = "123456789012", "CT07"

    result = out(image(change), profile)
    assert (result.DeviceSerialNumber, result.StationName) == ("123456789012", "CT07")
    assert result.StudyDate == "20240229"
    assert result.LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_counts_hold_no_values(basic: Profile) -> None:
    finished = done(image(described), basic)
    assert set(finished.counts) <= {"removed", "emptied", "dummy", "uid", "pseudonym"}
    assert all(isinstance(count, int) for count in finished.counts.values())


def test_the_path_is_made_of_pseudonyms(basic: Profile) -> None:
    finished = done(image(), basic)
    result = out(image(), basic)
    assert finished.path.parts == (
        result.PatientID,
        result.StudyInstanceUID,
        result.SeriesInstanceUID,
        f"{result.SOPInstanceUID}.dcm",
    )


def errors(path: Path) -> list[str]:
    """The errors that dciodvfy sees."""
    program = shutil.which("dciodvfy")
    assert program
    run = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    return sorted(line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error"))


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("name", ["basic", "harbor", "research"])
@pytest.mark.parametrize("file", ["CT_small.dcm", "MR_small.dcm", "liver_1frame.dcm"])
def test_valid_files_stay_valid(tmp_path: Path, name: str, file: str, request: pytest.FixtureRequest) -> None:
    source = get_testdata_file(file)
    assert isinstance(source, str)
    before = errors(Path(source))
    path = tmp_path / "out.dcm"
    dataset = pydicom.dcmread(source)
    assert dataset.SOPClassUID in {CTImageStorage, MRImageStorage, SegmentationStorage}
    path.write_bytes(b"".join(done(dataset, request.getfixturevalue(name), KEY).chunks()))
    assert set(errors(path)) <= set(before)
