"""Text in pixels: found, blanked, everything else bit-identical; what cannot be cleared is held back."""

import io
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.deid import Profile, Status, deidentify_folder
from client.deid.codec import Part10, read
from client.deid.pixels import Cleared, clear, look, stored_bits_only
from client.deid.pixels.box import Box
from client.deid.pixels.detect import Detector
from client.deid.pixels.frames import Frames
from client.deid.pixels.redact import blanked
from client.deid.quarantine import may_be_lifted
from client.deid.streams import UnclearError, stripped
from client.deid.tables import vr_of
from tests.client.deid.files import KEY, to_bytes
from tests.client.deid.pixels.rendering import CT, SC, US, Page, background, dicom, pages, write


def page_with(text: str = "Mustermann 4711", angle: float = 0) -> Page:
    page = Page(background("dark", np.random.default_rng(1), 192, 256))
    assert write(page, text, (20, 20), name="dejavu/DejaVuSans.ttf", size=16, angle=angle)
    return page


def parsed(dataset: pydicom.Dataset) -> Part10:
    return read(to_bytes(dataset), vr_of)


def release(tmp_path: Path, dataset: pydicom.Dataset, profile: Profile) -> tuple[object, pydicom.Dataset | None]:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(to_bytes(dataset))
    report = deidentify_folder(source, tmp_path / "out", profile=profile, key=KEY, log=None, reports=tmp_path / "r")
    [record] = report.records()
    files = list((tmp_path / "out").rglob("*.dcm"))
    return record, pydicom.dcmread(files[0]) if files else None


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
@pytest.mark.parametrize("bits,photometric", [(8, "MONOCHROME2"), (12, "MONOCHROME1"), (16, "MONOCHROME2"), (8, "RGB")])
def test_text_is_blanked_and_the_rest_stays(bits: int, photometric: str) -> None:
    page = page_with()
    part10 = parsed(dicom(page, sop_class=US, bits=bits, photometric=photometric))
    why = look(part10)
    assert why is not None
    done = clear(part10, why)
    assert done.boxes
    before, after = Frames(part10).read(0), Frames(done.part10).read(0)
    ink = page.written[0].ink
    assert len(np.unique(after[ink].reshape(int(ink.sum()), -1), axis=0)) == 1
    changed = (before != after).reshape(*ink.shape, -1).any(axis=-1)
    rows, columns = np.nonzero(ink)
    near = np.zeros_like(ink)
    near[max(rows.min() - 12, 0) : rows.max() + 13, max(columns.min() - 12, 0) : columns.max() + 13] = True
    assert not (changed & ~near).any()


@pytest.mark.parametrize("angle", [90, 270])
def test_vertical_text(angle: float) -> None:
    page = page_with(angle=angle)
    part10 = parsed(dicom(page))
    done = clear(part10, look(part10) or pytest.fail("not looked at"))
    assert len(np.unique(Frames(done.part10).read(0)[page.written[0].ink])) == 1


def blanked_in(done: Cleared, page: Page) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    mask = np.zeros(page.values.shape, bool)
    for _, top, left, bottom, right in done.boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("share", [0.06, 0.14, 0.22, 0.3])
@pytest.mark.parametrize("shape", [(128, 256), pytest.param((200, 400), marks=pytest.mark.live)])
def test_letters_of_every_size(shape: tuple[int, int], share: float) -> None:
    """Large letters in small pictures are text as well: nuclear medicine, crops, banners."""
    page = Page(background("dark", np.random.default_rng(1), *shape))
    assert write(page, "ROE^JANE", (20, 4), name="dejavu/DejaVuSans.ttf", size=max(8, int(share * shape[0])))
    part10 = parsed(dicom(page))
    done = clear(part10, look(part10) or pytest.fail("not looked at"))
    assert page.written[0].covered(blanked_in(done, page))


@pytest.mark.live
def test_the_share_of_text_that_is_found_and_of_picture_that_it_costs() -> None:
    """A few of the pages of the benchmark: what it says at large must not fall unseen."""
    covered, blanked, room, held = [], 0, 0, 0
    for kind, page in pages(2, np.random.default_rng(7)):
        part10 = parsed(dicom(page, sop_class=US if kind == "us" else SC))
        try:
            mask = blanked_in(clear(part10, look(part10) or pytest.fail("not looked at")), page)
        except UnclearError:
            held += 1
            continue
        covered += [one.covered(mask) for one in page.written]
        blanked, room = blanked + int(mask.sum()), room + sum(one.room for one in page.written)
    assert not held
    assert all(covered)
    assert blanked < 2.2 * room


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("photometric,bits", [("MONOCHROME2", 8), ("MONOCHROME2", 12), ("RGB", 8)])
def test_lossless_streams_come_back_outside_the_box(syntax: str, photometric: str, bits: int) -> None:
    dataset = dicom(page_with(), bits=bits, photometric=photometric)
    dataset.compress(syntax, generate_instance_uid=False)
    frames = Frames(parsed(dataset))
    before = frames.read(0)
    frames.write(0, blanked(before, [Box(5, 6, 40, 50)], photometric))
    part10 = frames.result()
    assert part10.syntax == syntax
    after = Frames(part10).read(0)
    outside = np.ones(before.shape, bool)
    outside[5:40, 6:50] = False
    assert np.array_equal(before[outside], after[outside])
    assert not np.array_equal(before, after)


def test_clean_images_are_untouched() -> None:
    part10 = parsed(dicom(Page(background("dark", np.random.default_rng(2), 192, 256)), sop_class=US))
    done = clear(part10, look(part10) or pytest.fail("not looked at"))
    assert (done.part10, done.boxes) == (part10, ())


def test_the_file_and_the_report_say_what_was_done(tmp_path: Path, research: Profile) -> None:
    record, out = release(tmp_path, dicom(page_with(), sop_class=US), research)
    assert (record.status, record.frames) == (Status.RELEASED, 1)
    assert record.boxes > 0
    assert out is not None
    assert out.BurnedInAnnotation == "NO"
    assert "113101" in [code.CodeValue for code in out.DeidentificationMethodCodeSequence]
    assert "Mustermann" not in (tmp_path / "r" / "deid.json").read_text()


def test_the_basic_profile_redacts_and_claims_no_option(tmp_path: Path, basic: Profile) -> None:
    _, out = release(tmp_path, dicom(page_with()), basic)
    assert out is not None
    assert "113101" not in [code.CodeValue for code in out.DeidentificationMethodCodeSequence]


def _claims_text(dataset: pydicom.Dataset) -> None:
    dataset.BurnedInAnnotation = "YES"


def _single_bit(dataset: pydicom.Dataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
@pytest.mark.parametrize("change,why", [(_claims_text, "no text was found"), (_single_bit, "8 or 16 bits")])
def test_what_cannot_be_cleared_is_held(
    tmp_path: Path, basic: Profile, change: Callable[[pydicom.Dataset], None], why: str
) -> None:
    dataset = dicom(Page(np.zeros((64, 64))), sop_class=SC)
    change(dataset)
    record, out = release(tmp_path, dataset, basic)
    assert (record.status, out) == (Status.QUARANTINED, None)
    assert why in record.reason


def test_an_unknown_codec_is_held() -> None:
    dataset = dicom(page_with())
    dataset.compress(RLELossless, generate_instance_uid=False)
    part10 = parsed(dataset)
    with pytest.raises(UnclearError, match="cannot be decoded"):
        Frames(Part10("1.2.840.10008.1.2.4.100", part10.encoding, part10.dataset))


@pytest.mark.control("HIPAA-164.514-b2-faces")
def test_heads_are_flagged_or_held(tmp_path: Path, basic: Profile) -> None:
    head = dicom(Page(np.zeros((16, 16))), sop_class=CT, bits=12)
    head.BodyPartExamined = "BRAIN"
    _, out = release(tmp_path, head, basic)
    assert out is not None
    assert out.RecognizableVisualFeatures == "YES"
    own = tmp_path / "own.toml"
    own.write_text('extends = "basic"\noptions = ["clean_recognizable_visual_features"]\n')
    (tmp_path / "second").mkdir()
    record, out = release(tmp_path / "second", head, Profile.load(str(own)))
    assert (record.status, out) == (Status.QUARANTINED, None)


def test_the_network_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", forbidden)
    assert Detector().find(np.zeros((64, 64, 3), np.uint8)) == []


@pytest.mark.parametrize(("bits", "photometric"), [(8, "MONOCHROME2"), (16, "MONOCHROME1"), (8, "RGB")])
def test_jpeg_lossless_becomes_jpeg_ls_with_the_same_values(tmp_path: Path, bits: int, photometric: str) -> None:
    import gdcm

    plain = dicom(page_with(), bits=bits, photometric=photometric)
    (tmp_path / "plain").write_bytes(to_bytes(plain))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(tmp_path / "plain"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "coded"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    part10 = stripped(read((tmp_path / "coded").read_bytes(), vr_of))
    assert part10.syntax == "1.2.840.10008.1.2.4.70"
    done = clear(part10, look(part10) or pytest.fail("not looked at"))
    assert (done.part10.syntax, bool(done.boxes)) == (JPEGLSLossless, True)
    assert 0x00282110 not in done.part10.dataset  # nothing was ever lost
    before, after = Frames(parsed(plain)).read(0), Frames(done.part10).read(0)
    assert np.array_equal(before[100:], after[100:])
    assert not np.array_equal(before, after)


def test_lossy_jpeg_is_stored_without_loss_and_says_so() -> None:
    from PIL import Image
    from pydicom.encaps import encapsulate

    page = page_with()
    dataset = dicom(page)
    stream = io.BytesIO()
    Image.fromarray(np.rint(page.values * 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    part10 = parsed(dataset)
    before = Frames(part10).read(0)
    done = clear(part10, look(part10) or pytest.fail("not looked at"))
    assert (done.part10.syntax, done.recoded) == (JPEGLSLossless, True)
    assert done.part10.dataset[0x00282110][1] == b"01"
    after = Frames(done.part10).read(0)
    assert np.array_equal(before[100:], after[100:])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_above_the_stored_bits_of_a_compressed_picture_is_cleared(
    tmp_path: Path, basic: Profile, syntax: str, *, signed: bool
) -> None:
    dataset = dicom(Page(background("ct", np.random.default_rng(3), 64, 64)), sop_class=CT, bits=16)
    dataset.PixelRepresentation = int(signed)
    picture = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 64) >> 5  # 11 bits of 12
    hidden = picture.copy()
    hidden[20:30, 10:50] |= 1 << 14
    dataset.PixelData = hidden.tobytes()
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 12, 11
    record, out = release(tmp_path, dataset, basic)
    assert record.rules["hidden_bits_cleared"] == 1
    assert out is not None
    out.BitsStored, out.HighBit = 16, 15
    assert np.array_equal(out.pixel_array.astype(np.int32) & 0xFFFF, picture)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_stream_without_room_for_hidden_bits_is_left_as_it_is(syntax: str) -> None:
    dataset = dicom(Page(background("ct", np.random.default_rng(3), 64, 64)), sop_class=CT, bits=12)
    dataset.compress(syntax, generate_instance_uid=False)
    part10 = stripped(parsed(dataset))
    assert stored_bits_only(part10) is part10


def test_a_modality_of_masks_keeps_no_picture_from_being_looked_at(tmp_path: Path, basic: Profile) -> None:
    dataset = dicom(page_with(), sop_class=CT, photometric="RGB")
    dataset.Modality = "SEG"
    record, _ = release(tmp_path, dataset, basic)
    assert record.frames == 1
    assert record.boxes > 0


def test_what_the_file_says_of_faces_is_not_taken_over_unseen(tmp_path: Path, basic: Profile) -> None:
    said_no = dicom(Page(np.zeros((16, 16))), sop_class=CT, bits=12)
    said_no.RecognizableVisualFeatures = "NO"
    _, out = release(tmp_path, said_no, basic)
    assert out is not None
    assert "RecognizableVisualFeatures" not in out
    own = tmp_path / "own.toml"
    own.write_text('extends = "basic"\noptions = ["clean_recognizable_visual_features"]\n')
    said_no.RecognizableVisualFeatures = "YES"
    (tmp_path / "second").mkdir()
    record, out = release(tmp_path / "second", said_no, Profile.load(str(own)))
    assert (record.status, out) == (Status.QUARANTINED, None)


def test_shared_colours_wait_for_a_person(tmp_path: Path, basic: Profile) -> None:
    dataset = dicom(page_with(), sop_class=US, photometric="RGB")
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = dataset.PixelData[: dataset.Rows * dataset.Columns * 2]
    record, _ = release(tmp_path, dataset, basic)
    assert record.status is Status.QUARANTINED
    assert may_be_lifted(record.reason)


def test_what_lies_outside_the_regions_is_blanked_and_counted(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "basic"\n[pixels]\noutside_regions = "blank"\n')
    dataset = dicom(Page(background("us", np.random.default_rng(1), 192, 256)), sop_class=US)
    region = pydicom.Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 64, 48
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 191, 143
    dataset.SequenceOfUltrasoundRegions = [region]
    record, out = release(tmp_path, dataset, Profile.load(str(own)))
    assert record.rules["outside_regions_blanked"] == 1
    assert out is not None
    outside = np.ones((192, 256), bool)
    outside[48:144, 64:192] = False
    assert out.pixel_array[outside].max() == out.pixel_array.min()
    assert np.array_equal(out.pixel_array[~outside], dataset.pixel_array[~outside])


@pytest.mark.parametrize(
    "text,suspect", [("ABD PV LOW DOSE", False), ("Breast screening", False), ("Dose Report", True)]
)
def test_a_low_dose_and_a_screening_are_no_reason_to_look(text: str, *, suspect: bool) -> None:
    dataset = dicom(Page(np.zeros((16, 16))), sop_class=CT, bits=12)
    dataset.SeriesDescription = text
    assert (look(parsed(dataset)) is not None) is suspect
