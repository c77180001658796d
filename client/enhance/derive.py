"""Headers of derived images: whose picture it is stays, what it is and how it was made is told (PS3.3 C.7.6.1, C.12).

A derived image belongs to the same patient, study and frame of reference as its source, and to a series of its own.
Identifiers are not touched.
"""

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any, Final

import numpy as np
from pydicom import dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from client.deid.triage import ENHANCER
from client.enhance.model import Model
from client.enhance.slices import Stored, UnusableError, pixel_bytes

MANUFACTURER: Final = "fedward"
EQUIPMENT: Final = ENHANCER
FORM: Final = "2"
"""Of what is written. With another one the same image and model give other UIDs: what is written would be another."""
SERIES_OFFSET: Final = 9000
_STEPS: Final[Mapping[str, tuple[str, Code]]] = {
    "denoise": ("denoised", codes.cid7203.Smoothing),
    "denoise_volume": ("denoised with neighbours", codes.cid7203.Smoothing),
    "denoise_self": ("denoised", codes.cid7203.Smoothing),
    "superres": ("super-resolved x2", codes.cid7203.SpatialResampling),
    "superres_gan": ("super-resolved x2 (GAN)", codes.cid7203.SpatialResampling),
    "superres4": ("super-resolved x4", codes.cid7203.SpatialResampling),
    "superres4_gan": ("super-resolved x4 (GAN)", codes.cid7203.SpatialResampling),
    "denoise_pair": ("denoised with a second contrast", codes.cid7203.Smoothing),
    "segment": ("segmented", codes.cid7203.SegmentationImageDerivation),
    "segment_pair": ("segmented with a second contrast", codes.cid7203.SegmentationImageDerivation),
}
"""Of each task, what its results are called, and the code of PS3.16 CID 7203 that comes nearest. The group has none for
removing noise: it says itself that its codes are generic, and leaves what was done to Derivation Description."""
_LOSSY: Final = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1) of transfer syntaxes that may lose something."""
_PIXELS: Final = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "DataSetTrailingPadding")
# What described the pixels of the source alone, or is a signature over them.
_STALE: Final = (
    *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
    *("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "EncryptedAttributesSequence"),
    *("InstanceCreatorUID", "SpatialResolution", "PixelAspectRatio"),
)
_TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_WORDS: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


@dataclass(frozen=True)
class Story:
    """How a result came to be, as its header tells it.

    Attributes:
        model: What made it.
        together: SHA-256 over the instances that it was scaled with, and those of a second contrast; empty where
            nothing but the source counts.
        moment: When.
        fractional: Whether a segmentation tells probabilities.
    """

    model: Model
    together: str
    moment: datetime
    fractional: bool = False

    @property
    def label(self) -> str:
        """What results of the task are called, in ASCII."""
        return _STEPS[self.model.task.name][0]

    @property
    def code(self) -> Code:
        """Of PS3.16 CID 7203."""
        return _STEPS[self.model.task.name][1]

    @property
    def told(self) -> str:
        """A Derivation Description: ASCII, below 1024 characters."""
        manifest = f"manifest SHA-256 {self.model.manifest}, " if self.model.manifest else ""
        return (
            f"{self.label} by a neural network of fedward {release()}: model {self.model.called()}, "
            f"{manifest}weights SHA-256 {self.model.digest}. Research use; not for diagnosis."
        )

    def uid(self, kind: str, source: str) -> UID:
        """The UID of what is made of ``source``, the same in every run: ``2.25.`` and a version 8 UUID (PS3.5 B.2).

        Args:
            kind: ``instance`` or ``series``.
            source: UID of the source of that kind.
        """
        what = f"{kind} of probabilities" if self.fractional else kind
        parts = (EQUIPMENT, FORM, self.model.task.name, self.model.digest, what, self.together, source)
        digest = hashlib.sha256("|".join(parts).encode()).digest()[:16]
        made = bytearray(digest)
        made[6], made[8] = made[6] & 0x0F | 0x80, made[8] & 0x3F | 0x80  # version 8, RFC 9562 5.8
        return UID(f"2.25.{uuid.UUID(bytes=bytes(made)).int}")


def release() -> str:
    """The version of fedward that is at work."""
    try:
        return version("fedward")
    except PackageNotFoundError:
        return "not installed"


def coded(code: Code) -> Dataset:
    """A code as an item (PS3.3 table 8.8-1)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def derived(source: Dataset, story: Story, *, factor: int = 1) -> Dataset:
    """A copy of the header of ``source`` as that of what was made of it; pixels come by :func:`set_pixels`.

    It is changed as far as all images are; what is told frame by frame is :mod:`client.enhance.multiframe`'s.

    Args:
        source: With or without pixels; left as it is.
        story: How it was made.
        factor: Pixels of the result to one of the source.
    """
    made = copied(source, leave=frozenset(tag_for_keyword(name) for name in (*_PIXELS, *_STALE)))
    _drop_overlays(made, all_of_them=factor > 1)
    if source.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        _to_little_endian(made)
    made.SOPInstanceUID = story.uid("instance", str(source.SOPInstanceUID))
    _describe_series(made, story, str(source.SeriesInstanceUID))
    kinds = [str(one) for one in source.get("ImageType") or []]
    made.ImageType = ["DERIVED", "SECONDARY", *kinds[2:]]
    _keep_loss(made, source)
    made.DerivationDescription = "; then ".join(
        part for part in (str(source.get("DerivationDescription", "") or "")[:400], story.told) if part
    )
    made.DerivationCodeSequence = Sequence([*(made.get("DerivationCodeSequence") or []), coded(story.code)])
    return made


def copied(source: Dataset, leave: frozenset[int | None] = frozenset()) -> Dataset:
    """Another data set with the same values, without private elements and group lengths at any depth.

    Raises:
        UnusableError: A text cannot be read in the character set that the file names: it would come out as another.
    """
    made = Dataset()
    for tag in source.keys():  # noqa: SIM118  # iteration gives elements, and would read pixels that are left out
        if tag.is_private or tag.element == 0 or tag in leave:
            continue
        element = source[tag]
        if element.VR == "SQ":
            made.add_new(tag, "SQ", Sequence([copied(item) for item in element.value]))
        else:
            if element.VR in _TEXT and "\ufffd" in str(element.value):
                raise UnusableError("a text in it is not in the character set that it names")
            made[tag] = DataElement(tag, element.VR, element.value, already_converted=True)
    return made


def _drop_overlays(made: Dataset, *, all_of_them: bool) -> None:
    """Leave out overlays (PS3.3 C.9.2) that lay in bits of the pixels, or whose size is no longer the image's."""
    for group in range(0x6000, 0x6020, 2):
        if all_of_them or (group, 0x3000) not in made:
            for tag in [tag for tag in made.keys() if tag.group == group]:  # noqa: SIM118  # iteration gives elements
                del made[tag]


def _to_little_endian(made: Dataset) -> None:
    """Swap what pydicom leaves as the bytes that it read."""
    for element in made.iterall():
        size = _WORDS.get(str(element.VR))
        if size and isinstance(element.value, bytes):
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def _describe_series(made: Dataset, story: Story, series: str) -> None:
    """A series of its own, what equipment was at work, and that it is research (PS3.3 C.7.3.1, C.12.1)."""
    made.SeriesInstanceUID = story.uid("series", series)
    made.SeriesNumber = SERIES_OFFSET + int(made.get("SeriesNumber") or 0) % 100_000
    before = str(made.get("SeriesDescription", "") or "")
    told = f"{story.label}, {story.model.called()}"
    made.SeriesDescription = (f"{before[: max(0, 61 - len(told))]} | {told}" if before else told)[:64]
    moment = _local(story.moment, made)
    day, clock = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    made.InstanceCreationDate = made.SeriesDate = made.ContentDate = day
    made.InstanceCreationTime = made.SeriesTime = made.ContentTime = clock
    made.ContentQualification = "RESEARCH"
    made.ContributingEquipmentSequence = Sequence(
        [*(made.get("ContributingEquipmentSequence") or []), equipment(story)]
    )


def equipment(story: Story) -> Dataset:
    """Who else took part in making the instance: fedward, with the model (PS3.3 C.12.1.1.5, PS3.16 CID 7005)."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([coded(codes.cid7005.ProcessingEquipment)])
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, EQUIPMENT
    item.SoftwareVersions = release()
    # The figure by which a release is known takes the place of a serial number: 64 digits, as LO may have.
    item.DeviceSerialNumber = story.model.manifest or story.model.digest
    item.ContributionDateTime = story.moment.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = story.told
    return item


def _local(moment: datetime, made: Dataset) -> datetime:
    """``moment`` in the time zone of the header's dates (PS3.3 C.12.1.1.8), else in this machine's."""
    offset = str(made.get("TimezoneOffsetFromUTC", "") or "")
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return moment.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))
    return moment.astimezone()


def _keep_loss(made: Dataset, source: Dataset) -> None:
    """What was ever compressed with loss goes on saying so (PS3.3 C.7.6.1.1.5)."""
    method = _LOSSY.get(str(source.file_meta.TransferSyntaxUID))
    if method is None or str(made.get("LossyImageCompression", "")) == "01":
        return
    plain = int(source.Rows) * int(source.Columns) * int(source.get("NumberOfFrames") or 1) * source.BitsAllocated / 8
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", method
    made.LossyImageCompressionRatio = format_number_as_ds(round(plain / max(len(source.PixelData), 1), 2))


def source_reference(sop_class: str, uid: str, frames: list[int] | None = None) -> Dataset:
    """An item of Source Image Sequence (PS3.3 C.12.4.1.2): the image, or frames of it counted from 1."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(uid)
    if frames is not None:
        item.ReferencedFrameNumber = frames
    purpose = codes.cid7202.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = Sequence([coded(purpose)])
    return item


def refer(made: Dataset, sources: Iterable[tuple[str, str]], resampled: Iterable[tuple[str, str]] = ()) -> None:
    """Name what a single-frame image was made of (PS3.3 C.12.4.1.2), each by SOP Class and SOP Instance UID.

    Args:
        made: Changed.
        sources: Images on the same pixels.
        resampled: Images that were registered and interpolated: places in them are not those in ``made`` (Spatial
            Locations Preserved NO).
    """
    others = [source_reference(*one) for one in resampled]
    for item in others:
        item.SpatialLocationsPreserved = "NO"
    made.SourceImageSequence = Sequence([*(source_reference(*one) for one in sources), *others])


def set_pixels(made: Dataset, stored: Stored) -> None:
    """Put ``stored`` (``[n, rows, columns]``) into ``made``; bits and sign are the source's."""
    made.Rows, made.Columns = stored.shape[1:]
    made.PixelData = pixel_bytes(stored)
    made["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"


def refine(place: Dataset, spacing: Dataset, orientation: Any, factor: int) -> None:
    """Give an image ``factor`` times as many rows and columns over the same area (PS3.3 C.7.6.2.1.1).

    The centre of the new first pixel lies ``(factor - 1) / 2`` new pixels before that of the old one, along rows and
    along columns: both images have the same outline.

    Args:
        place: Where Image Position (Patient) stands; changed.
        spacing: Where Pixel Spacing stands; changed.
        orientation: Image Orientation (Patient).
        factor: How many times finer.
    """
    rows, columns = (float(one) for one in spacing.PixelSpacing)
    if not (rows > 0 and columns > 0):  # PS3.3 10.7.1.3
        raise UnusableError("its pixels are of no size above 0")
    along_row, along_column = np.asarray(orientation, float).reshape(2, 3)
    step = -(factor - 1) / (2 * factor)
    corner = np.asarray(place.ImagePositionPatient, float) + step * (along_row * columns + along_column * rows)
    place.ImagePositionPatient = [format_number_as_ds(float(one)) for one in corner]
    spacing.PixelSpacing = [format_number_as_ds(one / factor) for one in (rows, columns)]


def encode(made: Dataset) -> bytes:
    """As a Part 10 file in explicit little endian (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()
