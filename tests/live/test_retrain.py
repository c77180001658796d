"""After an erasure a task is trained again over a network, from the last model before the patient, without him.

The claims of docs/consent.md and docs/federation.md, with the commands that people use.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from client.cohort import Cohort
from client.lineage import Lineage
from client.node import Node
from client.records import pseudonym_of
from client.splits import Split
from tests.live.standing import CHARTER, SITES, Standing, build, copied, fedward, running, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

ROUNDS = 3
WHO = ("--who", "Dr. Wu")


@pytest.fixture(scope="module")
def founded(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Standing:
    """As the others' federation, with rounds to go back over; H1 asks to train again after an erasure."""
    charter = CHARTER.replace("rounds = 2", f"rounds = {ROUNDS}")
    standing = build(tmp_path_factory.mktemp("founded"), raw / "first", charter)
    with (standing.node("H1") / "policy.toml").open("a") as policy:
        policy.write('[erasure]\nafter = "retrain"\n')
    return standing


@pytest.fixture
def standing(founded: Standing, tmp_path: Path) -> Iterator[Standing]:
    with running(copied(founded, tmp_path / "s")) as found:
        yield found


@dataclass(frozen=True)
class Person:
    """A patient of H1 who is trained on: how the archive calls him, and the cohort."""

    number: str
    key: str


@pytest.fixture
def patient(standing: Standing, raw: Path) -> Person:
    node = Node.open(standing.node("H1"))
    trained = {entry.key for entry in Cohort.open(node.folder / "cohort").entries if entry.split is Split.TRAIN}
    numbers = {str(pydicom.dcmread(path).PatientID) for path in (raw / "first" / "H1").rglob("*.dcm")}
    return next(Person(one, key) for one in sorted(numbers) if (key := pseudonym_of(node, one)) in trained)


def restricted(standing: Standing, patient: Person, *options: object) -> None:
    fedward("node", "subject", "restrict", standing.node("H1"), patient.number, *WHO, *options)


def told(*words: object) -> dict[str, Any]:
    """What a command prints with ``--json``; what it complains of comes after that."""
    found: dict[str, Any] = json.JSONDecoder().raw_decode(fedward(*words, "--json"))[0]
    return found


def erased(standing: Standing, patient: Person) -> tuple[dict[str, Any], Path]:
    """Erase him; what the command says of it, and the request that it leaves."""
    said = told("node", "subject", "erase", standing.node("H1"), patient.number, *WHO, "--yes")
    (request,) = said["after"]["requests"]
    return said, Path(request)


def reported(standing: Standing, patient: Person) -> dict[str, Any]:
    return told("node", "subject", "report", standing.node("H1"), patient.number)


def models(standing: Standing, run: str) -> list[str]:
    """The model after each round of a run, from round 0."""
    return [one["model"] for one in standing.history(run)["rounds"]]


def holding(folder: Path, *names: str) -> list[str]:
    """The files that have one of these in their name or their bytes."""
    marks = [name.encode() for name in names]
    found = []
    for path in sorted(folder.rglob("*")):
        said = str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        if any(mark in said for mark in marks):
            found.append(str(path.relative_to(folder)))
    return found


def check_again(standing: Standing, patient: Person, clean: int, run: str = "again") -> None:
    """The rounds of the new run go on from the model of round ``clean``; the patient is in none of them."""
    old, new = models(standing, "run-1"), models(standing, run)
    assert new[: clean + 1] == old[: clean + 1], "up to the last round before him the new run is the old one"
    assert not set(new[clean + 1 :]) & set(old), "and shares no model with it after that"
    assert len(new) == ROUNDS + 1
    lineage = Lineage(Node.open(standing.node("H1")))
    parts = [part for part in lineage.parts() if part.run == run and part.kind == "train"]
    assert sorted({part.round for part in parts}) == list(range(clean + 1, ROUNDS + 1))
    assert parts[0].model == old[clean], "what the hospital was given to begin with is the model before him"
    assert {trace.part.run for trace in lineage.of(patient.key)} == {"run-1"}


@pytest.mark.control("GDPR-17-erasure")
def test_a_patient_is_erased_and_the_task_is_trained_again_without_him(standing: Standing, patient: Person) -> None:
    restricted(standing, patient)
    standing.up("coordinator", *SITES)
    run = standing.run()
    wait_until(lambda: standing.trainings("H1"), 120, "H1 does not train")
    restricted(standing, patient, "--lift")  # from the next round on, in a run under way
    standing.finish(run)

    before = reported(standing, patient)
    drawn_from = [one["round"] for one in before["rounds"]]
    first = drawn_from[0]
    assert first >= 2
    assert drawn_from == list(range(first, ROUNDS + 1))
    assert before["models"] == models(standing, "run-1")[first:], "his lineage names every model that came after him"
    node = standing.node("H1")
    assert (node / "released" / patient.key).is_dir()
    assert holding(node, patient.key)  # else what follows shows nothing

    said, request = erased(standing, patient)
    assert (said["after"]["policy"], said["after"]["runs"]) == ("retrain", ["run-1"])
    assert 0 < said["after"]["epsilon"] <= before["privacy"]["epsilon"]
    assert said["taken_out"]["released"] > 0
    assert said["taken_out"]["cached"] > 0
    assert holding(node, patient.key, patient.number) == []
    asked = json.loads(request.read_text())
    assert (asked["run"], asked["task"], asked["clean_round"]) == ("run-1", "denoise", first - 1)
    assert re.fullmatch(r"retrain-run-1-denoise-[0-9a-f]{16}\.json", request.name)

    release = (standing.server / "runs" / "run-1" / "denoise" / "model.safetensors").read_bytes()
    told = fedward("server", "retrain", standing.server, request, "--name", "again", timeout=400)
    assert "again: ok" in told
    check_again(standing, patient, first - 1)
    for site in SITES:
        paid = [(row["run"], row["round"]) for row in standing.charges(site)]
        assert [one for one in paid if one[0] == "again"] == [("again", one) for one in range(first, ROUNDS + 1)]
    standing.check_paid()

    # The old model stays, for people to withdraw; the record says what became of its run.
    old = standing.server / "runs" / "run-1"
    assert (old / "denoise" / "model.safetensors").read_bytes() == release
    begun = [row for row in standing.log("coordinator") if row["action"] == "run.start" and row["run"] == "again"]
    assert begun[0]["detail"] | {"again": "run-1", "asked_by": "H1", "clean_round": first - 1} == begun[0]["detail"]
    assert not [row for row in standing.log("coordinator") if patient.key in json.dumps(row)]
    after = reported(standing, patient)
    assert after["state"].startswith("erased on")
    assert (after["rounds"], after["models"]) == (before["rounds"], before["models"])
    assert holding(node, patient.key, patient.number) == []


def refused(standing: Standing, site: str) -> list[str]:
    return [str(row["detail"].get("reason", row["detail"])) for row in standing.log(site) if row["action"] == "refusal"]


@pytest.mark.control("GDPR-17-erasure")
def test_a_patient_is_erased_while_a_run_goes_on_and_the_run_that_follows_is_resumed(
    standing: Standing, patient: Person, tmp_path: Path
) -> None:
    standing.up("coordinator", *SITES)
    run = standing.run()
    wait_until(lambda: standing.trainings("H1"), 120, "H1 does not train")
    said, request = erased(standing, patient)
    assert said["after"]["runs"] == ["run-1"]
    begun = len(standing.trainings("H1"))
    standing.finish(run, status=8)  # H1 takes no further part, and the charter needs all three
    assert len(standing.trainings("H1")) == begun
    assert any("no further part" in why for why in refused(standing, "H1"))
    assert [one["round"] for one in reported(standing, patient)["rounds"]] == [1]

    # What is no request of a member, or has no state to go back to, leaves no run behind.
    retrain = ("server", "retrain", standing.server)
    again = (*retrain, request, "--name", "again")
    forged = tmp_path / "forged.json"
    forged.write_text(request.read_text().replace('"clean_round":0', '"clean_round":1').replace(": 0", ": 1"))
    assert "did not sign" in fedward(*retrain, forged, "--name", "again", status=8)
    kept = standing.server / "runs" / "run-1" / "denoise" / "kept" / "round-00000.bin"
    state = kept.read_bytes()
    kept.write_bytes(state[:-1])
    assert "is damaged" in fedward(*again, status=9)
    kept.write_bytes(state)
    assert not (standing.server / "runs" / "again").exists()

    # As any other run it is resumed where its coordinator was killed.
    fedward(*again, "--detach")
    wait_until(lambda: any(row["run"] == "again" for row in standing.trainings("H1")), 120, standing.told())
    standing.services["coordinator"].kill()
    standing.up("coordinator")
    fedward("server", "resume", standing.server, "again", timeout=400)
    check_again(standing, patient, 0)
    standing.check_paid()
