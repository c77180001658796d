"""What networks and people do to a federation: the run ends right, or with an error that says what is wrong.

In every case each training was paid for before it began, and every record verifies.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.line import Line
from tests.live.standing import SITES, Standing, descendants, fedward, wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

Row = dict[str, Any]


def seen(standing: Standing, site: str, wanted: Callable[[Row], bool]) -> Callable[[], bool]:
    return lambda: any(wanted(row) for row in standing.log(site))


def training(row: Row) -> bool:
    return (row["action"], row["outcome"]) == ("train", "started")


def trained(row: Row) -> bool:
    return (row["action"], row["outcome"]) == ("train", "ok")


def confirmed(row: Row) -> bool:
    return (row["action"], row["outcome"]) == ("secure.aggregation", "ok") and row["detail"]["step"] == "confirm"


@pytest.mark.parametrize("moment", [training, trained, confirmed], ids=["training", "trained", "confirmed"])
def test_a_hospital_that_is_killed_and_comes_back(standing: Standing, moment: Callable[[Row], bool]) -> None:
    standing.up("coordinator", *SITES)
    run = standing.run()
    wait_until(seen(standing, "H2", moment), 120, standing.told(), every=0.005)
    standing.services["H2"].kill()
    standing.start("H2")
    standing.finish(run)
    assert standing.history()["outcome"] == "ok"
    standing.check_paid()
    assert all(len(standing.charges(site)) <= 3 for site in SITES), "one of two rounds was repeated once at most"


PHASES = ["query.secagg_advertise", "query.secagg_share", "train", "query.secagg_confirm", "query.secagg_unmask"]


@pytest.mark.parametrize("phase", [*PHASES, "evaluate"])
def test_a_coordinator_that_is_killed_goes_on_where_it_was(standing: Standing, phase: str) -> None:
    standing.up("coordinator", *SITES)
    run = standing.run()
    wait_until(
        seen(standing, "coordinator", lambda row: row["action"] == "message.out" and row["detail"]["phase"] == phase),
        120,
        standing.told(),
        every=0.005,
    )
    standing.services["coordinator"].kill()
    run.kill()
    standing.up("coordinator")
    status = json.loads(fedward("server", "status", standing.server, "--json"))
    assert [one["name"] for one in status["runs"]] == ["run-1"]
    fedward("server", "resume", standing.server, "run-1", timeout=400)
    assert standing.history()["outcome"] == "ok"
    standing.check_paid()
    for site in SITES:
        assert 2 <= len(standing.trainings(site)) <= 3, "a round is repeated once at most"
        if phase not in {"train", *PHASES[:2]}:
            assert len(standing.trainings(site)) == 2, "what was answered is not asked for again"


def test_a_superlink_that_is_killed_is_started_again_and_the_run_goes_on(standing: Standing) -> None:
    standing.up("coordinator", *SITES)
    run = standing.run()
    wait_until(seen(standing, "H1", training), 120, standing.told(), every=0.005)
    below = descendants(standing.services["coordinator"].pid)
    links = [pid for pid in below if "flower_link" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")]
    assert len(links) == 1
    os.kill(links[0], signal.SIGKILL)
    standing.finish(run)
    assert standing.history()["outcome"] == "ok"
    standing.check_paid()


def test_a_link_that_is_cut_for_two_minutes(standing: Standing) -> None:
    gate = free_port()
    with Line(standing.port, gate) as line:
        standing.start("coordinator", listen=gate)
        for site in SITES:
            standing.start(site)
        for name in ("coordinator", *SITES):
            standing.ready(name)
        run = standing.run()
        wait_until(seen(standing, "H1", training), 120, standing.told(), every=0.005)
        line.cut()
        time.sleep(120)
        assert run.alive(), standing.told()
        line.mend()
        standing.finish(run, seconds=500)
    assert standing.history()["outcome"] == "ok"
    standing.check_paid()


def test_a_hospital_that_comes_late(standing: Standing) -> None:
    standing.up("coordinator", "H1", "H2")
    run = standing.run()
    time.sleep(10)
    assert run.alive()
    assert not standing.trainings("H1"), "nothing begins without enough hospitals"
    standing.up("H3")
    standing.finish(run)
    assert all(set(one["train"]["answered"]) == set(SITES) for one in standing.history()["rounds"][1:])


def test_a_hospital_that_never_comes_is_named(standing: Standing) -> None:
    standing.up("coordinator", "H1", "H2")
    said = standing.finish(standing.run("--wait", 10), status=8)
    assert "H3" in said
    assert not standing.charges("H1")


@pytest.mark.system("faketime")
def test_a_clock_that_is_ten_seconds_ahead_is_told_at_once(standing: Standing) -> None:
    standing.up("coordinator", "H1", "H3")
    standing.start("H2", prefix=("faketime", "-f", "+10s"))
    wait_until(lambda: "clock" in standing.state("H2", "error"), 60, standing.told())
    assert "ahead of the coordinator" in fedward("node", "status", standing.node("H2"), status=8)
    said = standing.finish(standing.run("--wait", 10), status=8)
    assert "H2" in said
    assert not standing.trainings("H1")


def test_a_disk_that_is_full_stops_a_hospital_before_it_trains(standing: Standing) -> None:
    """A limit on the size of files stands for the full disk: the audit log does not take another entry."""
    size = (standing.node("H3") / "audit" / "log.jsonl").stat().st_size
    standing.up("coordinator", "H1", "H2")
    standing.start("H3", prefix=("prlimit", f"--fsize={size + 200}"))
    standing.ready("H3")
    said = standing.finish(standing.run(), status=8)
    assert "H3" in said
    assert not standing.trainings("H3")
    assert not standing.charges("H3")
    assert standing.history()["outcome"] == "failed"
    standing.check_paid()
