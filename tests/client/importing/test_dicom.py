"""Folders of DICOM with segmentations or structure sets: whose labels, on which slices, and what is refused."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy.spatial.transform import Rotation
from shapely import MultiPolygon, Polygon, contains_xy

from client.cohort import Cohort
from client.deid import Profile
from client.enhance.slices import UnusableError
from client.importing.grid import Grid
from client.importing.labels import LabelMap
from client.importing.run import Imported, import_dataset
from client.importing.source import look
from client.importing.structures import Region, mask
from client.ingest import ingest
from client.node import Node
from client.sources.folder import Folder
from client.sources.selection import Selection
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.client.fractions import in_fractions
from tests.client.importing import made
from tests.client.importing.test_import import TERMS

SHAPE, SPACING = (3, 40, 32), (4.0, 0.9, 1.1)  # slices, rows, columns
STUDY, SERIES, FRAME = generate_uid(), generate_uid(), generate_uid()
Contours = Sequence[NDArray[np.float64]]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT patient with two series and a segmentation."""
    out: Path = tmp_path_factory.mktemp("dicom") / "out"
    synthesize(out, sites=choose_sites("H7"), patients=1, size=64, slices=2, seed=7, workers=1)
    return out


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="tests")


def take(node: Node, root: Path, **given: object) -> Imported:
    settings = made.settings("dicom", **given)
    return import_dataset(node, root, settings, TERMS, profile=Profile.load("basic"))


def only(node: Node) -> dict[str, object]:
    """The one study of the cohort, by name."""
    cohort = Cohort.open(node.folder / "cohort")
    assert len(cohort.entries) == 1
    study = cohort.load(cohort.entries[0].key).studies[0]
    return vars(study) | {"key": cohort.entries[0].key}


def test_a_folder_with_segmentations_gives_what_an_ingest_gives(hospital: Path, tmp_path: Path) -> None:
    nodes = [Node.create(tmp_path / name, site="H1", purpose="tests") for name in ("a", "b")]
    key = (nodes[0].folder / "keys" / "pseudonym.key").read_bytes()
    (nodes[1].folder / "keys" / "pseudonym.key").write_bytes(key)
    ingest(nodes[0], Folder(hospital / "H7"), Selection(), profile=Profile.load("basic"))
    done = take(nodes[1], hospital / "H7")
    assert not done.looked.problems
    plain, imported = map(only, nodes)
    assert plain["key"] == imported["key"]  # one patient, one pseudonym, whichever way he comes in
    assert np.array_equal(plain["label"], imported["label"])  # type: ignore[arg-type]
    assert np.abs(np.subtract(plain["reference"], imported["reference"])).max() < 1e-3  # type: ignore[call-overload]
    assert np.abs(np.subtract(plain["noisy"], imported["noisy"])).max() < 1e-3  # type: ignore[call-overload]
    assert done.looked.ready[0].noisy == "of the data set"


def test_a_single_series_gets_simulated_noise_and_no_text_of_the_header(
    hospital: Path, node: Node, tmp_path: Path
) -> None:
    root = tmp_path / "one"
    shutil.copytree(hospital / "H7", root)
    exposures = {path: pydicom.dcmread(path).get("Exposure") for path in root.rglob("*.dcm")}
    low = min(one for one in exposures.values() if one is not None)
    for path in [path for path, one in exposures.items() if one == low]:
        path.unlink()
    done = take(node, root)
    assert done.looked.ready[0].noisy.startswith("simulated: filtered back-projection")
    found = [pydicom.dcmread(path) for path in (node.folder / "released").rglob("*.dcm")]
    assert len(found) == 5
    assert not any("SeriesDescription" in one and one.SeriesDescription for one in found if one.Modality == "CT")


def segmentation(root: Path) -> Path:
    return next(p for p in root.rglob("*.dcm") if pydicom.dcmread(p, stop_before_pixels=True).Modality == "SEG")


def test_probabilities_are_no_labels(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "fractions"
    shutil.copytree(hospital / "H7", root)
    in_fractions(segmentation(root))
    looked = look(root, made.settings("dicom"), {})
    assert not looked.ready
    assert any("FRACTIONAL" in one.reason for one in looked.problems)


def test_segments_that_nothing_speaks_for_are_listed_and_a_map_comes_first(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "seg"
    shutil.copytree(hospital / "H7", root)
    told = LabelMap("CT", {"liver": "background"})
    content = look(root, made.settings("dicom", labels={"CT": told}), {}).ready[0]
    assert content.labels == {"Liver": "background", "Tumour": "tumour"}  # by its name, and by its code
    label = content.case.read().label
    assert label is not None
    assert set(np.unique(label)) <= {0, 2}
    path = segmentation(root)
    changed = pydicom.dcmread(path)
    for number, name in enumerate(("Kidney", "Spleen")):
        changed.SegmentSequence[number].SegmentLabel = name
        changed.SegmentSequence[number].SegmentedPropertyTypeCodeSequence[0].CodeValue = f"6403300{number}"
    changed.save_as(path)
    found = look(root, made.settings("dicom"), {}).problems
    assert [one.reason for one in found] == [
        "labels that nothing says what to make of: Kidney, Spleen; name them in a file for --labels"
    ]


def test_a_segmentation_of_other_images_is_refused(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "seg"
    shutil.copytree(hospital / "H7", root)
    path = segmentation(root)
    changed = pydicom.dcmread(path)
    changed.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    changed.FrameOfReferenceUID = "1.2.4"
    changed.save_as(path)
    found = look(root, made.settings("dicom"), {}).problems
    assert [one.reason for one in found] == ["its labels speak of images that are not there"]


# --- structure sets -------------------------------------------------------------------------------------------------


def turned(angle: Sequence[float]) -> Grid:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()[:, ::-1] * SPACING
    matrix[:3, 0] = np.cross(matrix[:3, 2], matrix[:3, 1])  # right-handed, 4 mm
    matrix[:3, 0] *= SPACING[0] / np.linalg.norm(matrix[:3, 0])
    matrix[:3, 3] = (-20, 35, 110)
    return Grid(SHAPE, matrix)


def ring(row: float, column: float, radius: float, points: int = 60) -> NDArray[np.float64]:
    """(row, column) of a circle in pixels."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([row + radius * np.sin(angle), column + radius * np.cos(angle)], axis=1)


def in_mm(grid: Grid, number: float, outline: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.column_stack([np.full(len(outline), number), outline, np.ones(len(outline))])
    return (index @ grid.matrix.T)[:, :3]


OUTLINES = [ring(18.3, 15.2, 11.7), ring(17.1, 14.4, 4.6), ring(32.2, 25.7, 5.3, 5)]


@pytest.mark.parametrize("angle", [(0, 0, 0), (7, -12, 31), (88, 3, -1)])
def test_a_pixel_is_inside_if_its_centre_is_and_holes_stay_open(angle: Sequence[float]) -> None:
    grid = turned(angle)
    region = Region("liver", "", tuple(("CLOSED_PLANAR", in_mm(grid, 1, one)) for one in OUTLINES))
    outer, hole, far = map(Polygon, OUTLINES)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    truth = contains_xy(MultiPolygon([outer.difference(hole), far]), rows, columns)
    found = mask(region, grid)
    assert not found[0].any()
    assert not found[2].any()
    assert np.array_equal(found[1], truth)


def test_a_keyhole_comes_out_as_its_hole() -> None:
    grid = turned((0, 0, 0))
    outer, hole = OUTLINES[:2]
    path = np.concatenate([outer, outer[:1], hole[::-1][-1:], hole[::-1], outer[:1]])
    keyhole = mask(Region("a", "", (("CLOSED_PLANAR", in_mm(grid, 1, path)),)), grid)
    nested = mask(Region("a", "", tuple(("CLOSED_PLANAR", in_mm(grid, 1, one)) for one in (outer, hole))), grid)
    assert np.count_nonzero(keyhole ^ nested) <= 10  # pixels that the cut goes through


@pytest.mark.parametrize(
    ("number", "kind", "outline", "reason"),
    [
        (0.5, "CLOSED_PLANAR", OUTLINES[0], "on no slice"),
        (3, "CLOSED_PLANAR", OUTLINES[0], "outside the images"),
        (1, "POINT", OUTLINES[0][:1], "encloses nothing"),
        (1, "OPEN_PLANAR", OUTLINES[0], "encloses nothing"),
    ],
)
def test_a_contour_that_cannot_be_drawn_is_named(
    number: float, kind: str, outline: NDArray[np.float64], reason: str
) -> None:
    grid = turned((0, 0, 0))
    with pytest.raises(UnusableError, match=f"region Liver has a contour .*{reason}"):
        mask(Region("Liver", "", ((kind, in_mm(grid, number, outline)),)), grid)


def saved(path: Path, made_: Dataset, kind: str) -> Path:
    made_.SOPClassUID, made_.SOPInstanceUID, made_.file_meta = kind, generate_uid(), FileMetaDataset()
    made_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made_.StudyInstanceUID = made_.get("StudyInstanceUID") or STUDY
    path.parent.mkdir(parents=True, exist_ok=True)
    made_.save_as(path, enforce_file_format=True)
    return path


def scan(root: Path, grid: Grid, *, patient: str = "PAT-4711", **header: object) -> NDArray[np.int16]:
    """A CT series that lies on ``grid``."""
    values = np.random.default_rng(2).integers(-100, 200, grid.shape).astype(np.int16)
    for number in range(grid.shape[0]):
        one = Dataset()
        one.PatientID, one.PatientName, one.Modality, one.SeriesInstanceUID = patient, "Doe^Jane", "CT", SERIES
        one.FrameOfReferenceUID, one.InstanceNumber = FRAME, number + 1
        one.ImageType, one.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Jane Doe, liver"
        one.Rows, one.Columns = grid.shape[1:]
        one.PixelSpacing = [f"{side:.6f}" for side in grid.spacing[1:]]
        one.ImageOrientationPatient = [f"{side:.9f}" for side in grid.orientation]
        one.ImagePositionPatient = [f"{side:.6f}" for side in grid.position(number)]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
        one.PixelData = (values[number].astype(np.int32) + 1024).astype("<u2").tobytes()
        one["PixelData"].VR = "OW"
        for name, value in header.items():
            setattr(one, name, value)
        saved(root / f"{number}.dcm", one, CTImageStorage)
    return values


def structures(path: Path, named: dict[str, list[NDArray[np.float64]]], **header: object) -> Path:
    """An RT Structure Set (PS3.3 A.19.3) with closed contours in mm."""
    one = Dataset()
    one.PatientID, one.Modality, one.SeriesInstanceUID = "PAT-4711", "RTSTRUCT", generate_uid()
    for name, value in header.items():
        setattr(one, name, value)
    one.StructureSetROISequence, one.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(named.items(), start=1):
        roi, drawing = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = header.get("FrameOfReferenceUID", FRAME)
        drawing.ReferencedROINumber, drawing.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.5f}" for value in points.ravel()]
            drawing.ContourSequence.append(contour)
        one.StructureSetROISequence.append(roi)
        one.ROIContourSequence.append(drawing)
    reference, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = SERIES
    study.RTReferencedSeriesSequence = [series]
    reference.RTReferencedStudySequence = [study]
    one.ReferencedFrameOfReferenceSequence = [reference]
    return saved(path, one, RTStructureSetStorage)


def test_an_oblique_scan_with_a_structure_set_becomes_classes(node: Node, tmp_path: Path) -> None:
    grid, root = turned((7, -12, 31)), tmp_path / "rt"
    values = scan(root, grid)
    structures(
        root / "rt.dcm",
        {
            "Liver": [in_mm(grid, number, OUTLINES[0]) for number in (0, 1, 2)],
            "TUMOR": [in_mm(grid, 1, OUTLINES[1])],
        },
    )
    done = take(node, root)
    assert not done.looked.problems
    assert done.looked.ready[0].labels == {"Liver": "liver", "TUMOR": "tumour"}
    study = only(node)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    truth = np.stack([contains_xy(Polygon(OUTLINES[0]), rows, columns)] * 3).astype(np.uint8)
    truth[1][contains_xy(Polygon(OUTLINES[1]), rows, columns)] = 2
    assert np.array_equal(study["label"], truth)  # type: ignore[arg-type]
    assert np.allclose(study["reference"], np.clip((values + 160) / 400, 0, 1), atol=1e-6)  # type: ignore[arg-type]
    for path in (node.folder / "released").rglob("*.dcm"):
        assert b"Doe" not in path.read_bytes()
        assert b"PAT-4711" not in path.read_bytes()
    for secret in (b"PAT-4711", b"Doe", b"rt.dcm"):  # the record outlives an erasure
        assert secret not in done.record.read_bytes()
    found = [pydicom.dcmread(path) for path in (node.folder / "released").rglob("*.dcm")]
    assert {one.BodyPartExamined for one in found if one.Modality == "CT"} == {"ABDOMEN"}
    places = sorted({float(one.ImagePositionPatient[2]) for one in found if one.Modality == "CT"})
    assert np.allclose(places, sorted(grid.position(number)[2] for number in range(3)), atol=1e-4)


def test_the_record_tells_no_reason_that_may_name_somebody(node: Node, tmp_path: Path) -> None:
    """Files and folders of a hospital's own DICOM are named after patients, and the record outlives an erasure."""
    root, grid = tmp_path / "rt", turned((7, -12, 31))
    scan(root / "a", grid)
    (root / "b").mkdir()
    (root / "b" / "Doe^Jane.dcm").write_bytes(next((root / "a").glob("*.dcm")).read_bytes())
    done = take(node, root)
    assert [one.where for one in done.looked.problems] == ["b/Doe^Jane.dcm"]
    shutil.copytree(root / "a", root / "Roe^Rick")
    assert any("Roe^Rick" in one.reason for one in take(node, root).looked.problems)
    for secret in (b"Doe", b"Roe", SERIES[-12:].encode()):
        assert secret not in done.record.read_bytes()


def spell(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after))


def test_a_number_that_is_none_stays_behind(node: Node, tmp_path: Path) -> None:
    scan(tmp_path / "rt", turned((7, -12, 31)), MagneticFieldStrength=7.125)
    for path in (tmp_path / "rt").iterdir():
        spell(path, b"7.125 ", b"7,125 ")
    assert not take(node, tmp_path / "rt").looked.problems
    assert not any(b"7,125" in path.read_bytes() for path in (node.folder / "released").rglob("*.dcm"))


def test_a_place_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    grid = turned((7, -12, 31))
    scan(tmp_path / "rt", Grid((1, *grid.shape[1:]), grid.matrix), SliceThickness=7.125)
    spell(tmp_path / "rt" / "0.dcm", b"7.125 ", b"7,125 ")
    found = look(tmp_path / "rt", made.settings("dicom"), {}).problems
    assert [one.reason for one in found] == ["a value of its headers cannot be understood"]


def whole(grid: Grid) -> dict[str, list[NDArray[np.float64]]]:
    return {"liver": [in_mm(grid, 1, OUTLINES[0])]}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r, g: structures(r / "s.dcm", whole(g) | {"GTV 1": [], "Skin": []}), "what to make of: GTV 1, Skin"),
        (lambda r, g: structures(r / "s.dcm", whole(g), FrameOfReferenceUID="1.2.3"), "another frame of reference"),
        (lambda r, g: structures(r / "s.dcm", {"liver": [in_mm(g, 0.4, OUTLINES[0])]}), "on no slice"),
        (lambda r, g: structures(r / "s.dcm", whole(g), PatientID="other"), "no patient, or more than one"),
        (lambda r, g: (structures(r / "s.dcm", whole(g)), structures(r / "t.dcm", whole(g))), "keep the one"),
        (lambda r, g: (r / "1.dcm").write_bytes((r / "1.dcm").read_bytes()[:-200]), "pixels"),
        (lambda r, g: scan(r, g, patient=""), "no patient"),
        (lambda r, g: scan(r, g, RescaleType="US"), "no Hounsfield"),
        (lambda r, g: scan(r, g, PhotometricInterpretation="MONOCHROME1"), "shades of grey"),
        (lambda r, g: scan(r, g, ImageOrientationPatient=[1, 0, 0, 0.5, 0.9, 0]), "right angles|evenly"),
        (lambda r, g: spell(r / "1.dcm", b"-20.000000", b"-20,0x0000"), "where they lie|cannot be read"),
    ],
)
def test_a_study_that_cannot_be_used_says_why(
    node: Node, tmp_path: Path, spoil: Callable[[Path, Grid], object], reason: str
) -> None:
    grid, root = turned((0, 0, 0)), tmp_path / "rt"
    scan(root, grid)
    spoil(root, grid)
    found = look(root, made.settings("dicom"), {})
    assert not found.ready
    assert [one for one in found.problems if re.search(reason, one.reason)], found.problems
    assert not any("\n" in one.reason for one in found.problems)


def test_a_gap_in_the_slices_is_seen(tmp_path: Path) -> None:
    matrix = turned((0, 0, 0)).matrix
    scan(tmp_path / "rt", Grid((5, 40, 32), matrix))
    (tmp_path / "rt" / "2.dcm").unlink()
    assert "evenly" in look(tmp_path / "rt", made.settings("dicom"), {}).problems[0].reason
