"""Attempts to see one hospital's part of a shared step, or a sum with less noise in it than was paid for."""

import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from client.charge import Receipt
from client.masks import Masking
from client.training.loop import price, train_round
from client.training.secure_noise import KeyStream, SecureNoise
from client.training.shared_sum import SharedSum, shared_sum
from server.phases import RoundError
from shared.charter import Charter, MaskingPlan
from shared.errors import BudgetError, CharterError, PolicyError
from shared.noise_shares import NoisePlan
from shared.schedule import local_rate
from shared.vector import Layout
from shared.weights import travelling
from shared.wire import EvaluateRequest, Refusal, TrainRequest, kind_of
from tests.attacks.privacy.hospital import LAYOUT, MODEL, header, send
from tests.client.training.toys import PLAN, ToyTask, people
from tests.federation import toy
from tests.federation.masked import Federation, Wire
from tests.federation.members import invented

torch.set_num_threads(1)

SHARED = {"mode": "distributed", "patients": 16, "noise_multiplier": 2.0}
STEP = {"rounds": 2, "local_steps": 1, "evaluate_every": 99}


def charter(members: int = 3, threshold: int = 3, *, masks: dict[str, Any] | None = None, **privacy: Any) -> Charter:
    plan = MaskingPlan(threshold=threshold, **({"colluding": 0, "clip": 1.0} | (masks or {})))
    return toy.charter(members=invented(members), masking=plan, privacy=SHARED | privacy, plan=STEP)


# --- how much noise is left for whom ----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    members=st.integers(3, 40),
    masks=st.tuples(st.integers(0, 12), st.integers(0, 20), st.integers(0, 8)),
    noise=st.tuples(st.floats(1e-3, 1e4), st.floats(1e-6, 100.0), st.integers(1, 2_000_000)),
    sampling=st.tuples(st.integers(2, 10**7), st.floats(1e-4, 1.0)),
)
def test_whoever_knows_some_of_the_shares_is_left_with_all_of_the_noise(
    members: int, masks: tuple[int, int, int], noise: tuple[float, float, int], sampling: tuple[int, float]
) -> None:
    """The smallest set that anybody unmasks, without the shares of those who collude, and of one curious member."""
    (drops, colluding, more), (sigma, clip, size), (patients, rate) = masks, noise, sampling
    threshold = members - drops
    least = min(max(3, threshold + more), members)
    try:
        rules = charter(
            members,
            threshold,
            masks={"colluding": colluding, "min_included": least},
            noise_multiplier=sigma,
            clip=clip,
            patients=patients,
            sample_rate=rate,
        )
    except CharterError:
        assume(False)
    plan = NoisePlan.of(rules)
    smallest = max(threshold, least)
    unknown = smallest - max(colluding, 1)
    assert unknown >= 2
    share = Fraction(plan.share(size)) * Fraction(plan.unit)
    assert unknown * share**2 >= (Fraction(sigma) * Fraction(clip)) ** 2
    assert plan.divisor == pytest.approx(rate * patients)
    assert math.frexp(plan.unit)[0] == 0.5, "a power of two"
    for included in range(smallest, members + 1):
        assert plan.spread(size, included) ** 2 >= (sigma * clip) ** 2 * included / unknown * (1 - 1e-12)


@pytest.mark.parametrize(
    ("masks", "privacy"),
    [({"ring_bits": 16}, {}), ({}, {"patients": None}), ({}, {"noise_multiplier": 1e-9})],
    ids=["16 bits", "no public constant", "noise of a few steps of the lattice"],
)
def test_a_charter_that_shares_noise_in_a_way_that_protects_nobody(
    masks: dict[str, Any], privacy: dict[str, Any]
) -> None:
    with pytest.raises(CharterError):
        charter(masks=masks, **privacy)


@pytest.mark.parametrize(
    "plan", [{"local_steps": 2}, {"proximal": 0.1}, {"local_optimizer": "Adam"}], ids=lambda plan: next(iter(plan))
)
def test_a_charter_that_shares_noise_over_more_than_one_clipped_step(plan: dict[str, Any]) -> None:
    with pytest.raises(CharterError):
        toy.charter(members=invented(3), masking=MaskingPlan(3), privacy=SHARED, plan=STEP | plan)


def test_a_charter_that_shares_noise_without_masks() -> None:
    with pytest.raises(CharterError):
        toy.charter(privacy=SHARED, plan=STEP)


# --- the step itself --------------------------------------------------------------------------------------------------


class Wide(ToyTask):
    """Three thousand weights, so that one step shows a standard deviation to two percent."""

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        del seed
        return nn.Conv2d(1, 64, 7, padding=3, bias=False)


class Replayed:
    """Random bits that are the same for every step: only tests have them."""

    kind = "replayed"

    def __init__(self) -> None:
        self._rng = np.random.Generator(np.random.PCG64(1))

    def words(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 2**64, count, np.uint64)


ONE_STEP = replace(PLAN, local_steps=1)
RULES = charter(sample_rate=1.0, noise_multiplier=3.0, clip=0.5)
NOISE = NoisePlan.of(RULES)
TASK = Wide()
NETWORK = TASK.network(0)
SIZE = sum(parameter.numel() for parameter in NETWORK.parameters())


def step(count: int = 3, *, source: Any = None, rate: float = 1.0, patients: Any = None) -> SharedSum:
    privacy = replace(RULES.privacy, sample_rate=rate)
    somebody = people(count) if patients is None else patients
    receipt = Receipt(price(TASK, somebody, ONE_STEP, privacy, round_number=1))
    layout = Layout.of(travelling(NETWORK))
    return shared_sum(
        TASK, NETWORK, somebody, ONE_STEP, privacy=privacy, noise=NOISE, layout=layout, receipt=receipt, source=source
    )


def signed(words: np.ndarray) -> np.ndarray:
    """What the words modulo 2^32 stand for, in the units of the gradient."""
    return words.astype(np.uint32).view(np.int32).astype(np.float64) * NOISE.unit


def test_each_share_has_the_noise_that_the_plan_says_around_nothing() -> None:
    found = signed(step(rate=1e-9).words)  # nobody is drawn
    std = NOISE.share(SIZE) * NOISE.unit
    assert std >= 3.0 * 0.5 / math.sqrt(2)
    assert abs(found.mean()) < 5 * std / math.sqrt(SIZE)
    assert found.std() == pytest.approx(std, rel=5 / math.sqrt(2 * SIZE))
    z = found / found.std()
    assert abs((z**3).mean()) < 5 * math.sqrt(6 / SIZE)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(24 / SIZE)
    assert (found < 0).mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(SIZE)), "negative numbers are as frequent"


def test_the_lowest_bits_tell_nothing_and_the_sum_of_words_is_the_sum_of_numbers() -> None:
    """Each word is uniform in its low bits, whatever its sign; a sum modulo 2^32 has no seam at zero."""
    parts = [step(rate=1e-9).words for _ in range(3)]
    for bits in (1, 3, 7):
        counts = np.bincount((parts[0] & np.uint32(bits)).astype(np.int64), minlength=bits + 1)
        assert abs(counts - SIZE / (bits + 1)).max() < 6 * math.sqrt(SIZE / (bits + 1))
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_array_equal(signed(total), sum(signed(part) for part in parts))


def test_one_patient_less_moves_the_words_by_at_most_the_bound_exactly() -> None:
    everybody = people(4, slices=1)
    loud = replace(everybody[0], key="loud")
    object.__setattr__(loud.studies[0], "noisy", loud.studies[0].noisy * np.float32(1e4))
    for patients in (everybody, [everybody[1], loud, everybody[2]]):
        whole = step(patients=patients, source=Replayed()).words
        for left_out in range(len(patients)):
            rest = patients[:left_out] + patients[left_out + 1 :]
            change = (whole - step(patients=rest, source=Replayed()).words).view(np.int32).tolist()
            assert any(change)
            assert Fraction(sum(x * x for x in change)) * Fraction(NOISE.unit) ** 2 <= Fraction(RULES.privacy.clip) ** 2


def test_no_seed_repeats_a_share() -> None:
    shares = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        shares.append(signed(step(rate=1e-9).words))
    assert abs(np.corrcoef(*shares)[0, 1]) < 6 / math.sqrt(SIZE)


def in_a_child(draw: Callable[[], np.ndarray]) -> bytes:
    """What a process that was forked draws."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, np.ascontiguousarray(draw()).tobytes()[:4096])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    assert data
    return data


def test_processes_that_were_forked_never_draw_the_same() -> None:
    """The worst moment to fork: the source is there, and was used for an odd number of values."""
    stream, normal = KeyStream(), SecureNoise()
    stream.integers(3)
    normal.normal(3)
    draws: list[Callable[[], np.ndarray]] = [
        lambda: stream.integers(16),
        lambda: stream.words(16),
        lambda: normal.normal(16),
        lambda: step(rate=1e-9).words,
    ]
    for draw in draws:
        own = np.ascontiguousarray(draw()).tobytes()[:4096]
        found = {in_a_child(draw), in_a_child(draw), own, np.ascontiguousarray(draw()).tobytes()[:4096]}
        assert len(found) == 4


def test_a_shared_step_is_no_round_of_a_hospital_alone() -> None:
    """Through the door of ordinary private training: its answer would have a share of the noise only."""
    privacy = RULES.privacy
    receipt = Receipt(price(TASK, people(3), ONE_STEP, privacy, round_number=1))
    with pytest.raises(PolicyError):
        train_round(
            TASK, TASK.network(0), people(3), ONE_STEP, round_number=1, privacy=privacy, seed=None, receipt=receipt
        )
    assert receipt.left == 1


@pytest.mark.parametrize(
    "cheaper",
    [{"noise_multiplier": 9.0}, {"sample_rate": 0.01}],
    ids=lambda change: next(iter(change)),
)
def test_a_shared_step_with_the_receipt_of_something_else(cheaper: dict[str, Any]) -> None:
    charge = replace(price(TASK, people(3), ONE_STEP, RULES.privacy, round_number=1), **cheaper)
    layout = Layout.of(travelling(NETWORK))
    for receipt in (Receipt(charge), None):
        with pytest.raises(BudgetError):
            shared_sum(
                TASK,
                NETWORK,
                people(3),
                ONE_STEP,
                privacy=RULES.privacy,
                noise=NOISE,
                layout=layout,
                receipt=receipt,
            )


# --- what leaves the hospital -----------------------------------------------------------------------------------------


def federation(root: Path, sites: int = 4, **privacy: Any) -> Federation:
    return Federation.make(root, sites, plan=STEP, privacy=SHARED | privacy)


def everything(root: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def traces(words: np.ndarray, unit: float) -> list[bytes]:
    """Ways in which a few elements of the unmasked words may stand somewhere."""
    numbers = words.view(np.int32).astype(np.int64)
    forms = [numbers.astype(kind) for kind in ("<i4", "<i8", ">i4", ">i8")]
    forms += [(numbers * unit).astype(kind) for kind in ("<f4", "<f8")]
    binary = [form[place : place + 2].tobytes() for form in forms for place in (0, 5)]
    return binary + [str(number).encode() for number in [*numbers.tolist(), *words.tolist()] if abs(number) > 10**6]


def test_the_words_before_the_masks_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in an answer, a log, a ledger, or any file of the hospitals or of the coordinator, nor the run's history."""
    seen: list[np.ndarray] = []
    act = Masking.mask

    def watched(masking: Masking, update: np.ndarray, *values: Any) -> Any:
        if update.size:
            seen.append(update.copy())
        return act(masking, update, *values)

    monkeypatch.setattr(Masking, "mask", watched)
    wire, four = Wire(), federation(tmp_path)
    result = four.run(wire)
    assert len(seen) == 2 * 4
    assert all(update.dtype == np.uint32 for update in seen)
    places = everything(tmp_path) + repr(result.history).encode()
    for *_, content in wire.seen:
        arrays = content.get("arrays", {}).values()
        places += b"\0".join([*(bytes(array.data) for array in arrays), repr(content).encode()])
    unit = NoisePlan.of(four.charter).unit
    assert not [trace for update in seen for trace in traces(update, unit) if trace in places]


def test_a_masking_that_fails_tells_nothing_of_what_it_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    act = Masking.mask

    def fails(masking: Masking, update: np.ndarray, *values: Any) -> Any:
        if not update.size:
            return act(masking, update, *values)
        said.append(" ".join(map(str, update.tolist())))
        raise ValueError(said[-1])

    four, wire = federation(tmp_path), Wire()
    with monkeypatch.context() as patch:
        patch.setattr(Masking, "mask", fails)
        with pytest.raises(RoundError) as info:
            four.run(wire)
    numbers = {number.encode() for line in said for number in line.split() if len(number) > 6}
    assert numbers
    places = everything(tmp_path) + str(info.value).encode() + repr(four.history).encode()
    places += b"".join(repr(content).encode() for *_, content in wire.seen)
    assert not [number for number in numbers if number in places]


def test_a_readable_answer_is_never_given(tmp_path: Path) -> None:
    """The request without masks, to a virtual hospital too, which answers in the clear elsewhere."""
    four = federation(tmp_path)
    rules = four.charter
    for kind, request in (
        ("train", TrainRequest(header(rules), LAYOUT.sha256, MODEL)),
        ("evaluate", EvaluateRequest(header(rules), LAYOUT.sha256, MODEL)),
    ):
        answer = send(tmp_path / "H1", request.to_record(), kind)
        assert kind_of(answer) == Refusal.kind
        assert Refusal.from_record(answer).code == "policy"
    assert not (tmp_path / "H1" / "privacy").exists()


def test_a_node_that_pins_a_charter_without_masks_never_takes_its_noise_for_shared(tmp_path: Path) -> None:
    """The file of the pinned charter, edited: masks taken out."""
    four = federation(tmp_path)
    path = tmp_path / "H1" / "charter.toml"
    text = path.read_text()
    start, end = text.index("[secure_aggregation]"), text.index("[[task]]")
    path.write_text(text[:start] + text[end:])
    answer = send(tmp_path / "H1", TrainRequest(header(four.charter), LAYOUT.sha256, MODEL).to_record(), "train")
    assert Refusal.from_record(answer).code in {"policy", "error"}


def test_a_round_is_not_summed_again_over_others(tmp_path: Path) -> None:
    four = federation(tmp_path)
    four.run()
    with pytest.raises(RoundError, match="unmasked with other hospitals in it"):
        four.run(Wire(absent=frozenset({"H4"})), run="another")


def test_the_same_round_again_over_the_same_is_paid_for_again_and_has_other_noise(tmp_path: Path) -> None:
    four = federation(tmp_path)
    models = [four.run(run=run).model.vector for run in ("one", "two")]
    assert models[0].tobytes() != models[1].tobytes()
    charged = [row for row in toy.log_rows(tmp_path / "H1") if row["action"] == "privacy.charge"]
    assert [row["run"] for row in charged if row["outcome"] == "ok"] == ["one"] * 2 + ["two"] * 2


@pytest.mark.live
def test_fewer_than_the_quorum_give_no_sum(tmp_path: Path) -> None:
    with pytest.raises(RoundError):
        federation(tmp_path).run(Wire(absent=frozenset({"H3", "H4"})))


def test_the_sum_that_the_coordinator_reads_has_the_noise_of_all_who_are_in_it(tmp_path: Path) -> None:
    """Noise of 200 C, in which the patients' gradients do not count: its size is that of the model's change."""
    four = Federation.make(tmp_path, 4, plan=STEP | {"rounds": 12}, privacy=SHARED | {"noise_multiplier": 200.0})
    noise, plan = NoisePlan.of(four.charter), four.charter.tasks[0]
    rows = four.run().history.rounds[1:]
    sizes = [row.update_norm * noise.divisor / local_rate(plan, row.round) for row in rows]
    found = math.sqrt(np.mean(np.square(sizes)) / 12)
    assert found == pytest.approx(noise.spread(12, 4), rel=5 / math.sqrt(2 * 12 * 12))
    assert found > 200.0 * math.sqrt(2) * 0.7
