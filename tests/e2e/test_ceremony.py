"""Three hospitals and a coordinator found a federation with the commands alone: keys, requests, calls, one charter."""

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.node import Node
from compliance.log import verify
from shared.charter import Charter
from shared.errors import PolicyError, ProtocolError

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
