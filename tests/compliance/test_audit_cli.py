"""``fedward audit`` from the outside: what it prints, what it refuses, and with which status."""

import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from compliance import verify as verifier
from compliance.cli import app
from compliance.log import Action, Entry, Outcome, entries
from compliance.place import Place
from shared.errors import FedwardError
from tests.compliance.members import charter_of, coordinator, node
from tests.compliance.recording import fill, trail_of


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.exception
    return done.output


def as_json(*words: object) -> Any:
    return json.loads(told(*words, "--json"))


def refused(code: int, *words: object) -> str:
    error = run(*words).exception
    assert isinstance(error, FedwardError), error
    assert error.exit_code == code, error
    assert error.hint
    assert "\n" not in str(error)
    return error.message


def act(place: Place, count: int = 1) -> None:
    with place.open_log() as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, detail={"n": n}) for n in range(count)])


@pytest.fixture
def sites(tmp_path: Path) -> list[Place]:
    """Three hospitals that pinned one charter, each with a log of five entries."""
    made = [node(tmp_path, name) for name in ("H1", "H2", "H3")]
    charter = charter_of(made).to_toml()
    for place in made:
        (place.folder / "charter.toml").write_text(charter)
        act(place, 5)
    return made


def exchange(log: Place, witness: Place, home: Path) -> None:
    """By files: an offer out, an answer back."""
    told("witness", "export", log.folder, "--to", home / "offer.json")
    told("witness", "import", witness.folder, home / "offer.json", "--to", home / "answer.json")
    told("witness", "collect", log.folder, home / "answer.json")


def test_a_bare_log_is_verified_as_before(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    assert f"{path}: verified, 3 entries, head " in told("verify", path)
    assert as_json("verify", path)[str(path)]["entries"] == 3
    with path.open("ab") as stream:
        stream.write(b"{")
    assert "1 bytes follow" in told("verify", path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"n":0', b'"n":9'))
    assert "line 2" in refused(9, "verify", path)
    assert "no audit log" in refused(2, "verify", tmp_path / "none")
    path.write_bytes(raw)
    assert "no checkpoint that could be cosigned" in refused(
        9, "verify", path, "--quorum", "1", "--witness", trail_key(tmp_path / "w")
    )


def trail_key(folder: Path) -> str:
    from tests.compliance.recording import signer

    return str(signer(folder.name).witness_key)


@pytest.mark.parametrize("raw", [b"", b'{"v": 1}', b'{"prev":"0'], ids=["emptied", "another file", "one torn line"])
def test_what_holds_no_whole_entry_is_not_verified(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(raw)
    assert "holds not one whole entry" in refused(9, "verify", tmp_path / "log.jsonl")


def test_checkpoints_beside_a_log_are_checked_where_a_key_is_known(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 2, 4)
    assert "2 checkpoints not checked; name the log's key" in told("verify", tmp_path)
    text = told("verify", tmp_path, "--log-key", trail.key)
    assert "signed at 2 checkpoints, the newest of 4 entries; whose key this is, says you" in text
    assert "nobody has witnessed it" in text
    assert "It does not show" in text
    (tmp_path / "checkpoints" / "2").write_bytes((tmp_path / "checkpoints" / "4").read_bytes())
    refused(9, "verify", tmp_path, "--log-key", trail.key)
    assert "is no key" in refused(2, "verify", tmp_path, "--log-key", "nonsense")
    assert "not that of a log" in refused(2, "verify", tmp_path, "--log-key", trail_key(tmp_path))


def test_the_whole_way_by_files_to_a_log_that_two_others_witnessed(tmp_path: Path, sites: list[Place]) -> None:
    first, second, third = sites
    assert "published no checkpoint" in told("checkpoints", first.folder)
    assert "cosigned by nobody" in told("checkpoints", first.folder, "--publish")
    for witness in (second, third):
        exchange(first, witness, tmp_path)
    assert set(as_json("checkpoints", first.folder)["checkpoints"][0]["cosigned"]) == {
        second.signer.name,
        third.signer.name,
    }
    keys = [as_json("keys", place.folder)["witness_key"] for place in (second, third)]
    named = [word for key in keys for word in ("--witness", key)]
    text = told("verify", first.folder, *named, "--quorum", "2")
    assert "5 entries witnessed by" in text
    assert "says the charter demo" in text
    assert "2 asks for more witnesses" in refused(2, "verify", first.folder, *named[:2], "--quorum", "2")

    act(first, 3)
    told("checkpoints", first.folder, "--publish")
    exchange(first, second, tmp_path)
    found = as_json("verify", first.folder, *named, "--quorum", "2")[str(first.folder)]
    assert (found["published"], found["witnessed"], found["unwitnessed"]) == (8, 5, 3)
    assert as_json("verify", first.folder, *named, "--quorum", "1")[str(first.folder)]["witnessed"] == 8
    assert f"cosignatures of {second.signer.name}, not checked" in told("verify", first.folder)
    (first.audit / "known").mkdir()
    shutil.copy(second.audit / "endorsement.json", first.audit / "known" / "H2.json")  # as the exchange keeps it
    assert f"8 entries witnessed by {second.signer.name}; 0 behind" in told("verify", first.folder)

    # and with the one file alone, as an auditor would
    raw = (first.audit / "checkpoint").read_bytes()
    assert verifier.verify(first.log, raw, first.signer.log_key, [second.signer.witness_key], 1)[0].entries == 8
    seen = [row["detail"] for row in entries(second.log) if row["action"] == "witness"]
    assert [row["size"] for row in seen] == [5, 8]
    assert f"{first.signer.name}: 8 entries" in told("witness", "status", second.folder)


def test_a_witness_that_knows_more_or_less_is_asked_again(tmp_path: Path, sites: list[Place]) -> None:
    first, second, _ = sites
    told("checkpoints", first.folder, "--publish")
    told("witness", "export", first.folder, "--to", tmp_path / "a.json")
    told("witness", "import", second.folder, tmp_path / "a.json")  # the answer is lost on the way
    act(first)
    told("checkpoints", first.folder, "--publish")
    assert as_json("witness", "export", first.folder, "--to", tmp_path / "b.json")["from"] == [0]
    answer = as_json("witness", "import", second.folder, tmp_path / "b.json")
    assert (answer["cosigned"], answer["have"]) == (False, 5)
    assert "this node's own log" in refused(2, "witness", "import", first.folder, tmp_path / "b.json")
    assert "export again with --have 5" in str(run("witness", "collect", first.folder, answer["file"]).exception)
    told("witness", "export", first.folder, "--to", tmp_path / "c.json", "--have", "5")
    answer = as_json("witness", "import", second.folder, tmp_path / "c.json")
    assert answer["cosigned"]
    told("witness", "collect", first.folder, answer["file"])


def test_two_histories_stop_at_the_witness_until_a_person_decides(tmp_path: Path, sites: list[Place]) -> None:
    first, second, _ = sites
    shutil.copytree(first.folder, tmp_path / "copy")
    told("checkpoints", first.folder, "--publish")
    told("witness", "export", first.folder, "--to", tmp_path / "a.json")
    told("witness", "import", second.folder, tmp_path / "a.json")
    copy = Place.open(tmp_path / "copy")
    raw = copy.log.read_bytes().splitlines(keepends=True)
    copy.log.write_bytes(b"".join(raw[:4]))
    act(copy)
    told("checkpoints", copy.folder, "--publish")
    told("witness", "export", copy.folder, "--to", tmp_path / "b.json")
    assert "two heads of 5" in refused(9, "witness", "import", second.folder, tmp_path / "b.json")
    assert "a person decides" in refused(9, "witness", "import", second.folder, tmp_path / "a.json")
    alerts = [row["detail"]["alert"] for row in entries(second.log) if row["outcome"] == "refused"]
    assert alerts == ["two histories"]
    assert "two histories, see" in told("witness", "status", second.folder)
    origin, words = first.signer.name, ("--who", "DPO", "--why", "a copy was started")
    told("witness", "resolve", second.folder, origin, "--keep", "seen", *words)
    assert as_json("witness", "import", second.folder, tmp_path / "a.json")["cosigned"]
    assert "not marked" in refused(2, "witness", "resolve", second.folder, origin, "--keep", "seen", *words)


def test_a_coordinators_log_is_witnessed_too_and_a_strangers_is_not(tmp_path: Path, sites: list[Place]) -> None:
    import dataclasses

    from shared.certificates import digest
    from shared.charter_plans import CoordinatorPlan

    hub, certificate = coordinator(tmp_path)
    act(hub, 2)
    told("checkpoints", hub.folder, "--publish")
    told("witness", "export", hub.folder, "--to", tmp_path / "hub.json")
    refused(8, "witness", "import", sites[0].folder, tmp_path / "hub.json")
    plan = CoordinatorPlan("hub", "hub.example:9092", digest(certificate))
    charter = tmp_path / "with.toml"
    charter.write_text(dataclasses.replace(charter_of(sites), coordinator=plan).to_toml())
    made = as_json("witness", "import", sites[0].folder, tmp_path / "hub.json", "--charter", charter)
    assert made["cosigned"]
    told("witness", "collect", hub.folder, made["file"], "--charter", charter)

    stranger = node(tmp_path, "H9")
    act(stranger)
    told("checkpoints", stranger.folder, "--publish")
    told("witness", "export", stranger.folder, "--to", tmp_path / "h9.json")
    assert "has no member" in refused(8, "witness", "import", sites[0].folder, tmp_path / "h9.json")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"v":1}', b"\xff", b'{"v":1,"endorsement":{},"checkpoint":3}'])
def test_what_is_no_offer_is_refused(tmp_path: Path, sites: list[Place], raw: bytes) -> None:
    (tmp_path / "x").write_bytes(raw)
    refused(8, "witness", "import", sites[0].folder, tmp_path / "x")
    refused(2, "witness", "import", sites[0].folder, tmp_path / "none")
    assert not (tmp_path / "x.answer").exists()


def test_an_entry_is_proved_to_somebody_who_sees_nothing_else(tmp_path: Path, sites: list[Place]) -> None:
    import base64

    first = sites[0]
    refused(9, "prove", first.folder, 0)
    told("checkpoints", first.folder, "--publish")
    act(first)
    found = as_json("prove", first.folder, 3)
    proof = [base64.b64decode(one) for one in found["proof"]]
    note = verifier.Note.parse(found["checkpoint"].encode())
    signed = verifier.signed_checkpoint(note, verifier.Key.parse(found["log_key"]))
    leaf = verifier.leaf_hash(found["entry"].encode())
    assert verifier.root_from_inclusion(3, signed.size, leaf, proof) == signed.root
    assert "stands in its 5 entries" in told("prove", first.folder, 3)
    act(first)
    waiting = refused(2, "prove", first.folder, 5)
    assert "entry 5 is in no checkpoint of 5 entries yet" in waiting
    assert "there is no entry 99 in a log of" in refused(2, "prove", first.folder, 99)
    refused(2, "prove", tmp_path, 0)


def test_holds_are_placed_listed_and_lifted(sites: list[Place]) -> None:
    folder, words = sites[0].folder, ("--who", "DPO", "--why", "matter 12")
    number = told("hold", "place", folder, *words).split()[1]
    found = as_json("hold", "list", folder)
    assert ([one["hold"] for one in found["holds"]], found["may_delete"]) == ([number], False)
    assert "must not be deleted: the hold" in told("hold", "list", folder)
    told("hold", "lift", folder, number, *words)
    assert "must not be deleted: it is kept until" in told("hold", "list", folder)
    refused(2, "hold", "lift", folder, number, *words)


def commands(group: click.Command, *names: str) -> list[list[str]]:
    if isinstance(group, click.Group):
        return [found for name, one in group.commands.items() for found in commands(one, *names, name)]
    return [list(names)]


@pytest.mark.parametrize("names", commands(get_command(app)), ids=" ".join)
def test_each_command_and_argument_is_explained(names: list[str]) -> None:
    found: click.Command = get_command(app)
    for name in names:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    assert found.help
    assert all(getattr(one, "help", "") for one in found.params)
