"""One table of several runs with different seeds: every way of training, at home and where nobody trained.

    for seed in 7 8 9; do
        fedward simulate benchmark --sites 8 --unseen X1,X2 --patients 16 --compare all --epsilons 1,3,8 \\
            --seed $seed --out runs/table-$seed
    done
    python -m benchmarks.table runs/table-7 runs/table-8 runs/table-9 [--json FILE]

Every figure is a mean over held-out patients of all runs, each hospital with its own model where an arm has one. In
brackets the 95 % interval of a bootstrap over patients (:mod:`shared.imaging.quality.bootstrap`); patients of different
seeds are different people. ``unseen`` is the mean over the patients of the hospitals that nobody trained at; of arms
with a model for each hospital, over these models too. CPU minutes are those of the training of all hospitals, in one
run, averaged over the runs; those of a personal model come on top of those of the federated one that it begins with.

``way`` is how far the federated model comes from the best classical method to pooled training; the best one is chosen
for the task as a whole.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from shared.imaging.metrics import Sums, summarise
from shared.imaging.quality.bootstrap import Estimate, estimate
from shared.imaging.tasks import Task, get_task
from simulation import arms
from simulation.cpu import noted
from simulation.tables import OWN

TASKS: Final = ("denoise", "superres", "segment")
ONE_MODEL: Final = {
    "public": "public/{task}.safetensors",
    "pooled": "alone/{task}/pooled.safetensors",
    "federated": "federation/{task}-federated/model.safetensors",
    "DP 8, local noise": "federation/{task}-federated_dp/model.safetensors",
    "DP 3, local noise": "federation/{task}-local-3-0/model.safetensors",
    "DP 1, local noise": "federation/{task}-local-1-0/model.safetensors",
    "DP 8, shared noise": "federation/{task}-federated_shared/model.safetensors",
    "DP 3, shared noise": "federation/{task}-shared-3-0/model.safetensors",
    "DP 1, shared noise": "federation/{task}-shared-1-0/model.safetensors",
}
OWN_MODEL: Final = {"local": "alone/{task}/{site}.safetensors", "personal": "personal/{task}/{site}.safetensors"}
ORDER: Final = ("public", "local", "pooled", "federated", "personal")

Figures = dict[tuple[str, str], float]
"""A figure for each held-out patient, by run and hospital with the patient's number."""


@dataclass(frozen=True)
class Row:
    """One way of training, or one classical method.

    Attributes:
        name: What it is called.
        home: Over held-out patients of the members.
        by_site: The same by hospital, without intervals.
        unseen: Over the patients of hospitals where nobody trained.
        cpu_minutes: Of one run, mean over the runs; None where it trains nothing or was not measured.
    """

    name: str
    home: Estimate
    by_site: Mapping[str, float]
    unseen: Estimate | None
    cpu_minutes: float | None


class Table:
    """The scores of one task in all runs."""

    def __init__(self, task: Task, runs: Sequence[Path]) -> None:
        self.task, self.runs = task, runs
        self.people = {
            (run, node.name): arms.held_out(task, node) for run in runs for node in sorted((run / "nodes").iterdir())
        }
        self.people = {key: people for key, people in self.people.items() if people}

    def rows(self) -> list[Row]:
        """All rows that every run has, classical methods first."""
        found = [self._classical(name) for name in self.task.classical()]
        for name in (*ORDER, *ONE_MODEL):
            if not any(row.name == name for row in found) and (row := self._trained(name)):
                found.append(row)
        return found

    def _classical(self, name: str) -> Row:
        method = self.task.classical()[name]
        home, unseen = Figures(), Figures()
        for (run, site), people in self.people.items():
            for number, patient in enumerate(people):
                total = Sums.zero()
                for study in patient.studies:
                    total = total + self.task.score(method(study), study)
                (unseen if site.startswith("X") else home)[str(run), f"{site} {number}"] = self._figure(total)
        return self._row(name, home, unseen, None)

    def _trained(self, name: str) -> Row | None:
        form = OWN_MODEL.get(name) or ONE_MODEL[name]
        home, unseen, minutes = Figures(), dict[tuple[str, str], list[float]](), list[float | None]()
        for run in self.runs:
            members = [site for where, site in self.people if where == run and not site.startswith("X")]
            files = {site: run / form.format(task=self.task.name, site=site) for site in members}
            if not all(path.exists() for path in files.values()):
                return None
            minutes.append(_minutes(list(dict.fromkeys(files.values()))))
            for path in dict.fromkeys(files.values()):
                network = arms.load_network(self.task, path)
                mine = {site for site, one in files.items() if one == path}
                for (where, site), people in self.people.items():
                    if where != run or (site in members and site not in mine):
                        continue
                    for number, patient in enumerate(people):
                        total = Sums.zero()
                        for study in patient.studies:
                            total = total + self.task.score(self.task.predict(network, study), study)
                        key = (str(run), f"{site} {number}")
                        if site in mine:
                            home[key] = self._figure(total)
                        else:
                            unseen.setdefault(key, []).append(self._figure(total))
        known = [one for one in minutes if one is not None]
        mean = {key: float(np.mean(values)) for key, values in unseen.items()}
        return self._row(name, home, mean, float(np.mean(known)) if len(known) == len(minutes) else None)

    def _figure(self, total: Sums) -> float:
        return summarise(self.task.name, total)[self.task.main_metric]

    def _row(self, name: str, home: Figures, unseen: Figures, minutes: float | None) -> Row:
        sites: dict[str, list[float]] = {}
        for (_, patient), value in home.items():
            sites.setdefault(patient.split()[0], []).append(value)
        whole = estimate(list(home.values()))
        if whole is None:
            raise SystemExit(f"no held-out patient for {self.task.name}")
        by_site = {site: float(np.mean(values)) for site, values in sites.items()}
        return Row(name, whole, by_site, estimate(list(unseen.values())), minutes)


def _minutes(files: Sequence[Path]) -> float | None:
    seconds = [noted(path) for path in files]
    known = [one for one in seconds if one is not None]
    return sum(known) / 60 if len(known) == len(seconds) else None


def way(rows: Sequence[Row], classical: Sequence[str]) -> float | None:
    """How far federated training comes from the best classical method to pooled training; 1 is all the way."""
    found = {row.name: row.home.mean for row in rows}
    best = max(found[name] for name in classical if name != "noisy")
    if "federated" not in found or "pooled" not in found or found["pooled"] <= best:
        return None
    return (found["federated"] - best) / (found["pooled"] - best)


def _shown(one: Estimate | None, digits: int) -> str:
    if one is None:
        return "-"
    ends = "" if one.low is None else f" [{one.low:.{digits}f}, {one.high:.{digits}f}]"
    return f"{one.mean:.{digits}f}{ends}"


def main() -> None:
    """Score all, print the tables, and write them as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    written = {}
    for name in TASKS:
        task = get_task(name)
        if not all((run / f"federation/{name}-federated").is_dir() for run in asked.runs):
            continue
        table = Table(task, asked.runs)
        rows, digits = table.rows(), 2 if task.main_metric == "psnr" else 3
        share, count = way(rows, list(task.classical())), len([key for key in table.people if key[1][0] != "X"])
        sys.stdout.write(f"\n{task.title}, {task.main_metric}: {len(asked.runs)} runs, {count} hospitals in all\n\n")
        sys.stdout.write("| | at home | at unseen hospitals | CPU minutes |\n|---|---|---|---|\n")
        for row in rows:
            minutes = "" if row.cpu_minutes is None else f"{row.cpu_minutes:.1f}"
            sys.stdout.write(
                f"| {row.name} | {_shown(row.home, digits)} | {_shown(row.unseen, digits)} | {minutes} |\n"
            )
        if share is not None:
            sys.stdout.write(f"\nfederated: {share:.0%} of the way from the best classical method to pooled training\n")
        by_name = {row.name: row for row in rows}
        if OWN.keys() <= by_name.keys():
            below = [s for s, v in by_name["personal"].by_site.items() if v < by_name["local"].by_site[s]]
            sys.stdout.write(f"personal below local at: {', '.join(below) or 'no hospital'}\n")
        sys.stdout.flush()
        written[name] = {"way": share, "rows": [asdict(row) for row in rows]}
    if asked.json:
        asked.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
