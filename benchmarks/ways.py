"""Ways to federate, trained directly on the cohorts of a run: what :mod:`benchmarks.strategies` compares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.cohort import Cohort, Split
from client.training.gradients import gradients, trained
from client.training.loop import GRADIENT_NORM, usable
from client.training.personal import rate_of
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


BESIDE = Strategy("beside", 10, "Adam", 0.0)
"""How a model beside the federated one is trained on after every tenth round; its rate is the task's."""


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


def federate(
    bench: Bench, how: Strategy, after: Callable[[float, Weights], None] | None = None
) -> dict[str, nn.Module]:
    """Each hospital's model after all rounds: one and the same unless parameters stay at home.

    ``after`` is told the share of the rounds that are done and the model, after every tenth round.
    """
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
        if after and (number + 1) % BESIDE.local_steps == 0:
            after((number + 1) / rounds, shared)
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


def beside(bench: Bench, share: float) -> dict[str, nn.Module]:
    """Each hospital's own model, brought by ``share`` towards the federated one before it is trained on at home."""
    own = {site: _copy(bench.begin()) for site in bench.train}
    rngs = {site: np.random.default_rng([bench.seed, 2, i]) for i, site in enumerate(bench.train)}
    network = bench.begin()

    def after(done: float, shared: Weights) -> None:
        for site, people in bench.train.items():
            _load(network, {name: value.lerp(shared[name], share) for name, value in own[site].items()})
            rate = rate_of(bench.task.name) * cosine(done - BESIDE.local_steps / bench.steps)
            _train(bench, network, people, BESIDE, rate=rate, rng=rngs[site], anchor=shared, correction={})
            own[site] = _copy(network)

    federate(bench, strategies(bench.task.name)[0], after)
    return {site: _network(bench, weights) for site, weights in own.items()}
