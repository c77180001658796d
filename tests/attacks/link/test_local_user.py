"""Somebody else with an account on a machine of the federation: no root, no read access to its folders."""

import base64
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.link import ledgers
from tests.attacks.link.conftest import Side, listened, silence
from tests.attacks.link.raw import request, talk
from tests.attacks.link.routes import served
from tests.attacks.link.watching import listeners, told
from tests.live.standing import SITES, Service, descendants, fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def tree(service: Service) -> list[int]:
    return [service.pid, *descendants(service.pid)]


def inner(side: Side) -> Path:
    """The socket of the inner listener, whose path any local user finds in /proc/net/unix or can guess."""
    return side.standing.server / "superlink" / "inner.sock"


def test_everything_at_the_inner_listener_needs_the_secret(everybody: Side, tmp_path: Path) -> None:
    place, found = inner(everybody), {}
    secret = (everybody.standing.server / "keys" / "link.secret").read_text().strip()
    wrong = ["", "0" * 64, secret[:-1], secret + "0", secret.upper() if secret.upper() != secret else "x", "*", "null"]
    for route in served(tmp_path):
        head = route.method == "HEAD"
        found[str(route)] = talk(place, request(route.method, route.path), None, wait=5, head=head).statuses
        for word in wrong[:3]:
            data = request(route.method, route.path, headers=[("x-fedward-secret", word)])
            found[f"{route} {word}"] = talk(place, data, None, wait=5, head=head).statuses
    assert {name: one for name, one in found.items() if not set(one) <= {401, 403, 404} or not one} == {}
    for word in wrong:
        for headers in (
            [("x-fedward-secret", word)],
            [("x-fedward-secret", word), ("x-fedward-secret", word)],
            [("x_fedward_secret", secret)],
            [("authorization", f"Bearer {secret}")],
            [("cookie", f"x-fedward-secret={secret}")],
        ):
            done = talk(place, request("POST", "/v1/control/list-runs", headers=headers), None, wait=5)
            assert set(done.statuses) <= {401, 403, 404, 400}, (headers[0], done.raw)
    good = talk(place, request("POST", "/v1/control/list-runs", headers=[("x-fedward-secret", secret)]), None)
    assert good.statuses == (200,), "the secret opens it, so what is refused above is refused for want of it"


def test_with_the_secret_the_inner_listener_is_not_the_fleets(everybody: Side) -> None:
    """Otherwise mutual TLS would be a formality for whoever is on the machine with the secret."""
    secret = (everybody.standing.server / "keys" / "link.secret").read_text().strip()
    for path in ("/v1/fleet/pull-messages", "/v1/fleet/register-node", "/v1/fleet/activate-node"):
        done = talk(inner(everybody), request("POST", path, headers=[("x-fedward-secret", secret)]), None)
        assert done.statuses == (404,), done.raw


def doors(side: Side) -> set[int]:
    """The gate's port, and that of the audit exchange; both ask for a member's certificate."""
    return {side.standing.port, side.standing.port + 1}


def test_nothing_but_the_gate_and_the_audit_exchange_listens(everybody: Side) -> None:
    found = listeners(tree(everybody.standing.services["coordinator"]))
    # gRPC listens on the IPv4 address as IPv6 writes it (RFC 4291, section 2.5.5.2).
    plain = {(address.replace("::ffff:7f00:1", "127.0.0.1"), port) for address, port in found}
    assert plain == {("127.0.0.1", port) for port in doors(everybody)}
    for site in SITES:
        assert listeners(tree(everybody.standing.services[site])) == set(), "a hospital listens to nobody"


def secrets(side: Side) -> dict[str, bytes]:
    """All that nobody may see, as it stands in files: by name, in several spellings."""
    found, standing = {}, side.standing
    folders = {"coordinator": standing.server, **{site: standing.node(site) for site in SITES}}
    for name, folder in folders.items():
        for path in (folder / "keys").rglob("*"):
            if not path.is_file() or path.suffix in {".pub", ".pem"}:
                continue
            data = path.read_bytes().strip()
            label = f"{name}/{path.name}"
            if b"-----BEGIN" in data:
                body = b"".join(line for line in data.splitlines() if not line.startswith(b"-----"))
                raw = base64.b64decode(body)
                # The part that is secret: the header of the form is the same for all keys.
                found |= {f"{label} pem": body[48:80], f"{label} hex": raw[36:68].hex().encode(), label: raw[36:60]}
            elif len(data) >= 16:
                found |= {label: data, f"{label} hex": data.hex().encode(), f"{label} base64": base64.b64encode(data)}
    return found


def tokens(side: Side) -> dict[str, bytes]:
    """Tokens of Flower's tasks, while there are any."""
    rows = ledgers._rows(side.standing.server, "SELECT token FROM task WHERE token IS NOT NULL")
    return {f"token {number}": str(row[0]).encode() for number, row in enumerate(rows)}


def test_no_process_tells_a_secret_on_its_command_line_or_in_its_environment(everybody: Side) -> None:
    """All through a run, whose task has a token of its own."""
    standing, known, seen = everybody.standing, secrets(everybody), set[int]()
    assert len(known) > 8
    run, found, met = standing.run(name="watched"), [], 0
    assert run.process is not None
    while run.process.poll() is None:
        now = known | tokens(everybody)
        met = max(met, len(now) - len(known))
        for service in list(standing.services.values()):
            for pid in tree(service):
                seen.add(pid)
                said = told(pid)
                found += [(pid, name, said[:80]) for name, secret in now.items() if secret in said]
    standing.finish(run)
    assert found == []
    assert met, "there was a task with a token"
    assert len(seen) > 8


@pytest.mark.control("HIPAA-164.312-a1-keys")
def test_files_with_secrets_are_for_their_owner_and_nothing_else_holds_one(everybody: Side) -> None:
    standing, known = everybody.standing, secrets(everybody)
    holders = []
    for path in standing.root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        data, mode = path.read_bytes(), path.stat().st_mode
        inside = [name for name, secret in known.items() if secret in data]
        if inside:
            holders.append(path)
            assert stat.S_IMODE(mode) == 0o600, (path, oct(mode))
            assert path.parent.name == "keys", (path, inside)
    assert len(holders) >= 4 + 2 * len(SITES) - 1
    for folder in (standing.server, *(standing.node(site) for site in SITES)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        for path in folder.rglob("*"):
            if not path.is_symlink() and path.exists():
                assert not path.stat().st_mode & 0o022, f"others may write {path}"
        for name in ("keys", "superlink", "link", "members"):
            if (folder / name).exists():
                assert not (folder / name).stat().st_mode & 0o077, folder / name


def test_status_files_and_logs_are_readable_by_the_owner_alone_and_hold_no_data(everybody: Side) -> None:
    standing = everybody.standing
    for path in (standing.server / "status.json", *(standing.node(site) / "link" / "status.json" for site in SITES)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        json.loads(path.read_text())
    for name in ("coordinator", *SITES):
        text = standing.services[name].text()
        for secret in secrets(everybody).values():
            assert secret not in text.encode(errors="replace")


PROBE = """
import os, socket, sys
inner, root = sys.argv[1], sys.argv[2]
got = []
for path in sys.argv[3:]:
    try:
        with open(path, "rb") as handle:
            got.append((path, len(handle.read())))
    except OSError:
        pass
for base, folders, files in os.walk(root):
    got += [(os.path.join(base, one), 0) for one in files]
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "mem", "fd"):
        try:
            path = f"/proc/{pid}/{name}"
            os.listdir(path) if name == "fd" else open(path, "rb").read(1)
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                got.append((path, 1))
        except OSError:
            pass
os.chdir(os.path.dirname(root))
for place in (inner, os.path.relpath(inner)):
    for word in ("connect", "bind"):
        try:
            getattr(socket.socket(socket.AF_UNIX), word)(place)
            got.append((word, place))
        except PermissionError:
            pass
        except OSError as error:  # a path longer than an address is no answer to the question
            assert "too long" in str(error), error
try:
    os.unlink(inner)
    got.append(("unlink", inner))
except PermissionError:
    pass
print(got)
"""


@pytest.fixture
def open_root(everybody: Side) -> Iterator[Path]:
    """The federation's folder may be entered by all, as /srv may: its own folders are what protects it."""
    folder, changed = everybody.standing.root, []
    while folder != folder.parent:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & 0o001:
            folder.chmod(mode | 0o055)
            changed.append((folder, mode))
        folder = folder.parent
    yield everybody.standing.root
    for folder, mode in changed:
        folder.chmod(mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_reads_no_file_and_no_process(everybody: Side, open_root: Path) -> None:
    standing = everybody.standing
    wanted = [str(path) for name in ("coordinator", *SITES) for path in (open_root / name).rglob("*") if path.is_file()]
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", PROBE, str(inner(everybody)), str(standing.server), *wanted[:2000]],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    got = eval(done.stdout)  # noqa: S307  # our own program's
    assert got == []


def test_an_environment_that_flower_would_obey_opens_no_door(side: Side) -> None:
    """These switch on Flower's old listeners, which ask nobody who they are, or another database."""
    standing = side.standing
    silence(standing)
    env = {
        "FLWR_INTERNAL_GRPC_CONTROL_API": "1",
        "FLWR_INTERNAL_GRPC_FLEET_API": "1",
        "FLWR_DATABASE": ":flwr-in-memory:",
        "FLWR_ENABLE_EVENT_LOG": "0",
        "UVICORN_PORT": "8000",
        "FORWARDED_ALLOW_IPS": "*",
        "SSLKEYLOGFILE": str(side.scratch / "tls-keys"),
    }
    standing.start("coordinator", **env)
    wait_until(lambda: all(map(listened, doors(side))) and inner(side).is_socket(), 60, standing.told())
    open_ports = listeners(tree(standing.services["coordinator"]))
    assert {port for _, port in open_ports} == doors(side), open_ports
    standing.start("H1", **env)
    standing.ready("H1")
    # Python makes the file wherever a context is made the usual way; the keys of a connection are what it would tell.
    kept = side.scratch / "tls-keys"
    assert not kept.exists() or b"SECRET" not in kept.read_bytes().upper().replace(b"TLS SECRETS LOG FILE", b"")
    standing.services["H1"].kill()
    standing.services["coordinator"].kill()


def test_somebody_who_was_first_at_the_gates_port_stops_it_with_a_clear_error(side: Side) -> None:
    """And gets nobody's secret: whoever listens there hears no request of the coordinator's own."""
    standing = side.standing
    silence(standing)
    with socket.create_server(("127.0.0.1", standing.port)) as squatter:
        squatter.settimeout(0.5)
        service = standing.start("coordinator")
        wait_until(
            lambda: not service.alive() or "port" in service.text() or "address" in service.text(), 90, "says nothing"
        )
        heard = []
        try:
            link, _ = squatter.accept()
            link.settimeout(1)
            heard.append(link.recv(1000))
        except TimeoutError:
            pass
        assert not any(b"secret" in one for one in heard)
        assert "Traceback" not in service.text()
        service.kill()


def test_while_the_superlink_is_away_nobody_else_can_be_asked_in_its_place(side: Side) -> None:
    """Whoever held the port of the listener that died used to be told the secret by every client."""
    standing = side.standing
    silence(standing)
    service = standing.start("coordinator")
    wait_until(lambda: inner(side).is_socket() and all(map(listened, doors(side))), 90, standing.told())
    assert {port for _, port in listeners(tree(service))} == doors(side), "a port can be taken when it is free"
    assert stat.S_IMODE(inner(side).stat().st_mode) == 0o600
    assert stat.S_IMODE(inner(side).parent.stat().st_mode) == 0o700
    service.kill()
    fedward("server", "status", standing.server)
    fedward("server", "run", standing.server, standing.charter, "--name", "nobody", status=8)
    inner(side).parent.chmod(0o755)  # as if others could have made the name theirs
    try:
        assert "chmod 700" in fedward("server", "start", standing.server, status=6)
    finally:
        inner(side).parent.chmod(0o700)


def test_this_test_can_see_a_secret_where_there_is_one() -> None:
    """The control of the ones above."""
    with subprocess.Popen([sys.executable, "-c", "input()", "s3cr3t-word"], stdin=subprocess.PIPE) as one:
        wait_until(lambda one=one: b"s3cr3t-word" in told(one.pid), 10, "it was not seen")
        one.kill()
