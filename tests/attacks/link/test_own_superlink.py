"""Whoever has the coordinator's secret drives its own SuperLink: hospitals refuse what is not the agreed run.

Unlike in ``test_bad_coordinator.py`` everything else is the real coordinator, its executor too.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab

from shared.bundle import bundle
from tests.attacks.link import fabs
from tests.attacks.link.conftest import Side
from tests.live.standing import SITES, fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


class _Secret:
    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context, call_next):  # type: ignore[no-untyped-def]
        context.request.headers["x-fedward-secret"] = self._secret
        return call_next(context)


@pytest.fixture
def control(everybody: Side) -> Iterator[ControlHttpClient]:
    server = everybody.standing.server
    secret = (server / "keys" / "link.secret").read_text().strip()
    folder = os.open(server / "superlink", os.O_PATH | os.O_DIRECTORY)  # its path may be longer than an address
    try:
        with ControlHttpClient("http://superlink.invalid", interceptors=[_Secret(secret)]) as client:
            client._client.close()
            client._client = httpx.Client(transport=httpx.HTTPTransport(uds=f"/proc/self/fd/{folder}/inner.sock"))
            yield client
    finally:
        os.close(folder)


def evil_fab(trace: Path) -> bytes:
    """One that Flower's Control API takes, with code in every place where it looks for some."""
    files, code = fabs.contents(bundle()), fabs.trap(trace).encode()
    names = [f"{room}/{name}.py" for room in ("client", "server", "shared") for name in ("__init__", "app")]
    return fabs.packed(files | dict.fromkeys(names, code))


@pytest.mark.control("GDPR-32-own-code")
def test_foreign_code_runs_neither_here_nor_there(everybody: Side, control: ControlHttpClient, tmp_path: Path) -> None:
    standing, trace = everybody.standing, tmp_path / "ran"
    before = {site: len(standing.log(site)) for site in SITES}
    for number, fab in enumerate((evil_fab(trace), dict(fabs.forged(trace))["another component"], bundle())):
        config = {"federation": "standing", "charter": "0" * 64, "run": f"evil-{number}"}
        try:
            done = control.StartRun(
                StartRunRequest(fab=fab_to_proto(Fab("", fab, {})), override_config=user_config_to_proto(config))
            )
        except httpx.HTTPStatusError as error:
            assert error.response.status_code < 500, error.response.text
            continue
        wait_until(lambda run=done.run_id: ended(control, run), 120, standing.told(), every=0.5)
    assert not trace.exists()
    for site in SITES:
        assert not [row for row in standing.log(site)[before[site] :] if row["action"] == "train"]
        assert fabs.MARKER.encode() not in b"".join(
            path.read_bytes() for path in standing.node(site).rglob("*") if path.is_file()
        )
    standing.finish(standing.run(name="honest"))
    assert standing.history("honest")["outcome"] == "ok"
    standing.check_paid()


def ended(control: ControlHttpClient, run: int) -> bool:
    found = control.ListRuns(ListRunsRequest(run_id=run)).run_dict
    return found[run].status.status == "finished"


def test_a_run_name_is_used_once(everybody: Side) -> None:
    """A second run under an old name would write over its record."""
    standing = everybody.standing
    history = standing.history("honest")
    said = fedward("server", "run", standing.server, standing.charter, "--name", "honest", status=2)
    assert "honest" in said
    assert standing.history("honest") == history
    for name in ("../x", "a/b", ".", "x" * 300, "a\nb", "-x"):
        fedward("server", "run", standing.server, standing.charter, "--name", name, status=2)


def test_a_charter_of_others_is_not_run(everybody: Side, tmp_path: Path) -> None:
    """No masks, another authority, another address, a member who was not let in."""
    standing = everybody.standing
    text = standing.charter.read_text()
    digest = next(line for line in text.splitlines() if line.strip().startswith("authority"))
    changes = {
        "another authority": text.replace(digest, f'authority = "{"0" * 64}"'),
        "another address": text.replace(f"127.0.0.1:{standing.port}", "127.0.0.1:1"),
        "another key": text.replace(identity(text), "ab" * 32),
    }
    for name, changed in changes.items():
        assert changed != text, name
        other = tmp_path / "other.toml"
        other.write_text(changed)
        words = (standing.server, other, "--name", name.replace(" ", "-"))
        done = fedward_any("server", "run", *words)
        assert done in {2, 6}, name
    assert fedward_any("server", "run", standing.server, standing.charter, "--name", "honest") == 2


def identity(text: str) -> str:
    line = next(line for line in text.splitlines() if line.strip().startswith("identity"))
    return line.split('"')[1]


def fedward_any(*arguments: object) -> int:
    """The exit code of a command, whatever it is."""
    import subprocess

    from tests.live.standing import FEDWARD, HOUSE, environment

    done = subprocess.run(
        [*FEDWARD, *map(str, arguments)], env=environment(), cwd=HOUSE, capture_output=True, timeout=240, check=False
    )
    assert b"Traceback" not in done.stderr
    return done.returncode
