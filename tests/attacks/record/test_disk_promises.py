"""Somebody with the disk, and a hospital's administrator who wants to hide that a patient was trained on."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.app import close_sessions
from client.cli import app as node_app
from client.consenting import set_basis, withdraw
from client.eligible import eligible
from client.node import Node
from client.rights import restrict
from compliance import verify
from compliance.cli import app
from compliance.note import write_note
from compliance.place import Place
from compliance.trail import Trail
from compliance.verify import NotVerifiedError
from shared.errors import FedwardError, RecordError
from shared.wire import TrainReply, kind_of
from tests.client import test_app as apps
from tests.compliance.members import charter_of
from tests.compliance.members import node as member
from tests.compliance.recording import fill, flips, signer, trail_of
from tests.federation import toy

PATIENT = "PATIENT-H1-1"
DEEP = b'{"a":' * 60_000 + b"1" + b"}" * 60_000
BOMBS = {
    "deep": DEEP,
    "deep list": b"[" * 100_000,
    "digits": b'{"v":' + b"9" * 6_000 + b"}",
    "surrogate": b'{"v":"\\ud800"}',
    "binary": bytes(range(256)),
    "nan": b'{"v":NaN}',
    "empty": b"",
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital that has trained twice; then somebody withdrew, and it trained once more."""
    folder = toy.make_node(tmp_path_factory.mktemp("disk") / "H1", "H1", apps.RULES, patients=5)
    node = Node.open(folder)
    for number in (1, 2):
        assert kind_of(apps.train(folder, apps.header(round=number))) == TrainReply.kind
    withdraw(node, "PATIENT-H1-2")
    assert kind_of(apps.train(folder, apps.header(round=3))) == TrainReply.kind
    close_sessions()
    return folder


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Node:
    return Node.open(Path(shutil.copytree(template, tmp_path / "H1")))


def audit(*words: object) -> int:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, FedwardError):
        return done.exception.exit_code
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code


# --- log, checkpoints, tiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["checkpoint", "SIZE"])
def test_a_log_that_was_cut_with_one_of_its_two_copies_of_the_newest_head_is_refused(tmp_path: Path, gone: str) -> None:
    """Docs: "a log that was cut, rewritten or replaced by an older copy is refused (exit 9)"."""
    trail_of(tmp_path, 4, 8)
    (tmp_path / ("checkpoint" if gone == "checkpoint" else "checkpoints/8")).unlink()
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    fill(tmp_path, 3, "another")
    with pytest.raises(RecordError):
        Trail(tmp_path, signer()).checkpoint()
    assert audit("verify", tmp_path, "--log-key", signer().log_key) == 9


def test_a_checkpoint_of_a_future_size_that_the_key_signed_is_not_passed_over(tmp_path: Path) -> None:
    """A head that is signed and does not fit the log is a fault, wherever it lies."""
    from compliance.checkpoint import Signed

    trail_of(tmp_path, 4)
    (tmp_path / "checkpoints" / "9").write_bytes(Signed.make(signer(), 9, b"x" * 32).raw)
    assert audit("verify", tmp_path, "--log-key", signer().log_key) == 9
    with pytest.raises(RecordError):
        Trail(tmp_path, signer()).checkpoint()


def test_tiles_that_were_altered_never_lead_to_a_wrong_head_or_proof(tmp_path: Path) -> None:
    """Docs: tiles "are made anew from the log where they do not fit"."""
    trail = trail_of(tmp_path, 300)
    honest = trail.at(300).root
    for path in sorted((tmp_path / "tiles").rglob("*")):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        for changed in (b"", raw[:-1], raw[:32], bytes(len(raw)), raw[::-1], raw + raw[:32]):
            path.write_bytes(changed)
            fresh = Trail(tmp_path, signer())
            assert fresh.checkpoint().root == honest
            proof = fresh.inclusion(7, 300)
            assert verify.root_from_inclusion(7, 300, verify.leaf_hash(fresh.line(7)), proof) == honest
            if path.exists():
                path.write_bytes(raw)


@pytest.mark.parametrize("what", BOMBS)
def test_a_line_of_any_content_is_told_and_no_traceback(tmp_path: Path, what: str) -> None:
    """Docs: "ends with 0, or with 9 and one line that says what does not hold"; and without fedward too."""
    trail = trail_of(tmp_path, 2)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + BOMBS[what] + b"\n")
    (tmp_path / "cp").write_bytes(trail.at(2).raw)
    done = subprocess.run(
        [sys.executable, verify.__file__, str(log), str(tmp_path / "cp"), "--log-key", str(signer().log_key)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (9, False), done.stderr[-300:]
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    assert audit("verify", log) == 9


@pytest.mark.parametrize("what", BOMBS)
def test_a_file_to_be_cosigned_of_any_content_is_refused_with_a_documented_status(tmp_path: Path, what: str) -> None:
    sites = [member(tmp_path, name) for name in ("H1", "H2", "H3")]
    for place in sites:
        (place.folder / "charter.toml").write_text(charter_of(sites).to_toml())
    (tmp_path / "offer").write_bytes(BOMBS[what])
    assert audit("witness", "import", sites[0].folder, tmp_path / "offer") in {2, 4, 8, 9}
    assert audit("witness", "collect", sites[0].folder, tmp_path / "offer") in {2, 4, 8, 9}
    (tmp_path / "H1" / "audit" / "endorsement.json").write_bytes(BOMBS[what])
    assert audit("verify", sites[0].folder) in {2, 4, 8, 9}
    assert audit("keys", sites[0].folder) in {2, 4, 8, 9}


def test_a_fifo_or_a_folder_in_the_place_of_a_file_hangs_nothing(tmp_path: Path) -> None:
    trail_of(tmp_path, 4)
    (tmp_path / "checkpoint").unlink()
    os.mkfifo(tmp_path / "checkpoint")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "shared.cli", "audit", "verify", str(tmp_path)],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in {0, 2, 4, 9}


def test_the_state_of_a_witness_has_no_byte_that_sets_it_back_or_takes_another_head(tmp_path: Path) -> None:
    """Docs: "Its state is one file that carries its own signature, so that it cannot be altered"."""
    from compliance.witness import ConflictError, Witness

    log = trail_of(tmp_path / "log", 3, site="H2")
    known = {log.origin: signer("H2").log_key}
    witness = Witness(tmp_path / "w", signer(), known)
    witness.submit(0, (), log.at(3).raw)
    forged = trail_of(tmp_path / "forged", 0, site="H2")
    fill(tmp_path / "forged", 3, "what never happened")
    other = forged.checkpoint().raw
    states = [path for path in (tmp_path / "w").rglob("*") if path.is_file() and b"\n3\n" in path.read_bytes()]
    assert states
    for path in states:
        raw = path.read_bytes()
        for changed in flips(raw, 3):
            path.write_bytes(changed)
            for size in (0, 3):
                with pytest.raises((RecordError, ConflictError)):
                    Witness(tmp_path / "w", signer(), known).submit(size, (), other)
            for mark in (tmp_path / "w").rglob("*"):
                if mark.is_file() and mark not in states:
                    mark.unlink()
        path.write_bytes(raw)


def test_a_witness_that_was_set_back_is_given_away_by_the_entries_of_its_own_log(tmp_path: Path) -> None:
    """Docs: "found out ... by the entries that it wrote of it in its own log"; the coordinator strips cosignatures."""
    sites = [member(tmp_path, name) for name in ("H1", "H2", "H3")]
    for place in sites:
        (place.folder / "charter.toml").write_text(charter_of(sites).to_toml())
    one, other = sites[0], sites[1]
    fill(other.audit, 3)
    other.trail.checkpoint()

    def carry() -> int:
        assert audit("witness", "export", other.folder, "--to", tmp_path / "offer", "--have", "3") == 0
        return audit("witness", "import", one.folder, tmp_path / "offer", "--to", tmp_path / "answer")

    assert carry() == 0
    shutil.copytree(one.witness_folder, tmp_path / "kept")
    fill(other.audit, 3)
    other.trail.checkpoint()
    assert carry() == 0
    shutil.rmtree(one.witness_folder)
    shutil.copytree(tmp_path / "kept", one.witness_folder)
    assert carry() == 9
    shutil.rmtree(one.witness_folder)
    assert carry() == 9, "a witness whose state was deleted is no new witness"


def asked(node: Node, patient: str) -> tuple[str, ...]:
    """As a round asks."""
    return eligible((patient,), node, log=node.folder / "audit" / "log.jsonl")


# --- the administrator -----------------------------------------------------------------------------------------------


def trains(node: Node, number: int) -> bool:
    try:
        return kind_of(apps.train(node.folder, apps.header(round=number))) == TrainReply.kind
    finally:
        close_sessions()


def test_register_and_log_that_are_put_back_to_before_a_withdrawal_do_not_undo_it(node: Node, tmp_path: Path) -> None:
    """Docs: "A register that is lost, altered, or an older copy that was put back lets nobody take part"."""
    assert asked(node, PATIENT) == (PATIENT,)
    node_log = node.folder / "audit" / "log.jsonl"
    place = Place.open(node.folder)
    from compliance.place import establish

    establish(place)
    place.trail.checkpoint()
    old_log = node_log.read_bytes()
    shutil.copytree(node.folder / "rights", tmp_path / "rights")
    withdraw(node, PATIENT)
    place.trail.checkpoint()
    assert asked(node, PATIENT) == ()
    shutil.rmtree(node.folder / "rights")
    shutil.copytree(tmp_path / "rights", node.folder / "rights")
    with pytest.raises(RecordError):
        asked(node, PATIENT)
    node_log.write_bytes(old_log)
    with contextlib.suppress(RecordError):
        assert not trains(node, 4), "the withdrawal stood in a checkpoint, and the patient is trained on"


def test_each_byte_of_the_register_is_covered(node: Node) -> None:
    path = node.folder / "rights" / "records.json"
    raw = path.read_bytes()
    for changed in (*flips(raw, 11), raw + b" ", raw[:-1], b" " + raw, raw + b"\n", b"", b"{}", DEEP):
        path.write_bytes(changed)
        with pytest.raises(RecordError):
            asked(node, PATIENT)
    path.write_bytes(raw)
    assert asked(node, PATIENT) == (PATIENT,)


def test_the_whole_folder_of_rights_deleted_undoes_no_withdrawal(node: Node) -> None:
    shutil.rmtree(node.folder / "rights")
    with pytest.raises(RecordError):
        asked(node, "PATIENT-H1-2")
    with pytest.raises(RecordError):
        set_basis(node, None)
    with pytest.raises(RecordError):
        restrict(node, PATIENT, who="Ada")


def test_a_manifest_that_was_altered_is_not_quoted(node: Node) -> None:
    """Docs: its digest is in the audit log, and each round quotes it."""
    run = CliRunner()
    assert run.invoke(node_app, ["dataset", "write", str(node.folder)]).exit_code == 0
    path = node.folder / "rights" / "manifest.json"
    raw = path.read_bytes()
    told = json.loads(run.invoke(node_app, ["dataset", "show", str(node.folder), "--json"]).stdout)
    assert told["written"] is True
    changed = raw.replace(b'"train":5', b'"train":6').replace(b'"train": 5', b'"train": 6')
    assert changed != raw
    path.write_bytes(changed)
    done = run.invoke(node_app, ["dataset", "show", str(node.folder), "--json"])
    if done.exit_code == 0:
        told = json.loads(done.stdout)
        assert told["written"] is False
        assert told["manifest"]["counts"]["train"] == 5
    else:
        assert isinstance(done.exception, FedwardError)


def test_a_clock_that_is_set_back_does_not_bring_an_expired_consent_back_unseen(tmp_path: Path) -> None:
    """Docs: "Times are those of the machines": the log's times at least show it. Numbers go on, and it verifies."""
    from compliance.log import entries

    if shutil.which("faketime") is None:
        pytest.skip("faketime")
    folder = tmp_path / "log"
    fill(folder, 1)
    code = (
        "import sys; from pathlib import Path; from tests.compliance.recording import fill; fill(Path(sys.argv[1]), 1)"
    )
    subprocess.run(["faketime", "2020-01-01 00:00:00", sys.executable, "-c", code, str(folder)], check=True)
    rows = list(entries(folder / "log.jsonl"))
    assert rows[1]["time"] < rows[0]["time"], "the entry has the time of the clock"


def test_a_checkpoint_with_a_spoilt_cosignature_of_a_named_witness_counts_for_nothing(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3)
    text = trail.at(3).note.text
    from datetime import UTC, datetime

    good = signer("H2").cosign(text, datetime.now(UTC))
    other = signer("H3").cosign(text + "x\n", datetime.now(UTC))
    raw = write_note(text, signer().sign(text), good, other)
    with pytest.raises(NotVerifiedError):
        verify.verify(
            tmp_path / "log.jsonl",
            raw,
            signer().log_key,
            [signer("H2").witness_key, signer("H3").witness_key],
            2,
        )


def test_the_time_to_refuse_a_bomb_is_short(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 2)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"a":"' + b"\\u0000" * 1_000_000 + b'"}\n')
    begun = time.monotonic()
    with pytest.raises(NotVerifiedError):
        verify.verify(log, trail.at(2).raw, signer().log_key, [], 0)
    assert time.monotonic() - begun < 5
