"""Our reader and writer agree with pydicom on what is DICOM, and refuse what is not."""

import io
import struct
import zlib

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from client.deid.codec import DEEPEST, MalformedError, Part10, read, write
from client.deid.tables import vr_of
from tests.client.deid.files import image, to_bytes

META = {0x00020010: ("UI", b"1.2.840.10008.1.2.1\0")}


def again(data: bytes) -> Dataset:
    """Through our reader and writer, then as pydicom reads it."""
    part10 = read(data, vr_of)
    meta = {0x00020010: ("UI", part10.syntax.encode())}
    return pydicom.dcmread(io.BytesIO(b"".join(write(part10, meta))))


def nest(dataset: Dataset, depth: int) -> Dataset:
    for _ in range(depth):
        outer = Dataset()
        outer.DerivationCodeSequence = [dataset]
        dataset = outer
    return dataset


def rich(dataset: Dataset) -> None:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "1", "één"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.update(nest(item, 3))
    dataset.ImagePositionPatient = [1.5, -2.5, 3]
    dataset.ReferencedSegmentNumber = [1, 2]
    dataset.DimensionIndexPointer = 0x00200032
    dataset.private_block(0x0009, "ACME", create=True).add_new(1, "UN", b"abcd")


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_what_is_read_is_written(syntax: str) -> None:
    original = Dataset(image(rich))
    original.file_meta = image().file_meta
    original.file_meta.TransferSyntaxUID = syntax
    read_back = again(to_bytes(original))
    assert read_back.file_meta.TransferSyntaxUID == syntax
    expected = pydicom.dcmread(io.BytesIO(to_bytes(original)))
    assert Dataset(read_back) == Dataset(expected)


def test_sequences_of_either_length() -> None:
    dataset = image(rich)
    dataset["DerivationCodeSequence"].is_undefined_length = True
    dataset.DerivationCodeSequence[0].is_undefined_length_sequence_item = True
    assert Dataset(again(to_bytes(dataset))) == Dataset(dataset)


def test_compressed_pixel_data_keep_their_fragments() -> None:
    dataset = image()
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\1\2\3\4", b"\5\6"])
    dataset["PixelData"].is_undefined_length = True
    assert again(to_bytes(dataset)).PixelData == dataset.PixelData


VALUES = {
    "LO": st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=40),
    "US": st.integers(0, 65535),
    "FD": st.floats(allow_nan=False),
    "OB": st.binary(max_size=20).map(lambda value: value + b"\0" * (len(value) % 2)),
}
TAGS = {"LO": 0x00081030, "US": 0x00280010, "FD": 0x00189073, "OB": 0x00420011}


@st.composite
def datasets(draw: st.DrawFn, depth: int = 3) -> Dataset:
    dataset = Dataset()
    for vr in draw(st.sets(st.sampled_from(sorted(VALUES)))):
        dataset.add_new(TAGS[vr], vr, draw(VALUES[vr]))
    if depth and draw(st.booleans()):
        items = draw(st.lists(datasets(depth=depth - 1), max_size=2))
        dataset.AnatomicRegionSequence = items
        dataset["AnatomicRegionSequence"].is_undefined_length = draw(st.booleans())
    return dataset


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inner=datasets(), implicit=st.booleans())
def test_any_data_set_survives(inner: Dataset, implicit: bool) -> None:
    dataset = image(lambda one: one.update(inner))
    plain = Dataset(dataset)
    plain.file_meta = dataset.file_meta
    plain.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data = to_bytes(plain)
    assert Dataset(again(data)) == Dataset(pydicom.dcmread(io.BytesIO(data)))


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def part10(body: bytes) -> bytes:
    meta = b"".join([struct.pack("<HH2sH", 2, 0x10, b"UI", 20), b"1.2.840.10008.1.2.1\0"])
    return b"\0" * 128 + b"DICM" + meta + body


def test_a_data_set_labelled_with_the_other_layout() -> None:
    dataset = Dataset(image())
    dataset.file_meta = image().file_meta
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data = to_bytes(dataset).replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0")
    data = data.replace(b"\x10\x00UI\x12\x00", b"\x10\x00UI\x14\x00")
    found = read(data, vr_of)
    assert found.syntax == ImplicitVRLittleEndian
    assert found.dataset[0x00100010] == ("PN", b"Roe^Jane")


def test_zeros_at_the_end_are_no_elements() -> None:
    data = to_bytes(image())
    assert read(data + b"\0" * 100, vr_of).dataset == read(data, vr_of).dataset


def deep(levels: int) -> bytes:
    body = element(0x00080104, b"UT", b"bottom")
    for _ in range(levels):
        body = element(0x00089215, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body)
    return part10(body)


def test_depth_is_bounded() -> None:
    assert isinstance(read(deep(DEEPEST), vr_of), Part10)
    with pytest.raises(MalformedError, match="nested deeper than 32"):
        read(deep(DEEPEST + 1), vr_of)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no DICM prefix"),
        (b"\0" * 128 + b"DICM", "no Transfer Syntax"),
        (part10(b""), "nothing follows"),
        (part10(element(0x00081030, b"UT", b"x", 1 << 30)), "claims more bytes"),
        (part10(element(0x00089215, b"SQ", b"", 1 << 30)), "claims more bytes"),
        (part10(element(0x00081030, b"UT", b"ab") * 2), "stands twice"),
        (part10(element(0x00081030, b"UT", b"ab") + b"\1\2\3"), "left over"),
        (part10(element(0x00081030, b"UT", b"ab") + b"\x08\x00\x31\x10??\0\0"), "no known VR"),
        (part10(element(0x00081030, b"UT", b"ab", 0xFFFFFFFF)), "no length"),
        (part10(element(0x00089215, b"SQ", b"", 0xFFFFFFFF)), "does not end"),
        (part10(element(0x00089215, b"SQ", b"\0" * 8)), "no item"),
        (part10(element(0x00089215, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 99))), "item claims more"),
        (part10(element(0x7FE00010, b"OB", b"\1" * 8, 0xFFFFFFFF)), "compressed pixel data"),
        (part10(element(0xFFFEE00D, b"UT", b"ab")), "delimiter"),
    ],
)
def test_what_cannot_be_read_without_guessing_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        read(data, vr_of)


def test_a_bomb_is_not_inflated() -> None:
    squeezer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(squeezer.compress(b"\0" * (1 << 24)) for _ in range(8)) + squeezer.flush()
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + b"1.2.840.10008.1.2.1.99"
    with pytest.raises(MalformedError, match="larger than the limit"):
        read(b"\0" * 128 + b"DICM" + meta + bomb, vr_of)
