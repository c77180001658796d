"""An attacker on the wire: what it reads, and what it does to bytes on their way."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.bundle import bundle
from shared.charter import Charter
from tests.attacks.link.conftest import Side, silence
from tests.attacks.link.fleet import member
from tests.attacks.link.insider import Insider
from tests.live.line import Deed, Line
from tests.live.standing import SITES, Standing, wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]


def chance(line: Line, one_in: float) -> bool:
    hit = line.luck.random() * one_in < 1
    line.done += hit
    return hit


def nothing(line: Line, data: bytes, _: bool) -> bytes | None:
    line.done += 1
    return data


def cuts(line: Line, data: bytes, _: bool) -> bytes | None:
    return None if chance(line, 60) else data


def delays(line: Line, data: bytes, _: bool) -> bytes | None:
    if chance(line, 20):
        time.sleep(1.5)
    return data


def doubles(line: Line, data: bytes, _: bool) -> bytes | None:
    return data * 2 if chance(line, 60) else data


def truncates(line: Line, data: bytes, _: bool) -> bytes | None:
    """The rest never comes, and nobody says so: each time costs the half minute in which no byte came."""
    return data[: len(data) // 2] if chance(line, 150) else data


def flips(line: Line, data: bytes, _: bool) -> bytes | None:
    return data[:-1] + bytes([data[-1] ^ 1]) if chance(line, 60) else data


def crumbs(line: Line, data: bytes, _: bool) -> bytes | None:
    """Nothing is lost, everything comes late: the first kilobytes letter by letter are a handshake."""
    line.done += 1
    if len(line.seen) < 20_000:
        time.sleep(0.02)
    return data


@contextlib.contextmanager
def on_the_wire(standing: Standing, deed: Deed) -> Iterator[Line]:
    """Everybody is up, with the attacker between the hospitals and the gate."""
    silence(standing)
    gate = free_port()
    with Line(standing.port, gate, deed) as line:
        standing.start("coordinator", listen=gate)
        for site in SITES:
            standing.start(site)
        for name in ("coordinator", *SITES):
            standing.ready(name, 240)
        yield line


def plaintexts(standing: Standing) -> dict[str, bytes]:
    """What a payload, a header or a certificate has in it, none of which may be seen."""
    charter = Charter.load(standing.charter)
    found = {
        "federation": charter.id.encode(),
        "charter": charter.sha256.encode(),
        "path": b"/v1/fleet/",
        "method": b"POST /",
        "host": b"Host: ",
        "media type": b"application/protobuf",
        "header": b"flwr-public-key",
        "signature header": b"flwr-signature",
        "message type": b"query.secagg",
        "kind": b'"kind"',
        "task": b"denoise",
        "bundle": bundle()[:200],
        "library": b"python-httpx",
    }
    for site in SITES:
        certificate = x509.load_pem_x509_certificate((standing.node(site) / "link" / "certificate.pem").read_bytes())
        der = certificate.public_bytes(Encoding.DER)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found |= {f"{site} certificate": der[20:80], f"{site} key": key[-60:]}
        found |= {
            f"{site} identity": bytes.fromhex(identity(charter, site)),
            f"{site} said": identity(charter, site).encode(),
        }
    return found


def identity(charter: Charter, site: str) -> str:
    return next(member.identity for member in charter.members if member.name == site)


@pytest.mark.control("HIPAA-164.312-e-transmission")
def test_nothing_passes_in_the_clear(side: Side) -> None:
    with on_the_wire(side.standing, nothing) as line:
        side.standing.finish(side.standing.run(name="read"))
        seen = bytes(line.seen)
    assert len(seen) > 100_000
    words = plaintexts(side.standing)
    assert len(words) > 20
    assert {name for name, word in words.items() if word in seen} == set()
    for name, word in words.items():
        for other in (word.hex().encode(), word.lower(), word.upper()):
            assert len(other) < 5 or other not in seen, name
    # Only TLS 1.3 was shaken hands with: a server hello that says so, and no record of handshake type after it.
    assert seen.count(b"\x16\x03") > 0
    hellos = [seen[at : at + 3] for at in range(len(seen) - 3) if seen[at : at + 2] == b"\x16\x03"]
    assert hellos


# Each takes minutes, of which most are waited: the others are for a day with more time.
DEEDS: list[Deed] = [cuts, flips] + [delays, doubles, truncates, crumbs] * bool(os.environ.get("FEDWARD_DEEP"))


@pytest.mark.parametrize("deed", DEEDS)
def test_a_run_comes_to_its_end_or_says_why_not(side: Side, deed: Deed) -> None:
    """And whatever was trained was paid for, and nothing passes in the clear while things break."""
    standing, name = side.standing, f"wire-{deed.__name__}"
    with on_the_wire(standing, deed) as line:
        run = standing.run(name=name)
        assert run.process is not None
        code = run.process.wait(600)
        said = run.text()
        assert line.done, "nothing was done to the line"
        assert {word for word, data in plaintexts(standing).items() if data in bytes(line.seen)} == set()
        for site in SITES:
            assert standing.services[site].alive(), standing.told()
        if code == 0:
            assert standing.history(name)["outcome"] == "ok"
        else:
            assert code in {6, 8}, said
            assert any(site in said for site in SITES), said
        assert "Traceback" not in said
    silence(standing)
    standing.check_paid()


@pytest.mark.parametrize("kind", ["train", "query.secagg_confirm"])
def test_a_request_that_is_lost_on_its_way_costs_no_patient_anything(side: Side, kind: str) -> None:
    """Flower takes a message for delivered once it was asked for, and sends it once.

    Whoever can cut one connection at the right moment would make a hospital silent until the deadline, the round void,
    and every hospital pay for it again: a budget that a stranger spends.
    """
    standing, name = side.standing, f"lost-{kind.rpartition('.')[2]}"
    silence(standing)
    standing.up("coordinator", "H2", "H3")
    before = {site: len(standing.charges(site)) for site in SITES}
    client = member(side.port, side.member("H1"), side.key("H1"))
    with Insider(client, "H1", standing.node("H1"), loses={kind}) as insider:
        started = time.monotonic()
        standing.finish(standing.run(name=name))
        took = time.monotonic() - started
    assert not insider.loses, "nothing was lost"
    assert standing.history(name)["outcome"] == "ok"
    assert {site: len(standing.charges(site)) - before[site] for site in SITES} == dict.fromkeys(SITES, 2)
    assert took < 140, "it waited for the deadline"
    silence(standing)


def test_a_connection_that_is_recorded_and_played_again_is_answered_to_nobody(side: Side) -> None:
    """Every byte of a hospital's connection, sent anew to the gate."""
    standing = side.standing
    kept: list[bytes] = []

    def keeps(line: Line, data: bytes, outward: bool) -> bytes | None:
        line.done += 1
        if outward and len(kept) < 200:
            kept.append(data)
        return data

    with on_the_wire(standing, keeps) as line:
        wait_until(lambda: len(kept) > 10, 60, "nothing came by")
        with socket.create_connection(("127.0.0.1", line.target), timeout=5) as link:
            with contextlib.suppress(OSError):
                for data in kept:
                    link.sendall(data)
            got = b""
            link.settimeout(3)
            with contextlib.suppress(OSError):
                while more := link.recv(65536):
                    got += more
        # A server hello is all that anybody can be told, and then an alert: no application data follows the handshake.
        assert b"HTTP/" not in got
        assert len(got) < 10_000
        for site in SITES:
            assert standing.services[site].alive()


def test_the_control_reads_what_goes_in_the_clear(tmp_path: Path) -> None:
    """The line records what passes it."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(5)
        with Line(free_port(), port, nothing) as line:
            with socket.create_connection(("127.0.0.1", line.port), timeout=5) as link:
                link.sendall(b"POST /v1/fleet/")
                other, _ = server.accept()
                assert other.recv(100) == b"POST /v1/fleet/"
                other.close()
            assert b"/v1/fleet/" in bytes(line.seen)
