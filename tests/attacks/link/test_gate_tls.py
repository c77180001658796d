"""From outside, the handshake: only a member's own certificate is let in at the gate, and only the gate is the gate."""

import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node

from tests.attacks.link import keys
from tests.attacks.link.conftest import Side, silence
from tests.attacks.link.fleet import member, refused
from tests.attacks.link.raw import request, talk
from tests.live.standing import fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def answered(side: Side, context: ssl.SSLContext) -> bytes:
    """What a request for ``/health`` brings; nothing where the handshake fails."""
    try:
        return talk(side.port, request("GET", "/health"), context, wait=10).raw
    except (ssl.SSLError, OSError):
        return b""


def presenting(side: Side, pair: keys.Pair, name: str) -> ssl.SSLContext:
    return keys.client_context(None, *pair.save(side.scratch, name))


def own_authority(side: Side) -> keys.Pair:
    """An authority of the attacker that has every name of the real one."""
    return keys.issue("", like=side.issuer().certificate)


def member_of_authority(side: Side, site: str) -> keys.Pair:
    return keys.load(side.certificate(site), side.key_file(site))


FORGED: dict[str, Callable[[Side], keys.Pair]] = {
    "self-signed": lambda side: keys.issue("H1"),
    "self-signed copy": lambda side: keys.issue("", like=member_of_authority(side, "H1").certificate),
    "self-signed, a hospital's key": lambda side: keys.issue("H1", key=side.key("H1")),
    "another authority of the same name": lambda side: keys.issue("H1", own_authority(side)),
    "another authority, a hospital's key": lambda side: keys.issue("H1", own_authority(side), key=side.key("H1")),
    "expired": lambda side: keys.issue("H1", side.issuer(), key=side.key("H1"), days=(-30, -0.01)),
    "not valid yet": lambda side: keys.issue("H1", side.issuer(), key=side.key("H1"), days=(0.5, 30)),
    "for servers only": lambda side: keys.issue("H1", side.issuer(), key=side.key("H1"), usages=(keys.SERVER,)),
    "the gate's own": lambda side: keys.load(*side.gate),
    "given by a member": lambda side: keys.issue("H2", member_of_authority(side, "H1")),
    "an authority given by a member": lambda side: keys.issue(
        "H2", keys.issue("H1", member_of_authority(side, "H1"), authority=True)
    ),
}


def test_the_right_certificate_opens_the_gate(gate: Side) -> None:
    assert b"200 OK" in answered(gate, gate.member("H1"))
    again = keys.issue("H1", gate.issuer(), key=gate.key("H1"))
    assert b"200 OK" in answered(gate, presenting(gate, again, "again")), "what is forged below differs in one thing"


def test_no_certificate_opens_nothing(gate: Side) -> None:
    assert answered(gate, gate.stranger()) == b""


@pytest.mark.control("HIPAA-164.312-d-authentication")
@pytest.mark.parametrize("name", FORGED)
def test_a_certificate_that_the_authority_did_not_give_opens_nothing(gate: Side, name: str) -> None:
    assert answered(gate, presenting(gate, FORGED[name](gate), "forged")) == b""


def test_a_certificate_for_somebody_who_is_no_member_opens_nothing_of_the_fleet(gate: Side) -> None:
    """Given by the authority, which is not enough: the key is in nobody's request."""
    for name in ("H1", "H9", "coordinator"):
        pair = keys.issue(name, gate.issuer())
        context = presenting(gate, pair, "nobody")
        one = member(gate.port, context, pair.key)
        assert refused(one.activate) == 403
        # With the certificate of nobody and the headers of a member.
        other = member(gate.port, context, gate.key("H1"))
        assert refused(other.activate) == 403


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_a_member_that_was_taken_out_is_refused_with_its_old_certificate(gate: Side) -> None:
    entry = gate.standing.server / "members" / "H1.json"
    one = member(gate.port, gate.member("H1"), gate.key("H1"))
    kept = entry.read_bytes()
    request_ = PullMessagesRequest(node=Node(node_id=5))
    assert refused(lambda: one.client.PullMessages(request_)) != 404
    entry.unlink()
    try:
        wait_until(
            lambda: refused(lambda: one.client.PullMessages(request_)) == 403,
            20,
            "a member that was taken out is let in on a connection from before",
        )
        fresh = member(gate.port, gate.member("H1"), gate.key("H1"))
        assert refused(lambda: fresh.client.ActivateNode(ActivateNodeRequest(public_key=fresh.public_key))) == 403
    finally:
        entry.write_bytes(kept)
        entry.chmod(0o600)
        wait_until(lambda: b"200 OK" in answered(gate, gate.member("H1")), 20, "a member that was let in again")


@pytest.mark.control("HIPAA-164.312-e-transmission")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_no_older_tls_is_spoken(gate: Side, version: ssl.TLSVersion) -> None:
    context = gate.member("H1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    assert answered(gate, context) == b""


@pytest.mark.control("HIPAA-164.312-e-transmission")
def test_no_plain_text_is_answered(gate: Side) -> None:
    done = talk(gate.port, request("GET", "/health"), None, wait=5)
    assert b"HTTP/" not in done.raw


@pytest.mark.system("openssl")
def test_no_early_data_and_no_renegotiation_are_offered(gate: Side) -> None:
    """What can be replayed (RFC 8446, section 8) is not taken; tickets may be given, for nothing but a handshake."""
    session = gate.scratch / "session.pem"
    command = [
        *("openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-CAfile", str(gate.authority)),
        *("-cert", str(gate.certificate("H1")), "-key", str(gate.key_file("H1")), "-sess_out", str(session)),
    ]
    data = request("GET", "/health", headers=[("Connection", "close")])
    done = subprocess.run([*command, "-ign_eof"], input=data, capture_output=True, timeout=30, check=False)
    assert b"200 OK" in done.stdout
    assert b"TLSv1.3" in done.stdout
    assert re.search(rb"Max Early Data: [1-9]", done.stdout) is None
    early = gate.scratch / "early"
    early.write_bytes(request("GET", "/health", headers=[("Connection", "close")]))
    again = [*command[:-2], "-sess_in", str(session), "-early_data", str(early), "-ign_eof"]
    if session.exists():
        done = subprocess.run(again, input=data, capture_output=True, timeout=30, check=False)
        assert b"Early data was accepted" not in done.stdout
    for old in ("-tls1_2", "-no_tls1_3"):
        done = subprocess.run([*command[:-2], old], input=b"R\n", capture_output=True, timeout=30, check=False)
        assert b"RENEGOTIATING" not in done.stdout
        assert done.returncode != 0


# --- somebody who passes for the gate ---------------------------------------------------------------------------------


@dataclass
class Impostor:
    """A listener at the gate's address.

    Attributes:
        greeted: Connections that came.
        heard: What was said after a handshake; a hospital that looks says nothing.
    """

    greeted: int = 0
    heard: list[bytes] = field(default_factory=list)


@contextmanager
def impostor(port: int, context: ssl.SSLContext) -> Iterator[Impostor]:
    found, ended = Impostor(), threading.Event()
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.1)

    def greet(link: socket.socket) -> None:
        link.settimeout(5)
        with suppress(OSError), link, context.wrap_socket(link, server_side=True) as secure:
            while data := secure.recv(65536):
                found.heard.append(data)

    def accept() -> None:
        while not ended.is_set():
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            found.greeted += 1
            threading.Thread(target=greet, args=(link,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join(5)
        listener.close()


def older(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def passing(side: Side, pair: keys.Pair) -> ssl.SSLContext:
    return keys.server_context(*pair.save(side.scratch, "impostor"))


IMPOSTORS: dict[str, Callable[[Side], ssl.SSLContext]] = {
    "a hospital": lambda side: keys.server_context(side.certificate("H2"), side.key_file("H2")),
    "self-signed": lambda side: passing(side, keys.issue("gate", usages=(keys.SERVER,))),
    "a copy": lambda side: passing(side, keys.issue("", like=keys.load(*side.gate).certificate)),
    "another authority of the same name": lambda side: passing(
        side, keys.issue("gate", own_authority(side), like=keys.load(*side.gate).certificate)
    ),
    "expired": lambda side: passing(side, keys.issue("gate", side.issuer(), usages=(keys.SERVER,), days=(-30, -0.01))),
    "given by a member": lambda side: passing(
        side, keys.issue("gate", member_of_authority(side, "H2"), usages=(keys.SERVER,))
    ),
    "for clients only": lambda side: passing(side, keys.issue("gate", side.issuer(), usages=(keys.CLIENT,))),
    "the gate, but TLS 1.2": lambda side: older(keys.server_context(*side.gate)),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_a_hospital_says_nothing_to_somebody_who_passes_for_the_gate(side: Side, name: str) -> None:
    standing = side.standing
    silence(standing)
    context = IMPOSTORS[name](side)
    with impostor(standing.port, context) as heard:
        said = fedward("node", "check", standing.node("H1"), "--json", status=8)
        assert heard.greeted
        assert heard.heard == []
    assert str(standing.port) in said or "certificate" in said.lower()


def test_a_hospital_that_waits_for_the_gate_says_nothing_to_others_and_finds_it_in_the_end(side: Side) -> None:
    standing = side.standing
    silence(standing)
    service = standing.start("H1")
    with impostor(standing.port, keys.server_context(side.certificate("H2"), side.key_file("H2"))) as heard:
        wait_until(lambda: heard.greeted >= 2, 120, standing.told(), every=0.2)
        assert heard.heard == []
        status = json.loads((standing.node("H1") / "link" / "status.json").read_text())
        assert status["state"] in {"starting", "disconnected"}
        assert status["error"]
    assert service.alive(), "it does not give up"
    standing.up("coordinator")
    standing.ready("H1", 180)
