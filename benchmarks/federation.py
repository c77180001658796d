"""What a round costs over a network: a coordinator and three hospitals, beside plain Flower FedAvg, in one run.

    python -m benchmarks.federation [--parameters 10000000] [--rounds 3] [--sites 3] [--private] [--json]

Both sides run as processes of their own on this machine and move a model of so many float32 numbers. Ours is the whole
of fedward: mutual TLS at the gate, masks (an epoch of keys once, then training, confirmation, unmasking), checkpoints,
durable records, one training step on a few small patients; with ``--private`` also differential privacy. The peer is
Flower's SuperLink, SuperNodes and FedAvg without TLS, whose client imports torch and sends the model back untouched.

Reported are seconds of a round by phase (from the coordinator's record: from the first question of a phase to its last
answer), the median over the rounds, and the memory of each process (proportional set size, largest sample).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.live import standing as live
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
APP = ROOT / "benchmarks" / "fedavg_app"
WIDE = ROOT / "benchmarks" / "wide"
SETUP = ("query.secagg_advertise", "query.secagg_kem", "query.secagg_share")
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


class Memory:
    """The largest proportional set size of each process below this one, by what it does."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names, self._ended = names, threading.Event()
        self.peak: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for pid in live.descendants(os.getpid()):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                name = next((name for part, name in self._names.items() if part in command), "")
                if name:
                    self.peak[name] = max(self.peak.get(name, 0), _own_memory(pid))

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _own_memory(pid: int) -> int:
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))


# --- ours -------------------------------------------------------------------------------------------------------------

PRIVACY = '[privacy]\nmode = "patient"\nnoise_multiplier = 2.0\nslices_per_patient = 1\n'


def charter(options: argparse.Namespace) -> str:
    return f"""[federation]
id = "benchmark"
purpose = "{live.PURPOSE}"
min_sites = 3
min_patients = 2
deadline = 600.0

{PRIVACY if options.private else ""}
[secure_aggregation]
threshold = 3

[[task]]
name = "denoise"
rounds = {options.rounds}
local_steps = 1
batch = 1
evaluate_every = 100000
"""


def ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    os.environ["FEDWARD_BALLAST"] = str(options.parameters)
    raw = folder / "raw"
    live.fedward(
        "data", "synthesize", raw, "--sites", ",".join(live.SITES), "--patients", 4, "--size", 64, "--slices", 3
    )
    found = live.build(folder / "ours", raw, charter(options), private=options.private)
    wide = {"PYTHONPATH": f"{WIDE}{os.pathsep}{ROOT}"}
    names = {
        "-m server.flower_link ": "coordinator: SuperLink and gate",
        "-m server.executor ": "coordinator: executor",
        "-m server.flower_run ": "coordinator: run",
        " server start ": "coordinator: supervisor",
        "-m client.worker ": "hospital: worker, and its child",
        "-m client.link ": "hospital: link",
        " node start ": "hospital: supervisor",
    }
    began = time.time()
    with live.running(found), Memory(names) as memory:
        for name in ("coordinator", *live.SITES):
            found.start(name, **wide)
        for name in ("coordinator", *live.SITES):
            found.ready(name)
        up = time.time() - began
        found.finish(found.run(), seconds=1800)
    if unseen := set(names.values()) - set(memory.peak):
        raise SystemExit(f"no process was seen of: {', '.join(sorted(unseen))}")
    return {"startup": up, "rounds": phases(found), "memory": memory.peak}


def phases(found: live.Standing) -> list[dict[str, float]]:
    """Seconds of every round, by phase, out of the coordinator's record."""
    rounds: dict[int, dict[str, list[datetime]]] = {}
    for row in found.log("coordinator"):
        if row["action"] in {"message.out", "message.in"} and row["round"]:
            moment = datetime.fromisoformat(row["time"])
            rounds.setdefault(row["round"], {}).setdefault(row["detail"]["phase"], []).append(moment)
    return [
        {phase: (max(moments) - min(moments)).total_seconds() for phase, moments in one.items()}
        for _, one in sorted(rounds.items())
    ]


# --- plain Flower -----------------------------------------------------------------------------------------------------


def flower(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    home = folder / "flower"
    home.mkdir()
    out, bins = home / "moments.json", Path(sys.executable).parent
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    env = os.environ | QUIET | {"FLWR_HOME": str(home), "PATH": f"{bins}{os.pathsep}{os.environ['PATH']}"}
    link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    commands = [[*link, "--disable-runtime-dependency-installation"]]
    for _ in range(options.sites):
        node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
        commands.append([*node, "--host", "127.0.0.1", "--port", str(free_port())])
    names = {"flower-superlink": "SuperLink", "flower-supernode": "SuperNode", "flwr-serverapp": "ServerApp"}
    names |= {"flwr-clientapp": "ClientApp", "flower-superexec": "SuperExec"}
    config = f'rounds={options.rounds} parameters={options.parameters} sites={options.sites} out="{out}"'
    with Memory(names) as memory, _processes(commands, env, home / "log"):
        time.sleep(8)
        subprocess.run(
            ["flwr", "run", str(APP), "here", "--run-config", config], env=env, check=True, stdout=subprocess.DEVNULL
        )
        end = time.monotonic() + 1800
        while not out.exists() or not out.read_text():
            if time.monotonic() > end:
                raise SystemExit((home / "log").read_text()[-3000:])
            time.sleep(0.2)
    moments = json.loads(out.read_text())
    return {"rounds": [{"train": after - before} for before, after in pairwise(moments)], "memory": memory.peak}


@contextmanager
def _processes(commands: list[list[str]], env: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as stream:
        started = [subprocess.Popen(one, env=dict(env), stdout=stream, stderr=stream) for one in commands]
    try:
        yield
    finally:
        for one in started:
            one.terminate()
        for one in started:
            one.wait(30)


# --- the table --------------------------------------------------------------------------------------------------------


def median(rounds: list[dict[str, float]], phase: str) -> float:
    return statistics.median(one[phase] for one in rounds if phase in one)


def show(name: str, found: dict[str, Any]) -> None:
    rounds = found["rounds"]
    shared = [{phase: seconds for phase, seconds in one.items() if phase not in SETUP} for one in rounds]
    whole = statistics.median(sum(one.values()) for one in shared)
    print(
        f"{name}: {whole:.1f} s a round"
        + (f", {found['startup']:.0f} s until all are connected" if "startup" in found else "")
    )
    for phase in dict.fromkeys(phase for one in rounds for phase in one):
        once = " (once in 64 rounds)" if phase in SETUP else ""
        print(f"  {phase:<26}{median(rounds, phase):>8.2f} s{once}")
    for process, peak in sorted(found["memory"].items()):
        print(f"  {process:<26}{peak / 2**20:>8.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="A round over a network, beside plain Flower FedAvg.")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sites", type=int, default=3, choices=[3])
    parser.add_argument("--private", action="store_true", help="also differential privacy")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"fedward": ours(options, Path(folder)), "Flower FedAvg": flower(options, Path(folder))}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{options.sites} sites, {options.parameters:,} parameters, {machine}")
    for name, one in found.items():
        show(name, one)


if __name__ == "__main__":
    main()
