"""``fedward model verify``: whatever is changed in a release, by whomever, it says so."""

import hashlib
import json
import os
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from compliance.bundle_check import check_bundle
from compliance.bundle_form import MANIFEST, SIGNATURE, release_text, site_row
from compliance.bundle_report import Report, Verdict
from compliance.endorse import Endorsement
from compliance.model_cli import app
from compliance.note import Signer, read_log_key, write_note
from compliance.place import Place
from shared.errors import RecordError, UsageError
from shared.files import canonical_json
from shared.statement import Statement
from tests.federation.released import RUN, SITES, Ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    made = Ended.make(tmp_path_factory.mktemp("federation"))
    made.witnessed(*SITES)
    made.release(made.root / "out", *SITES)
    return made


@pytest.fixture
def folder(ended: Ended, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended.root / "out", tmp_path / "release"))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def failed(report: Report) -> dict[str, str]:
    return {one.what: one.detail for one in report.failed}


def seal(folder: Path, signer: Signer, **changes: Any) -> None:
    """List the files of ``folder`` anew, change the manifest, and sign it."""
    facts = json.loads((folder / MANIFEST).read_bytes()) | changes
    facts["files"] = {
        name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        for name in names(folder)
        if name not in {MANIFEST, SIGNATURE}
        for raw in [(folder / name).read_bytes()]
    }
    raw = canonical_json(facts)
    (folder / MANIFEST).write_bytes(raw)
    text = release_text(raw)
    (folder / SIGNATURE).write_bytes(write_note(text, signer.sign(text)))


@pytest.fixture
def own(ended: Ended) -> Signer:
    """The coordinator itself, which signs what it likes."""
    return Place.open(ended.coordinator.folder).signer


# --- what holds -------------------------------------------------------------------------------------------------------


@pytest.mark.control("AIACT-11-documentation")
def test_a_release_as_it_was_written_holds_in_every_check(folder: Path, ended: Ended) -> None:
    report = check_bundle(folder, charter=ended.charter.sha256)
    assert report.holds
    assert report.charter == ended.charter.sha256
    held = {one.what for one in report.findings if one.verdict is Verdict.OK}
    assert held == {
        *(
            "files",
            "charter.toml",
            "authority.pem",
            "endorsement.json",
            "SIGNATURE",
            "model",
            "checkpoints/coordinator",
        ),
        "entry.json",
        *(f"statements/{site}.json" for site in SITES),
        *(f"checkpoints/sites/{site}" for site in SITES),
    }
    assert check_bundle(folder, charter=ended.charter.sha256[:32]).holds


def test_without_a_charter_to_compare_it_asks_the_reader_to(folder: Path, ended: Ended) -> None:
    report = check_bundle(folder)
    assert report.holds
    (line,) = [one for one in report.findings if one.what == "charter.toml"]
    assert (line.verdict, ended.charter.sha256 in line.detail) == (Verdict.OPEN, True)


def test_nothing_but_files_is_read_and_nothing_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    assert check_bundle(folder).holds
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_the_command_says_it_line_by_line_and_in_json(folder: Path, ended: Ended) -> None:
    run = CliRunner()
    done = run.invoke(app, ["verify", str(folder), "--charter", ended.charter.sha256])
    assert done.exit_code == 0, done.output
    assert "ok           SIGNATURE: fedward/hub/" in done.output
    assert "not checked  beyond any check: that this is the newest release" in done.output
    assert "what was checked holds, under the charter" in done.output
    told = json.loads(run.invoke(app, ["verify", str(folder), "--json"]).output)
    assert (told["verified"], told["charter"]) == (True, ended.charter.sha256)
    assert told["manifest"] == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / "model.json").write_bytes(b"{}")
    done = run.invoke(app, ["verify", str(folder), "--json"])
    assert isinstance(done.exception, RecordError)
    assert done.exception.exit_code == 9
    assert json.loads(done.output)["verified"] is False


@pytest.mark.parametrize(
    "words", [["nowhere"], ["empty"], ["empty", "--charter", "12"], ["empty", "--charter", "x" * 64]]
)
def test_what_is_no_release_is_wrong_use(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    error = CliRunner().invoke(app, ["verify", str(tmp_path / words[0]), *words[1:]]).exception
    assert isinstance(error, UsageError)
    assert error.hint


# --- somebody on the way ----------------------------------------------------------------------------------------------


@pytest.mark.control("AIACT-11-documentation")
def test_a_flip_in_any_file_is_found(folder: Path) -> None:
    for name in names(folder):
        raw = (folder / name).read_bytes()
        places = {0, 1, 7, 8, 9, len(raw) // 2, len(raw) - 2, len(raw) - 1}
        for place in sorted(one for one in places if one < len(raw)):
            for bit in (0x01, 0x80):
                (folder / name).write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])
                assert not check_bundle(folder).holds, (name, place, bit)
        (folder / name).write_bytes(raw)


def test_a_flip_of_any_byte_of_the_signature_is_found(folder: Path) -> None:
    raw = (folder / SIGNATURE).read_bytes()
    for place in range(len(raw)):
        (folder / SIGNATURE).write_bytes(raw[:place] + bytes([raw[place] ^ 0x02]) + raw[place + 1 :])
        assert SIGNATURE in failed(check_bundle(folder)), place


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_bytes_of_any_file_are_found(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(folder)))
    raw = (folder / name).read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, len(raw)))
    other = raw[:start] + data.draw(st.binary(max_size=16)) + raw[stop:]
    (folder / name).write_bytes(other)
    try:
        assert check_bundle(folder).holds == (other == raw)
    finally:
        (folder / name).write_bytes(raw)


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    for name in names(folder):
        raw = (folder / name).read_bytes()
        (folder / name).unlink()
        assert name in failed(check_bundle(folder)), name
        (folder / name).write_bytes(raw)


@pytest.mark.parametrize("name", ["README.md", "model.onnx", "statements/H4.json", ".hidden", "deep/er/file"])
def test_a_file_more_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert name in failed(check_bundle(folder))


def test_links_and_pipes_are_no_files_of_a_release(folder: Path) -> None:
    (folder / "model.json").rename(folder.parent / "aside.json")
    (folder / "model.json").symlink_to(folder.parent / "aside.json")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    assert {"model.json", "pipe", "loop"} <= failed(check_bundle(folder)).keys()


def test_names_that_no_release_has_are_said_and_not_crashed_on(folder: Path) -> None:
    deep = folder / Path(*["d"] * 900)
    deep.mkdir(parents=True)
    (folder / os.fsdecode(b"statements/\xff.json")).write_bytes(b"x")
    (folder / "checkpoints" / "sites" / "H9\nok  SIGNATURE: \x1b[2J").write_bytes(b"x")
    faults = failed(check_bundle(folder))
    assert {"d/d/d/d", "statements/\\udcff.json"} <= faults.keys()
    done = CliRunner().invoke(app, ["verify", str(folder)])
    assert isinstance(done.exception, RecordError)
    assert "\x1b" not in done.output
    assert "\nok  SIGNATURE: " not in done.output


def test_a_file_that_the_check_does_not_know_is_said_to_be_unchecked(folder: Path, own: Signer) -> None:
    (folder / "model.onnx").write_bytes(b"x")
    seal(folder, own)
    report = check_bundle(folder)
    assert report.holds
    assert ("model.onnx", Verdict.OPEN) in {(one.what, one.verdict) for one in report.findings}


def test_two_files_that_change_places_are_found(folder: Path) -> None:
    first, second = (folder / f"statements/{site}.json" for site in ("H1", "H2"))
    raw = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(raw)
    assert {"statements/H1.json", "statements/H2.json"} <= failed(check_bundle(folder)).keys()


def test_a_manifest_that_somebody_else_signed_is_refused(folder: Path, own: Signer) -> None:
    stranger = Ed25519PrivateKey.generate()
    seal(folder, Signer(own.name, stranger), change={"version": "9", "replaces": None, "reason": None})
    assert set(failed(check_bundle(folder))) == {SIGNATURE}
    vouching = Endorsement.make(own.name, stranger.public_key().public_bytes_raw(), stranger)
    (folder / "endorsement.json").write_bytes(canonical_json(vouching.as_json()))
    seal(folder, Signer(own.name, stranger))
    assert {"endorsement.json", SIGNATURE} <= failed(check_bundle(folder)).keys()


def test_a_second_signature_line_is_no_place_to_hide_something(folder: Path, own: Signer) -> None:
    text = release_text((folder / MANIFEST).read_bytes())
    other = Signer("fedward/other/0", Ed25519PrivateKey.generate())
    (folder / SIGNATURE).write_bytes(write_note(text, own.sign(text), other.sign(text)))
    assert set(failed(check_bundle(folder))) == {SIGNATURE}


def test_a_whole_release_of_another_federation_holds_under_its_own_charter_only(
    folder: Path, ended: Ended, tmp_path: Path
) -> None:
    other = Ended.make(tmp_path / "other", privacy={"mode": "off"})
    other.release(tmp_path / "forged")
    report = check_bundle(tmp_path / "forged", charter=ended.charter.sha256, quorum=0)
    assert set(failed(report)) == {"charter.toml"}
    assert check_bundle(tmp_path / "forged", quorum=0).holds
    shutil.copy(tmp_path / "forged" / "charter.toml", folder / "charter.toml")
    assert "charter.toml" in failed(check_bundle(folder))


def test_a_signature_of_a_checkpoint_is_none_of_a_release(folder: Path, own: Signer) -> None:
    note = (folder / "checkpoints" / "coordinator").read_bytes()
    (folder / SIGNATURE).write_bytes(note)
    assert SIGNATURE in failed(check_bundle(folder))


# --- the coordinator itself -------------------------------------------------------------------------------------------


def rows(folder: Path, **changed: dict[str, Any]) -> list[dict[str, Any]]:
    found = json.loads((folder / MANIFEST).read_bytes())["sites"]
    return [row | changed.get(row["site"], {}) for row in found]


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.1}, {"patients": 1000}, {"dataset": "e" * 64}, {"uncovered": 3}, {"mode": "off"}, {"more": 1}],
)
def test_the_coordinator_cannot_say_something_else_of_a_hospital(
    folder: Path, own: Signer, change: dict[str, Any]
) -> None:
    seal(folder, own, sites=rows(folder, H1=change))
    assert set(failed(check_bundle(folder))) == {"statements/H1.json"}


def test_the_coordinator_cannot_alter_a_statement(folder: Path, own: Signer) -> None:
    path = folder / "statements" / "H1.json"
    one = Statement.parse(path.read_bytes())
    better = replace(one, tasks=(replace(one.tasks[0], alone=0.5),))
    path.write_bytes(better.to_bytes())
    seal(folder, own, sites=rows(folder, H1=site_row(better, "toy")))
    assert "not signed with the identity key" in failed(check_bundle(folder))["statements/H1.json"]


@pytest.mark.parametrize("change", [{"run": "run-2"}, {"charter": "b" * 64}, {"federation": "other"}])
def test_a_statement_of_another_run_or_charter_is_refused(
    folder: Path, ended: Ended, own: Signer, change: dict[str, Any]
) -> None:
    path = folder / "statements" / "H1.json"
    other = ended.resigned(Statement.parse(path.read_bytes()), **change)
    path.write_bytes(other.to_bytes())
    seal(folder, own, sites=rows(folder, H1=site_row(other, "toy")))
    assert "is about" in failed(check_bundle(folder))["statements/H1.json"]


def test_a_statement_of_another_hospital_or_of_none_is_refused(folder: Path, own: Signer) -> None:
    raw = (folder / "statements" / "H2.json").read_bytes()
    (folder / "statements" / "H1.json").write_bytes(raw)
    seal(folder, own)
    assert "it is the statement of H2" in failed(check_bundle(folder))["statements/H1.json"]
    stranger = replace(Statement.parse(raw), site="H9").sign(Ed25519PrivateKey.generate())
    (folder / "statements" / "H1.json").write_bytes(stranger.to_bytes())
    seal(folder, own)
    assert "no member" in failed(check_bundle(folder))["statements/H1.json"]


def test_a_statement_that_was_taken_out_is_said_to_be_missing(folder: Path, own: Signer) -> None:
    (folder / "statements" / "H1.json").unlink()
    seal(folder, own)
    assert failed(check_bundle(folder)).keys() == {"statements/H1.json", "checkpoints/sites/H1"}
    (folder / "checkpoints" / "sites" / "H1").unlink()
    seal(folder, own, sites=[{"site": "H1", "statement": None}, *rows(folder)[1:]])
    report = check_bundle(folder)
    assert report.holds
    assert ("statements/H1.json", Verdict.OPEN) in {(one.what, one.verdict) for one in report.findings}


def test_another_model_under_the_same_history_is_refused(folder: Path, own: Signer) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    state = {name: np.asarray(array + 1, array.dtype) for name, array in safetensors.numpy.load(raw).items()}
    other = safetensors.numpy.save(state)
    (folder / "model.safetensors").write_bytes(other)
    described = json.loads((folder / "model.json").read_bytes())
    described["weights_sha256"] = hashlib.sha256(other).hexdigest()
    (folder / "model.json").write_text(json.dumps(described))
    seal(folder, own)
    assert "another model than history.json ended with" in failed(check_bundle(folder))["model"]


@pytest.mark.parametrize(
    ("name", "value"), [("start", "public-1"), ("trained", "biases_norms_head"), ("aggregation", "plain")]
)
def test_another_training_than_the_charter_asks_for_is_refused(
    folder: Path, own: Signer, name: str, value: str
) -> None:
    """Told alike everywhere else, so that nothing but the charter says otherwise."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    model = manifest["model"] | {name: value}
    assert model != manifest["model"]
    for file in ("model.json", "history.json"):
        told = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps(told | ({name: value} if name in told else {})))
    seal(folder, own, model=model)
    assert f"says {name} = '{value}', and the charter" in failed(check_bundle(folder))[MANIFEST]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"\0" * 64, b"\x08" + bytes(7) + b'{"a":1} '])
def test_weights_that_cannot_be_read_are_refused_and_not_crashed_on(folder: Path, own: Signer, damage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(damage)
    seal(folder, own)
    assert "model" in failed(check_bundle(folder))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'[["a",[3],"object"]]',
        b'[["a",[-1],"float32"]]',
        b'[["a",[3],"float32"],["a",[3],"float32"]]',
    ],
)
def test_a_layout_that_is_none_is_refused(folder: Path, own: Signer, raw: bytes) -> None:
    (folder / "layout.json").write_bytes(raw)
    seal(folder, own)
    assert "model" in failed(check_bundle(folder))


@pytest.mark.parametrize("name", ["model.json", "history.json", "charter.toml", "authority.pem", "endorsement.json"])
@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 3000])
def test_whatever_stands_in_a_file_is_refused_in_words(folder: Path, own: Signer, name: str, raw: bytes) -> None:
    (folder / name).write_bytes(raw)
    seal(folder, own)
    assert not check_bundle(folder).holds


def test_the_witnessed_log_must_have_the_entry_about_this_very_model(folder: Path, own: Signer) -> None:
    facts = json.loads((folder / "entry.json").read_bytes())
    record = json.loads((folder / MANIFEST).read_bytes())["record"]
    other = facts["line"].replace(f'"run":"{RUN}"', '"run":"run-2"')
    forged = facts["line"].replace('"purpose":""', '"purpose":"x"')
    assert facts["line"] not in {other, forged}
    for changed, number in (
        ({"line": other}, record["entry"]),
        ({"line": forged}, record["entry"]),
        ({"proof": facts["proof"][:-1]}, record["entry"]),
        ({"proof": [*facts["proof"], "0" * 64]}, record["entry"]),
        ({"line": "[]"}, record["entry"]),
        ({}, record["entry"] + 1),
        ({}, record["size"]),
    ):
        (folder / "entry.json").write_bytes(canonical_json(facts | changed))
        seal(folder, own, record=record | {"entry": number})
        assert set(failed(check_bundle(folder))) == {"entry.json"}, (changed, number)
    (folder / "entry.json").unlink()
    seal(folder, own, record=record)
    assert set(failed(check_bundle(folder))) == {"entry.json"}
    seal(folder, own, record=record | {"entry": None})
    assert ("entry.json", Verdict.OPEN) in {(one.what, one.verdict) for one in check_bundle(folder).findings}


# --- witnesses --------------------------------------------------------------------------------------------------------


def test_too_few_witnesses_of_the_coordinators_log_are_too_few(folder: Path, own: Signer) -> None:
    path = folder / "checkpoints" / "coordinator"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))  # its own signature, and one hospital's
    seal(folder, own)
    assert "1 of 2 that are needed" in failed(check_bundle(folder))["checkpoints/coordinator"]
    assert check_bundle(folder, quorum=1).holds
    assert check_bundle(folder, quorum=0).holds


def test_who_is_no_member_is_no_witness(folder: Path, own: Signer, ended: Ended) -> None:
    path = folder / "checkpoints" / "coordinator"
    lines = path.read_bytes().decode().splitlines(keepends=True)
    text = "".join(lines[:3])
    strangers = [Signer(f"fedward/X{number}/{number:016x}", Ed25519PrivateKey.generate()) for number in range(3)]
    path.write_bytes(write_note(text, own.sign(text), *(one.cosign(text, datetime.now(UTC)) for one in strangers)))
    seal(folder, own)
    assert "cosigned by nobody" in failed(check_bundle(folder))["checkpoints/coordinator"]
    for number, one in enumerate(strangers):  # and nobody becomes one by vouching for himself
        made = Endorsement.make(one.name, one.public, one.key)
        (folder / "endorsements").mkdir(exist_ok=True)
        (folder / "endorsements" / f"X{number}.json").write_bytes(canonical_json(made.as_json()))
    seal(folder, own)
    assert {"endorsements/X0.json", "checkpoints/coordinator"} <= failed(check_bundle(folder)).keys()


def test_a_witness_that_gave_no_statement_counts_by_its_endorsement(ended: Ended, tmp_path: Path) -> None:
    given = tuple(ended.root / site / "audit" / "endorsement.json" for site in SITES)
    ended.release(tmp_path / "silent", endorsements=given)
    assert check_bundle(tmp_path / "silent").holds
    assert "endorsements/H1.json" in names(tmp_path / "silent")
    ended.release(tmp_path / "alone")
    assert set(failed(check_bundle(tmp_path / "alone"))) == {"checkpoints/coordinator"}


def test_a_hospitals_checkpoint_is_the_one_that_it_stated(folder: Path, own: Signer) -> None:
    first, second = (folder / "checkpoints" / "sites" / site for site in ("H1", "H2"))
    first.write_bytes(second.read_bytes())
    seal(folder, own)
    assert set(failed(check_bundle(folder))) == {"checkpoints/sites/H1"}


def test_a_log_key_that_the_charter_does_not_vouch_for_signs_no_release(folder: Path, ended: Ended) -> None:
    hospital = Place.open(ended.root / "H1")
    signer = Signer(
        Place.open(ended.coordinator.folder).signer.name, read_log_key(hospital.folder / "keys" / "log.key")
    )
    seal(folder, signer)
    assert SIGNATURE in failed(check_bundle(folder))
