"""Rounds under shared noise with the real ClientApp: what the coordinator gets, what is in it, and what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from client import rounds
from client.app import close_sessions
from client.charge import Budget
from client.ledger import Ledger
from client.training import shared_sum as at_hospital
from client.training.patient_dp import PatientDPOptimizer
from client.training.rounded_normal import RoundedNormal
from server.aggregation import PlainAggregation
from server.phases import RoundError
from server.strategy import Result
from shared.errors import CharterError, PolicyError
from shared.imaging.tasks import register
from shared.noise_shares import NoisePlan, words
from shared.schedule import local_rate
from shared.vector import Layout
from shared.wire import MaskedBody, TrainReply
from tests.federation import toy
from tests.federation.masked import Federation, Wire
from tests.shared.secagg.world import World

CONFIRM, UNMASK = "query.secagg_confirm", "query.secagg_unmask"
PRIVACY = {"mode": "distributed", "patients": 16, "noise_multiplier": 1.5, "sample_rate": 0.5}


@register
class Wide(toy.Toy):
    """The toy task with 90,401 weights: enough to measure noise with."""

    name = "wide"

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        torch_state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        layers = (nn.Conv2d(1, 100, 1), nn.Conv2d(100, 100, 3, padding=1), nn.Conv2d(100, 1, 1))
        torch.random.set_rng_state(torch_state)
        return nn.Sequential(*layers)


@dataclass
class Made:
    """What hospitals put into the masks in a test, by site, in order; and the noise alone that is in it."""

    words: list[tuple[str, NDArray[np.uint32]]]
    noise: list[tuple[str, NDArray[np.int64]]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Listens at every hospital, between the sum and the masks."""
    seen, drawn = Made([], []), dict[int, NDArray[np.int64]]()

    class Listening(RoundedNormal):
        def draw(self, count: int) -> NDArray[np.int64]:
            drawn[0] = super().draw(count)
            return drawn[0]

    def listening(task: Any, network: Any, people: Any, *rest: Any, **options: Any) -> at_hospital.SharedSum:
        made = real(task, network, people, *rest, **options)
        site = people[0].key.split("-")[1]
        seen.words.append((site, made.words))
        seen.noise.append((site, drawn.pop(0)))
        return made

    real = at_hospital.shared_sum
    monkeypatch.setattr(at_hospital, "RoundedNormal", Listening)
    monkeypatch.setattr(rounds, "shared_sum", listening)
    yield seen
    close_sessions()


def hospitals(root: Path, sites: int = 4, *, task: str = "toy", **changes: Any) -> Federation:
    plan = {"name": task, "rounds": 1, "local_steps": 1, "evaluate_every": 9, **changes.pop("plan", {})}
    return Federation.make(root, sites, plan=plan, privacy={**PRIVACY, **changes.pop("privacy", {})}, **changes)


def losing(*lost: tuple[str, str], first: int = 0, times: int = 1) -> Wire:
    return Wire(lose=lambda site, kind, count: (site, kind) in lost and first <= count < first + times)


def last_of(pairs: list[tuple[str, NDArray[Any]]], sites: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The newest of each of these sites."""
    return {site: value for site, value in pairs if site in sites}


def answered(result: Result) -> tuple[str, ...]:
    phase = result.history.rounds[1].train
    assert phase is not None
    return phase.answered


# --- what the coordinator gets ----------------------------------------------------------------------------------------

CASES = {
    "nobody is lost": Wire(),
    "one is lost before the sum": losing(("H2", "train")),
    "one is silent after the sum": losing(("H2", CONFIRM), first=1),
    "one reveals nothing": losing(("H2", UNMASK), first=1),
    "too many are lost, and the round is repeated": losing(("H2", "train"), ("H3", "train")),
    "and repeated when the sum was there": losing(("H2", UNMASK), ("H3", UNMASK), first=1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_noise_that_others_cannot_subtract_is_what_is_claimed_whoever_is_in_the_sum(
    case: str, tmp_path: Path, made: Made
) -> None:
    federation = hospitals(tmp_path, task="wide", masks={"colluding": 1})
    result = federation.run(replace(CASES[case], counts={}, seen=[]))
    included = answered(result)
    assert len(included) == (3 if case == "one is lost before the sum" else 4)
    noise, plan = NoisePlan.of(federation.charter), last_of(made.noise, included)
    claimed = 1.5 * noise.clip / noise.unit
    size = 90_401
    for traitor in included:
        left = sum(value for site, value in plan.items() if site != traitor)
        assert left.size == size
        ratio = left.std() / claimed
        assert ratio == pytest.approx(np.sqrt((len(included) - 1) / 2), rel=5 / np.sqrt(2 * size))
        assert ratio > 1 - 5 / np.sqrt(2 * size)


@pytest.mark.parametrize("case", list(CASES)[:4])
def test_the_model_moves_by_the_exact_sum_of_what_was_masked(case: str, tmp_path: Path, made: Made) -> None:
    federation = hospitals(tmp_path)
    result = federation.run(replace(CASES[case], counts={}, seen=[]))
    total = sum(value.astype(np.int64) for value in last_of(made.words, answered(result)).values())
    signed = (total + 2**31) % 2**32 - 2**31
    plan, noise = federation.charter.tasks[0], NoisePlan.of(federation.charter)
    task = toy.Toy()
    start = np.concatenate([value.detach().flatten() for value in task.network(3).parameters()])
    step = (signed * noise.unit / (0.5 * 16) * local_rate(plan, 1)).astype(np.float32)
    assert result.model.vector.tolist() == pytest.approx((start - step).tolist(), rel=1e-6)
    record = result.history.rounds[1]
    assert record.weight == len(answered(result))
    assert record.update_norm == pytest.approx(np.linalg.norm(step), rel=1e-5)
    assert dict(record.train.sums) == {}


def test_a_hospital_notes_what_it_did_and_nobody_reads_it(tmp_path: Path, made: Made) -> None:
    wire = Wire()
    federation = hospitals(tmp_path, 3)
    federation.run(wire)
    uploads = [TrainReply.from_record(content).body for _, kind, _, content in wire.seen if kind == "train"]
    assert all(isinstance(body, MaskedBody) for body in uploads)
    sent = {bytes(body.upload[144:]) for body in uploads}
    assert not sent & {value.tobytes() for _, value in made.words}
    for site in federation.sites:
        done = next(
            r["detail"] for r in toy.log_rows(tmp_path / site) if (r["action"], r["outcome"]) == ("train", "ok")
        )
        assert (done["masked"], done["steps"], done["noise"]) == (True, 1, "aes-256-ctr")
        assert "clipped" not in done


def test_it_learns_where_the_noise_is_small(tmp_path: Path) -> None:
    privacy = {"noise_multiplier": 0.05, "sample_rate": 1.0}
    federation = hospitals(tmp_path, plan={"rounds": 6, "evaluate_every": 6}, privacy=privacy)
    scores = [one.evaluation.sums["mse"] for one in federation.run().history.rounds if one.evaluation]
    assert scores[-1] < 0.7 * scores[0]


# --- one patient more -------------------------------------------------------------------------------------------------


class Replayed:
    """Random words that can be had again: for tests alone."""

    kind = "seeded"

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def words(self, count: int) -> NDArray[np.uint64]:
        return self._generator.integers(2**64, size=count, dtype=np.uint64)


@pytest.mark.parametrize("kind", ["random", "long", "one element", "not finite"])
@pytest.mark.parametrize("clipping", ["automatic", "flat"])
def test_one_patient_more_changes_the_unmasked_sum_by_at_most_the_bound_exactly(kind: str, clipping: str) -> None:
    size, rng = 2000, np.random.default_rng(4)
    noise = NoisePlan(noise_multiplier=2.0, clip=0.3, honest=2, members=4, unit=2.0**-22, divisor=8.0)
    mine = {
        "random": rng.normal(size=size),
        "long": rng.normal(size=size) * 1e6,
        "one element": np.eye(1, size, 7)[0],
        "not finite": np.full(size, np.nan),
    }[kind]
    others = {site: [rng.normal(size=size) for _ in range(3)] for site in range(1, 5)}

    def total(more: bool) -> NDArray[np.float64]:
        world = World.of(4, integers=True, w_max=1)
        world.begin()
        sent = {}
        for site, patients in others.items():
            weights = [nn.Parameter(torch.zeros(size))]
            optimizer = PatientDPOptimizer(
                torch.optim.SGD(weights, lr=1.0),
                noise_multiplier=0.0,
                max_grad_norm=noise.clip,
                expected_batch_size=noise.divisor,
                clipping=at_hospital.Clipping(clipping),
                unit=noise.unit,
            )
            for gradient in [*patients, mine] if more and site == 2 else patients:
                optimizer.accumulate([torch.from_numpy(gradient).float()])
            shares = RoundedNormal(noise.share(size), Replayed(site)).draw(size)
            sent[site] = words(optimizer.lattice_sum.numpy() + shares)
        return world.run(world.task(1, size, ()), sent, dict.fromkeys(sent, 1)).average

    change = total(True) - total(False)
    squared = sum(int(value) ** 2 for value in change)
    assert squared * Fraction(noise.unit) ** 2 <= Fraction(noise.clip) ** 2
    assert (squared > 0) == (kind != "not finite")


# --- what is refused --------------------------------------------------------------------------------------------------


def of_train(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """What becomes of a hospital's leave to mask an update."""
    real = rounds.masks.expected

    def changed(*rest: Any, **options: Any) -> Any:
        found = real(*rest, **options)
        return change(found) if options["size"] else found

    monkeypatch.setattr(rounds.masks, "expected", changed)


def test_nothing_leaves_without_masks_by_the_charter_or_past_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = hospitals(tmp_path, 3)
    with pytest.raises(CharterError, match="protects a sum alone"):
        replace(federation.charter, masking=None, members=())
    with pytest.raises(PolicyError, match="nothing in the clear"):
        PlainAggregation(federation.charter, None, Layout(()))  # type: ignore[arg-type]
    of_train(monkeypatch, lambda _: None)
    with pytest.raises(RoundError) as caught:
        federation.run()
    assert all("masked or not at all" in why for why in caught.value.record.refused.values())
    assert set(caught.value.record.refused) == set(federation.sites)
    charged = [row for row in toy.log_rows(tmp_path / "H1") if row["action"] == "privacy.charge"]
    assert charged == [], "what is refused is not paid for"


def test_masks_that_would_scale_and_clip_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = hospitals(tmp_path, 3)
    clipping = replace(federation.charter.federation, integers=False)
    of_train(monkeypatch, lambda masking: replace(masking, member=SimpleNamespace(federation=clipping)))
    with pytest.raises(RoundError) as caught:
        federation.run()
    assert all("masked or not at all" in why for why in caught.value.record.refused.values())
    assert set(caught.value.record.refused) == set(federation.sites)


def test_too_few_are_not_summed(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match=r"2 masked answers came, 3 are needed"):
        hospitals(tmp_path).run(losing(("H2", "train"), ("H3", "train"), times=99))


# --- a coordinator that asks twice ------------------------------------------------------------------------------------


def with_patients(federation: Federation) -> Federation:
    """The same hospitals, as if they were no virtual ones, each with a budget."""
    for site in federation.sites:
        about = federation.root / site / "node.json"
        about.write_text(about.read_text().replace("true", "false"))
        with Ledger(federation.node(site).ledger(), data_set=site) as ledger:
            ledger.set_budget(Budget(1e6, 1e-5, 4), who="a test", why="rounds that are repeated")
        toy.with_basis(federation.root / site)
    return federation


def test_a_repeated_round_is_a_new_draw_under_new_noise_and_charged_each_time(tmp_path: Path, made: Made) -> None:
    federation = with_patients(hospitals(tmp_path))
    federation.run(losing(("H2", "train"), ("H3", "train")))
    for site in federation.sites:
        own = [value for of, value in made.words if of == site]
        assert len(own) == 2
        assert (own[0] == own[1]).mean() < 0.5
        rows = toy.log_rows(tmp_path / site)
        charged = [r for r in rows if (r["action"], r["outcome"]) == ("privacy.charge", "ok")]
        assert len(charged) == len(own), "as many charges as vectors that could be in a sum"


def test_a_round_is_paid_for_three_times_at_most(tmp_path: Path) -> None:
    federation = with_patients(hospitals(tmp_path))
    with pytest.raises(RoundError):
        federation.run(losing(("H2", "train"), ("H3", "train"), times=99))
    with pytest.raises(RoundError, match="privacy ledger does not pay"):
        federation.run()


def test_one_round_is_not_summed_over_two_sets(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    federation.run()
    with pytest.raises(RoundError, match="unmasked with other hospitals in it"):
        federation.run(Wire(absent=frozenset({"H4"})), run="another")
