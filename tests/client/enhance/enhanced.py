"""Enhanced MR and CT images (PS3.3 A.36, A.38) as a scanner writes them, small, with made-up pixels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (1.5, 0.75)
GAP = 4.0


def items(**values: object) -> Sequence:
    """A sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def code(value: str, scheme: str, meaning: str) -> Sequence:
    return items(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def pixels(frames: int, rows: int, columns: int, seed: int = 3) -> NDArray[np.uint16]:
    """A bright disc on a dark ground with noise, uint16."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    disc = np.hypot(y - rows / 2, x - columns / 2) < min(rows, columns) / 3
    return np.stack(
        [np.clip(900 * disc + 60 + noise.normal(0, 30, disc.shape), 1, 4000).astype(np.uint16) for _ in range(frames)]
    )


def _common(ds: Dataset, frames: int, rows: int, columns: int) -> None:
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["sop", str(ds.SOPClassUID), str(frames)])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid(entropy_srcs=[one]) for one in ("study", "series"))
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = generate_uid(entropy_srcs=["frame"]), ""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "4711", "19700101", "F"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20240229"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101500"
    ds.AcquisitionDateTime, ds.AcquisitionDuration, ds.AcquisitionNumber = "20240229101500", 30.0, 1
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber, ds.AccessionNumber = "1", 4, 1, ""
    ds.ReferringPhysicianName, ds.SeriesDescription = "", "HEAD"
    ds.Manufacturer, ds.ManufacturerModelName = "Nobody", "Model"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.PatientPosition, ds.ContentQualification = "HFS", "PRODUCT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    ds.AcquisitionContextSequence = Sequence([])
    organization = generate_uid(entropy_srcs=["dimension"])
    ds.DimensionOrganizationSequence = items(DimensionOrganizationUID=organization)
    ds.DimensionIndexSequence = items(
        DimensionOrganizationUID=organization,
        DimensionIndexPointer=0x00209057,
        FunctionalGroupPointer=0x00209111,
        DimensionDescriptionLabel="In-Stack Position Number",
    )


def _groups(ds: Dataset, kind: str, frames: int, shared: Dataset, *, slope: float, intercept: float, unit: str) -> None:
    shared.PixelMeasuresSequence = items(PixelSpacing=list(SPACING), SliceThickness=GAP, SpacingBetweenSlices=GAP)
    shared.PlaneOrientationSequence = items(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    shared.FrameAnatomySequence = items(FrameLaterality="U", AnatomicRegionSequence=code("69536005", "SCT", "Head"))
    shared.FrameVOILUTSequence = items(WindowCenter=500, WindowWidth=1000)
    shared.PixelValueTransformationSequence = items(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=unit)
    setattr(
        shared,
        f"{kind}ImageFrameTypeSequence",
        items(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        ),
    )
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index in range(frames):
        group = Dataset()
        group.FrameContentSequence = items(
            FrameReferenceDateTime="20240229101500",
            FrameAcquisitionDateTime="20240229101500",
            FrameAcquisitionDuration=10.0,
            FrameAcquisitionNumber=1,
            StackID="1",
            InStackPositionNumber=index + 1,
            DimensionIndexValues=[index + 1],
        )
        group.PlanePositionSequence = items(ImagePositionPatient=[-GAP * index, -20.0, 30.0])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)


def enhanced_mr(frames: int = 3, rows: int = 48, columns: int = 64) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = EnhancedMRImageStorage, "MR"
    _common(ds, frames, rows, columns)
    ds.ResonantNucleus, ds.KSpaceFiltering, ds.MagneticFieldStrength = "1H", "NONE", 1.5
    ds.ApplicableSafetyStandardAgency = "IEC"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T1"
    ds.PulseSequenceName, ds.MRAcquisitionType, ds.EchoPulseSequence = "SE", "2D", "SPIN"
    ds.MultipleSpinEcho, ds.MultiPlanarExcitation, ds.PhaseContrast = "NO", "NO", "NO"
    ds.TimeOfFlightContrast, ds.SteadyStatePulseSequence, ds.EchoPlanarPulseSequence = "NO", "NONE", "NO"
    ds.SaturationRecovery, ds.SpectrallySelectedSuppression, ds.OversamplingPhase = "NO", "NONE", "NONE"
    ds.GeometryOfKSpaceTraversal, ds.RectilinearPhaseEncodeReordering = "RECTILINEAR", "LINEAR"
    ds.SegmentedKSpaceTraversal, ds.NumberOfKSpaceTrajectories = "SINGLE", 1
    shared = Dataset()
    _groups(ds, "MR", frames, shared, slope=1.0, intercept=0.0, unit="US")
    kind = shared.MRImageFrameTypeSequence[0]
    kind.ComplexImageComponent, kind.AcquisitionContrast = "MAGNITUDE", "T1"
    shared.MRTimingAndRelatedParametersSequence = items(
        RepetitionTime=500.0,
        FlipAngle=90.0,
        EchoTrainLength=1,
        RFEchoTrainLength=1,
        GradientEchoTrainLength=0,
        GradientOutputType="DB_DT",
        GradientOutput=1.0,
        SpecificAbsorptionRateSequence=items(
            SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=1.0
        ),
        OperatingModeSequence=items(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
    )
    shared.MRFOVGeometrySequence = items(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=columns,
        MRAcquisitionPhaseEncodingStepsInPlane=rows,
        PercentSampling=100.0,
        PercentPhaseFieldOfView=100.0,
    )
    shared.MREchoSequence = items(EffectiveEchoTime=12.0)
    shared.MRModifierSequence = items(
        InversionRecovery="NO",
        FlowCompensation="NONE",
        Spoiling="NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    shared.MRImagingModifierSequence = items(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=63.8,
        PixelBandwidth=130.0,
    )
    shared.MRReceiveCoilSequence = items(
        ReceiveCoilName="HEAD", ReceiveCoilManufacturerName="", ReceiveCoilType="VOLUME", QuadratureReceiveCoil="YES"
    )
    shared.MRTransmitCoilSequence = items(
        TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
    )
    shared.MRAveragesSequence = items(NumberOfAverages=1.0)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels(frames, rows, columns).tobytes()
    return ds


def enhanced_ct(frames: int = 2, rows: int = 64, columns: int = 64) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = EnhancedCTImageStorage, "CT"
    _common(ds, frames, rows, columns)
    shared = Dataset()
    _groups(ds, "CT", frames, shared, slope=0.5, intercept=-1000.0, unit="HU")
    shared.CTAcquisitionTypeSequence = items(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    shared.CTReconstructionSequence = items(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel="B",
        ConvolutionKernelGroup="BRAIN",
        ReconstructionDiameter=250.0,
        ReconstructionAngle=360.0,
    )
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = (pixels(frames, rows, columns) + 1500).astype("<u2").tobytes()
    return ds


def written(ds: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    ds["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)
    return path
