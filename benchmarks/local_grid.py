"""What a round costs before anybody trains: fedward's local grid beside Flower's Ray engine, in one run.

    python -m benchmarks.local_grid [--sites 16] [--parameters 10000000] [--rounds 5] [--workers 2] [--only local]

Both engines run the same ServerApp and the same ClientApp on the same records: the coordinator sends one float32 vector
to every site, the site sends it back untouched, the coordinator looks at each answer once and lets it go. Each engine
runs in a process of its own. Reported are

- start-up: seconds from the start of the process to the last answer of the first round, less one median round;
- round: median seconds of the later rounds;
- peak memory: largest proportional set size (PSS) of the process and all its descendants together, sampled every 0.1 s.

Ray comes with fedward's development environment (`dev`). Without it, or with `--only local`, ours is measured alone.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

ROOT = Path(__file__).parents[1]
POLL = 0.01
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}

app = ClientApp()


@app.train()
def untouched(message: Message, context: Context) -> Message:
    """Send back what came."""
    return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)


def coordinator(sites: int, parameters: int, rounds: int, done: Callable[[list[float]], None]) -> ServerApp:
    """A ServerApp that times rounds and hands the moments at which they ended to ``done``."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < sites:
            time.sleep(POLL)
        vector = np.random.default_rng(0).random(parameters, np.float32)
        moments = [time.time()]
        for _ in range(rounds + 1):
            array = Array("float32", (parameters,), "fedward.raw", vector.tobytes())
            content = RecordDict({"arrays": ArrayRecord({"model": array})})
            waiting = set(
                grid.push_messages([Message(content, dst_node_id=node, message_type="train") for node in nodes])
            )
            while waiting:
                for reply in grid.pull_messages(list(waiting)):
                    waiting.remove(reply.metadata.reply_to_message_id)
                    answer = np.frombuffer(reply.content["arrays"]["model"].data, np.float32)
                    assert answer[-1] == vector[-1], "the answer is not what was sent"
                time.sleep(POLL)
            moments.append(time.time())
        done(moments)

    return made


def run_local(workers: int, sites: int, server: ServerApp) -> None:
    from simulation.local_grid import LocalGrid  # noqa: PLC0415  # the other engine is not measured with it

    nodes = {100 + number: {"site": f"H{number}"} for number in range(sites)}
    with LocalGrid("benchmarks.local_grid:app", nodes, workers=workers) as grid:
        server(grid, Context(1, 1, {}, RecordDict(), run_config={}))


def run_ray(workers: int, sites: int, server: ServerApp) -> None:
    from flwr.simulation import run_simulation  # noqa: PLC0415  # may not be installed

    from benchmarks.local_grid import app as client  # noqa: PLC0415  # by its importable name: this is __main__

    resources = {"init_args": {"num_cpus": workers, "include_dashboard": False}, "client_resources": {"num_cpus": 1}}
    run_simulation(server, client, num_supernodes=sites, backend_config=resources)


def engine(name: str, options: argparse.Namespace) -> None:
    """Run one engine in this process and write its figures to the file that the parent named."""

    def done(moments: list[float]) -> None:
        seconds = [after - before for before, after in itertools.pairwise(moments[1:])]
        median = statistics.median(seconds)
        figures = {"startup": moments[1] - options.began - median, "round": median, "rounds": seconds}
        Path(options.result).write_text(json.dumps(figures))

    server = coordinator(options.sites, options.parameters, options.rounds, done)
    kind, _, workers = name.partition("-")
    (run_ray if kind == "ray" else run_local)(int(workers), options.sites, server)


# --- the parent -------------------------------------------------------------------------------------------------------


def proportional_memory(pid: int) -> int:
    """Bytes of a process and its descendants, shared pages divided among those who share them (Linux, smaps_rollup)."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(proportional_memory(int(child)) for child in (task / "children").read_text().split())
    except OSError:
        pass  # it ended while we looked
    return total


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Run one engine in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.local_grid", "--engine", name, "--result", str(result)]
        command += ["--sites", str(options.sites), "--parameters", str(options.parameters)]
        command += ["--rounds", str(options.rounds), "--began", repr(time.time())]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=log, stderr=log)
            peak = 0
            while process.poll() is None:
                peak = max(peak, proportional_memory(process.pid))
                time.sleep(0.1)
            if not result.exists():
                log.seek(0)
                raise SystemExit(f"{name} failed:\n{log.read()[-2000:]}")
        return {"engine": name, **json.loads(result.read_text()), "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description="Round overhead of the local grid, beside Flower's Ray engine.")
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["local", "ray"], help="measure one engine alone")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--engine", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        engine(options.engine, options)
        return
    names = ["local-0", f"local-{options.workers}"] if options.only != "ray" else []
    if options.only == "ray" or (options.only is None and importlib.util.find_spec("ray") is not None):
        names.append(f"ray-{options.workers}")
    found = [measure(name, options) for name in names]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    load = os.getloadavg()[0]
    print(f"{options.sites} sites, {options.parameters:,} parameters, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{'engine':<10}{'start-up s':>12}{'round s':>10}{'peak MiB':>10}")
    for one in found:
        print(f"{one['engine']:<10}{one['startup']:>12.2f}{one['round']:>10.2f}{one['peak_bytes'] / 2**20:>10.0f}")


if __name__ == "__main__":
    main()
