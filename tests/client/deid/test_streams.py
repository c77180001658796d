"""Compressed pictures lose their comments and nothing of their picture."""

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames

from client.deid import Profile, deidentify_folder
from tests.client.deid.files import KEY, to_bytes

SECRET = b"Jane Roe, 31 Dec 1930"
COMMENT = b"\xff\xfe" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
EXIF = b"\xff\xe1" + (len(SECRET) + 8).to_bytes(2, "big") + b"Exif\0\0" + SECRET
COMMENT_2000 = b"\xff\x64" + (len(SECRET) + 4).to_bytes(2, "big") + b"\0\1" + SECRET


def compressed(name: str) -> FileDataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def frame_of(dataset: FileDataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def release(dataset: FileDataset, root: Path, profile: Profile) -> tuple[str, list[FileDataset]]:
    (root / "in").mkdir()
    (root / "in" / "a.dcm").write_bytes(to_bytes(dataset))
    report = deidentify_folder(root / "in", root / "out", profile=profile, key=KEY, log=None, reports=root / "reports")
    [record] = report.records()
    return f"{record.status}: {record.reason}", [pydicom.dcmread(path) for path in (root / "out").rglob("*.dcm")]


@pytest.mark.parametrize(
    ("name", "comment"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", COMMENT),
        ("MR_small_jpeg_ls_lossless.dcm", EXIF),
        ("MR_small_jp2klossless.dcm", COMMENT_2000),
        ("693_J2KI.dcm", COMMENT_2000),
        ("MR_small_RLE.dcm", b""),
    ],
)
def test_comments_go_and_the_picture_stays(tmp_path: Path, basic: Profile, name: str, comment: bytes) -> None:
    dataset = compressed(name)
    frame = frame_of(dataset)
    # Behind the start of the stream; JPEG 2000 has its size segment there first.
    at = 2 if comment[:2] != b"\xff\x64" else 4 + int.from_bytes(frame[4:6], "big")
    tail = b"" if name.endswith("RLE.dcm") else SECRET
    dataset.PixelData = encapsulate([frame[:at] + comment + frame[at:] + tail])
    dataset["PixelData"].is_undefined_length = True
    status, [result] = release(dataset, tmp_path, basic)
    assert status == "released: "
    assert SECRET not in to_bytes(result)
    assert comment[4:] not in to_bytes(result) or not comment
    untouched = compressed(name)
    assert (result.pixel_array == untouched.pixel_array).all()


def test_offset_tables_are_made_anew(tmp_path: Path, basic: Profile) -> None:
    dataset = compressed("MR_small_RLE.dcm")
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = SECRET[:16], SECRET[:16]
    _, [result] = release(dataset, tmp_path, basic)
    assert "ExtendedOffsetTable" not in result
    assert (result.pixel_array == compressed("MR_small_RLE.dcm").pixel_array).all()


@pytest.mark.parametrize(
    ("frames", "count", "why"),
    [
        ([b"no JPEG-LS stream"], "1", "no JPEG stream"),
        ([b"\xff\xd8\xff\xe0"], "1", "cut short"),
        ([b"ab", b"cd", b"ef"], "2", "spread over fragments"),
    ],
)
def test_streams_that_cannot_be_looked_into_wait(
    tmp_path: Path, basic: Profile, frames: list[bytes], count: str, why: str
) -> None:
    dataset = compressed("MR_small_jpeg_ls_lossless.dcm")
    dataset.PixelData, dataset.NumberOfFrames = encapsulate(frames), count
    dataset["PixelData"].is_undefined_length = True
    status, results = release(dataset, tmp_path, basic)
    assert status.startswith("quarantined")
    assert why in status
    assert not results


def test_an_unknown_syntax_waits(tmp_path: Path, basic: Profile) -> None:
    dataset = compressed("MR_small_RLE.dcm")
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    status, results = release(dataset, tmp_path, basic)
    assert "transfer syntax" in status
    assert not results


def test_a_second_picture_inside_waits(tmp_path: Path, basic: Profile) -> None:
    dataset = compressed("MR_small_jpeg_ls_lossless.dcm")
    frame = frame_of(dataset).rstrip(b"\0")
    dataset.PixelData = encapsulate([frame + frame])
    dataset["PixelData"].is_undefined_length = True
    status, results = release(dataset, tmp_path, basic)
    assert "more than its picture" in status
    assert not results
