"""Faces: in whole series they are found and put out, all else stays bit by bit; what is not found is held."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless, RLELossless

from client.deid import DeidReport, Profile, Status, deidentify_folder
from client.deid.explain import explain
from client.deid.faces import Faces, geometry, register
from client.deid.faces.atlas import LANDMARKS, WEDGES, inside, moved
from client.deid.faces.finder import UNFINISHED
from client.deid.pixels.frames import Frames
from client.deid.profile_file import FaceRule
from client.deid.quarantine import may_be_lifted
from client.deid.streams import UnclearError
from client.deid.tables import Option
from shared.errors import UsageError
from tests.client.deid.faces.heads import Head, Scan, Series, brain, ct, features, series, t2
from tests.client.deid.files import KEY, parsed, to_bytes

ADULT = Head(turn=(8, -5, 6), stretch=(1.04, 0.97, 1.02), shift=(6, -12, 9), warp=2.5, seed=3)
COARSE = Scan(shape=(52, 60, 60), voxel=(4, 4, 4), middle=(6, -24, -3))


@pytest.fixture(scope="module")
def defacing(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    own = tmp_path_factory.mktemp("profile") / "own.toml"
    own.write_text('extends = "basic"\n[pixels]\nfaces = "deface"\n')
    return Profile.load(str(own))


def write(folder: Path, files: Sequence[pydicom.Dataset]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(files):
        (folder / f"{number:03}.dcm").write_bytes(to_bytes(one))
    return folder


def run(tmp_path: Path, files: Sequence[pydicom.Dataset], profile: Profile, workers: int = 1) -> DeidReport:
    source = write(tmp_path / "in", files)
    return deidentify_folder(
        source, tmp_path / "out", profile=profile, key=KEY, log=None, reports=tmp_path / "r", workers=workers
    )


def released(tmp_path: Path) -> list[pydicom.Dataset]:
    """What came out, in the order of the numbers that the slices have."""
    found = [pydicom.dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    return sorted(found, key=lambda one: int(one.InstanceNumber))


def assert_only_the_face_went(before: NDArray[np.int64], after: NDArray[np.int64], made: Series) -> None:
    changed = before != after
    seen = made.features & (before > before.min() + 60)  # what is as dark as the background shows nothing
    assert changed[seen].mean() >= 0.99
    assert not changed[made.brain].any()
    assert 0 < changed.mean() < 0.25
    darkest = before.min(axis=(1, 2))[:, None, None]
    assert (after[changed] == np.broadcast_to(darkest, after.shape)[changed]).all()


@pytest.mark.control("HIPAA-164.514-b2-faces")
def test_a_face_goes_and_all_else_stays_bit_by_bit(tmp_path: Path, defacing: Profile) -> None:
    made = series(ADULT, COARSE)
    report = run(tmp_path, made.files, defacing, workers=2)
    assert report.released == len(made.files)
    out = released(tmp_path)
    before = np.stack([one.pixel_array for one in made.files]).astype(np.int64)
    assert_only_the_face_went(before, np.stack([one.pixel_array for one in out]).astype(np.int64), made)
    for one in out:
        assert one.RecognizableVisualFeatures == "NO"
        assert "113102" in {code.CodeValue for code in one.DeidentificationMethodCodeSequence}
    touched = [one for one in out if "DerivationDescription" in one]
    assert {one.DerivationDescription for one in touched} == {"Face replaced by background"}
    assert 0 < len(touched) < len(out)
    assert {record.rules["face_removed"] for record in report.records()} == {1}
    assert not list((tmp_path / "r").glob(".faces*"))


@pytest.mark.live
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_ct_of_a_tilted_gantry(tmp_path: Path, defacing: Profile, syntax: str) -> None:
    made = series(ADULT, replace(COARSE, tilt=1.1), ct, ct_like=True)
    before = np.stack([one.pixel_array for one in made.files]).astype(np.int64)
    for one in made.files:
        one.compress(syntax, generate_instance_uid=False)
    folder = write(tmp_path / "in", made.files)
    faces = Faces(folder)
    after = [Frames(faces.defaced(parsed(one)).part10).read(0) for one in made.files]
    assert_only_the_face_went(before, np.stack(after).astype(np.int64), made)
    part10 = parsed(made.files[-1])  # over the crown
    assert faces.defaced(part10).part10 is part10


@pytest.mark.parametrize(("plane", "bits"), [("sagittal", 8), ("coronal", 16)])
@pytest.mark.live
def test_any_plane_and_depth(tmp_path: Path, plane: str, bits: int) -> None:
    made = series(ADULT, replace(COARSE, plane=plane, shape=(52, 62, 62)), t2, bits=bits)
    faces = Faces(write(tmp_path / "in", made.files))
    before = np.stack([one.pixel_array for one in made.files]).astype(np.int64)
    after = np.stack([Frames(faces.defaced(parsed(one)).part10).read(0) for one in made.files]).astype(np.int64)
    changed = before != after
    assert changed[made.features & (before > before.min() + 15)].mean() >= 0.99
    assert not changed[made.brain].any()


@pytest.mark.live
def test_the_same_series_gives_the_same_planes(tmp_path: Path) -> None:
    made = series(ADULT, COARSE)
    folder = write(tmp_path / "in", made.files)
    room = tmp_path / "room"
    room.mkdir()
    first, noted, again = Faces(folder), Faces(folder, room), Faces(folder, room)
    part10 = parsed(made.files[12])
    frames = [Frames(one.defaced(part10).part10).read(0) for one in (first, noted, again)]
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[1], frames[2])
    assert all(path.stat().st_mode & 0o077 == 0 for path in room.glob("*.json"))


def _no_place(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for one in files:
        del one.ImagePositionPatient
    return files


def _scouts(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for one in files:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return files


def _one_gone(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    return files[:20] + files[21:]


def _turned(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    files[7].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    return files


def _of_another_space(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    files[7].FrameOfReferenceUID = "1.2.3.99"
    return files


def _many_frames(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    files[0].NumberOfFrames = 2
    files[0].PixelData = files[0].PixelData * 2
    return files[:1]


def _infinite(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for one in files:
        one.PixelSpacing = ["1e400", "4"]
    return files


def _in_colour(files: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for one in files:
        one.Modality = "US"
        one.RecognizableVisualFeatures = "YES"
    return files


@pytest.mark.control("HIPAA-164.514-b2-faces")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_no_place, geometry.NO_PLACE),
        (_infinite, geometry.NO_PLACE),
        (_scouts, geometry.SCOUT),
        (_one_gone, geometry.UNEVEN),
        (lambda files: files[:8], geometry.TOO_FEW),
        (lambda files: files[:1], geometry.TOO_FEW),
        (_turned, geometry.PLANES),
        (_of_another_space, geometry.PLANES),
        (_many_frames, geometry.MULTI_FRAME),
        (_in_colour, geometry.OTHER_KIND),
    ],
)
def test_what_makes_no_volume_is_held(
    tmp_path: Path, defacing: Profile, change: Callable[[list[pydicom.Dataset]], list[pydicom.Dataset]], why: str
) -> None:
    files = change(series(Head(), Scan(shape=(30, 16, 16), voxel=(6, 14, 14))).files)
    report = run(tmp_path, files, defacing)
    assert {(one.status, one.reason) for one in report.records()} == {(Status.QUARANTINED, why)}
    assert not released(tmp_path)
    assert not may_be_lifted(why)


def test_what_is_a_head_by_its_header_alone_is_held(tmp_path: Path, defacing: Profile) -> None:
    made = series(Head(), replace(COARSE, shape=(30, 40, 40), voxel=(6, 6, 6)))
    _, y, x = np.indices((30, 40, 40), float)
    leg = np.where(np.hypot(y - 20, x - 20) < 12, 300 + 80 * np.sin(x / 2), 3) - 200 * (np.hypot(y - 20, x - 20) < 4)
    for one, values in zip(made.files, leg.clip(0).astype(np.uint16), strict=True):
        one.PixelData = values.tobytes()
    report = run(tmp_path, made.files, defacing)
    assert {one.status for one in report.records()} == {Status.QUARANTINED}
    assert {one.reason for one in report.records()} <= {register.NO_HEAD, register.UNSURE, register.PARTIAL}


@pytest.mark.parametrize("wrong", [Head(turn=(180, 0, 0)), Head(turn=(0, 0, 180))])
def test_a_head_that_lies_otherwise_than_its_header_says_is_held(tmp_path: Path, wrong: Head) -> None:
    made = series(wrong, replace(COARSE, middle=(0, 14, 0)))
    faces = Faces(write(tmp_path / "in", made.files))
    with pytest.raises(UnclearError, match=r"a head"):
        faces.defaced(parsed(made.files[20]))


def test_one_file_that_says_head_makes_its_series_one(tmp_path: Path, defacing: Profile) -> None:
    files = series(Head(), Scan(shape=(4, 16, 16), voxel=(6, 14, 14))).files
    for one in files[1:]:
        one.BodyPartExamined = "CHEST"
    report = run(tmp_path, files, defacing)
    assert report.quarantined == len(files)


def test_other_series_go_out_unchanged(tmp_path: Path, defacing: Profile) -> None:
    files = series(Head(), Scan(shape=(3, 16, 16), voxel=(6, 14, 14))).files
    for one in files:
        one.BodyPartExamined = "CHEST"
    assert run(tmp_path, files, defacing).released == len(files)
    [first, *_] = released(tmp_path)
    assert "RecognizableVisualFeatures" not in first
    assert "113102" not in {code.CodeValue for code in first.DeidentificationMethodCodeSequence}


def test_a_search_that_ended_its_process_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = series(Head(), Scan(shape=(30, 16, 16), voxel=(6, 14, 14)))
    folder, room = write(tmp_path / "in", made.files), tmp_path / "room"
    room.mkdir()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.deid.faces.finder.fit", dies)
    with pytest.raises(KeyboardInterrupt):
        Faces(folder, room).defaced(parsed(made.files[0]))
    with pytest.raises(UnclearError, match=re.escape(UNFINISHED)):
        Faces(folder, room).defaced(parsed(made.files[0]))


def test_a_file_that_came_later_is_not_of_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = series(Head(), Scan(shape=(30, 16, 16), voxel=(6, 14, 14)))
    faces = Faces(write(tmp_path / "in", made.files[:29]))
    monkeypatch.setattr("client.deid.faces.finder.fit", lambda _: register.Fit(np.eye(3), np.zeros(3), 1.0))
    faces.defaced(parsed(made.files[0]))
    with pytest.raises(UnclearError, match="whole"):
        faces.defaced(parsed(made.files[29]))


def test_the_wedges_hold_the_face_and_clear_the_brain() -> None:
    points = Scan(shape=(70, 80, 70), voxel=(3, 3, 3), middle=(0, -14, -20)).points()
    face = inside(WEDGES, points)
    assert face[features(points)].mean() > 0.995
    assert not face[brain(points)].any()
    for axis in range(3):  # nor within 4 mm of it
        for step in (-4.0, 4.0):
            assert not face[brain(points + step * np.eye(3)[axis])].any()
    assert inside(WEDGES, LANDMARKS).tolist() == [True] * 5 + [False] * 5


def test_planes_go_along_with_a_patient() -> None:
    turn = np.array([[0.9, 0.1, 0.0], [-0.1, 1.1, 0.05], [0.0, 0.02, 1.0]])
    shift = np.array([4.0, -8.0, 15.0])
    points = np.random.default_rng(1).uniform(-150, 150, (500, 3))
    assert np.array_equal(inside(moved(WEDGES, turn, shift), points), inside(WEDGES, points @ turn.T + shift))


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_the_sides_of_planes_are_those_of_points(plane: str) -> None:
    made = series(ADULT, Scan(plane, shape=(3, 20, 24), voxel=(40, 9, 8)))
    for one in made.files:
        place = geometry.slice_of(parsed(one).dataset)
        for *normal, offset in (plane for wedge in WEDGES for plane in wedge):
            expected = place.points() @ np.array(normal) + offset
            assert np.allclose(place.side((normal[0], normal[1], normal[2], offset)), expected)


def own(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('extends = "basic"\n', FaceRule.FLAG),
        ('extends = "basic"\n[pixels]\nfaces = "hold"\n', FaceRule.HOLD),
        ('extends = "basic"\noptions = ["clean_recognizable_visual_features"]\n', FaceRule.HOLD),
        ('extends = "basic"\n[pixels]\nfaces = "deface"\n', FaceRule.DEFACE),
        (
            'extends = "basic"\noptions = ["clean_recognizable_visual_features"]\n[pixels]\nfaces = "deface"\n',
            FaceRule.DEFACE,
        ),
    ],
)
def test_a_profile_says_what_is_done_with_faces(tmp_path: Path, text: str, rule: FaceRule) -> None:
    profile = Profile.load(own(tmp_path, text))
    assert profile.pixels.faces is rule
    assert profile.has(Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES) == (rule is not FaceRule.FLAG)
    told = json.dumps(explain(own(tmp_path, text)))
    assert ("ears and forehead stay" in told) == (rule is FaceRule.DEFACE)


def test_a_profile_does_not_contradict_itself_about_faces(tmp_path: Path) -> None:
    text = 'extends = "basic"\noptions = ["clean_recognizable_visual_features"]\n[pixels]\nfaces = "flag"\n'
    with pytest.raises(UsageError, match="contradicts"):
        Profile.load(own(tmp_path, text))
