"""A result that comes back from the archive is held, whatever task made it: nothing learns from what a model made."""

import json
from pathlib import Path

import pytest

from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from compliance.log import AuditLog
from tests.client.enhance.conftest import Apply


@pytest.mark.parametrize("task", ["denoise", "segment"])
def test_what_enhance_made_is_held_and_its_source_is_not(apply: Apply, sites: Path, tmp_path: Path, task: str) -> None:
    series = min((sites / "H2").rglob("*.dcm")).parent
    made = apply(task, series)
    assert made.results()
    key = SiteKey.create(tmp_path / "key")
    for source, held in ((tmp_path / "out", True), (series, False)):
        reports = tmp_path / f"reports-{held}"
        with AuditLog(tmp_path / f"deid-{held}.jsonl", site="H2", subject_key=b"k" * 32) as log:
            report = deidentify_folder(
                source, tmp_path / f"released-{held}", profile=Profile.load("basic"), key=key, log=log, reports=reports
            )
        assert (report.quarantined > 0, report.released == 0) == (held, held)
        reasons = {json.loads(path.read_bytes())["reason"] for path in (reports / "quarantine").glob("*.json")}
        assert reasons == (
            {"a model of fedward made it: results are never learnt from, and belong to the record that they came from"}
            if held
            else set()
        )
