"""How a hospital asks to be a member, and which charters it pins: those that name it and that a person compared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.cli import app
from client.join import LEAST_DIGITS
from client.node import Node
from shared.charter import Charter
from shared.errors import CharterError, FedwardError, OutputError, PolicyError, RecordError, UsageError
from shared.identity import Request, fingerprint, grouped
from tests.federation import toy
from tests.federation.members import command, hospitals, masked, member


@pytest.fixture
def nodes(tmp_path: Path) -> list[Node]:
    return hospitals(tmp_path)


def agreed(nodes: list[Node], **changes: Any) -> Charter:
    return masked(tuple(member(node) for node in nodes), len(nodes), {}, **changes)


def file(tmp_path: Path, rules: Charter, name: str = "charter.toml") -> Path:
    path = tmp_path / name
    path.write_text("# a comment\n" + rules.to_toml())
    return path


def join(node: Node, charter: Path, *options: str, **rest: Any) -> str:
    return command(app, "join", node.folder, charter, *options, **rest)


def unpinned(node: Node) -> bool:
    return not (node.folder / "charter.toml").exists()


def refused(kind: type[FedwardError], words: str, node: Node, charter: Path, *options: str) -> str:
    before = None if unpinned(node) else (node.folder / "charter.toml").read_bytes()
    with pytest.raises(FedwardError) as caught:
        join(node, charter, *options)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.hint
    assert before == (None if unpinned(node) else (node.folder / "charter.toml").read_bytes())
    return str(caught.value)


# --- the hospital's own policy ----------------------------------------------------------------------------------------


def test_a_charter_that_the_hospitals_policy_does_not_allow_is_not_pinned(nodes: list[Node], tmp_path: Path) -> None:
    rules = agreed(nodes)
    confirmed = ("--sha256", rules.sha256)
    (nodes[0].folder / "policy.toml").unlink()
    told = refused(PolicyError, "asks for differential privacy", nodes[0], file(tmp_path, rules), *confirmed)
    assert str(nodes[0].folder / "policy.toml") in told
    (nodes[0].folder / "policy.toml").write_text("require_privacy = false\nmax_rounds = 2")
    refused(PolicyError, "allows 2 at most of a task's rounds", nodes[0], file(tmp_path, rules), *confirmed)
    (nodes[0].folder / "policy.toml").write_text("require_privacy = false")
    join(nodes[0], file(tmp_path, rules), *confirmed)


# --- request and fingerprint ------------------------------------------------------------------------------------------


def test_a_request_is_signed_by_the_node_and_its_fingerprint_is_said(nodes: list[Node], tmp_path: Path) -> None:
    told = command(app, "request", nodes[0].folder, tmp_path / "r.json")
    made = Request.read(tmp_path / "r.json")
    assert (made.site, made.purpose) == ("H1", toy.PURPOSE)
    assert made.public_key.hex() == member(nodes[0]).identity
    assert f"read out when asked: {made.fingerprint}" in told
    rows = toy.log_rows(nodes[0].folder)
    assert [(row["action"], row["outcome"]) for row in rows] == [
        ("member.request", "started"),
        ("member.request", "ok"),
    ]
    assert rows[0]["detail"] == {"fingerprint": made.fingerprint}


def test_no_command_shows_or_writes_the_private_key(nodes: list[Node], tmp_path: Path) -> None:
    told = command(app, "request", nodes[0].folder, tmp_path / "r.json")
    told += command(app, "fingerprint", nodes[0].folder) + command(app, "fingerprint", nodes[0].folder, "--json")
    told += join(nodes[0], file(tmp_path, agreed(nodes)), "--sha256", agreed(nodes).sha256)
    told += (tmp_path / "r.json").read_text() + (nodes[0].folder / "audit" / "log.jsonl").read_text()
    for name in ("identity", "audit", "pseudonym"):
        assert nodes[0].key(name).hex() not in told.lower()


def test_the_fingerprint_is_the_one_of_the_charter(nodes: list[Node]) -> None:
    said = command(app, "fingerprint", nodes[1].folder)
    assert said == f"H2: {fingerprint(bytes.fromhex(member(nodes[1]).identity))}\n"
    assert f'"identity": "{member(nodes[1]).identity}"' in command(app, "fingerprint", nodes[1].folder, "--json")


def test_a_virtual_hospital_cannot_ask(tmp_path: Path) -> None:
    Node.create(tmp_path / "v", site="V1", purpose=toy.PURPOSE, seed=7)
    with pytest.raises(PolicyError, match="whose keys anybody can compute"):
        command(app, "request", tmp_path / "v", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_a_request_that_cannot_be_made_leaves_nothing(nodes: list[Node], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a node"):
        command(app, "request", tmp_path / "none", tmp_path / "r.json")
    for taken in (tmp_path, nodes[0].folder / "keys" / "identity.key"):
        with pytest.raises(UsageError, match="is there already"):
            command(app, "request", nodes[0].folder, taken)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        command(app, "request", nodes[0].folder, tmp_path / "file" / "r.json")
    assert toy.log_rows(nodes[0].folder)[-1]["outcome"] == "failed"
    (nodes[0].folder / "keys" / "identity.key").chmod(0o644)
    with pytest.raises(PolicyError, match="others may read"):
        command(app, "request", nodes[0].folder, tmp_path / "r.json")
    damage(nodes[1])
    with pytest.raises(RecordError, match="does not verify"):
        command(app, "request", nodes[1].folder, tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def damage(node: Node) -> None:
    """Make the node's audit log one that nothing can be added to."""
    path = node.folder / "audit" / "log.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no entry\n")


# --- join -------------------------------------------------------------------------------------------------------------


def test_a_charter_that_was_compared_is_pinned_and_recorded(nodes: list[Node], tmp_path: Path) -> None:
    rules = agreed(nodes)
    told = join(nodes[1], file(tmp_path, rules), "--sha256", grouped(rules.sha256[:32]).upper())
    assert nodes[1].charter == rules
    assert grouped(rules.sha256) in told
    for node in nodes:
        assert fingerprint(bytes.fromhex(member(node).identity)) in told
    assert "2. H2 (this hospital)" in told
    assert "What this does not protect" in told
    rows = toy.log_rows(nodes[1].folder)
    assert [(row["action"], row["outcome"]) for row in rows] == [("charter.pin", "started"), ("charter.pin", "ok")]
    detail = {"federation": "test", "charter": rules.sha256, "replaces": None, "members": 3, "confirmed": "sha256"}
    assert rows[0]["detail"] == detail


def test_it_is_pinned_by_an_answer_at_the_terminal(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = agreed(nodes)
    path = file(tmp_path, rules)
    monkeypatch.setattr("client.join_cli.sys", Terminal())
    for answer in ("\n", "y\n", "12\n"):
        with pytest.raises(UsageError, match="32 to 64 hexadecimal digits"):
            join(nodes[0], path, text=answer)
    with pytest.raises(PolicyError, match="hold different ones"):
        join(nodes[0], path, text="a" * 32 + "\n")
    assert unpinned(nodes[0])
    assert "as another member reads it out" in join(nodes[0], path, text=f"{rules.sha256[:LEAST_DIGITS]}\n")
    assert nodes[0].charter == rules
    assert toy.log_rows(nodes[0].folder)[-1]["detail"]["confirmed"] == "at the terminal"


class Terminal:
    """A ``sys`` whose standard input is a terminal."""

    class stdin:  # noqa: N801
        @staticmethod
        def isatty() -> bool:
            return True


def test_without_a_terminal_and_a_hash_nothing_is_pinned(nodes: list[Node], tmp_path: Path) -> None:
    refused(UsageError, "nothing confirms", nodes[0], file(tmp_path, agreed(nodes)))
    assert not (nodes[0].folder / "audit").exists()


@pytest.mark.parametrize("heard", ["12", "a" * 31, "x" * 32, "a" * 65, "0x" + "a" * 32])
def test_a_hash_needs_its_first_digits(nodes: list[Node], tmp_path: Path, heard: str) -> None:
    refused(UsageError, "32 to 64 hexadecimal digits", nodes[0], file(tmp_path, agreed(nodes)), "--sha256", heard)


def test_another_hash_is_another_charter(nodes: list[Node], tmp_path: Path) -> None:
    rules, other = agreed(nodes), agreed(nodes, seed=4)
    heard = other.sha256[:LEAST_DIGITS]
    refused(PolicyError, "the members hold different ones", nodes[0], file(tmp_path, rules), "--sha256", heard)
    almost = rules.sha256[:-1] + ("0" if rules.sha256[-1] != "0" else "1")
    refused(PolicyError, "the members hold different ones", nodes[0], file(tmp_path, rules), "--sha256", almost)


def swapped(nodes: list[Node]) -> Charter:
    first, second, third = (member(node) for node in nodes)
    return masked(
        (
            dataclasses.replace(first, identity=second.identity),
            dataclasses.replace(second, identity=first.identity),
            third,
        ),
        3,
        {},
    )


def replaced(nodes: list[Node]) -> Charter:
    first, *others = (member(node) for node in nodes)
    return masked((dataclasses.replace(first, identity="44" * 32), *others), 3, {})


def renamed(nodes: list[Node]) -> Charter:
    first, *others = (member(node) for node in nodes)
    return masked((dataclasses.replace(first, name="H9"), *others), 3, {})


def without_it(nodes: list[Node]) -> Charter:
    first, *others = (member(node) for node in nodes)
    return masked((dataclasses.replace(first, name="H9", identity="44" * 32), *others), 3, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swapped, "names H1 with another key"),
        (replaced, "names H1 with another key"),
        (renamed, "names this node's key H9, and the node is H1"),
        (without_it, "H1 is not a member"),
        (lambda nodes: agreed(nodes, purpose="marketing"), "purpose 'marketing'"),
        (lambda nodes: toy.charter(), "the coordinator would read this hospital's updates"),
    ],
)
def test_a_charter_that_is_not_for_this_hospital_is_not_pinned(
    nodes: list[Node], tmp_path: Path, change: Callable[[list[Node]], Charter], words: str
) -> None:
    rules = change(nodes)
    refused(PolicyError, words, nodes[0], file(tmp_path, rules), "--sha256", rules.sha256)


def test_a_virtual_hospital_may_follow_a_charter_without_masks(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "v", site="V1", purpose=toy.PURPOSE, seed=7)
    rules = toy.charter()
    join(node, file(tmp_path, rules), "--sha256", rules.sha256)
    assert node.charter == rules


def test_what_is_no_charter_or_no_node_is_told(nodes: list[Node], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("x = 1")
    refused(CharterError, "unknown key 'x'", nodes[0], tmp_path / "bad.toml")
    refused(CharterError, "cannot read the charter", nodes[0], tmp_path / "none.toml")
    with pytest.raises(UsageError, match="is not a node"):
        command(app, "join", tmp_path / "none", file(tmp_path, agreed(nodes)))


def test_a_pinned_charter_is_replaced_only_when_that_is_said(nodes: list[Node], tmp_path: Path) -> None:
    old, new = agreed(nodes), agreed(nodes, seed=4)
    join(nodes[0], file(tmp_path, old), "--sha256", old.sha256)
    path = file(tmp_path, new, "new.toml")
    assert old.sha256[:16] in refused(PolicyError, "has pinned another charter", nodes[0], path, "--sha256", new.sha256)
    refused(PolicyError, "the members hold different ones", nodes[0], path, "--sha256", old.sha256, "--replace")
    join(nodes[0], path, "--sha256", new.sha256, "--replace")
    assert nodes[0].charter == new
    assert toy.log_rows(nodes[0].folder)[-1]["detail"]["replaces"] == old.sha256


def test_the_same_charter_again_is_no_act(nodes: list[Node], tmp_path: Path) -> None:
    rules = agreed(nodes)
    path = file(tmp_path, rules)
    join(nodes[0], path, "--sha256", rules.sha256)
    entries = len(toy.log_rows(nodes[0].folder))
    assert "has pinned this charter already" in join(nodes[0], path)
    assert len(toy.log_rows(nodes[0].folder)) == entries
    refused(PolicyError, "different ones", nodes[0], path, "--sha256", "0" * 64)


def test_a_damaged_pin_is_told_and_can_be_replaced(nodes: list[Node], tmp_path: Path) -> None:
    rules = agreed(nodes)
    (nodes[0].folder / "charter.toml").write_text("x = 1")
    path = file(tmp_path, rules)
    refused(CharterError, "unknown key 'x'", nodes[0], path, "--sha256", rules.sha256)
    join(nodes[0], path, "--sha256", rules.sha256, "--replace")
    assert nodes[0].charter == rules


def test_what_cannot_be_recorded_is_not_pinned(nodes: list[Node], tmp_path: Path) -> None:
    rules = agreed(nodes)
    damage(nodes[0])
    refused(RecordError, "does not verify", nodes[0], file(tmp_path, rules), "--sha256", rules.sha256)


@pytest.mark.parametrize("name", ["request", "fingerprint", "join"])
def test_each_command_says_its_exit_codes(name: str) -> None:
    assert "Exit status 0" in command(app, name, "--help")
