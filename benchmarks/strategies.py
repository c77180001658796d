"""Strategies of federated training side by side: what each reaches at home, everywhere, and where nobody trained.

    python -m benchmarks.strategies RUN [--task denoise|superres|segment] [--steps 120] [--seed 7] [--start public-1]
                                    [--only NAME,NAME] [--harmonise] [--json FILE]

RUN is the folder of a run of ``fedward simulate`` (any; ``make privacy`` makes one with eight hospitals): its
``nodes`` have the cohorts. Hospitals whose names begin with X are trained on by nobody.

Every federated strategy takes ``steps`` optimiser steps at each hospital, of the same batches' size; so does local
training, and ``local, twice`` takes as many as a federated model and its personal one together. Updates are averaged in
proportion to slices. The local rates of FedAvg (and of all that share
them) and the coordinator's rates of fedsgd-adam were chosen on seed 7; all other rates are those of their papers or of
the task's training alone, and were not tuned.

fedsgd-adam   one step of SGD a round, Adam at the coordinator: what the demo's charter asks for
finer         the same of one patch a step, in as many more rounds: what the benchmark's charter asks for
fedavg-K       K steps of Adam a round (McMahan et al. 2017, arXiv:1602.05629)
fedprox        the same with the proximal term, mu 0.1 and 1 (Li et al. 2020, arXiv:1812.06127)
fedavgm        the same, momentum at the coordinator (Hsu, Qi and Brown 2019, arXiv:1909.06335)
fedadam, fedyogi   the same, Adam or Yogi at the coordinator (Reddi et al. 2021, arXiv:2003.00295)
scaffold       control variates (Karimireddy et al. 2020, arXiv:1910.06378) with SGD, beside fedavg-sgd without them
fedbn          affine parameters of the normalisation and biases stay at home (Li et al. 2021, arXiv:2102.07623)
local-head     those and the last layer stay at home (Arivazhagan et al. 2019, arXiv:1912.00818)
personal       fedsgd-adam, then ``steps`` more at home (:mod:`client.training.personal`)
beside-A       fedsgd-adam; after every tenth round each hospital brings a model of its own by the share A towards the
               federated one and takes ten steps of Adam with it at home (after Deng, Kamani and Mahdavi 2020,
               arXiv:2003.13461)

``--harmonise`` brings every scanner's intensities to one scale first (:mod:`benchmarks.harmonise`); segmentation only.

A strategy that keeps parameters at home has no single model: where nobody trained, the mean over the hospitals' models
counts. Of FedBN that is its known price. CPU seconds are those of the training alone, on one thread.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harmonise import harmonised
from benchmarks.ways import BATCH, Bench, beside, federate, strategies
from client.training.loop import train_centrally
from client.training.personal import personalise, rate_of


def alone(bench: Bench, sites: Sequence[str], steps: int) -> nn.Module:
    """Ordinary training on some sites' patients."""
    network = bench.begin()
    people = {site: bench.train[site] for site in sites}
    name = bench.task.name
    train_centrally(bench.task, network, people, steps=steps, batch=bench.plan.batch, lr=rate_of(name), seed=bench.seed)
    return network.eval()


def personal(bench: Bench, federated: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Each hospital's own model made from the federated one."""
    found = {}
    for site, network in federated.items():
        own, name = copy.deepcopy(network), bench.task.name
        people, steps, batch = bench.train[site], bench.steps, bench.plan.batch
        personalise(bench.task, own, people, steps=steps, batch=batch, lr=rate_of(name), seed=bench.seed)
        found[site] = own.eval()
    return found


@dataclass(frozen=True)
class Row:
    """A line of the table: the main metric at home, over all members' patients, and where nobody trained."""

    name: str
    home: float
    everywhere: float
    unseen: Mapping[str, float]
    cpu: float
    by_site: Mapping[str, float]


def measured(
    bench: Bench, name: str, make: Callable[[], Mapping[str, nn.Module]]
) -> tuple[Row, Mapping[str, nn.Module]]:
    """Train and score."""
    began = time.process_time()
    models = make()
    cpu = time.process_time() - began
    unique = {id(network): network for network in models.values()}
    table = {key: {site: bench.score(net, site) for site in bench.held_out} for key, net in unique.items()}
    home = {site: table[id(network)][site] for site, network in models.items()}
    everywhere = float(np.mean([table[id(net)][site] for net in models.values() for site in bench.train]))
    unseen = {site: float(np.mean([table[id(net)][site] for net in models.values()])) for site in bench.unseen}
    return Row(name, float(np.mean(list(home.values()))), everywhere, unseen, cpu, home), models


def main() -> None:
    """Measure, print a line for each, and write all of it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", default="segment", choices=tuple(BATCH))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", default="public-1", choices=("public-1", "fresh"))
    parser.add_argument("--only", default="")
    parser.add_argument("--harmonise", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.steps % 30:
        parser.error("--steps must be a multiple of 30, so that every strategy takes as many")
    torch.set_num_threads(1)
    bench = Bench.of(asked.run, asked.task, steps=asked.steps, seed=asked.seed, start=asked.start)
    if asked.harmonise:
        if asked.task != "segment":
            parser.error("--harmonise is for segmentation")
        train, held_out = harmonised(bench.train, bench.held_out)
        bench = replace(bench, train=train, held_out=held_out)
    sites, rows = tuple(bench.train), list[Row]()
    wanted = set(filter(None, asked.only.split(",")))

    def take(name: str, make: Callable[[], Mapping[str, nn.Module]]) -> Mapping[str, nn.Module]:
        if wanted and name not in wanted and not (name == "fedsgd-adam" and "personal" in wanted):
            return {}
        row, models = measured(bench, name, make)
        rows.append(row)
        unseen = "  ".join(f"{site} {value:.3f}" for site, value in row.unseen.items())
        sys.stdout.write(
            f"{bench.task.name:9} {name:15} home {row.home:.3f}  everywhere {row.everywhere:.3f}  {unseen}"
            f"  {row.cpu:.0f} CPU s\n"
        )
        sys.stdout.flush()
        return models

    take("start", lambda: dict.fromkeys(sites, bench.begin().eval()))
    take("local", lambda: {site: alone(bench, [site], bench.steps) for site in sites})
    take("local, twice", lambda: {site: alone(bench, [site], 2 * bench.steps) for site in sites})
    take("pooled", lambda: dict.fromkeys(sites, alone(bench, sites, bench.steps * len(sites))))
    for how in strategies(bench.task.name):
        models = take(how.name, lambda how=how: federate(bench, how))  # type: ignore[misc]
        if how.name == "fedsgd-adam" and models:
            take("personal", lambda models=models: personal(bench, models))  # type: ignore[misc]
    for share in (0.1, 0.5):
        take(f"beside-{share:g}", lambda share=share: beside(bench, share))  # type: ignore[misc]
    if asked.json:
        about = {
            "task": asked.task,
            "steps": asked.steps,
            "seed": asked.seed,
            "start": asked.start,
            "harmonised": asked.harmonise,
        }
        asked.json.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
