"""Small files for the tests of this room, and the engine with its key."""

import io
import struct
from collections.abc import Callable

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage

from client.deid import Profile, SiteKey
from client.deid.codec import Part10, read
from client.deid.engine import Deidentified, Engine
from client.deid.tables import vr_of

KEY = SiteKey(bytes(range(32)))
OTHER_KEY = SiteKey(bytes(range(1, 33)))

Change = Callable[[Dataset], object]


def image(change: Change = lambda dataset: None, *, sop_class: str = CTImageStorage, number: int = 1) -> FileDataset:
    """A slice of 4 x 4 pixels with the identifiers that every file has."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(f"1.2.3.4.{number}")
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(sop_class), UID(f"1.2.3.4.{number}")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Roe^Jane", "MRN-1234567", "19301231"
    dataset.PatientSex, dataset.PatientAge = "F", "093Y"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20240229", "101112", "A-998877"
    dataset.ContentDate, dataset.ContentTime = "20240301", "101113"
    dataset.ReferringPhysicianName, dataset.StudyID, dataset.SeriesNumber = "Welby^Marcus", "17", "1"
    dataset.Modality = "PT" if sop_class == PositronEmissionTomographyImageStorage else "CT"
    dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], str(number)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 4
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = struct.pack("<16H", *range(number, number + 16))
    change(dataset)
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    """The file as bytes."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def parsed(dataset: Dataset) -> Part10:
    """The file as our own reader has it."""
    return read(to_bytes(dataset), vr_of)


def done(dataset: Dataset, profile: Profile, key: SiteKey = KEY) -> Deidentified:
    """The file after the engine."""
    return Engine(profile, key).deidentify(parsed(dataset))


def out(dataset: Dataset, profile: Profile, key: SiteKey = KEY) -> FileDataset:
    """The file after the engine, as pydicom reads it."""
    return pydicom.dcmread(io.BytesIO(b"".join(done(dataset, profile, key).chunks())))
