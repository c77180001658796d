"""Pictures of held files look as a viewer shows them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.pixels import convert_color_space

from client.deid.boxes import Shape, shape_of
from client.review.pictures import png
from shared.errors import DataError
from tests.client.deid.files import image, to_bytes
from tests.client.review.hospital import undecodable


def shown(path: Path, change: Callable[[Dataset], object], window: str = "full", frame: int = 0) -> np.ndarray:
    path.write_bytes(to_bytes(image(change)))
    return np.asarray(Image.open(io.BytesIO(png(path, frame, window=window))))


def grey(kind: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = kind

    return change


def test_monochrome1_is_shown_the_right_way_round(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    white_is_high, white_is_low = shown(path, grey("MONOCHROME2")), shown(path, grey("MONOCHROME1"))
    assert white_is_high[0, 0] == 0
    assert white_is_high[3, 3] == 255
    assert (white_is_low == 255 - white_is_high).all()
    assert (shown(path, grey("MONOCHROME1"), "stored") == white_is_high).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_applied(tmp_path: Path, bits: int) -> None:
    table = np.array([[0, 0, 0], [255, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)

    def change(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes([0, 1, 2, 3] * 4)
        for column, name in enumerate(("Red", "Green", "Blue")):
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [4, 0, bits])
            values = table[:, column].astype("<u2") * (257 if bits == 16 else 1)
            data = values.tobytes() if bits == 16 else values.astype(np.uint8).tobytes()
            setattr(dataset, f"{name}PaletteColorLookupTableData", data)

    path = tmp_path / "a.dcm"
    assert (shown(path, change)[0] == table).all()
    # Two numbers of one colour: what is written with them is invisible but for the view of the numbers.
    assert np.unique(shown(path, change, "stored")[0]).size == 4


def test_a_palette_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be shown"):
        shown(tmp_path / "a.dcm", grey("PALETTE COLOR"))
    assert png(tmp_path / "a.dcm", 0, window="stored")


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2], colours[2:, :, 2] = (200, 30, 30), 180

    def change(dataset: Dataset) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_FULL", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = convert_color_space(colours, "RGB", "YBR_FULL").tobytes()

    assert np.abs(shown(tmp_path / "a.dcm", change).astype(int) - colours).max() <= 3


def test_a_film_has_frames(tmp_path: Path) -> None:
    def film(dataset: Dataset) -> None:
        dataset.NumberOfFrames = 2
        dataset.PixelData = np.arange(32, dtype="<u2").tobytes()

    path = tmp_path / "a.dcm"
    assert shown(path, film, frame=1).shape == (4, 4)
    assert shape_of(path) == Shape(2, 4, 4)
    with pytest.raises(DataError, match="no such frame"):
        png(path, 2)


def test_what_has_no_picture_has_no_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"no DICOM")
    assert shape_of(path) is None
    assert shape_of(tmp_path / "gone.dcm") is None
    with pytest.raises(DataError):
        png(path, 0)


def test_what_a_decoder_gives_up_on_cannot_be_shown(tmp_path: Path) -> None:
    """pydicom raises RuntimeError where every decoder that it has failed."""
    path = tmp_path / "a.dcm"
    path.write_bytes(undecodable())
    assert shape_of(path) is not None
    for window in ("full", "stored"):
        with pytest.raises(DataError, match="cannot be shown"):
            png(path, 0, window=window)
