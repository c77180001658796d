"""A masked federation on this machine's two engines, in one run: ``fedward simulate --engine local`` beside ``ray``.

    python -m benchmarks.engines [--sites 4,16] [--rounds 5] [--workers 2] [--only local] [--json]

Both run the real coordinator and the real ClientApp of toy hospitals, with masks: twelve weights and a handful of
slices, so that what is measured is the engine. Each runs in a process of its own. Reported are

- start-up: seconds from the start of the process to the end of the first round, with its keys, less one median round;
- round: median seconds of the later rounds (train, confirm, unmask and evaluate);
- peak memory: largest proportional set size of the process and all its descendants together, sampled every 0.1 s.

What a round costs with large models and nothing else: ``benchmarks.local_grid``.
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
from pathlib import Path
from typing import Any

from benchmarks.local_grid import ENVIRONMENT, ROOT, proportional_memory


def engine(name: str, options: argparse.Namespace) -> None:
    """Run one engine in this process and write its figures to the file that the parent named."""
    from server.app import Settings, run_task  # noqa: PLC0415  # seconds of imports, which count
    from simulation import federation  # noqa: PLC0415
    from tests.federation import toy  # noqa: PLC0415

    federation.APP = toy.APP
    folder = Path(options.result).parent
    rules = toy.charter(plan={"rounds": options.rounds + 1}, privacy={"scores": "masked"}, deadline=120.0)
    made = toy.make_nodes(folder / "nodes", rules, int(options.sites))
    nodes = {config["site"]: Path(config["node-dir"]) for config in made.values()}
    charter = federation.masked(rules, nodes)
    for node in nodes.values():
        federation.Node.open(node).pin(charter)
    (folder / "charter.toml").write_text(charter.to_toml())
    settings = Settings(folder / "charter.toml", "toy", folder / "out", "run", folder / "log.jsonl", poll=0.002)
    moments: list[float] = []
    with federation.make_grid(nodes, options.workers, engine=name) as grid:
        result = run_task(grid, settings, on_round=lambda _: moments.append(time.time()))
    seconds = [after - before for before, after in itertools.pairwise(moments[1:])]
    median = statistics.median(seconds)
    model = result.history.rounds[-1].model
    figures = {"startup": moments[1] - options.began - median, "round": median, "rounds": seconds, "model": model}
    Path(options.result).write_text(json.dumps(figures))


def measure(name: str, sites: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one engine in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [sys.executable, "-P", "-m", "benchmarks.engines", "--engine", name, "--result", str(result)]
        command += ["--sites", str(sites), "--rounds", str(options.rounds), "--workers", str(options.workers)]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(
                [*command, "--began", repr(time.time())], cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=log, stderr=log
            )
            peak = 0
            while process.poll() is None:
                peak = max(peak, proportional_memory(process.pid))
                time.sleep(0.1)
            if not result.exists():
                log.seek(0)
                raise SystemExit(f"{name} failed:\n{log.read()[-2000:]}")
        return {"engine": name, "sites": sites, **json.loads(result.read_text()), "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description="A masked federation of toy hospitals on each engine.")
    parser.add_argument("--sites", default="4,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("local", "ray"), help="Leave the other one out.")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--engine", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        engine(options.engine, options)
        return
    engines = ["local", "ray"] if importlib.util.find_spec("ray") else ["local"]
    engines = [name for name in engines if options.only in {None, name}]
    found = [measure(name, int(sites), options) for sites in options.sites.split(",") for name in engines]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{options.workers} workers, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'engine':<8}{'hospitals':>10}{'start-up s':>12}{'round s':>10}{'peak MiB':>10}  model")
    for one in found:
        print(
            f"{one['engine']:<8}{one['sites']:>10}{one['startup']:>12.2f}{one['round']:>10.2f}"
            f"{one['peak_bytes'] / 2**20:>10.0f}  {one['model'][:12]}"
        )
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed here. For both engines: pip install -e '.[ray]'")


if __name__ == "__main__":
    main()
