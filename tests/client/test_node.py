"""A node's folder: keys for its owner alone, one charter, and no surprises when it is opened again."""

from pathlib import Path

import pytest

from client.node import KEYS, Node
from client.session import Session
from compliance.log import Action, Entry, Outcome
from shared.errors import OutputError, PolicyError, RecordError, UsageError
from shared.link_keys import read_key
from tests.federation import toy


def make(folder: Path) -> Node:
    return Node.create(folder, site="H1", purpose=toy.PURPOSE)


@pytest.mark.control("HIPAA-164.312-a1-keys")
def test_a_new_node_has_keys_that_only_its_owner_can_read(tmp_path: Path) -> None:
    node = make(tmp_path / "node")
    for name in KEYS:
        path = tmp_path / "node" / "keys" / f"{name}.key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert bytes.fromhex(path.read_text()) == node.key(name)
        assert len(node.key(name)) == 32
    assert node.key("audit") != node.key("pseudonym")
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "node" / "keys").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_there_keeps_its_mode_and_one_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir(mode=0o750)
    make(tmp_path / "node")
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "node" / "keys").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make(tmp_path / "file" / "node")


def test_two_nodes_never_share_a_key(tmp_path: Path) -> None:
    assert make(tmp_path / "a").key("pseudonym") != make(tmp_path / "b").key("pseudonym")


def test_virtual_hospitals_can_have_keys_that_can_be_made_again(tmp_path: Path) -> None:
    keys = [Node.create(tmp_path / d, site=s, purpose="p", seed=7).key("audit") for d, s in ("a1", "b1", "c2")]
    assert keys[0] == keys[1] != keys[2]


def test_creating_it_again_opens_it_and_keeps_its_keys(tmp_path: Path) -> None:
    assert make(tmp_path).key("audit") == make(tmp_path).key("audit")
    assert Node.open(tmp_path) == make(tmp_path)


def test_a_node_from_before_identities_gets_one_and_a_lost_pseudonym_key_is_not_replaced(tmp_path: Path) -> None:
    node = make(tmp_path)
    for name in ("identity", "pseudonym"):
        (tmp_path / "keys" / f"{name}.key").unlink()
    again = make(tmp_path)
    assert (tmp_path / "keys" / "identity.key").stat().st_mode & 0o777 == 0o600
    assert again.identity.public_key() == node.identity.public_key()
    with pytest.raises(UsageError, match="cannot be read"):
        node.key("pseudonym")


def test_a_node_has_a_key_of_its_link_for_its_owner_alone(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a"), make(tmp_path / "b")
    assert one.link_key == tmp_path / "a" / "keys" / "link.key"
    assert one.link_key.stat().st_mode & 0o777 == 0o600
    assert one.link_key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert read_key(one.link_key).curve.name == "secp384r1"
    assert one.link_key.read_bytes() != other.link_key.read_bytes()
    before = one.link_key.read_bytes()
    assert make(tmp_path / "a").link_key.read_bytes() == before


def test_a_node_from_before_links_gets_its_key_by_the_same_command(tmp_path: Path) -> None:
    node = make(tmp_path)
    node.link_key.unlink()
    with pytest.raises(UsageError, match=r"link\.key cannot be read") as caught:
        _ = node.link_key
    assert "node init" in caught.value.hint
    assert make(tmp_path).link_key.stat().st_mode & 0o777 == 0o600


def test_a_virtual_hospital_has_no_link(tmp_path: Path) -> None:
    node = Node.create(tmp_path, site="V1", purpose="p", seed=7)
    Node.create(tmp_path, site="V1", purpose="p", seed=7)
    assert not (tmp_path / "keys" / "link.key").exists()
    with pytest.raises(UsageError, match="cannot be read"):
        _ = node.link_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_a_key_of_the_link_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    node = make(tmp_path)
    node.link_key.chmod(mode)
    with pytest.raises(PolicyError, match="others may read") as caught:
        _ = node.link_key
    assert "chmod 600" in caught.value.hint


def test_another_sites_folder_is_not_taken_over(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match="is the node of H1"):
        Node.create(tmp_path, site="H2", purpose=toy.PURPOSE)


def test_it_is_said_in_what_a_node_differs(tmp_path: Path) -> None:
    make(tmp_path / "real")
    Node.create(tmp_path / "virtual", site="H1", purpose=toy.PURPOSE, seed=7)
    with pytest.raises(UsageError, match=f"of H1 for another purpose: '{toy.PURPOSE}'"):
        Node.create(tmp_path / "real", site="H1", purpose="marketing")
    with pytest.raises(UsageError, match="of H1 as a real hospital"):
        Node.create(tmp_path / "real", site="H1", purpose=toy.PURPOSE, seed=7)
    with pytest.raises(UsageError, match="of H1 as a virtual hospital"):
        make(tmp_path / "virtual")


@pytest.mark.parametrize("site", ["", "../H1", "a b", "x" * 65, ".H1"])
def test_a_site_has_a_plain_name(tmp_path: Path, site: str) -> None:
    with pytest.raises(UsageError, match="name of a site"):
        Node.create(tmp_path, site=site, purpose=toy.PURPOSE)


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"site": 3, "purpose": "x"}', '{"site": "../x", "purpose": "x"}']
)
def test_a_folder_that_is_no_node_is_told_as_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "node.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        Node.open(tmp_path)
    assert caught.value.hint


@pytest.mark.control("HIPAA-164.312-a1-keys")
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    node = make(tmp_path)
    (tmp_path / "keys" / "audit.key").chmod(0o644)
    with pytest.raises(PolicyError, match="others may read") as caught:
        node.open_log()
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("text", ["", "zz", "00" * 31])
def test_a_damaged_key_is_refused(tmp_path: Path, text: str) -> None:
    node = make(tmp_path)
    (tmp_path / "keys" / "audit.key").write_text(text)
    with pytest.raises(UsageError, match="key"):
        node.key("audit")


def test_a_charter_is_pinned_as_it_is_and_found_again(tmp_path: Path) -> None:
    node, rules = make(tmp_path), toy.charter(privacy={"mode": "patient"})
    node.pin(rules)
    assert Node.open(tmp_path).charter == rules


@pytest.mark.control("GDPR-5-1-b-purpose")
def test_a_charter_with_another_purpose_is_not_pinned(tmp_path: Path) -> None:
    node = make(tmp_path)
    with pytest.raises(PolicyError, match="purpose"):
        node.pin(toy.charter(purpose="marketing"))
    with pytest.raises(PolicyError, match="pinned no charter"):
        _ = node.charter


def test_one_process_answers_for_a_node(tmp_path: Path) -> None:
    node = make(tmp_path)
    node.pin(toy.charter())
    first = Session.open(node.folder)
    with pytest.raises(RecordError, match="another process answers for this node"):
        Session.open(node.folder)
    with node.open_log() as log:  # an ingest, say, goes on meanwhile
        log.append(Entry(Action.INGEST, Outcome.OK))
    first.close()
    Session.open(node.folder).close()
