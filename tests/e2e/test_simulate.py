"""The real command from DICOM to a checked model, small: what it writes, that it leaks nothing, that it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
import safetensors.numpy

FEDWARD = Path(sys.executable).with_name("fedward")
SMALL = ["--sites", "H1,H3,H6", "--unseen", "X1", "--patients", "4", "--size", "64", "--slices", "3", "--rounds", "2"]


def command(out: Path, *more: str) -> list[str]:
    return [str(FEDWARD), "simulate", "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was killed once on its way."""
    out = tmp_path_factory.mktemp("simulate") / "run"
    with subprocess.Popen(command(out), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list((out / "nodes").glob("*/cohort/index.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (out / "report.html").exists()
    again = subprocess.run(command(out), check=False, capture_output=True, text=True, timeout=280)
    assert again.returncode == 0, again.stderr
    assert "going on with the run" in again.stdout
    return out


@pytest.fixture(scope="module")
def summary(finished: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished / "summary.json").read_bytes())
    return content


def test_the_summary_has_its_stable_keys(summary: dict[str, Any]) -> None:
    assert {"seconds", "sites", "rounds", "tasks", "privacy", "deid", "audit"} <= set(summary)
    assert set(summary["tasks"]) == {"denoise", "superres", "segment"}
    assert summary["sites"] == 3
    denoise = summary["tasks"]["denoise"]
    assert {"classical", "local", "pooled", "federated", "personal", "per_site"} <= set(denoise)
    assert set(denoise["personal"]) >= {"psnr", "own_site"}
    for task in summary["tasks"].values():
        assert {"public", "tuned", "federated_dp", "federated_shared"} <= set(task)
    assert {"psnr", "ssim", "mse"} <= set(denoise["federated"])
    assert {"miou", "dice", "accuracy"} <= set(summary["tasks"]["segment"]["federated"])
    assert set(summary["privacy"]) == {"H1", "H3", "H6"}
    assert set(summary["privacy_shared"]) == {"all sites together"}
    for one in (*summary["privacy"].values(), *summary["privacy_shared"].values()):
        assert one["unit"] == "patient"
        assert one["epsilon"] > 0
        assert 0 < one["delta"] <= 1e-5
        assert one["steps"] > 0


def test_every_file_is_accounted_for_and_every_log_verifies(finished: Path, summary: dict[str, Any]) -> None:
    counts = summary["deid"]
    assert counts["files"] == counts["released"] + counts["quarantined"] + counts["refused"]
    assert counts["files"] == len(list((finished / "pacs").rglob("*.dcm")))
    assert summary["audit"]["verified"] is True
    logs = [str(path) for path in finished.rglob("log.jsonl")]
    assert len(logs) >= 4
    assert subprocess.run([str(FEDWARD), "audit", "verify", *logs], check=False, capture_output=True).returncode == 0


def test_no_identifier_of_a_patient_stands_in_any_file_but_the_hospitals_own_images(finished: Path) -> None:
    wanted: set[bytes] = set()
    for path in (finished / "pacs").rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for name in ("PatientID", "AccessionNumber", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            if value := str(header.get(name, "")):
                wanted.add(value.encode())
        encoding = header.PatientName.encodings[0] if "PatientName" in header else "utf-8"
        for part in str(header.get("PatientName", "")).replace("=", "^").split("^"):
            if len(part) > 4:
                wanted |= {part.encode(), part.encode(encoding, "replace")}
    assert len(wanted) > 40
    # The hospital's report names every input by its path, for the hospital's own eyes: readable by its owner alone.
    reports = list((finished / "nodes").glob("*/reports/*"))
    assert reports
    assert all(path.stat().st_mode & 0o077 == 0 for path in reports)
    others = [path for path in finished.rglob("*") if path.is_file() and path not in reports]
    others = [path for path in others if finished / "pacs" not in path.parents]
    assert len(others) > 50
    for path in others:
        data = path.read_bytes()
        assert not [value for value in wanted if value in data], path
        assert not [value for value in wanted if value.decode(errors="replace") in str(path)], path


def test_the_secrets_of_a_hospital_are_its_owners_alone(finished: Path) -> None:
    keys = list((finished / "nodes").rglob("*.key"))
    assert keys
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)


def test_the_models_load_without_any_code(finished: Path) -> None:
    models = list((finished / "federation").glob("*/model.safetensors"))
    assert len(models) == 3 * 4  # every task from nothing; from public weights without noise, with local, with shared
    for path in models:
        assert safetensors.numpy.load_file(path)


def test_private_models_say_so_and_what_did_not_train_is_the_public_model(finished: Path) -> None:
    modes = set()
    for folder in (finished / "federation").glob("segment-*"):
        card = json.loads((folder / "model.json").read_bytes())
        modes.add((card["privacy"], card["start"], card["trained"]))
        if card["trained"] == "biases_norms_head":
            public = safetensors.numpy.load_file(finished / "public" / "segment.safetensors")
            model = safetensors.numpy.load_file(folder / "model.safetensors")
            same = {name for name in public if (public[name] == model[name]).all()}
            assert {name for name in public if public[name].ndim > 1 and not name.startswith("head.")} <= same
            assert len(same) < len(public)
    few = ("public-1", "biases_norms_head")
    assert modes == {("off", "public-1", "all"), ("off", *few), ("patient", *few), ("distributed", *few)}


def test_the_page_is_there_and_asks_nobody(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_finished_run_is_not_run_again_by_mistake(finished: Path) -> None:
    before = (finished / "summary.json").read_bytes()
    done = subprocess.run(command(finished), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert (finished / "summary.json").read_bytes() == before


def test_updates_travel_masked_and_the_page_shows_what_was_seen_of_one(finished: Path, summary: dict[str, Any]) -> None:
    assert summary["wire"]["masked"] is True
    assert {"train", "evaluate", "query.secagg_confirm", "query.secagg_unmask"} <= set(summary["wire"]["kinds"])
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "What the coordinator got" in page
    histories = [json.loads(path.read_bytes()) for path in finished.glob("federation/*/history.json")]
    assert [one["aggregation"] for one in histories] == ["masked"] * 12
    assert all(round_["train"]["notes"] == [] for one in histories for round_ in one["rounds"] if round_["train"])


@pytest.mark.live
def test_two_hospitals_cannot_be_masked_and_run_in_the_clear_only_when_told(tmp_path: Path) -> None:
    few = ["--sites", "H1,H3", "--unseen", "none", "--patients", "3", "--size", "64", "--slices", "2", "--rounds", "1"]
    few += ["--task", "denoise", "--compare", "none"]
    command = [str(FEDWARD), "simulate", "--out", str(tmp_path / "run"), *few]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "--plain" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = subprocess.run([*command, "--plain", "--json"], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wire"]["masked"] is False
    assert "In the clear:" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
