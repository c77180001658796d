"""A federation over a network, undisturbed: from the archive to a released model."""

import json
from pathlib import Path

import pytest

from shared.charter import Charter
from tests.client.sources.orthanc import PASSWORD, USER
from tests.client.sources.orthanc import running as orthanc
from tests.live.standing import SITES, Standing, fedward

pytestmark = pytest.mark.live


@pytest.mark.system("orthanc")
@pytest.mark.timeout(900)
def test_from_the_archive_to_a_released_model(standing: Standing, raw: Path, tmp_path: Path) -> None:
    standing.up("coordinator", *SITES)
    said = standing.finish(standing.run())
    first = standing.history()
    assert first["outcome"] == "ok"
    assert first["aggregation"] == "masked"
    assert [one["round"] for one in first["rounds"]] == [0, 1, 2]
    assert all(set(one["train"]["answered"]) == set(SITES) for one in first["rounds"][1:])
    assert "denoise" in said
    bundle = standing.server / "runs" / "run-1" / "denoise"
    card = json.loads((bundle / "model.json").read_text())
    assert card["sites"] == list(SITES)
    assert card["charter"] == Charter.load(standing.charter).sha256
    assert (bundle / "model.safetensors").stat().st_size > 10_000
    assert [len(standing.trainings(site)) for site in SITES] == [2, 2, 2]
    assert [len(standing.charges(site)) for site in SITES] == [2, 2, 2]
    standing.check_paid()

    # New studies come to the archive; the next round has their patients, while the hospital stays connected.
    secret = tmp_path / "pacs.credentials"
    secret.write_text(f"basic {USER}:{PASSWORD}")
    secret.chmod(0o600)
    files = sorted((raw / "more" / "H1").rglob("*.dcm"))
    with orthanc(tmp_path / "orthanc", files) as archive:
        fedward("node", "ingest", standing.node("H1"), "--dicomweb", archive.url, "--credentials", secret)
    before = standing.trainings("H1")[-1]["detail"]["patients"]
    standing.finish(standing.run(name="run-2"))
    assert standing.trainings("H1")[-1]["detail"]["patients"] > before
    standing.check_paid()

    status = json.loads(fedward("node", "status", standing.node("H1"), "--json"))
    assert status["state"] in {"connected", "working"}
    for site in SITES:
        assert standing.services[site].stop() == 0
    assert standing.services["coordinator"].stop() == 0
