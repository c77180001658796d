"""The verifier that an auditor copies out: one file, strict about every form, and never more lenient than the log."""

import ast
import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import metamorphic_log as other
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from compliance import verify
from compliance.checkpoint import Quorum, Signed, satisfied
from compliance.note import lines_of, write_note
from compliance.verify import GENESIS, Checkpoint, Key, Note, NotVerifiedError, cosigners, read_entry
from tests.compliance.recording import fill, flips, signer, trail_of

NOW = datetime(2026, 11, 23, 10, 0, 0, 999_999, tzinfo=UTC)
# The example of golang.org/x/mod/sumdb/note, which the format comes from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_the_file_needs_python_and_cryptography_alone(tmp_path: Path) -> None:
    source = Path(verify.__file__).read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"cryptography"}


def run_alone(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The file by itself, in a folder where nothing of fedward can be imported."""
    alone = tmp_path / "alone" / "verify.py"
    alone.parent.mkdir(exist_ok=True)
    alone.write_bytes(Path(verify.__file__).read_bytes())
    command = [sys.executable, "-P", "-E", str(alone), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=alone.parent, timeout=60)


def test_copied_out_it_checks_log_checkpoint_and_quorum(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3, 9)
    two = [signer("H2"), signer("H3")]
    for one in two:
        trail.add_cosignature(9, one.cosign(trail.at(9).note.text, NOW), one.witness_key)
    files = [str(tmp_path / "log.jsonl"), str(tmp_path / "checkpoint"), "--log-key", str(trail.key)]
    named = [word for one in two for word in ("--witness", str(one.witness_key))]
    done = run_alone(tmp_path, *files, *named, "--quorum", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified: 9 entries" in done.stdout
    assert "It does not show" in done.stdout
    done = run_alone(tmp_path, *files, *named, "--quorum", "3")
    assert done.returncode == 9
    assert "2 of the named witnesses" in done.stderr
    (tmp_path / "log.jsonl").write_bytes(b"".join((tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)[:8]))
    done = run_alone(tmp_path, *files)
    assert done.returncode == 9
    assert "its end is missing" in done.stderr
    assert run_alone(tmp_path, str(tmp_path / "none"), *files[1:]).returncode == 2


@given(value=JSON)
def test_what_the_log_writes_is_read(value: object) -> None:
    line = rfc8785.dumps({"prev": GENESIS, "seq": 0, "value": value}) + b"\n"  # type: ignore[dict-item]
    assert read_entry(line, 0, GENESIS)["prev"] == GENESIS


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_as_ecmascript_does(value: float) -> None:
    assert verify.number_form(value).encode() == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"prev":"%s","seq":0,"x":1.0}',
        '{"prev":"%s","seq":0,"x":1E3}',
        '{"prev":"%s","seq":0,"x":NaN}',
        '{"prev":"%s","seq":0,"x":9007199254740993}',
        '{"prev":"%s","seq":0, "x":1}',
        '{"seq":0,"prev":"%s"}',
        '{"prev":"%s","seq":0,"seq":0}',
        '{"prev":"%s","seq":0,"x":"\\u0061"}',
        '{"prev":"%s","seq":0,"x":"\\ud800"}',
        '["%s",0]',
        '{"prev":"%s","seq":1}',
        '{"prev":"%s","seq":0,"x":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(NotVerifiedError, match="line 1"):
        read_entry((text % GENESIS).encode() + b"\n", 0, GENESIS)


def test_the_example_of_the_format_verifies() -> None:
    assert Note.parse(GO_NOTE).of(Key.parse(GO_KEY)) is not None


def test_an_independent_implementation_reads_our_notes_and_checkpoints() -> None:
    made = Signed.make(signer(), 7, bytes(range(32)))
    assert other.verify_signed_note(made.raw.decode(), [str(signer().log_key)]) == 1
    head = other.checkpoint_verify(made.raw.decode(), [str(signer().log_key)])
    assert (head.origin, head.size, bytes(head.root)) == (signer().name, 7, bytes(range(32)))


def test_a_cosignature_is_what_the_specification_says_byte_by_byte() -> None:
    """tlog-cosignature: key ID of type 4, eight bytes of time, Ed25519 over header, time and note text."""
    witness, text = signer("H2"), str(Checkpoint(signer().name, 7, bytes(32)))
    raw = write_note(text, signer().sign(text), witness.cosign(text, NOW))
    name, number, blob = Note.parse(raw).signatures[1]
    assert (name, len(blob)) == (witness.name, 72)

    assert number == hashlib.sha256(f"{name}\n".encode() + b"\x04" + witness.public).digest()[:4]
    seconds = int.from_bytes(blob[:8], "big")
    assert seconds == int(NOW.timestamp())
    message = f"cosignature/v1\ntime {seconds}\n{text}".encode()
    Ed25519PublicKey.from_public_bytes(witness.public).verify(blob[8:], message)


def test_no_byte_of_a_cosigned_checkpoint_can_change_unseen() -> None:
    log, witness = signer(), signer("H2")
    made = Signed.make(log, 1234, bytes(range(32)))
    raw = write_note(made.note.text, *lines_of(made.raw), witness.cosign(made.note.text, NOW))
    for changed in flips(raw):
        try:
            note = Note.parse(changed)
            found = verify.signed_checkpoint(note, log.log_key)
            seen = cosigners(note, [witness.witness_key])
        except NotVerifiedError:
            continue
        assert found == made.checkpoint
        assert not seen, "the line of the witness was made one of nobody"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\nno line\n",
        b"te\x00xt\n\n\xe2\x80\x94 a AAAAAAA=\n",
        b"te\rxt\n\n\xe2\x80\x94 a AAAAAAA=\n",
        b"\xff\n\n\xe2\x80\x94 a AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a AAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a AAAAAAB=\n",
        b"text\n\n\xe2\x80\x94 a+b AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a AAAAAAA=",
        b"text\n\n" + b"\xe2\x80\x94 a AAAAAAA=\n" * 101,
        b"x" * 70_000 + b"\n\n\xe2\x80\x94 a AAAAAAA=\n",
    ],
)
def test_what_is_no_note_is_refused(raw: bytes) -> None:
    with pytest.raises(NotVerifiedError):
        Note.parse(raw)


@pytest.mark.parametrize(
    "text", ["o\n1\n", "o\n01\nAA==\n", "o\n-1\n{}\n", "o\n1\n{}", "o\n1\n{}\n\n", "\n1\n{}\n", "o\n1\nAAAA\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NotVerifiedError):
        Checkpoint.parse(text.replace("{}", "A" * 43 + "="))


@pytest.mark.parametrize(
    "text", ["", "H1", GO_KEY[:-1], GO_KEY.replace("c74f", "c74e"), GO_KEY.replace("+AR", "+BR"), "a b" + GO_KEY]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NotVerifiedError):
        Key.parse(text)


def test_a_checkpoint_under_a_witness_key_or_another_name_is_none() -> None:
    made, log = Signed.make(signer(), 7, bytes(32)), signer()
    for key in (log.witness_key, signer("H2").log_key, Key(signer("H2").name, 1, log.public)):
        with pytest.raises(NotVerifiedError):
            verify.signed_checkpoint(made.note, key)
    foreign = write_note(
        str(Checkpoint("fedward/H9/0", 7, bytes(32))), log.sign(str(Checkpoint("fedward/H9/0", 7, bytes(32))))
    )
    with pytest.raises(NotVerifiedError, match="not of"):
        verify.signed_checkpoint(Note.parse(foreign), log.log_key)


def cosigned(*names: str) -> Note:
    made = Signed.make(signer(), 7, bytes(32))
    lines = [signer(name).cosign(made.note.text, NOW) for name in names]
    return Note.parse(write_note(made.note.text, *lines_of(made.raw), *lines))


def test_two_other_sites_are_enough_and_neither_the_coordinator_nor_the_log_itself_counts() -> None:
    sites = tuple(signer(name).witness_key for name in ("H1", "H2", "H3", "H4"))
    assert satisfied(cosigned("H2", "H3"), Quorum(sites))[0]
    for names in ([], ["H2"], ["H2", "coordinator"], ["H2", "H1"], ["H1", "coordinator"]):
        enough, why = satisfied(cosigned(*names), Quorum(sites))
        assert not enough
        assert "of 2" in why
    twice = tuple(Key(name, 4, signer("H2").public) for name in (signer("H2").name, "fedward/H9/1"))
    lines = [signer("H2").cosign(cosigned().text, NOW)]
    raw = write_note(cosigned().text, signer().sign(cosigned().text), *lines)
    assert not satisfied(Note.parse(raw), Quorum(twice))[0], "one key is one witness, whatever its names"
    with pytest.raises(ValueError, match="at least one"):
        Quorum(sites, needed=0)


def test_a_cosignature_that_does_not_hold_spoils_the_note() -> None:
    sites = tuple(signer(name).witness_key for name in ("H2", "H3", "H4"))
    text = cosigned().text
    wrong = signer("H4").cosign(text.replace("7", "8", 1), NOW)
    raw = write_note(text, signer().sign(text), *(signer(name).cosign(text, NOW) for name in ("H2", "H3")), wrong)
    assert satisfied(Note.parse(raw), Quorum(sites)) == (False, f"the signature of {signer('H4').name} does not hold")


def test_entries_that_a_walk_reads_are_those_of_the_log(tmp_path: Path) -> None:
    path = fill(tmp_path, 5)
    with path.open("ab") as stream:
        stream.write(b'{"never":"finished"')
    with path.open("rb") as stream:
        rows = list(verify.walk(stream))
    assert [row["seq"] for row, _, _ in rows] == list(range(5))
    assert [json.loads(line) for _, line, _ in rows] == [row for row, _, _ in rows]
