"""Three hospitals and a coordinator found a federation with the commands alone: keys, requests, calls, one charter."""

import json
import re
import tomllib
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.node import Node
from compliance.log import verify
from server.authority import authority_of
from server.coordinator import Coordinator
from shared.certificates import check_server, pem, read, site_of
from shared.charter import Charter
from shared.errors import FedwardError, PolicyError, ProtocolError
from shared.link_keys import public_der, read_key

HOUSE = Path(__file__).parents[2]
PURPOSE = "research on image quality"
DRAFT = f"""# Agreed on 2026-11-02 by the three boards.
[federation]
id = "imaging"
purpose = "{PURPOSE}"
min_sites = 3
min_patients = 20

[privacy]
mode = "patient"
noise_multiplier = 3.0

[secure_aggregation]
threshold = 3      # all three: with two left, each would read the other
post_quantum = true

[[task]]
name = "denoise"
rounds = 100
local_steps = 2
"""


@pytest.fixture
def fedward() -> typer.Typer:
    """The command with the groups that ``pyproject.toml`` names, whatever was installed."""
    rows = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["entry-points"]["fedward.commands"]
    app = typer.Typer()
    for name in ("node", "server", "charter", "audit"):
        app.add_typer(EntryPoint(name, rows[name], "fedward.commands").load(), name=name)
    return app


def run(fedward: typer.Typer, *arguments: object) -> str:
    done = CliRunner().invoke(fedward, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def read_out(text: str) -> str:
    """What a person reads out of what a command printed: the fingerprint."""
    found = re.search(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}", text)
    assert found
    return found[0]


def asking(fedward: typer.Typer, root: Path, site: str) -> tuple[Path, Path, str]:
    """A hospital's node, its request, and its fingerprint as it reads it out."""
    node, request = root / site / "node", root / site / "request.json"
    run(fedward, "node", "init", node, "--site", site, "--purpose", PURPOSE)
    run(fedward, "node", "request", node, request)
    return node, request, read_out(run(fedward, "node", "fingerprint", node))


def test_three_hospitals_found_a_federation(fedward: typer.Typer, tmp_path: Path) -> None:
    charter = tmp_path / "coordinator" / "charter.toml"
    charter.parent.mkdir()
    charter.write_text(DRAFT)
    hospitals = [asking(fedward, tmp_path, site) for site in ("St-Mary", "Charite", "Huashan")]
    for _, request, heard in hospitals:
        run(fedward, "server", "approve", charter, request, "--fingerprint", heard.upper())
    assert charter.read_text().startswith(DRAFT)

    told = run(fedward, "charter", "check", charter)
    for node, _, heard in hospitals:
        assert f"{Node.open(node).site}, fingerprint {heard}" in told
    digest = json.loads(run(fedward, "charter", "check", charter, "--json"))["sha256"]

    for node, _, _ in hospitals:
        copy = node.parent / "charter.toml"
        copy.write_bytes(charter.read_bytes().replace(b"# Agreed", b"# Received; agreed"))  # comments are free
        run(fedward, "node", "join", node, copy, "--sha256", digest[:32])
        run(fedward, "audit", "verify", node / "audit" / "log.jsonl")

    pinned = [Node.open(node).charter for node, _, _ in hospitals]
    assert {one.sha256 for one in pinned} == {digest}
    assert pinned == [Charter.load(charter)] * 3
    assert len({one.federation.fingerprint for one in pinned}) == 1
    assert [peer.name for peer in pinned[0].federation.peers] == ["St-Mary", "Charite", "Huashan"]
    for index, (folder, _, _) in enumerate(hospitals, start=1):
        node = Node.open(folder)
        signature = node.identity.sign(b"a message")
        node.charter.federation.verify(index, b"a message", signature, "message")
        assert verify(folder / "audit" / "log.jsonl").entries == 4


ADDRESS = "fl.example.org:9443"


def connected(fedward: typer.Typer, root: Path) -> tuple[Path, Path, list[tuple[Path, Path, str]]]:
    """A coordinator's folder, its charter, and three hospitals that it approved."""
    server, charter = root / "coordinator", root / "charter.toml"
    run(fedward, "server", "init", server, "--address", ADDRESS, "--name", "imaging-1", "--country", "DE")
    charter.write_text(DRAFT)
    hospitals = [asking(fedward, root, site) for site in ("St-Mary", "Charite", "Huashan")]
    for (_, request, heard), country in zip(hospitals, ("GB", "DE", "CN"), strict=True):
        place = ("--server", server, "--country", country)
        run(fedward, "server", "approve", charter, request, "--fingerprint", heard, *place)
    return server, charter, hospitals


def refused(fedward: typer.Typer, status: int, words: str, *arguments: object) -> None:
    with pytest.raises(FedwardError) as caught:
        run(fedward, *arguments)
    assert caught.value.exit_code == status
    assert words in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_three_hospitals_get_certificates_and_connect_to_the_coordinator_of_their_charter(
    fedward: typer.Typer, tmp_path: Path
) -> None:
    server, charter, hospitals = connected(fedward, tmp_path)
    told = run(fedward, "charter", "check", charter)
    assert f"imaging-1, at {ADDRESS}, in DE" in told
    digest = json.loads(run(fedward, "charter", "check", charter, "--json"))["sha256"]
    for folder, _, heard in hospitals:
        node = Node.open(folder)
        assert heard in told
        sent = server / "certificates" / f"{node.site}.pem"
        run(fedward, "node", "join", folder, charter, "--certificate", sent, "--sha256", digest[:32])
        assert node.charter == Charter.load(charter)
        gate = read(server / "gate.pem", count=1)[0]
        check_server(gate, read(node.authority, count=1)[0], "fl.example.org")  # the gate is the one of the charter
        assert node.certificate.read_bytes() + node.authority.read_bytes() == sent.read_bytes()
        assert verify(folder / "audit" / "log.jsonl").entries == 6
    members = Coordinator.open(server).members()
    assert {one.site for one in members} == {"St-Mary", "Charite", "Huashan"}
    for folder, _, _ in hospitals:
        node = Node.open(folder)
        there = next(one for one in members if one.site == node.site)
        assert there.link_key == public_der(read_key(node.link_key).public_key())
        assert there.public_key == node.identity.public_key().public_bytes_raw()


def test_no_certificate_but_its_own_lets_a_hospital_join(fedward: typer.Typer, tmp_path: Path) -> None:
    server, charter, hospitals = connected(fedward, tmp_path)
    folder, request, heard = hospitals[0]
    sent = server / "certificates" / "St-Mary.pem"
    digest = Charter.load(charter).sha256
    join = ("node", "join", folder, charter, "--sha256", digest)

    refused(fedward, 2, "has no certificate for the coordinator imaging-1", *join)
    another = server / "certificates" / "Charite.pem"
    refused(fedward, 6, "is that of 'Charite', not of St-Mary", *join, "--certificate", another)

    other, draft = tmp_path / "other", tmp_path / "other.toml"
    draft.write_text(DRAFT)
    run(fedward, "server", "init", other, "--address", ADDRESS, "--name", "imaging-1")
    run(fedward, "server", "approve", draft, request, "--fingerprint", heard, "--server", other)
    theirs = other / "certificates" / "St-Mary.pem"
    refused(fedward, 6, "comes from the authority", *join, "--certificate", theirs)

    authority = authority_of(Coordinator.open(server))
    public = read_key(Node.open(folder).link_key).public_key()
    expired = authority.client(public, "St-Mary", now=datetime.now(UTC) - timedelta(days=731))
    (tmp_path / "expired.pem").write_bytes(pem(expired, authority.certificate))
    refused(fedward, 8, "the certificate expired on", *join, "--certificate", tmp_path / "expired.pem")

    key = Node.open(folder).link_key
    key.chmod(0o644)
    refused(fedward, 6, "others may read the key", *join, "--certificate", sent)
    key.chmod(0o600)
    kept = key.read_bytes()
    key.unlink()
    refused(fedward, 2, "link.key cannot be read", *join, "--certificate", sent)
    run(fedward, "node", "init", folder, "--site", "St-Mary", "--purpose", PURPOSE)  # makes another key
    refused(fedward, 6, "is for another key", *join, "--certificate", sent)
    key.write_bytes(kept)
    (server / "keys" / "authority.key").chmod(0o644)
    again = ("server", "approve", charter, request, "--fingerprint", heard, "--server", server)
    refused(fedward, 6, "others may read the key", *again)
    (server / "keys" / "authority.key").chmod(0o600)

    assert not (folder / "charter.toml").exists()
    run(fedward, *join, "--certificate", sent)
    assert Node.open(folder).charter.sha256 == digest


def test_a_hospital_that_lost_the_key_of_its_link_is_approved_again_under_the_same_charter(
    fedward: typer.Typer, tmp_path: Path
) -> None:
    server, charter, hospitals = connected(fedward, tmp_path)
    folder, _, heard = hospitals[1]
    sent, digest = server / "certificates" / "Charite.pem", Charter.load(charter).sha256
    join = ("node", "join", folder, charter, "--sha256", digest, "--certificate", sent)
    run(fedward, *join)
    Node.open(folder).link_key.unlink()
    run(fedward, "node", "init", folder, "--site", "Charite", "--purpose", PURPOSE)
    again = folder.parent / "again.json"
    run(fedward, "node", "request", folder, again)
    run(fedward, "server", "approve", charter, again, "--fingerprint", heard, "--server", server)
    assert Charter.load(charter).sha256 == digest
    assert "has pinned this charter already" in run(fedward, *join)
    assert site_of(read(Node.open(folder).certificate, count=1)[0]) == "Charite"


def test_a_coordinator_that_puts_its_own_key_in_is_found_out_twice(fedward: typer.Typer, tmp_path: Path) -> None:
    charter = tmp_path / "charter.toml"
    charter.write_text(DRAFT)
    hospitals = [asking(fedward, tmp_path, site) for site in ("A", "B", "C")]
    _, forged, heard_forged = asking(fedward, tmp_path / "attacker", "C")
    heard = hospitals[2][2]

    with pytest.raises(ProtocolError, match="not the one that was read out"):  # on its way to an honest coordinator
        run(fedward, "server", "approve", charter, forged, "--fingerprint", heard)

    for request, words in ((hospitals[0][1], hospitals[0][2]), (hospitals[1][1], hospitals[1][2])):
        run(fedward, "server", "approve", charter, request, "--fingerprint", words)
    run(fedward, "server", "approve", charter, forged, "--fingerprint", heard_forged)  # by a coordinator that lies
    digest = Charter.load(charter).sha256
    with pytest.raises(PolicyError, match="names C with another key"):
        run(fedward, "node", "join", hospitals[2][0], charter, "--sha256", digest)
    assert heard not in run(fedward, "charter", "check", charter), "the others hear from C what is not printed here"


def test_two_charters_for_two_hospitals_do_not_pass_the_call(fedward: typer.Typer, tmp_path: Path) -> None:
    charter, other = tmp_path / "charter.toml", tmp_path / "other.toml"
    charter.write_text(DRAFT)
    hospitals = [asking(fedward, tmp_path, site) for site in ("A", "B", "C")]
    words = [word for _, _, heard in hospitals for word in ("--fingerprint", heard)]
    run(fedward, "server", "approve", charter, *(request for _, request, _ in hospitals), *words)
    other.write_text(charter.read_text().replace("noise_multiplier = 3.0", "noise_multiplier = 0.3"))
    run(fedward, "node", "join", hospitals[0][0], charter, "--sha256", Charter.load(charter).sha256[:32])
    with pytest.raises(PolicyError, match="the members hold different ones"):
        run(fedward, "node", "join", hospitals[1][0], other, "--sha256", Charter.load(charter).sha256[:32])
