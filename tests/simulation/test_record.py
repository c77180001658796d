"""``summary.json`` keeps its promised shape, whatever a run left out."""

import json
import math
from dataclasses import replace
from datetime import datetime

import pytest

from simulation.record import LogRecord
from simulation.summary import to_summary
from tests.simulation.report.example import DENOISE, example


def test_the_summary_has_the_promised_keys() -> None:
    summary = to_summary(example())
    assert summary.keys() == {
        "seconds",
        "sites",
        "rounds",
        "tasks",
        "privacy",
        "privacy_shared",
        "deid",
        "audit",
        "wire",
    }
    assert summary["sites"] == 4, "a site that never trained is no member"
    assert summary["rounds"] == 20
    assert summary["tasks"].keys() == {"denoise", "superres", "segment"}
    assert summary["privacy"]["H1"] == {
        "unit": "patient",
        "epsilon": 5.547,
        "delta": 1e-5,
        "accountant": "PRV",
        "steps": 1000,
    }
    assert summary["deid"] == {"files": 2921, "released": 2907, "quarantined": 11, "refused": 3}
    assert summary["wire"]["masked"] is True
    assert summary["wire"]["kinds"]["query.secagg_unmask"] == {
        "questions": 80,
        "answers": 79,
        "down": 52_000,
        "up": 31_000,
    }
    assert summary["audit"] == {"entries": 412 + 419 + 426 + 433 + 440 + 447, "verified": True, "witnesses": 0}


def test_a_task_has_its_arms_its_classical_methods_and_its_sites() -> None:
    task = to_summary(example())["tasks"]["denoise"]
    assert task["federated"] == DENOISE.arms["federated"].all_sites
    assert task["federated_dp"] == DENOISE.arms["federated_dp"].all_sites
    assert task["classical"]["median"]["psnr"] == 29.41
    assert task["local"]["psnr"] == 30.61
    assert task["local"]["own_site"]["psnr"] == 33.62
    assert task["pooled"]["unseen"]["psnr"] == 33.49
    assert task["per_site"]["H2"]["federated"]["psnr"] == pytest.approx(32.83)


def test_an_arm_that_was_not_run_is_absent() -> None:
    task = to_summary(example())["tasks"]["superres"]
    assert task.keys() == {"classical", "federated", "per_site"}
    assert to_summary(replace(example(), privacy=()))["privacy"] == {}


def test_the_summary_is_plain_json_even_where_a_bound_is_infinite() -> None:
    run = example()
    infinite = replace(run.privacy[0], epsilon=math.inf)
    summary = to_summary(replace(run, privacy=(infinite,)))
    assert summary["privacy"]["H1"]["epsilon"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_one_log_that_does_not_verify_spoils_the_record() -> None:
    run = example()
    broken = LogRecord("H9", 3, False, "00" * 32)
    assert not replace(run, logs=(*run.logs, broken)).verified
    assert not replace(run, logs=()).verified, "no log is no record"


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(example(), started=datetime(2026, 3, 14))  # noqa: DTZ001  the very mistake
