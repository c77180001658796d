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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harmonise import harmonised
from client.cohort import Cohort, Split
from client.training.gradients import gradients, trained
from client.training.loop import GRADIENT_NORM, train_centrally, usable
from client.training.personal import personalise, rate_of
from shared.charter_plans import TaskPlan
from shared.imaging.images import PatientImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.start import prepared
from shared.imaging.tasks import Task, get_task
from shared.schedule import cosine

Weights = dict[str, Tensor]
BATCH = {"denoise": 4, "superres": 4, "segment": 2}
ADAM = {"denoise": 1e-3, "superres": 1e-3, "segment": 2e-3}
FINER = {"denoise": 2e-3, "superres": 2e-3, "segment": 3e-3}


@dataclass(frozen=True)
class Strategy:
    """One way to federate.

    Attributes:
        name: As in the table.
        local_steps: Steps of each hospital in a round.
        optimiser: Class in ``torch.optim`` at the hospitals.
        rate: Its rate of the first round; it falls along a half cosine unless the coordinator's falls.
        server: ``average``, ``momentum``, ``yogi``, or a class in ``torch.optim``.
        server_rate: The coordinator's.
        proximal: Mu of FedProx.
        scaffold: Whether control variates correct the steps.
        home: Which parameters stay at home: ``norms``, ``head``.
        finer: So many times as many rounds, of as much smaller batches.
    """

    name: str
    local_steps: int
    optimiser: str
    rate: float
    server: str = "average"
    server_rate: float = 1.0
    proximal: float = 0.0
    scaffold: bool = False
    home: tuple[str, ...] = ()
    finer: int = 1

    def stays(self, name: str, value: Tensor) -> bool:
        """Whether a parameter stays at home."""
        return ("norms" in self.home and value.ndim == 1) or ("head" in self.home and "head" in name.split("."))


def strategies(task: str) -> tuple[Strategy, ...]:
    """All of them, with the rates that were chosen."""
    rate = rate_of(task)
    adam = (10, "Adam", rate / 2)
    return (
        Strategy("fedsgd-adam", 1, "SGD", 0.1, server="Adam", server_rate=ADAM[task]),
        Strategy("finer", 1, "SGD", 0.1, server="Adam", server_rate=FINER[task], finer=BATCH[task]),
        Strategy("fedavg-10", *adam),
        Strategy("fedavg-30", 30, "Adam", rate / 2),
        Strategy("fedprox mu 0.1", *adam, proximal=0.1),
        Strategy("fedprox mu 1", *adam, proximal=1.0),
        Strategy("fedavgm", *adam, server="momentum", server_rate=0.7),
        Strategy("fedadam", *adam, server="Adam", server_rate=rate),
        Strategy("fedyogi", *adam, server="yogi", server_rate=rate),
        Strategy("fedavg-sgd", 10, "SGD", 0.1),
        Strategy("scaffold", 10, "SGD", 0.1, scaffold=True),
        Strategy("fedbn", *adam, home=("norms",)),
        Strategy("local-head", *adam, home=("norms", "head")),
    )


class Yogi:
    """Yogi at the coordinator (Reddi et al. 2021, algorithm 2); ``torch.optim`` has none."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self.param_groups = [{"lr": lr}]
        self._parameters = list(parameters)
        self._first = [torch.zeros_like(one) for one in self._parameters]
        self._second: list[Tensor] = []

    @torch.no_grad()
    def step(self) -> None:
        """Take the gradients for pseudo-gradients; v begins at the square of the first."""
        found = [one.grad for one in self._parameters if one.grad is not None]
        self._second = self._second or [grad.square() for grad in found]
        for parameter, grad, first, second in zip(self._parameters, found, self._first, self._second, strict=True):
            first.mul_(0.9).add_(grad, alpha=0.1)
            second.sub_(0.01 * grad.square() * torch.sign(second - grad.square()))
            parameter.sub_(self.param_groups[0]["lr"] * first / (second.clamp(min=0).sqrt() + 1e-3))


@dataclass(frozen=True)
class Bench:
    """The hospitals of a run: who is trained on, who is held out, and the sites that nobody trains on."""

    task: Task
    plan: TaskPlan
    train: Mapping[str, Sequence[PatientImages]]
    held_out: Mapping[str, Sequence[PatientImages]]
    unseen: tuple[str, ...]
    steps: int
    seed: int

    @classmethod
    def of(cls, run: Path, name: str, *, steps: int, seed: int, start: str) -> "Bench":
        """Load the cohorts of a run."""
        task, train, held_out = get_task(name), {}, {}
        for node in sorted((run / "nodes").iterdir()):
            cohort = Cohort.open(node / "cohort")
            people, others = (usable(task, cohort.load_split(side)) for side in (Split.TRAIN, Split.HELD_OUT))
            if others:
                held_out[node.name] = others
            if people and not node.name.startswith("X"):
                train[node.name] = people
        plan = TaskPlan(name, rounds=steps, local_steps=1, batch=BATCH[name], start=start)  # type: ignore[arg-type]
        unseen = tuple(site for site in held_out if site.startswith("X"))
        return cls(task, plan, train, held_out, unseen, steps, seed)

    def begin(self) -> nn.Module:
        """The network that everybody begins with."""
        return prepared(self.task, self.plan, self.seed).train()

    def score(self, network: nn.Module, site: str) -> float:
        """The main metric on a site's held-out patients."""
        total = Sums.zero()
        for patient in self.held_out[site]:
            for study in patient.studies:
                total = total + self.task.score(self.task.predict(network, study), study)
        return summarise(self.task.name, total)[self.task.main_metric]


def federate(bench: Bench, how: Strategy) -> dict[str, nn.Module]:
    """Each hospital's model after all rounds: one and the same unless parameters stay at home."""
    network = bench.begin()
    names = [name for name, _ in network.named_parameters()]
    shared = _copy(network)
    own: dict[str, Weights] = {}
    total = sum(patient.slices for people in bench.train.values() for patient in people)
    server = _server(how, shared)
    control = {name: torch.zeros_like(value) for name, value in shared.items()}
    controls = {site: dict(control) for site in bench.train}
    rngs = {site: np.random.default_rng([bench.seed, i]) for i, site in enumerate(bench.train)}
    rounds = how.finer * bench.steps // how.local_steps
    for number in range(rounds):
        falls = cosine(number / rounds)
        rate = how.rate if server else how.rate * falls
        update = {name: torch.zeros_like(value) for name, value in shared.items()}
        moved = {name: torch.zeros_like(value) for name, value in shared.items()}
        for site, people in bench.train.items():
            begins = {n: own[site][n] if site in own and how.stays(n, v) else v for n, v in shared.items()}
            _load(network, begins)
            correction = {n: control[n] - controls[site][n] for n in names} if how.scaffold else {}
            _train(bench, network, people, how, rate=rate, rng=rngs[site], anchor=shared, correction=correction)
            own[site] = _copy(network)
            share = sum(patient.slices for patient in people) / total
            for name in names:
                update[name] += share * (own[site][name] - begins[name])
            if how.scaffold:
                fresh = {
                    n: controls[site][n] - control[n] + (begins[n] - own[site][n]) / (how.local_steps * rate)
                    for n in names
                }
                for name in names:
                    moved[name] += (fresh[name] - controls[site][name]) / len(bench.train)
                controls[site] = fresh
        control = {name: control[name] + moved[name] for name in names}
        _step(server, shared, update, how.server_rate * falls)
    if not how.home:
        return dict.fromkeys(own, _network(bench, shared))
    mixed = {site: {n: own[site][n] if how.stays(n, v) else v for n, v in shared.items()} for site in own}
    return {site: _network(bench, weights) for site, weights in mixed.items()}


def _train(
    bench: Bench,
    network: nn.Module,
    people: Sequence[PatientImages],
    how: Strategy,
    *,
    rate: float,
    rng: np.random.Generator,
    anchor: Weights,
    correction: Weights,
) -> None:
    parameters = trained(network)
    optimiser = getattr(torch.optim, how.optimiser)(parameters, lr=rate)
    slices = np.array([patient.slices for patient in people], dtype=np.float64)
    for _ in range(how.local_steps):
        counts = rng.multinomial(bench.plan.batch // how.finer, slices / slices.sum())
        drawn = [bench.task.draw(one, int(n), rng) for one, n in zip(people, counts, strict=True) if n]
        batch = torch.cat([inputs for inputs, _ in drawn]), torch.cat([targets for _, targets in drawn])
        found = gradients(bench.task, network, batch)[1]
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            if how.proximal:
                parameter.grad.add_(parameter.detach() - anchor[name], alpha=how.proximal)
            if correction:
                parameter.grad.add_(correction[name])
        optimiser.step()


def _server(how: Strategy, shared: Weights) -> Any:
    values = list(shared.values())
    if how.server == "average":
        return None
    if how.server == "momentum":
        return torch.optim.SGD(values, lr=how.server_rate, momentum=0.5)
    if how.server == "yogi":
        return Yogi(values, lr=how.server_rate)
    return getattr(torch.optim, how.server)(values, lr=how.server_rate)


def _step(server: Any, shared: Weights, update: Weights, rate: float) -> None:
    """Move ``shared`` in place; without an optimiser by the average itself."""
    if server is None:
        for name, value in shared.items():
            value.add_(update[name])
        return
    server.param_groups[0]["lr"] = rate
    for name, value in shared.items():
        value.grad = -update[name]
    server.step()


def _copy(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@torch.no_grad()
def _load(network: nn.Module, weights: Weights) -> None:
    for name, value in network.named_parameters():
        value.copy_(weights[name])


def _network(bench: Bench, weights: Weights) -> nn.Module:
    network = bench.begin()
    _load(network, weights)
    return network.eval()


# --- the arms beside them ---------------------------------------------------------------------------------------------


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
