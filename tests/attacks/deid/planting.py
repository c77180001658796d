"""The adversary's tools: files with a secret in every place that the standard knows, and eyes that find it again.

Written from PS3.3, PS3.5, PS3.6 and PS3.15 alone: nothing of the engine is imported but its front door.
"""

import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pydicom
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.deid import DeidReport, Profile, SiteKey, deidentify_folder

KEY = SiteKey(b"a site key for the attack tests!")

IDENTITY = {
    0x00100010: ("PN", "Mustermann^Erika"),
    0x00100020: ("LO", "PID-4711-0815"),
    0x00100030: ("DA", "19570321"),
    0x00080050: ("SH", "ACC7654321"),
    0x00080090: ("PN", "Sawbones^Leonard"),
    0x00080080: ("LO", "Saint Elsewhere Hospital"),
}
TELLING = ("Mustermann", "Erika", "PID-4711-0815", "PID47110815", "ACC7654321", "Sawbones", "Elsewhere")


@dataclass(frozen=True)
class Secret:
    """A planted value: where, with which VR, and the bytes that must not come out again."""

    tag: int
    vr: str
    value: object
    traces: tuple[bytes, ...]


def rows() -> list[dict[str, object]]:
    """Table E.1-1 as published, one dictionary per row."""
    text = (files("client.deid") / "data" / "ps3.15_e1-1.json").read_text("utf-8")
    return list(json.loads(text)["rows"])


def tag_of(text: str) -> int | None:
    """The tag of a row; a representative of the repeating groups; None for the row of all private attributes."""
    if text == "private":
        return None
    text = text.replace("50xx,xxxx", "5002,3000").replace("60xx", "6002")
    group, element = text.split(",")
    return int(group, 16) << 16 | int(element, 16)


def _day(number: int) -> str:
    """Five years apart, so that no shifted date meets another planted one."""
    return f"{1000 + 5 * number}{number % 12 + 1:02d}{number % 28 + 1:02d}"


_VALUES: dict[str, Callable[[int, str], object]] = {
    "DA": lambda number, _: _day(number),
    "DT": lambda number, _: f"{_day(number)}1112{number % 60:02d}.{number:06d}",
    "TM": lambda number, _: f"1{number % 10}2{number % 10}3{number % 10}.{number:06d}",
    "AS": lambda number, _: f"{number % 40 + 40:03d}W",
    "DS": lambda number, _: f"{number}.73819",
    "IS": lambda number, _: str(730000 + number),
    "UI": lambda number, _: f"1.2.826.0.1.73819.{number}",
    "CS": lambda _, token: token.upper(),
    "AE": lambda _, token: token.upper(),
    "UR": lambda _, token: f"http://{token}.example/",
    "PN": lambda _, token: f"{token}^Planted",
    "OB": lambda _, token: (token + token).encode(),
    "OW": lambda _, token: (token + token).encode(),
    "UN": lambda _, token: (token + token).encode(),
}


def secret(tag: int, vr: str, number: int) -> Secret:
    """A value of ``vr`` that occurs nowhere else, and how it may show."""
    vr = {"": "LO", "OB or OW": "OW", "US or SS": "US"}.get(vr, vr)
    token = f"Qz{number:04d}Xv"
    if vr == "US":
        return Secret(tag, vr, 0x5100 + number % 0xFF, ())
    if vr == "SQ":
        item = Dataset()
        for inner, inner_vr in ((0x00080100, "SH"), (0x00080104, "LO"), (0x0040A160, "UT")):
            item[inner] = DataElement(inner, inner_vr, token, validation_mode=config.IGNORE)
        return Secret(tag, vr, Sequence([item]), (token.encode(),))
    value = _VALUES[vr](number, token) if vr in _VALUES else token
    return Secret(tag, vr, value, (value if isinstance(value, bytes) else str(value).encode(),))


def put(dataset: Dataset, planted: Secret) -> None:
    """Set the value, whatever the validator thinks of it."""
    dataset[planted.tag] = DataElement(planted.tag, planted.vr, planted.value, validation_mode=config.IGNORE)


def ct(number: int = 1, *, implicit: bool = False) -> FileDataset:
    """A small CT slice of one known patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.4711.3.{number}"
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.4711.1", "1.2.826.0.1.4711.2"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.4711.4"
    dataset.Modality, dataset.Manufacturer, dataset.SeriesNumber = "CT", "Scanners Inc", "1"
    for tag, (vr, value) in IDENTITY.items():
        dataset[tag] = DataElement(tag, vr, value)
    dataset.InstanceNumber = str(number)
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [1, 1], "1", "-1024"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = struct.pack("<64H", *range(64))
    return dataset


def nested(inner: Dataset, depth: int, within: Iterable[int]) -> Dataset:
    """``inner`` wrapped into ``depth`` sequences, whose tags are taken from ``within`` in turn."""
    tags = list(within)
    for level in range(depth):
        outer = Dataset()
        outer[tags[level % len(tags)]] = DataElement(tags[level % len(tags)], "SQ", Sequence([inner]))
        inner = outer
    return inner


def data(dataset: FileDataset) -> bytes:
    """The file as bytes, as it is."""
    plain = Dataset(dataset)
    plain.file_meta, plain.preamble = dataset.file_meta, dataset.preamble  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    mode = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        pydicom.dcmwrite(buffer, plain, enforce_file_format=True)
    finally:
        config.settings.writing_validation_mode = mode
    return buffer.getvalue()


class Hospital:
    """A folder with files, and what comes out of it."""

    def __init__(self, root: Path, profile: Profile) -> None:
        self.source, self.out, self.reports, self._profile = root / "in", root / "out", root / "reports", profile
        self.source.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, content: bytes | FileDataset) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else data(content))

    def release(self) -> DeidReport:
        return deidentify_folder(self.source, self.out, profile=self._profile, key=KEY, log=None, reports=self.reports)

    def released(self) -> dict[str, bytes]:
        """Every file that came out, by its name below the output folder."""
        return {
            str(path.relative_to(self.out)): path.read_bytes() for path in sorted(self.out.rglob("*")) if path.is_file()
        }

    def datasets(self) -> list[FileDataset]:
        return [pydicom.dcmread(io.BytesIO(content)) for content in self.released().values()]


def everything(dataset: Dataset) -> Iterator[DataElement]:
    """Every element at every depth."""
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from everything(item)


def found(content: bytes, traces: Iterable[bytes]) -> list[bytes]:
    """The traces that show in ``content``, in any case of letters."""
    lower = content.lower()
    return [trace for trace in traces if trace.lower() in lower]
