"""A study as DICOM files: MR Image and CT Image Storage, one file per slice (PS3.3 A.3, A.4; PS3.10)."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from simulation.sites.acquisition import Acquisition
from simulation.sites.headers import (
    Person,
    Visit,
    add_equipment,
    add_patient,
    add_private,
    add_study,
    clock,
    day,
)
from simulation.sites.specs import ContrastPhase, CtProtocol, Kernel, MrProtocol, PulseSequence, SiteSpec

LARMOR = 42.577  # proton resonance, MHz per tesla (CODATA)
SCANNING = {PulseSequence.SPIN_ECHO: "SE", PulseSequence.SPOILED_GRADIENT_ECHO: "GR", PulseSequence.FLAIR: "IR"}
VARIANT = {PulseSequence.SPIN_ECHO: "SK", PulseSequence.SPOILED_GRADIENT_ECHO: "SP", PulseSequence.FLAIR: "MP"}
KERNEL_NAME = {Kernel.SOFT: "B30f", Kernel.SHARP: "B70f"}
FAST, REFERENCE, SECOND = 1, 2, 3  # series numbers; the last is another contrast, fast too
CT_OFFSET = -1024
SECONDS_PER_SERIES = 240
DECIMALS = 6  # of lengths in mm; a decimal string holds 16 characters (PS3.5 6.2)


@dataclass(frozen=True)
class Context:
    """Everything that the headers of one study have in common.

    Attributes:
        site, person, visit: Where, who, when.
        seed: All unique identifiers derive from it, the site, the patient and the visit.
        patient: Number of the patient at the site.
        current: Tube current of the low-dose series, mA (CT).
    """

    site: SiteSpec
    person: Person
    visit: Visit
    seed: int
    patient: int
    current: float = 0.0

    def uid(self, *parts: object, visit: int | None = None) -> UID:
        """The unique identifier of a part of this study (or of another ``visit``'s)."""
        which = self.visit.index if visit is None else visit
        return generate_uid(entropy_srcs=[str(v) for v in (self.seed, self.site.id, self.patient, which, *parts)])

    def study_uids(self) -> dict[str, UID]:
        """The study's own identifier and that of the study before it."""
        return {"study": self.uid("study"), "previous": self.uid("study", visit=self.visit.index - 1)}


def encode(ds: Dataset, station: str) -> bytes:
    """The data set as a Part 10 file in explicit little endian, with file meta information (PS3.10 section 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = station
    ds.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_series(folder: Path, context: Context, acquired: Acquisition, number: int) -> tuple[list[Dataset], int]:
    """Write the fast (1), the reference (2) or the second contrast's (3) series as ``folder/001.dcm`` and so on.

    Returns:
        The headers without pixels, for what refers to the series, and the number of files.

    Raises:
        OSError: The disk would not take it.
    """
    folder.mkdir(parents=True)
    template = _series_header(context, acquired, number)
    pixels = acquired.reference if number == REFERENCE else acquired.fast
    headers = []
    for index, picture in enumerate(pixels):
        ds = Dataset()
        ds.update(template)
        _add_slice(ds, context, acquired, number, index)
        headers.append(ds)
        full = Dataset()
        full.update(ds)
        full.PixelData = _stored(context.site, picture).tobytes()
        full["PixelData"].VR = "OW"
        (folder / f"{index + 1:03d}.dcm").write_bytes(encode(full, ds.StationName))
    return headers, len(headers)


def _stored(site: SiteSpec, picture: NDArray[Any]) -> NDArray[Any]:
    if isinstance(site.protocol, CtProtocol) and not site.protocol.signed:
        return (picture.astype(np.int32) - CT_OFFSET).astype("<u2")
    return picture.astype(picture.dtype.newbyteorder("<"))


def _series_header(context: Context, acquired: Acquisition, number: int) -> Dataset:
    site, visit = context.site, context.visit
    ds = Dataset()
    if site.charset:
        ds.SpecificCharacterSet = list(site.charset) if len(site.charset) > 1 else site.charset[0]
    ds.Modality = site.protocol.modality
    add_patient(ds, site, context.person, visit)
    add_study(ds, site, context.person, visit, context.study_uids())
    add_equipment(ds, site, visit)
    add_private(ds, site, context.person)
    ds.SeriesInstanceUID, ds.SeriesNumber = context.uid("series", number), number
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = context.uid("frame of reference"), ""
    start = visit.start + SECONDS_PER_SERIES * number
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = day(visit.day)
    ds.SeriesTime = clock(start)
    ds.PatientPosition = "HFS"
    ds.ImageComments = f"Patient {context.person.name.plain}, {context.person.id}"
    ds.AcquisitionNumber = 1
    ds.PixelSpacing = [round(acquired.spacing, DECIMALS)] * 2
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    protocol = site.second if number == SECOND and site.second else site.protocol
    ds.SliceThickness = protocol.thickness
    ds.Rows, ds.Columns = acquired.label.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    if isinstance(protocol, MrProtocol):
        _add_mr(ds, protocol, site, number)
    else:
        _add_ct(ds, protocol, context, number)
    return ds


def _add_slice(ds: Dataset, context: Context, acquired: Acquisition, number: int, index: int) -> None:
    """What differs from slice to slice."""
    rows, columns = acquired.label.shape[1:]
    ds.SOPInstanceUID = context.uid("image", number, index)
    ds.InstanceNumber = index + 1
    corner = [round(-(size - 1) / 2 * acquired.spacing, DECIMALS) for size in (columns, rows)]
    ds.ImagePositionPatient = [*corner, float(acquired.heights[index])]
    ds.SliceLocation = float(acquired.heights[index])
    moment = clock(context.visit.start + SECONDS_PER_SERIES * number + 2 * index)
    ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = moment


def _add_mr(ds: Dataset, protocol: MrProtocol, site: SiteSpec, number: int) -> None:
    """MR Image module (PS3.3 C.8.3.1)."""
    ds.SOPClassUID = MRImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.BodyPartExamined = "BRAIN"
    kind = {FAST: "FAST", REFERENCE: "REFERENCE", SECOND: "SECOND"}[number]
    ds.SeriesDescription = ds.ProtocolName = f"{site.description} {kind}"
    ds.NumberOfAverages = protocol.averages if number == REFERENCE else 1
    ds.ScanningSequence, ds.SequenceVariant = SCANNING[protocol.sequence], VARIANT[protocol.sequence]
    ds.ScanOptions = "FS" if protocol.fat < 1 else ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = protocol.tr, protocol.te, protocol.echo_train
    if protocol.ti:
        ds.InversionTime = protocol.ti
    ds.FlipAngle = protocol.flip
    ds.MagneticFieldStrength = protocol.field
    ds.ImagingFrequency, ds.ImagedNucleus = round(LARMOR * protocol.field, 4), "1H"
    ds.SpacingBetweenSlices = protocol.gap
    ds.InPlanePhaseEncodingDirection = "COL"
    lines = round(int(ds.Rows) * protocol.kept_phase / 2) * 2
    ds.AcquisitionMatrix = [0, round(int(ds.Columns) * protocol.kept_read / 2) * 2, lines, 0]
    ds.NumberOfPhaseEncodingSteps = lines
    ds.PercentSampling, ds.PercentPhaseFieldOfView = 100 * protocol.kept_phase, 100
    ds.PixelBandwidth = 130
    ds.ReceiveCoilName = "HEAD"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 1000, 2000


def _add_ct(ds: Dataset, protocol: CtProtocol, context: Context, number: int) -> None:
    """CT Image module (PS3.3 C.8.2.1)."""
    site = context.site
    ds.SOPClassUID = CTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.BodyPartExamined = "ABDOMEN"
    ds.SeriesDescription = ds.ProtocolName = f"{site.description} {'LOW DOSE' if number == FAST else 'REFERENCE'}"
    current = context.current * (1 if number == FAST else protocol.dose_ratio)
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime = 120, round(current), round(protocol.rotation)
    ds.Exposure = round(current * protocol.rotation / 1000)
    ds.DataCollectionDiameter, ds.ReconstructionDiameter = 500, site.fov
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = 1040, 570
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection = 0, 150, "CW"
    ds.FilterType, ds.ConvolutionKernel = "BODY", KERNEL_NAME[protocol.kernel]
    ds.ScanOptions = "AXIAL MODE"
    ds.SpacingBetweenSlices = protocol.gap
    if protocol.phase is not ContrastPhase.NATIVE:
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = "Iodinated, 90 ml", "IV"
        ds.ContrastBolusStartTime = clock(context.visit.start + 120)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(protocol.signed)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0 if protocol.signed else CT_OFFSET, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
