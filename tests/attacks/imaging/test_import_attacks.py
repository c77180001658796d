"""A hostile data set, and careless words, against ``fedward data import``: docs/import.md, "Hostile files"."""

import json
import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from client.consenting import withdraw
from client.node import Node
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.attacks.imaging.bombs import deflated
from tests.attacks.imaging.command import Done, fedward, full_disk, printable, refusal
from tests.client.importing import made
from tests.client.importing.made import AXIAL, ct


@pytest.fixture
def node(tmp_path: Path) -> Path:
    assert fedward("node", "init", tmp_path / "node", "--site", "H1", "--purpose", "tests").code == 0
    (tmp_path / "LICENCE").write_text("CC BY 4.0\n")
    return tmp_path / "node"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT patient of DICOM with two series and a SEG."""
    out = tmp_path_factory.mktemp("hospital") / "out"
    synthesize(out, sites=choose_sites("H7"), patients=1, size=64, slices=2, seed=7, workers=1)
    return out / "H7"


def take(node: Path, folder: Path, layout: str, *more: object) -> Done:
    words = ["--layout", layout, "--licence", node.parent / "LICENCE", "--who", "A. Officer", "--accept-terms"]
    dataset = [] if "--dataset" in more else ["--dataset", "SET"]
    return fedward("data", "import", node, folder, *words, *dataset, *more)


def mr(shift: int = 0) -> np.ndarray:
    return np.roll(np.abs(ct()), shift, 0).astype(np.int16)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fails where something waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("nifti", "p.nii"),
        ("nifti", "p.nii.gz"),
        ("brainweb", "t1_icbm_normal_1mm_pn3_rf20.mnc"),
        ("png", "clean/a.png"),
        ("dicom", "x.dcm"),
    ],
)
def test_a_pipe_among_the_files_does_not_hold_the_import_for_ever(node: Path, layout: str, name: str) -> None:
    path = node.parent / "set" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with at_most(120):
        done = take(node, node.parent / "set", layout, *(["--modality", "MR"] if layout in {"nifti", "png"} else []))
    assert "no plain file" in refusal(done, 4)


def test_a_name_that_is_no_text_stops_nobody_else(node: Path) -> None:
    """A folder or file named in Latin-1 came as a traceback, and none of the others was taken in."""
    root = node.parent / "set"
    made.nifti(root / "good.nii", mr())
    made.nifti(root / "x.nii", mr(1))
    made.nifti(root / "deep" / "inside.nii", mr(2))
    (root / "x.nii").rename(root / os.fsdecode(b"\xff\xfe.nii"))
    (root / "deep").rename(root / os.fsdecode(b"m\xfcller"))
    done = take(node, root, "nifti", "--modality", "MR")
    refusal(done, 3)
    assert "2 studies" in done.out
    body = json.loads((node / "imports" / "set.json").read_bytes())
    assert {name for case in body["cases"] for name in case["files"]} == {"good.nii", r"m\udcfcller/inside.nii"}
    assert [one["where"] for one in body["problems"]] == [r"\udcff\udcfe.nii"]
    again = take(node, root, "nifti", "--modality", "MR")
    assert "2 studies, 2 of them here before" in again.out
    assert fedward("data", "show", node, "--json").code == 0


@pytest.mark.parametrize("name", ["x\x1b[2Jy", "a\nfedward: all is well", "..", "p" * 70, "sp ", "b\\s", "^=", "Ü"])
def test_a_name_that_is_no_patient_id_is_refused_and_printed_harmlessly(node: Path, name: str) -> None:
    made.nifti(node.parent / "set" / f"{name}.nii", mr())
    done = take(node, node.parent / "set", "nifti", "--modality", "MR")
    assert "fedward: all is well" not in done.err.splitlines()
    refusal(done, 4)
    assert printable(done.said)
    assert not list(node.rglob("*.dcm"))


def odd_values() -> dict[str, Callable[[Path], object]]:
    v = mr()
    return {
        "tiny": lambda p: made.nifti(p, v, np.diag([1e-30, 1e-30, 1e-30, 1])),
        "huge": lambda p: made.nifti(p, v, np.diag([1e30, 1e30, 1e30, 1])),
        "far": lambda p: made.nifti(p, v, AXIAL + np.array([[0, 0, 0, 1e38], *[[0] * 4] * 3])),
        "minus": lambda p: made.nifti(p, v, dim=[3, -1, 24, 4, 1, 1, 1, 1]),
        "none": lambda p: made.nifti(p, v, dim=[3, 0, 24, 4, 1, 1, 1, 1]),
        "scale": lambda p: made.nifti(p, v, scl_slope=1e38, scl_inter=1e38),
        "place": lambda p: made.nifti(p, v, vox_offset=1e9),
        "before": lambda p: made.nifti(p, v, vox_offset=-5),
        "folder": lambda p: p.mkdir(parents=True),
        "text": lambda p: p.write_bytes(b"x" * 400),
        "minor": lambda p: made.nifti(p, v.astype(np.float64) * 1e-320),
    }


def test_numbers_that_no_patient_has_are_a_line_each_and_no_traceback(node: Path) -> None:
    root = node.parent / "set"
    root.mkdir()
    for name, write in odd_values().items():
        write(root / f"{name}.nii")
    done = take(node, root, "nifti", "--modality", "MR")
    refusal(done, 4)
    assert not list(node.rglob("*.dcm"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"", colour: int = 0) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_pictures_that_are_bombs_or_lies_are_a_line_each_and_take_no_memory(node: Path) -> None:
    folder = node.parent / "set" / "clean"
    folder.mkdir(parents=True)
    bad = {
        "wide": png(60000, 60000, b"\0" * 1000),
        "most": png(2**31 - 1, 2**31 - 1),
        "none": png(0, 0),
        "short": png(30, 20, b"\0" * 90),
        "cut": png(30, 20, b"\0" * 620)[:-30],
        "rgb": png(2, 2, (b"\0" + b"a" * 6) * 2, colour=2),
        "gif": b"GIF89a",
        "ninth_99999999999999999999999": b"",
    }
    for name, data in bad.items():
        (folder / f"{name}.png").write_bytes(data)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (100 << 20)))
    (folder / "text.png").write_bytes(png(30, 20, b"\0" * 620, text))
    made.png(folder / "good.png", np.arange(600, dtype=np.uint8).reshape(20, 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = take(node, folder.parent, "png", "--modality", "MR")
    refusal(done, 3)
    assert "1 study" in done.out
    for name in bad:
        assert name in done.out
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10


def test_a_deflated_file_of_some_kilobytes_does_not_become_gigabytes(node: Path) -> None:
    (node.parent / "set").mkdir()
    deflated(node.parent / "set" / "bomb.dcm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "inflates to more than 256 MiB" in refusal(take(node, node.parent / "set", "dicom"), 4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


# --- DICOM ----------------------------------------------------------------------------------------------------------


def altered(patient: Path, out: Path, change: Callable[[Dataset, int], object]) -> Path:
    out.mkdir()
    for number, path in enumerate(sorted(patient.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        change(dataset, number)
        dataset.save_as(out / f"{number}.dcm", enforce_file_format=False)
    return out


def on_images(**values: object) -> Callable[[Dataset, int], object]:
    def change(dataset: Dataset, _: int) -> None:
        for name, value in values.items() if dataset.Modality == "CT" else ():
            setattr(dataset, name, value)

    return change


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda one, _: setattr(one, "StudyInstanceUID", "../../../../tmp/evil"),
        lambda one, _: delattr(one, "PatientID"),
        lambda one, number: setattr(one, "PatientID", f"P{number % 2}"),
        on_images(PixelSpacing=[0, 0]),
        on_images(PixelSpacing=[-1, 1]),
        on_images(Rows=60000, Columns=60000),
        on_images(Rows=0),
        on_images(RescaleSlope=0),
        on_images(ImagePositionPatient=[0, 0, 0]),
        on_images(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
        on_images(BitsAllocated=64, BitsStored=64),
        on_images(NumberOfFrames=2**31 - 1),
    ],
    ids=["uid", "nobody", "two", "flat", "minus", "large", "rows", "slope", "place", "way", "bits", "frames"],
)
def test_dicom_that_lies_is_refused_and_nothing_is_released(
    node: Path, patient: Path, change: Callable[[Dataset, int], object]
) -> None:
    refusal(take(node, altered(patient, node.parent / "set", change), "dicom"), 4)
    assert not list(node.rglob("*.dcm"))
    assert not Path("/tmp/evil").exists()  # noqa: S108  the name that the file gives


def test_the_record_of_a_folder_of_dicom_tells_of_nobody(node: Path, patient: Path) -> None:
    assert take(node, patient, "dicom").code == 0
    names: set[str] = set()
    for path in patient.rglob("*.dcm"):
        one = pydicom.dcmread(path)
        names |= {str(one.PatientID), str(one.PatientName).split("^")[0], one.StudyInstanceUID, one.SOPInstanceUID}
    for path in node.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [name for name in names if name.encode() in data], path
    private = [*(node / "imports").iterdir(), *(node / "reports").rglob("*.json"), *(node / "keys").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in private if path.is_file()} == {0o600}


def test_an_erased_patient_does_not_come_back_by_an_import(node: Path) -> None:
    root = made.nifti(node.parent / "set" / "ada.nii", mr()).parent
    made.nifti(root / "bob.nii", mr(1))
    words = ("nifti", "--modality", "MR")
    assert take(node, root, *words).code == 0
    assert fedward("node", "subject", "erase", node, "SET-ada", "--who", "DPO", "--yes").code == 0
    assert len({path.parent.parent.parent for path in (node / "released").rglob("*.dcm")}) == 1
    again = take(node, root, *words, "--overwrite")
    assert "Traceback" not in again.said
    assert len({path.parent.parent.parent for path in (node / "released").rglob("*.dcm")}) == 1
    assert len(json.loads((node / "cohort" / "index.json").read_bytes())["patients"]) == 1


def test_who_withdraws_stays_out_after_another_import(node: Path) -> None:
    root = made.nifti(node.parent / "set" / "ada.nii", mr()).parent
    assert take(node, root, "nifti", "--modality", "MR").code == 0
    opened = Node.open(node)
    (entry,) = opened.cohort.entries
    withdraw(opened, entry.key)
    made.nifti(root / "bob.nii", mr(1))
    assert take(node, root, "nifti", "--modality", "MR").code == 0
    shown = fedward("node", "consent", "show", node, "SET-ada")
    assert "withdrawn" in shown.said


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--dataset", "../x"),
        ("--dataset", ""),
        ("--dataset", "a\nb"),
        ("--noise", "nan"),
        ("--noise", "inf"),
        ("--seed", str(2**70)),
        ("--spacing", "nan", "1"),
        ("--spacing", "inf", "1"),
        ("--spacing", "1e300", "1"),
        ("--spacing", "-1", "1"),
        ("--hu", "-inf", "inf"),
        ("--hu", "nan", "2"),
        ("--hu", "3", "2"),
        ("--body-part", "HEAD\\X"),
        ("--body-part", "A" * 17),
        ("--body-part", "KOPFÄ"),
        ("--profile", "../x"),
        ("--affine", "x"),
        ("--modality", "XA"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_anything_is_recorded(node: Path, words: tuple[str, ...]) -> None:
    made.png(node.parent / "set" / "clean" / "a.png", np.arange(600, dtype=np.uint8).reshape(20, 30))
    before = (node / "audit" / "log.jsonl").read_bytes() if (node / "audit" / "log.jsonl").exists() else b""
    more = [*words, *([] if "--modality" in words else ["--modality", "CT"])]
    done = take(node, node.parent / "set", "png", *more, *([] if "--hu" in words else ["--hu", "-160", "240"]))
    refusal(done, 2)
    log = node / "audit" / "log.jsonl"
    assert (log.read_bytes() if log.exists() else b"") == before
    assert not (node / "imports").exists() or not list((node / "imports").glob("*.json"))


def test_terms_with_control_characters_do_not_speak_to_the_terminal(node: Path) -> None:
    root = made.nifti(node.parent / "set" / "a.nii", mr()).parent
    (node.parent / "LICENCE").write_text("terms \x1b[2J\x1b[31m\u202eevil\n")
    refusal(take(node, root, "nifti", "--modality", "MR", "--url", "https://x\x1b[2J"), 2)
    assert take(node, root, "nifti", "--modality", "MR").code == 0
    shown = fedward("data", "show", node)
    assert printable(shown.out)
    assert "evil" in shown.out


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(node: Path) -> None:
    root = made.nifti(node.parent / "set" / "a.nii", mr()).parent
    words = ("nifti", "--modality", "MR")
    with full_disk(1200):
        refusal(take(node, root, *words), 5, 9)
    assert not list((node / "released").rglob("*.dcm"))
    assert take(node, root, *words).code == 0
    assert len(list((node / "released").rglob("*.dcm"))) == 8


def test_a_damaged_record_of_an_import_is_no_traceback(node: Path) -> None:
    root = made.nifti(node.parent / "set" / "a.nii", mr()).parent
    assert take(node, root, "nifti", "--modality", "MR").code == 0
    record = node / "imports" / "set.json"
    whole = json.loads(record.read_bytes())
    cases = [{"digest": 3}, "x", {"noisy": None}, {"labels": None}, {"labelled": None}]
    for spoilt in ("[" * 9000, "{}", json.dumps(whole | {"cases": 7}), json.dumps(whole | {"terms": "x"})):
        record.write_text(spoilt)
        refusal(fedward("data", "show", node), 9)
        refusal(take(node, root, "nifti", "--modality", "MR"), 9)
    for case in cases:
        row = whole["cases"][0] | case if isinstance(case, dict) else case
        record.write_text(json.dumps(whole | {"cases": [row]}))
        refusal(fedward("data", "show", node), 9)


def test_an_example_of_another_maker_is_read() -> None:
    """The limit of what a file may inflate to is no limit for a scanner's."""
    from client.enhance.slices import bounded

    for name in ("image_dfl.dcm", "MR_small.dcm"):
        path = Path(str(get_testdata_file(name)))
        assert bounded(path) == path
