"""From DICOM of two contrasts to federated models of both: registration at each hospital, masks, figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEDWARD = Path(sys.executable).with_name("fedward")
CHARTER = """
[federation]
id = "pairs"
purpose = "research on medical image enhancement"
min_sites = 3
min_patients = 2
deadline = 300.0
seed = 7
""" + "".join(
    f"""
[[task]]
name = "{task}"
rounds = 2
local_steps = 1
batch = 2
local_lr = 0.1
server_optimizer = "Adam"
server_lr = 0.001
evaluate_every = 2
"""
    for task in ("denoise_pair", "segment_pair")
)


def simulate(folder: Path, sites: str) -> "subprocess.CompletedProcess[str]":
    (folder / "pairs.toml").write_text(CHARTER)
    wanted = ["--sites", sites, "--unseen", "none", "--patients", "4", "--size", "64", "--slices", "12"]
    return subprocess.run(
        [
            str(FEDWARD),
            "simulate",
            str(folder / "pairs.toml"),
            *wanted,
            "--compare",
            "none",
            "--out",
            str(folder / "run"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.live
def test_three_hospitals_train_both_tasks_under_masks(tmp_path: Path) -> None:
    done = simulate(tmp_path, "P1,P2,P3")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert set(summary["tasks"]) == {"denoise_pair", "segment_pair"}
    assert summary["audit"]["verified"] is True
    assert summary["tasks"]["denoise_pair"]["federated"]["psnr"] > 15
    assert 0 < summary["tasks"]["segment_pair"]["federated"]["miou"] < 1
    for index in (tmp_path / "run" / "nodes").glob("*/cohort/index.json"):
        rows = json.loads(index.read_bytes())["patients"]
        assert "rigid" in {study.get("second") for row in rows for study in row["studies"]}


def test_hospitals_of_one_contrast_are_refused_in_one_line_before_anything_is_made(tmp_path: Path) -> None:
    done = simulate(tmp_path, "H1,H3,H6")
    assert done.returncode == 2
    assert "denoise_pair can be trained at 0 of these sites" in done.stderr
    assert not (tmp_path / "run").exists()
