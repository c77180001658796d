"""A study as DICOM: MR or CT images, one a file, and a segmentation, fit for the de-identification that follows.

The header has what the source tells and no more. Which of two series is the noisy one is told as the cohort reads it,
by averages (MR) and exposure (CT): 1 and 2, a rank and no statement about an acquisition. All UIDs come from the digest
of the source, so that the same files give the same instances in every run.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from client.enhance.derive import release
from client.enhance.slices import UnusableError
from client.importing.content import EQUIPMENT, Content
from client.importing.grid import Grid

FORM: Final = "1"
"""Of what is written. With another one the same source gives other UIDs."""
NOISY, REFERENCE, LABEL = "noisy", "reference", "label"
_EFFORT: Final = {NOISY: 1, REFERENCE: 2}
_TOP: Final = 32767
"""The largest stored value of a scaled MR series: it is written with 16 bits, of which no reader needs the sign."""
_BELOW: Final = 0.005
"""Of the largest value: as far below 0 may a magnitude lie by interpolation, and be made 0."""


@dataclass(frozen=True)
class Naming:
    """Who and what a study is.

    Attributes:
        patient: Patient ID.
        digest: SHA-256 of the source's files and of all settings that change what is written.
    """

    patient: str
    digest: str

    def uid(self, *parts: object) -> UID:
        """A UID that is the same in every run: ``2.25.`` and a version 8 UUID (PS3.5 B.2)."""
        text = "|".join((EQUIPMENT, FORM, self.digest, *map(str, parts)))
        made = bytearray(hashlib.sha256(text.encode()).digest()[:16])
        made[6], made[8] = made[6] & 0x0F | 0x80, made[8] & 0x3F | 0x80  # RFC 9562 5.8
        return UID(f"2.25.{uuid.UUID(bytes=bytes(made)).int}")

    @property
    def study(self) -> UID:
        """Study Instance UID."""
        return self.uid("study")

    def instances(self, slices: int, *, labelled: bool) -> list[tuple[str, str]]:
        """(Series, SOP Instance UID) of every file of the study, without reading it."""
        found = [
            (str(self.uid("series", role)), str(self.uid("image", role, index)))
            for role in (NOISY, REFERENCE)
            for index in range(slices)
        ]
        return found + ([(str(self.uid("series", LABEL)), str(self.uid("segmentation")))] if labelled else [])


def files(content: Content, naming: Naming) -> Iterator[tuple[str, bytes]]:
    """(SOP Instance UID, Part 10 file) of every instance of the study.

    Args:
        content: With a noisy series.
        naming: Who and what it is.

    Raises:
        UnusableError: Its values do not fit, or its segmentation cannot be written.
    """
    if content.noisy is None:
        raise ValueError("a noisy series is made before")  # a fault of the caller
    stored = scaled(content)
    headers = []
    for role in (NOISY, REFERENCE):
        for index in range(content.grid.shape[0]):
            image = _image(content, naming, role, index)
            if role == REFERENCE:
                headers.append(image)
            yield str(image.SOPInstanceUID), _encoded(image, stored[role][index])
    if content.label is not None:
        made = _segmentation(content, naming, headers)
        yield str(made.SOPInstanceUID), _encoded(made, None)


def scaled(content: Content) -> dict[str, NDArray[Any]]:
    """Both series as stored values: whole Hounsfield units, int16; or uint16 on one scale for MR.

    Raises:
        UnusableError: Hounsfield units do not fit into 16 bits, or MR values lie below 0.
    """
    series = {REFERENCE: content.reference, NOISY: content.noisy}
    top = max(float(part.max()) for part in series.values() if part is not None)
    bottom = min(float(part.min()) for part in series.values() if part is not None)
    if content.modality == "CT":
        limits = np.iinfo(np.int16)
        if bottom < limits.min or float(content.reference.max()) > limits.max:
            raise UnusableError(f"its values from {bottom:g} to {top:g} are no Hounsfield units")
        return {role: np.clip(np.rint(part), limits.min, limits.max).astype("<i2") for role, part in _given(series)}
    if top <= 0 or bottom < -_BELOW * top:
        raise UnusableError(f"its values from {bottom:g} to {top:g} are no magnitudes of MR")
    whole = top <= _TOP and all(bool((part == np.rint(part)).all()) for _, part in _given(series))
    factor = np.float32(1.0 if whole else _TOP / top)
    return {role: np.rint(np.clip(part, 0, None) * factor).astype("<u2") for role, part in _given(series)}


def _given(series: dict[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    return ((role, part) for role, part in series.items() if part is not None)


def _image(content: Content, naming: Naming, role: str, index: int) -> Dataset:
    made, grid = Dataset(), content.grid
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage if content.modality == "CT" else MRImageStorage
    made.SOPInstanceUID = naming.uid("image", role, index)
    made.StudyInstanceUID, made.SeriesInstanceUID = naming.study, naming.uid("series", role)
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = naming.uid("frame"), ""
    made.PatientID, made.PatientName = naming.patient, ""
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        setattr(made, empty, "")
    made.ReferringPhysicianName = made.PatientPosition = made.AcquisitionNumber = ""
    for name, value in content.facts.items():
        setattr(made, name, value)
    made.Modality = content.modality
    made.Manufacturer = made.get("Manufacturer") or "unknown"
    made.SeriesNumber, made.InstanceNumber = _EFFORT[role], index + 1
    made.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if content.modality == "CT" else "OTHER"]
    made.DerivationDescription = f"converted by {EQUIPMENT} {release()}; research use"
    made.ContentQualification = "RESEARCH"
    _place(made, grid, index)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.LossyImageCompression = 1, "MONOCHROME2", "00"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.PixelRepresentation = int(content.modality == "CT")
    if content.modality == "CT":
        made.Exposure, made.KVP = _EFFORT[role], ""
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "HU"
    else:
        made.NumberOfAverages = _EFFORT[role]
        made.ScanningSequence, made.SequenceVariant, made.ScanOptions = "RM", "NONE", ""
        made.MRAcquisitionType = made.EchoTime = made.EchoTrainLength = made.RepetitionTime = ""
    return made


def _place(made: Dataset, grid: Grid, index: int) -> None:
    """Image Plane module (PS3.3 C.7.6.2); decimal strings hold 16 characters (PS3.5 6.2)."""
    between, down, across = grid.spacing
    made.Rows, made.Columns = grid.shape[1:]
    made.PixelSpacing = [_decimal(down), _decimal(across)]
    made.SliceThickness = made.SpacingBetweenSlices = _decimal(between)
    made.ImageOrientationPatient = [_decimal(one) for one in grid.orientation]
    made.ImagePositionPatient = [_decimal(one) for one in grid.position(index)]


def _decimal(value: float) -> str:
    return format_number_as_ds(float(value) + 0.0)  # no minus before a zero


def _encoded(made: Dataset, stored: NDArray[Any] | None) -> bytes:
    full = made
    if stored is not None:
        full = Dataset()
        full.update(made)
        data = np.ascontiguousarray(stored).tobytes()
        full.PixelData = data + b"\0" * (len(data) % 2)
        full["PixelData"].VR = "OW"
    full.file_meta = FileMetaDataset()
    full.file_meta.MediaStorageSOPClassUID = full.SOPClassUID
    full.file_meta.MediaStorageSOPInstanceUID = full.SOPInstanceUID
    full.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, full, enforce_file_format=True)
    return buffer.getvalue()


def _segmentation(content: Content, naming: Naming, images: list[Dataset]) -> Dataset:
    from client.importing.segments import written  # noqa: PLC0415  # highdicom: a second, where there are labels

    assert content.label is not None  # noqa: S101  # the caller looked
    for one in images:
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return written(
        images,
        content.label,
        modality=content.modality,
        series=naming.uid("series", LABEL),
        instance=naming.uid("segmentation"),
        dimensions=naming.uid("dimensions"),
    )
