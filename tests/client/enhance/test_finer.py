"""Super-resolution by four: where each voxel lies in the patient, what stands there, and what the header says."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from client.enhance.folder import Enhanced, enhance_folder
from client.enhance.model import Model
from compliance.log import AuditLog
from shared.imaging.tasks import get_task
from tests.client.enhance.enhanced import enhanced_mr, written
from tests.client.enhance.test_images import complaints

FACTOR = 4


@pytest.fixture(scope="module")
def model() -> Model:
    """As its training begins: bicubic interpolation by four."""
    task = get_task("superres4")
    return Model("test", task, task.network(0).eval(), "d" * 64)


def finer(model: Model, source: Path, root: Path) -> Enhanced:
    with AuditLog(root / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
        return enhance_folder(source, root / "out", model=model, log=log, reports=root / "reports")


def only(model: Model, source: Path, root: Path) -> Dataset:
    (path,) = finer(model, source, root).results()
    return pydicom.dcmread(root / "out" / path)


def turned(path: Path) -> Dataset:
    """An oblique slice with pixels that are not square, and a spot off its middle."""
    source = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    source.PixelSpacing = [0.4, 0.7]
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    source.ImageOrientationPatient = [round(float(one), 8) for one in axes[:2].ravel()]
    y, x = np.mgrid[0:64, 0:64]
    source.PixelData = (100 + 900 * np.exp(-((y - 20) ** 2 + (x - 43) ** 2) / 40)).astype(np.int16).tobytes()
    source.save_as(path)
    return source


def centres(ds: Dataset) -> NDArray[np.float64]:
    """Where the centre of each voxel lies, mm ``[rows, columns, 3]`` (PS3.3 equation C.7.6.2.1-1)."""
    along_row, along_column = np.asarray(ds.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(one) for one in ds.PixelSpacing)
    rows, columns = np.mgrid[0 : ds.Rows, 0 : ds.Columns][..., None]
    first = np.asarray(ds.ImagePositionPatient, float)
    return np.asarray(first + columns * between_columns * along_row + rows * between_rows * along_column, np.float64)


def frame_of(ds: Dataset, index: int) -> Dataset:
    """The place of one frame, as a single-frame image tells it."""
    shared, own, flat = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[index], Dataset()
    measures = own.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence
    flat.PixelSpacing, flat.Rows, flat.Columns = measures[0].PixelSpacing, ds.Rows, ds.Columns
    flat.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    flat.ImagePositionPatient = own.PlanePositionSequence[0].ImagePositionPatient
    return flat


def check_places(source: Dataset, made: Dataset) -> None:
    """Each voxel of the source is cut into four by four of the same size, in the order of rows and columns."""
    assert (made.Rows, made.Columns) == (FACTOR * source.Rows, FACTOR * source.Columns)
    coarse, fine = centres(source), centres(made)
    steps = [coarse[1, 0] - coarse[0, 0], coarse[0, 1] - coarse[0, 0]]  # of one old pixel, mm
    for row in range(FACTOR):
        for column in range(FACTOR):
            shift = sum(((place + 0.5) / FACTOR - 0.5) * step for place, step in zip((row, column), steps, strict=True))
            assert np.allclose(fine[row::FACTOR, column::FACTOR], coarse + shift, atol=1e-5)


def test_the_centre_of_each_voxel_lies_where_it_should(model: Model, tmp_path: Path) -> None:
    source = turned(tmp_path / "turned.dcm")
    made = only(model, tmp_path / "turned.dcm", tmp_path)
    assert [float(one) for one in made.PixelSpacing] == [0.1, 0.175]
    assert made.pixel_array.shape == (256, 256)
    check_places(source, made)


def test_what_is_seen_lies_where_the_header_says(model: Model, tmp_path: Path) -> None:
    """A spot keeps its place in millimetres: the network's own shift is that of the header."""
    source = turned(tmp_path / "turned.dcm")
    made = only(model, tmp_path / "turned.dcm", tmp_path)

    def middle(ds: Dataset) -> NDArray[np.float64]:
        weights = np.clip(ds.pixel_array.astype(float) - 150, 0, None)[..., None]
        return np.asarray((weights * centres(ds)).sum(axis=(0, 1)) / weights.sum(), np.float64)

    assert np.linalg.norm(middle(made) - middle(source)) < 0.02  # a fifth of a new pixel


def test_each_frame_of_an_enhanced_image_keeps_its_place(model: Model, tmp_path: Path) -> None:
    source = enhanced_mr(rows=24, columns=32)
    made = only(model, written(source, tmp_path / "in" / "mr.dcm"), tmp_path)
    assert made.pixel_array.shape == (3, 96, 128)
    assert made.ImageType[3] == "RESAMPLED"
    for index in range(3):
        check_places(frame_of(source, index), frame_of(made, index))


def test_the_header_tells_how_much_finer_it_is(model: Model, tmp_path: Path) -> None:
    shutil.copy(str(get_testdata_file("MR_small.dcm")), tmp_path / "mr.dcm")
    made = only(model, tmp_path / "mr.dcm", tmp_path)
    assert "super-resolved x4" in made.SeriesDescription
    assert made.DerivationDescription.startswith("super-resolved x4 by a neural network")


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_bigendian.dcm", "mr", "H2"])
def test_dciodvfy_has_nothing_new_to_complain_of(model: Model, sites: Path, tmp_path: Path, name: str) -> None:
    if name == "mr":
        source = written(enhanced_mr(rows=24, columns=32), tmp_path / "in" / "mr.dcm")
    else:
        source = min((sites / "H2").rglob("001.dcm")) if name == "H2" else Path(str(get_testdata_file(name)))
    (path,) = finer(model, source, tmp_path).results()
    assert complaints(tmp_path / "out" / path) <= complaints(source)
