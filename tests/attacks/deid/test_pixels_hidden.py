"""Text beside the picture: in bits that no viewer shows, in overlays, in icons, in frames that nobody counts."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.deid import Status
from tests.attacks.deid.burned_cases import NAME, SANS
from tests.attacks.deid.burning import Case, Plane, Writing, burn, chest, fan, image
from tests.attacks.deid.test_pixels import Outcome, outcome_of

STREAMS = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
PLANE: Plane = chest(1)
MASK: NDArray[np.bool_] = burn(np.zeros(PLANE.shape), [Writing(NAME, 24, (20, 10), font=SANS)])[1][0].mask
PICTURE = np.rint(PLANE * 4095).astype(np.uint16)


def high(kind: str, where: int = 0xF000) -> Case:
    """Twelve bits of picture, and a name in the four above them."""
    dataset = image(kind, np.where(MASK, PICTURE | where, PICTURE)[np.newaxis], bits=16)
    dataset.BitsStored, dataset.HighBit = 12, 11
    return Case(dataset, ())


def words(outcome: Outcome) -> NDArray[np.uint16]:
    """The words of what came out, with every bit that is in them."""
    assert outcome.released is not None
    dataset = outcome.released
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        kind = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        return np.frombuffer(dataset.PixelData, kind).astype(np.uint16).reshape(PLANE.shape)
    plain = Dataset(dataset)
    plain.BitsStored, plain.HighBit = 16, 15
    options = {
        keyword: plain[name].value
        for keyword, name in (
            ("rows", "Rows"),
            ("columns", "Columns"),
            ("samples_per_pixel", "SamplesPerPixel"),
            ("bits_allocated", "BitsAllocated"),
            ("bits_stored", "BitsStored"),
            ("photometric_interpretation", "PhotometricInterpretation"),
            ("pixel_representation", "PixelRepresentation"),
        )
    }
    decoded, _ = get_decoder(syntax).as_array(
        dataset.PixelData, number_of_frames=1, pixel_keyword="PixelData", raw=True, **options
    )
    return np.asarray(decoded).astype(np.uint16).reshape(PLANE.shape)


def held_or(outcome: Outcome, check: Callable[[], None]) -> None:
    assert not outcome.told
    if outcome.record.status is Status.RELEASED:
        check()
    else:
        assert outcome.record.reason


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
@pytest.mark.parametrize("kind", ["DX", "CT"])
@pytest.mark.parametrize("stored_as", ["plain", *STREAMS])
def test_bits_above_bits_stored(kind: str, stored_as: str) -> None:
    """PS3.5 8.1.1: what stands there is no pixel value; overlays of old machines do."""
    case = high(kind)
    if stored_as != "plain":
        case.dataset.BitsStored, case.dataset.HighBit = 16, 15  # so that the encoder keeps every bit
        case.dataset.compress(STREAMS[stored_as], generate_instance_uid=False)
        case.dataset.BitsStored, case.dataset.HighBit = 12, 11
    done = outcome_of(case)

    def check() -> None:
        still = ((words(done)[MASK] & 0xF000) != 0).mean()
        assert not still, f"{still:.0%} of {NAME!r} stands in the highest four bits"
        if (
            stored_as == "plain"
        ):  # where a stream carries them, they may be seen as text and the picture under it go too
            assert np.array_equal(words(done), PICTURE)

    held_or(done, check)


@pytest.mark.parametrize("kind", ["DX", "CT"])
def test_bits_below_the_picture(kind: str) -> None:
    """Where High Bit is 15 and Bits Stored 12, the four lowest bits are free."""
    dataset = image(kind, np.where(MASK, PICTURE << 4 | 0xF, PICTURE << 4)[np.newaxis], bits=16)
    dataset.BitsStored, dataset.HighBit = 12, 15
    done = outcome_of(Case(dataset, ()))
    held_or(done, lambda: np.testing.assert_array_equal(words(done) & 0xF, 0))


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
@pytest.mark.parametrize("group", [0x6000, 0x6002, 0x601E])
def test_overlays(group: int) -> None:
    """PS3.3 C.9.2: one bit per pixel beside the picture, and its label and description in words."""
    case = high("DX", 0)
    bits = np.packbits(MASK.ravel(), bitorder="little").tobytes()
    for element, vr, value in (
        (0x10, "US", PLANE.shape[0]),
        (0x11, "US", PLANE.shape[1]),
        (0x22, "LO", NAME),
        (0x40, "CS", "G"),
        (0x50, "SS", [1, 1]),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x1500, "LO", NAME),
        (0x3000, "OW", bits),
    ):
        case.dataset.add_new(group << 16 | element, vr, value)
    done = outcome_of(case)

    def check() -> None:
        assert done.released is not None
        assert not [element.tag for element in done.released.iterall() if element.tag.group >> 8 == 0x60]

    held_or(done, check)


def test_an_icon() -> None:
    """PS3.3 C.7.6.1.1.6: a small copy of the picture, text and all, at any depth."""
    case = high("DX", 0)
    icon = Dataset(image("OT", np.where(MASK, 255, 0)[np.newaxis], bits=8))
    small = Dataset()
    for keyword in (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
    ):
        small[keyword] = icon[keyword]
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = icon.SOPClassUID, "1.2.826.0.1.4711.9"
    inner.IconImageSequence = Sequence([small])
    case.dataset.IconImageSequence, case.dataset.ReferencedImageSequence = Sequence([small]), Sequence([inner])
    done = outcome_of(case)

    def check() -> None:
        assert done.released is not None
        depicted = [element for element in done.released.iterall() if element.keyword == "PixelData"]
        assert len(depicted) == 1

    held_or(done, check)


@pytest.mark.parametrize("stored_as", ["plain", *STREAMS])
def test_a_frame_that_nobody_counts(stored_as: str) -> None:
    """Two frames where Number of Frames says one: the second has the name."""
    frames = np.stack([np.rint(fan(1) * 255), np.where(MASK, 255, 0)]).astype(np.uint8)
    dataset = image("US film", frames, bits=8)
    if stored_as != "plain":
        dataset.compress(STREAMS[stored_as], generate_instance_uid=False)
        dataset.PixelData = encapsulate(list(generate_frames(dataset.PixelData, number_of_frames=2)), has_bot=False)
    dataset.NumberOfFrames = 1
    outcome = outcome_of(Case(dataset, ()))
    assert not outcome.told
    if outcome.released is None:
        assert outcome.record.reason
        return
    if stored_as == "plain":
        assert len(outcome.released.PixelData) <= frames[0].size
    else:
        assert len(list(generate_frames(outcome.released.PixelData))) == 1


@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian], ids=["little", "big"])
def test_behind_the_last_row(syntax: str | None) -> None:
    """Uncompressed pixels that are longer than rows times columns."""
    case = high("CT", 0)
    case.dataset.PixelData += np.where(MASK, 4095, 0).astype("<u2").tobytes()
    if syntax:
        case.dataset.file_meta.TransferSyntaxUID = syntax
    done = outcome_of(case)

    def check() -> None:
        assert done.released is not None
        assert len(done.released.PixelData) == 2 * MASK.size

    held_or(done, check)
