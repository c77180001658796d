"""Bad input gets one line that says what is wrong and what to do, a documented exit code, and loses nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FEDWARD = Path(sys.executable).with_name("fedward")
MEBIBYTE = 1 << 20


def fedward(*args: object, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The real command. ``limit`` caps the size of any file it writes, which stands for a disk that fills up."""
    capped = ["prlimit", f"--fsize={limit}"] if limit is not None else []
    command = [*capped, str(FEDWARD), *(str(arg) for arg in args)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of error that the command ended with."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("fedward: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def jpegs(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((16, 16), number * 40, np.uint8)).save(folder / f"photo{number}.jpg")


@pytest.mark.parametrize(
    ("fill", "words"), [(Path.mkdir, "no files"), (jpegs, "DICOM")], ids=["an empty folder", "a folder of JPEGs"]
)
def test_input_without_dicom_says_so_and_leaves_no_output(
    tmp_path: Path, fill: Callable[[Path], None], words: str
) -> None:
    fill(tmp_path / "in")
    done = fedward(
        *("node", "deidentify", tmp_path / "in", tmp_path / "out", "--profile", "basic"),
        *("--key", tmp_path / "site.key", "--reports", tmp_path / "reports"),
    )
    assert done.returncode == 4
    assert words.lower() in complaint(done).lower()
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*.*"))


def test_an_unknown_key_in_a_charter_is_named_with_the_key_that_was_meant(tmp_path: Path) -> None:
    charter = tmp_path / "study.toml"
    charter.write_text(
        '[federation]\nid = "a"\npurpose = "research"\n[[task]]\nname = "denoise"\nrunds = 3\nlocal_steps = 1\n'
    )
    done = fedward("simulate", charter, "--out", tmp_path / "out")
    assert done.returncode == 2
    line = complaint(done)
    assert "study.toml" in line
    assert "task.0.runds" in line
    assert "did you mean 'rounds'?" in line
    assert not (tmp_path / "out").exists()


def test_a_task_with_a_typo_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    done = fedward("simulate", "--task", "denoize", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "denoise" in complaint(done)
    assert not (tmp_path / "out").exists()


def test_an_unknown_site_or_charter_is_wrong_use(tmp_path: Path) -> None:
    done = fedward("simulate", "--sites", "H1,H99", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "H99" in complaint(done)
    done = fedward("simulate", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "none.toml" in complaint(done)


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = fedward("simulate", "--out", tmp_path, "--overwrite")
    assert done.returncode == 2
    assert "not empty" in complaint(done)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_at_the_output_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    done = fedward(
        *("data", "synthesize", tmp_path / "out", "--sites", "H1", "--patients", "2", "--size", "64"),
        *("--slices", "2", "--workers", "1"),
        limit=4096,
    )
    assert done.returncode == 5
    assert "space" in complaint(done)
    assert not (tmp_path / "out").exists()


def test_a_key_with_a_typo_does_not_give_patients_second_pseudonyms(tmp_path: Path) -> None:
    made = fedward(
        *("data", "synthesize", tmp_path / "in", "--sites", "H1", "--patients", "1", "--size", "64"),
        *("--slices", "2", "--workers", "1"),
    )
    assert made.returncode == 0, made.stderr
    command = (
        "node",
        "deidentify",
        tmp_path / "in" / "H1",
        tmp_path / "out",
        "--reports",
        tmp_path / "reports",
        "--key",
    )
    first = fedward(*command, tmp_path / "site.key")
    assert first.returncode == 0, first.stderr
    assert "a new site key was made" in first.stderr
    assert (tmp_path / "site.key").stat().st_mode & 0o777 == 0o600
    released = sorted(path.name for path in (tmp_path / "out").rglob("*.dcm"))
    typo = fedward(*command, tmp_path / "stie.key")
    assert typo.returncode == 2
    assert "stie.key" in complaint(typo)
    assert not (tmp_path / "stie.key").exists()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.dcm")) == released


def test_a_full_disk_during_deidentification_keeps_no_half_file(tmp_path: Path) -> None:
    made = fedward(
        *("data", "synthesize", tmp_path / "in", "--sites", "H1", "--patients", "1", "--size", "64"),
        *("--slices", "2", "--workers", "1"),
    )
    assert made.returncode == 0, made.stderr
    done = fedward(
        *("node", "deidentify", tmp_path / "in", tmp_path / "out", "--profile", "basic"),
        *("--key", tmp_path / "site.key", "--reports", tmp_path / "reports"),
        limit=4096,
    )
    assert done.returncode == 5
    assert "space" in complaint(done)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_audit_log_that_was_changed_does_not_verify(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"action":"train"}\n')
    done = fedward("audit", "verify", log)
    assert done.returncode == 9
    assert "line 1" in complaint(done)
