"""No process of a hospital or of the coordinator reaches for anybody but the coordinator."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.link.conftest import Side, silence
from tests.attacks.link.watching import Connect, hooked, listeners, recorded, traced
from tests.live.standing import HOUSE, SITES, Standing, descendants, fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

PROXY = "http://127.0.0.1:9"
"""Nobody listens there. Flower's telemetry and update check would go through it."""


def allowed(standing: Standing, name: str) -> set[int]:
    """Ports that a service may reach: the coordinator's own processes speak to each other through a socket."""
    return set() if name == "coordinator" else doors(standing)


def doors(standing: Standing) -> set[int]:
    """The gate's port, and that of the audit exchange."""
    return {standing.port, standing.port + 1}


def strangers(found: Iterator[Connect], ports: set[int]) -> set[Connect]:
    """Whom a service should not have asked for; names without a port are questions to a name server."""
    return {
        one
        for one in found
        if not (one.target.startswith("/proc/self/fd/") and one.target.endswith("/inner.sock") and not ports)
        and (one.outside or (one.port not in ports and not one.target.startswith("(")))
    }


@pytest.mark.control("HIPAA-164.312-e-transmission")
def test_every_python_process_of_a_run_asks_for_the_coordinator_alone(side: Side, tmp_path: Path) -> None:
    standing = side.standing
    outs = {name: tmp_path / f"{name}.connects" for name in ("coordinator", *SITES)}
    for name, out in outs.items():
        standing.start(name, **hooked(tmp_path / "hook", HOUSE, out))
    for name in outs:
        standing.ready(name)
    reached: dict[str, set[tuple[str, int]]] = {}
    run = standing.run(name="hooked")
    assert run.process is not None
    while run.process.poll() is None:
        for name in outs:
            pids = [standing.services[name].pid, *descendants(standing.services[name].pid)]
            reached.setdefault(name, set()).update(listeners(pids))
    standing.finish(run)
    for name, out in outs.items():
        found = list(recorded(out))
        assert any(one.port == standing.port for one in found) or name == "coordinator", "the hook saw nothing"
        assert strangers(iter(found), allowed(standing, name)) == set(), name
    assert {port for _, port in reached["coordinator"]} == doors(standing)
    assert any(one.target.endswith("/inner.sock") for one in recorded(outs["coordinator"]))
    assert all(not reached[site] for site in SITES)
    for site in SITES:
        lines = outs[site].read_text().splitlines()
        assert len({line.split(" ")[0] for line in lines}) <= 3, (
            "one process speaks to the coordinator, not its children"
        )


@pytest.mark.system("strace")
def test_nor_does_any_library_below_python(side: Side, tmp_path: Path) -> None:
    """Seen by the kernel: gRPC and name servers as well."""
    standing = side.standing
    silence(standing)
    outs = {name: tmp_path / f"{name}.strace" for name in ("coordinator", "H1")}
    for name, out in outs.items():
        prefix = ("strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg", "-o", str(out))
        standing.start(name, prefix=prefix)
    standing.up("H2", "H3")
    for name in outs:
        standing.ready(name, 180)
    standing.finish(standing.run(name="traced"))
    for name, out in outs.items():
        found = list(traced(out))
        assert any(one.port == standing.port for one in found) or name == "coordinator"
        assert strangers(iter(found), allowed(standing, name)) == set(), name
    for name in ("coordinator", "H1", "H2", "H3"):
        standing.services[name].kill()


def test_a_proxy_that_the_machine_sets_is_used_for_the_coordinator_alone(side: Side, tmp_path: Path) -> None:
    """And nothing is asked of a proxy in the clear."""
    standing, out = side.standing, tmp_path / "connects"
    silence(standing)
    standing.up("coordinator")
    env = {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY, "http_proxy": PROXY, "NO_PROXY": "127.0.0.1,localhost"}
    standing.start("H1", **env, **hooked(tmp_path / "hook", HOUSE, out))
    standing.ready("H1")
    assert strangers(recorded(out), {standing.port}) == set()
    standing.services["H1"].kill()


def test_commands_of_a_hospital_ask_nobody(side: Side, tmp_path: Path) -> None:
    """What a person types while the coordinator is down: nothing is looked for elsewhere."""
    standing, out = side.standing, tmp_path / "connects"
    silence(standing)
    env = hooked(tmp_path / "hook", HOUSE, out)
    kept = {name: os.environ.get(name) for name in env}
    os.environ["FEDWARD_TEST_CONNECTS"] = env["FEDWARD_TEST_CONNECTS"]
    try:
        import subprocess

        from tests.live.standing import FEDWARD, environment

        for words in (("node", "status", standing.node("H1")), ("node", "check", standing.node("H1"), "--offline")):
            done = subprocess.run(
                [*FEDWARD, *map(str, words)],
                env=environment(env),
                cwd=HOUSE,
                capture_output=True,
                timeout=120,
                check=False,
            )
            assert b"Traceback" not in done.stderr
    finally:
        if kept["FEDWARD_TEST_CONNECTS"] is None:
            os.environ.pop("FEDWARD_TEST_CONNECTS")
    assert not out.exists() or set(recorded(out)) == set()


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    """The control: a process that asks for others is found by the hook."""
    import subprocess
    import sys

    out = tmp_path / "connects"
    program = (
        "import socket, contextlib\n"
        "s = socket.socket(); s.settimeout(0.2)\n"
        "with contextlib.suppress(OSError): s.connect(('192.0.2.1', 443))\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('telemetry.example', 443)\n"
        "with contextlib.suppress(OSError): s.connect(('127.0.0.1', 9))\n"
    )
    env = os.environ | hooked(tmp_path / "hook", HOUSE, out)
    subprocess.run([sys.executable, "-P", "-c", program], env=env, check=True, timeout=30)
    found = strangers(recorded(out), {8443})
    assert {one.target for one in found} == {"192.0.2.1", "telemetry.example", "127.0.0.1"}
    wait_until(out.exists, 1, "nothing was written")
    fedward("--help")
