"""A federation over a network whose members hold each other's audit logs to what they said."""

from pathlib import Path

import pytest

from tests.live.standing import SITES, Standing, fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

POLICY = "[record]\nwitnesses = 2\nhours = 1.0\n"


def checkpoints(standing: Standing, site: str) -> list[Path]:
    folder = standing.server if site == "coordinator" else standing.node(site)
    return sorted((folder / "audit" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))


def all_cosigned(standing: Standing, site: str) -> bool:
    """Whether all three others have cosigned one checkpoint of its log."""
    return any(cosignatures(path) == 3 for path in checkpoints(standing, site))


def cosignatures(path: Path) -> int:
    """Signature lines but the log's own."""
    return path.read_text(encoding="utf-8").count("\u2014 ") - 1


def test_members_witness_each_others_logs_and_what_travels_with_a_round(standing: Standing) -> None:
    for site in SITES:
        with (standing.node(site) / "policy.toml").open("a") as policy:
            policy.write(POLICY)
    standing.up("coordinator", *SITES)
    # The coordinator cosigns too, and has no log of its own before its first run.
    for site in SITES:
        wait_until(lambda site=site: all_cosigned(standing, site), 90, f"nobody witnessed {site}: {standing.told()}")
    standing.finish(standing.run())
    assert standing.history()["outcome"] == "ok"

    # Each answer carried a checkpoint of the hospital's log, and each request one of the coordinator's.
    heard = [
        row for row in standing.log("coordinator") if row["action"] == "message.in" and "log_root" in row["detail"]
    ]
    assert {row["detail"]["site"] for row in heard} == set(SITES)
    for site in SITES:
        asked = [row for row in standing.log(site) if row["action"] == "message.in" and "log_root" in row["detail"]]
        assert {row["detail"]["log"].split("/")[1] for row in asked} == {"coordinator"}
        known = {int(path.name) for path in checkpoints(standing, "coordinator")}
        assert {row["detail"]["log_size"] for row in asked} <= known

    wait_until(lambda: all_cosigned(standing, "coordinator"), 60, "nobody witnessed the coordinator")
    for name in ("coordinator", *SITES):
        assert standing.services[name].stop() == 0

    # A log that is put back to what it was is found out by its own checkpoint.
    audit = standing.node("H1") / "audit"
    lines = (audit / "log.jsonl").read_bytes().splitlines(keepends=True)
    (audit / "log.jsonl").write_bytes(b"".join(lines[:-5]))
    assert "was cut off" in fedward("audit", "verify", audit / "log.jsonl", status=9)


def test_without_witnesses_a_hospital_that_asks_for_them_does_not_train(standing: Standing) -> None:
    with (standing.node("H1") / "policy.toml").open("a") as policy:
        policy.write(POLICY.replace("2", "3"))  # nobody can have three: there are two others
    standing.up("coordinator", *SITES)
    run = standing.run(name="unwitnessed")
    assert run.process is not None
    assert run.process.wait(400) in {6, 8}
    refused = [row for row in standing.log("H1") if row["action"] == "refusal"]
    assert refused
    assert any("have not cosigned" in str(row["detail"].get("here", "")) for row in refused)
    assert not standing.charges("H1")
    assert not standing.trainings("H1")
