"""Each file of a node and of a coordinator, nested thousands deep: one error and its exit code, whoever reads it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.app import close_sessions
from client.budget import Budget, set_budget
from client.consenting import withdraw
from client.deid.quarantine import Quarantine
from client.manifest import write_manifest
from client.node import Node
from client.sources.ledger import Ledger
from client.splits import gone
from client.summed import Summed
from compliance.alerts import read_evidence
from compliance.export.syslog import State
from compliance.incident import Incidents
from compliance.party import party_in
from compliance.place import Place, establish
from server.journal import Journal
from server.runs import RunFolder
from server.sealed import write_parts
from shared.cli import build
from shared.errors import FedwardError
from tests.client.test_rights import PATIENT, trained
from tests.federation import toy
from tests.federation.links import Desk

DEEP = 5_000
OBJECT = b'{"a":' * DEEP + b"1" + b"}" * DEEP
ARRAY = b"[" * DEEP + b"]" * DEEP
TOML = b"a = " + ARRAY


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital with something in its files, one with a budget, and a coordinator with a run."""
    home = tmp_path_factory.mktemp("nested")
    node = trained(home / "H1")
    withdraw(node, "PATIENT-H1-2")
    with node.open_log() as log:
        write_manifest(node, log)
    establish(Place.open(node.folder))
    Place.open(node.folder).trail.checkpoint()
    Incidents(party_in(node.folder)).open(who="DPO", aware=datetime.now(UTC), affected={"H1": 3})
    node.link.mkdir(mode=0o700)
    close_sessions()
    set_budget(Node.create(home / "H2", site="H2", purpose=toy.PURPOSE), Budget(3.0, 1e-5, 20), who="Ada", why="a test")
    run = RunFolder.create(Desk.make(home).coordinator, toy.charter(), b"", name="run-1")
    run.note(task="toy", rounds=1)
    return home


REPORT = ("node", "subject", "report", "H1", PATIENT, "--pseudonym")


@dataclass(frozen=True)
class Case:
    """A file, what is put there, a command that reads it, and how that ends."""

    name: str
    text: bytes
    words: tuple[str, ...]
    status: int


CASES = (
    Case("H1/node.json", OBJECT, ("node", "basis", "show", "H1"), 2),
    Case("H1/node.json", OBJECT, ("audit", "witness", "status", "H1"), 2),
    Case("H1/charter.toml", TOML, ("node", "budget", "plan", "H1", "H1/charter.toml"), 2),
    Case("H1/policy.toml", TOML, ("node", "check", "H1", "--offline"), 6),
    Case("H1/link/status.json", OBJECT, ("node", "status", "H1"), 2),
    Case("H1/cohort/index.json", OBJECT, REPORT, 4),
    Case("H1/cohort/index.json", ARRAY, ("node", "consent", "withdraw", "H1", PATIENT, "--pseudonym"), 4),
    Case("H1/rights/records.json", OBJECT, ("node", "basis", "show", "H1"), 9),
    Case("H1/rights/manifest.json", OBJECT, ("node", "dataset", "show", "H1"), 9),
    Case("H1/rights/parties/*.json", ARRAY, REPORT, 9),
    Case("H1/rights/sets/*.json", ARRAY, REPORT, 9),
    Case("H1/rights/rounds.jsonl", OBJECT + b"\n", REPORT, 9),
    Case("H1/rights/drawn.jsonl", OBJECT + b"\n", REPORT, 9),
    Case("H1/rights/taken.jsonl", OBJECT + b"\n", REPORT, 9),
    Case("H2/privacy/ledger.jsonl", OBJECT + b"\n", ("node", "budget", "show", "H2"), 9),
    Case("H1/audit/log.jsonl", OBJECT + b"\n", ("audit", "hold", "list", "H1"), 9),
    Case("H1/audit/endorsement.json", OBJECT, ("audit", "keys", "H1"), 8),
    Case("H1/incidents/*.jsonl", OBJECT + b"\n", ("compliance", "incident", "list", "H1"), 9),
    Case("hub/coordinator.json", OBJECT, ("server", "status", "hub"), 2),
    Case("hub/runs/run-1/run.json", OBJECT, ("server", "release", "hub", "run-1", "--out", "out"), 2),
    Case("hub/runs/run-1/charter.toml", TOML, ("charter", "check", "hub/runs/run-1/charter.toml"), 2),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}: {' '.join(case.words[:2])}")
def test_a_command_that_reads_it_ends_with_one_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for path in list(tmp_path.glob(case.name)) or [tmp_path / case.name]:
        assert path.parent.is_dir(), path
        path.write_bytes(case.text)
        path.chmod(0o600)
    done = CliRunner().invoke(build(), case.words)
    if isinstance(done.exception, SystemExit):
        assert done.exit_code == case.status, done.output
    else:
        assert isinstance(done.exception, FedwardError), (done.exception, done.output)
        assert (done.exception.exit_code, "\n" in str(done.exception)) == (case.status, False), done.exception


def of_sums(path: Path) -> None:
    context = bytes(4)
    path.write_bytes(b'{"a":' * DEEP + b'"00000000"' + b"}" * DEEP + b"\n")
    Summed(path).check(context, (1,), "toy", 1)


def of_a_round(path: Path) -> None:
    write_parts(path / "0001-a.bin", [OBJECT])
    write_parts(path / "0002-b.bin", [b"1"])
    Journal(path).value("a", lambda: 1)


def of_what_is_held(path: Path) -> None:
    name = "0" * 32
    (path / "quarantine").mkdir(parents=True)
    (path / "quarantine" / f"{name}.json").write_bytes(OBJECT)
    Quarantine(path).get(name)


def of_what_was_taken_in(path: Path) -> None:
    path.write_bytes(OBJECT + b"\n")
    Ledger(path, "basic")


def of_what_was_exported(path: Path) -> None:
    path.write_bytes(OBJECT)
    State(path, "tls://a:1", {}).read()


def of_evidence(path: Path) -> None:
    path.write_bytes(OBJECT)
    read_evidence(path)


def of_remembered_sides(path: Path) -> None:
    path.mkdir()
    (path / "index.json").write_bytes(OBJECT)
    gone(path)


@pytest.mark.parametrize(
    "read",
    [
        of_sums,
        of_a_round,
        of_what_is_held,
        of_what_was_taken_in,
        of_what_was_exported,
        of_evidence,
        of_remembered_sides,
    ],
)
def test_who_reads_one_beside_the_commands_says_so_in_one_error(tmp_path: Path, read: Callable[[Path], None]) -> None:
    with pytest.raises(FedwardError) as met:
        read(tmp_path / "file")
    assert "\n" not in str(met.value)
