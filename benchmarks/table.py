"""One table of several runs with different seeds: every way of training, at home and where nobody trained.

    for seed in 7 8 9; do
        fedward simulate benchmark --sites 8 --unseen X1,X2 --patients 16 --compare all --epsilons 1,3,8 \\
            --seed $seed --out runs/table-$seed
        python -m benchmarks.table runs/table-$seed --scores benchmarks/scores/table-$seed.json
    done
    python -m benchmarks.table benchmarks/scores/*.json [--json FILE]

A run is scored patient by patient, and --scores keeps that; what is given may be runs or such files.

Every figure is a mean over held-out patients of all runs, each hospital with its own model where an arm has one. In
brackets the 95 % interval of a bootstrap over patients (:mod:`shared.imaging.quality.bootstrap`); patients of different
seeds are different people. ``unseen`` is the mean over the patients of the hospitals that nobody trained at; of arms
with a model for each hospital, over these models too. CPU minutes are those of the training of all hospitals, in one
run, averaged over the runs; those of a personal model come on top of those of the federated one that it begins with.

``way`` is how far the federated model comes from the best classical method to pooled training; the best one is chosen
for the task as a whole.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.quality.bootstrap import Estimate, estimate
from shared.imaging.tasks import Predictions, Task, get_task
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

Figures = dict[str, float]
"""A figure for each held-out patient, by hospital and the patient's number there."""


@dataclass(frozen=True)
class Scored:
    """One way of training, or one classical method, in one run.

    Attributes:
        name: What it is called.
        classical: Whether it trains nothing.
        home: Held-out patients of the members.
        unseen: Patients of hospitals where nobody trained.
        cpu_minutes: Of training; None where it trains nothing or was not measured.
    """

    name: str
    classical: bool
    home: Figures
    unseen: Figures
    cpu_minutes: float | None


@dataclass(frozen=True)
class Row:
    """The same over all runs.

    Attributes:
        name: What it is called.
        classical: Whether it trains nothing.
        home: Over held-out patients of the members.
        by_site: The same by hospital, without intervals.
        unseen: Over the patients of hospitals where nobody trained.
        cpu_minutes: Of one run, mean over the runs; None where it trains nothing or was not measured.
    """

    name: str
    classical: bool
    home: Estimate
    by_site: Mapping[str, float]
    unseen: Estimate | None
    cpu_minutes: float | None


class Run:
    """What one run trained for one task, to be scored."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder = task, folder
        nodes = sorted((folder / "nodes").iterdir())
        self.people = {node.name: people for node in nodes if (people := arms.held_out(task, node))}
        self.members = [site for site in self.people if not site.startswith("X")]

    def scored(self) -> list[Scored]:
        """Everything that the run has, classical methods first."""
        trained = (self._trained(name) for name in dict.fromkeys((*ORDER, *ONE_MODEL)))
        return [*(self._classical(name) for name in self.task.classical()), *(row for row in trained if row)]

    def _classical(self, name: str) -> Scored:
        method = self.task.classical()[name]
        figures = self._figures(self.people, method)
        return Scored(name, True, *self._sides(figures), None)

    def _trained(self, name: str) -> Scored | None:
        form = OWN_MODEL.get(name) or ONE_MODEL[name]
        files = {site: self.folder / form.format(task=self.task.name, site=site) for site in self.members}
        if not all(path.exists() for path in files.values()):
            return None
        home, away = Figures(), dict[str, list[float]]()
        for path in dict.fromkeys(files.values()):
            tried = [site for site in self.people if site not in files or files[site] == path]
            own, unseen = self._sides(self.figures_of(path, tried))
            home |= own
            for key, value in unseen.items():
                away.setdefault(key, []).append(value)
        mean = {key: float(np.mean(values)) for key, values in away.items()}
        return Scored(name, False, home, mean, _minutes(list(dict.fromkeys(files.values()))))

    def figures_of(self, weights: Path, sites: Iterable[str]) -> Figures:
        """The main metric of one model on each held-out patient of some hospitals."""
        network = arms.load_network(self.task, weights)
        return self._figures(sites, functools.partial(self.task.predict, network))

    def _figures(self, sites: Iterable[str], predict: Callable[[StudyImages], Predictions]) -> Figures:
        found = Figures()
        for site in sites:
            for number, patient in enumerate(self.people[site]):
                total = sum((self.task.score(predict(study), study) for study in patient.studies), Sums.zero())
                found[f"{site} {number}"] = summarise(self.task.name, total)[self.task.main_metric]
        return found

    def _sides(self, figures: Figures) -> tuple[Figures, Figures]:
        home = {key: value for key, value in figures.items() if key.split()[0] in self.members}
        return home, {key: value for key, value in figures.items() if key not in home}


def _minutes(files: Sequence[Path]) -> float | None:
    seconds = [noted(path) for path in files]
    known = [one for one in seconds if one is not None]
    return sum(known) / 60 if len(known) == len(seconds) else None


def read(where: Path) -> dict[str, list[Scored]]:
    """By task what a run, or a file of scores, has."""
    if where.is_file():
        return {task: [Scored(**row) for row in rows] for task, rows in json.loads(where.read_bytes()).items()}
    done = [name for name in TASKS if (where / f"federation/{name}-federated/model.safetensors").exists()]
    return {name: Run(get_task(name), where).scored() for name in done}


def together(runs: Sequence[Sequence[Scored]]) -> list[Row]:
    """What all runs have, over their patients: those of different runs are different people."""
    found = []
    for first in runs[0]:
        same = [row for rows in runs for row in rows if row.name == first.name]
        if len(same) < len(runs):
            continue
        sites: dict[str, list[float]] = {}
        for row in same:
            for key, value in row.home.items():
                sites.setdefault(key.split()[0], []).append(value)
        home = estimate([value for values in sites.values() for value in values])
        if home is None:
            raise SystemExit(f"no held-out patient was scored for {first.name}")
        by_site = {site: float(np.mean(values)) for site, values in sites.items()}
        known = [row.cpu_minutes for row in same if row.cpu_minutes is not None]
        minutes = float(np.mean(known)) if len(known) == len(same) else None
        unseen = estimate([value for row in same for value in row.unseen.values()])
        found.append(Row(first.name, first.classical, home, by_site, unseen, minutes))
    return found


def way(rows: Sequence[Row]) -> float | None:
    """How far federated training comes from the best classical method to pooled training; 1 is all the way."""
    found = {row.name: row.home.mean for row in rows}
    best = max(row.home.mean for row in rows if row.classical and row.name != "noisy")
    if "federated" not in found or "pooled" not in found or found["pooled"] <= best:
        return None
    return (found["federated"] - best) / (found["pooled"] - best)


def _shown(one: Estimate | None, digits: int) -> str:
    if one is None:
        return "-"
    ends = "" if one.low is None else f" [{one.low:.{digits}f}, {one.high:.{digits}f}]"
    return f"{one.mean:.{digits}f}{ends}"


def lines(task: Task, rows: Sequence[Row], runs: int) -> Iterator[str]:
    """The table of a task in Markdown, and what follows from it."""
    digits = 2 if task.main_metric == "psnr" else 3
    yield f"\n{task.title}, {task.main_metric}: {runs} runs\n"
    yield "| | at home | at unseen hospitals | CPU minutes |\n|---|---|---|---|"
    for row in rows:
        minutes = "" if row.cpu_minutes is None else f"{row.cpu_minutes:.1f}"
        yield f"| {row.name} | {_shown(row.home, digits)} | {_shown(row.unseen, digits)} | {minutes} |"
    if (share := way(rows)) is not None:
        yield f"\nfederated: {share:.1%} of the way from the best classical method to pooled training"
    by_name = {row.name: row for row in rows}
    if OWN.keys() <= by_name.keys():
        gains = {site: value - by_name["local"].by_site[site] for site, value in by_name["personal"].by_site.items()}
        told = ", ".join(f"{site} {gain:+.{digits + 1}f}" for site, gain in gains.items())
        yield f"personal above local, by hospital: {told}"


def main() -> None:
    """Score all, print the tables, and write them as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--scores", type=Path, help="keep the scores of the one run in this file")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.scores and len(asked.runs) > 1:
        parser.error("--scores keeps those of one run")
    torch.set_num_threads(1)
    runs = [read(where) for where in asked.runs]
    if asked.scores:
        kept = {task: [asdict(row) for row in rows] for task, rows in runs[0].items()}
        asked.scores.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    written = {}
    for name in (name for name in TASKS if all(name in run for run in runs)):
        rows = together([run[name] for run in runs])
        sys.stdout.write("\n".join(lines(get_task(name), rows, len(runs))) + "\n")
        sys.stdout.flush()
        written[name] = {"way": way(rows), "rows": [asdict(row) for row in rows]}
    if asked.json:
        asked.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
