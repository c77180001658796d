"""Attempts to learn how many patients a hospital has, who they are and how they score, from what it answers."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from client.app import close_sessions
from client.charge import Receipt
from client.cohort import Split
from client.node import Node
from client.training.loop import price, train_round
from server.phases import RoundError
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import get_task
from shared.records import record_bytes
from shared.wire import EvaluateReply, PlainBody, Refusal, TrainReply, kind_of
from tests.attacks.privacy.hospital import (
    LAYOUT,
    MODEL,
    PRIVACY,
    RULES,
    evaluate,
    header,
    make_real,
    refused,
    set_budget,
    train,
    trained,
)
from tests.federation import masked, toy
from tests.federation.masked import Federation, Wire

torch.set_num_threads(1)


def hospital(root: Path, patients: int, rules: Charter = RULES) -> Path:
    """H1 with so many patients in training."""
    return toy.make_node(root / str(patients) / "H1", "H1", rules, patients=patients)


def same_but_for_the_numbers(content: RecordDict) -> str:
    """Everything in an answer but the float32 numbers of the update itself."""
    return re.sub(r"data=b'.*?'", "data", repr({name: record for name, record in content.items() if name != "arrays"}))


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", ["masked", "open"])
def test_an_answer_of_four_patients_looks_like_one_of_forty(tmp_path: Path, scores: str) -> None:
    rules = toy.charter(privacy=PRIVACY | {"scores": scores})
    answers = [train(hospital(tmp_path, patients, rules), header(rules)) for patients in (4, 40)]
    bodies = [TrainReply.from_record(answer).body for answer in answers]
    assert all(isinstance(body, PlainBody) for body in bodies)
    assert [(body.weight, dict(body.metrics)) for body in bodies] == [(1.0, {})] * 2  # type: ignore[union-attr]
    assert record_bytes(answers[0]) == record_bytes(answers[1])
    assert same_but_for_the_numbers(answers[0]) == same_but_for_the_numbers(answers[1])


def test_under_masks_all_lengths_are_the_same_whoever_has_how_many(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 3, plan={"rounds": 1}, privacy={"mode": "patient"})
    shutil.rmtree(tmp_path / "H2" / "cohort")
    shutil.copytree(toy.make_node(tmp_path / "other", "H2", RULES, patients=30) / "cohort", tmp_path / "H2" / "cohort")
    wire = Wire()
    result = federation.run(wire)
    for kind in ("train", "evaluate"):
        sizes = {record_bytes(content) for _, asked, _, content in wire.seen if asked == kind}
        assert len(sizes) == 1
    assert result.history.rounds[1].train is not None
    assert (result.history.rounds[1].weight, dict(result.history.rounds[1].train.sums)) == (3, {})


def test_the_declared_number_divides_and_not_the_true_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise is as great at a hospital of 4 as at one of 16 that declared the same number; were the true number
    the divisor, it would be four times as great, and the size of any update would tell how many there are."""
    rules = toy.charter(privacy=PRIVACY | {"noise_multiplier": 50.0})
    sizes = []
    for patients in (4, 16):
        folder = make_real(hospital(tmp_path, patients, rules), monkeypatch)
        set_budget(folder, 1e4, patients=8)
        updates = [
            TrainReply.from_record(train(folder, header(rules, run=f"r{n}"))).body.update  # type: ignore[union-attr]
            for n in range(12)
        ]
        sizes.append(np.sqrt(np.mean(np.square(updates))))
        close_sessions()
    assert sizes[0] / sizes[1] == pytest.approx(1, abs=5 / np.sqrt(12 * 12))
    expected = 50.0 / (0.5 * 8) * 0.2 * np.sqrt(2)
    assert sizes[0] == pytest.approx(expected, rel=5 / np.sqrt(2 * 12 * 12))


def test_no_model_that_a_coordinator_sends_makes_a_hospital_send_its_gradients(tmp_path: Path) -> None:
    """Weights so great that gradients overflow, or vanish: what leaves is noise of the same size."""
    folder = hospital(tmp_path, 4)
    for number, scale in enumerate((0.0, 1e-30, 1e18, 3e38)):
        model = replace(MODEL, vector=np.full_like(MODEL.vector, scale))
        answer = train(folder, header(model=LAYOUT.digest(model), run=f"r{number}"), model)
        body = TrainReply.from_record(answer).body
        assert isinstance(body, PlainBody)
        assert np.isfinite(body.update).all()


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "patient"])
def test_scores_leave_without_masks_by_consent_only(tmp_path: Path, mode: str) -> None:
    for scores, kind in (("masked", Refusal.kind), ("open", EvaluateReply.kind)):
        rules = toy.charter(privacy=PRIVACY | {"mode": mode, "scores": scores})
        folder = toy.make_node(tmp_path / scores / "H1", "H1", rules)
        assert kind_of(evaluate(folder, header(rules, round=0))) == kind


def test_a_real_hospital_shows_no_scores_in_the_clear_even_by_consent(tmp_path: Path) -> None:
    rules = toy.charter(privacy=PRIVACY | {"scores": "open"})
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    about = folder / "node.json"
    about.write_text(about.read_text().replace('"virtual": true', '"virtual": false'))
    assert refused(evaluate(folder, header(rules, round=0))).code == "policy"


def crafted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The coordinator begins with a model that answers ``factor`` times the pixel."""
    state = {name: np.zeros_like(value) for name, value in masked.weights_of(get_task("toy").network(3)).items()}
    state["0.weight"][0, 0, 0, 0], state["1.weight"][0, 0, 1, 1] = 1.0, factor
    monkeypatch.setattr(masked, "weights_of", lambda _: state)


def test_a_model_made_to_burst_at_one_hospital_does_not_make_that_one_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score too great for the masks is a hospital's own number: whether it is must not be told in the clear.

    By bisection over the factor, one question each, a coordinator would read every hospital's score to any digit.
    """
    federation = Federation.make(tmp_path, 4, plan={"rounds": 1})
    bursts = {}
    for site in federation.sites:
        (patient,) = Node.open(tmp_path / site).cohort.load_split(Split.HELD_OUT)
        bursts[site] = math.sqrt(2**36 / sum(float(np.square(study.noisy).sum()) for study in patient.studies))
    first, second, *_ = sorted(bursts.values())
    crafted(monkeypatch, math.sqrt(first * second))
    told: list[str] = []
    try:
        federation.run()
    except RoundError as error:
        told += error.record.refused
    for record in federation.history.rounds:
        told += record.evaluation.refused if record.evaluation else {}
    assert len(set(told)) in {0, 4}, f"{told} refuse, and nobody else: theirs is the score above 2^36"


def test_the_network_of_denoising_can_be_made_to_burst_for_some_images_alone() -> None:
    """Why the test before is not about a toy: outputs are cut to [0, 1], and NaN is not."""
    task = get_task("denoise")
    network = task.network(0)
    rng = np.random.default_rng(0)
    noisy = rng.random((2, 32, 32), dtype=np.float32)
    with torch.no_grad():
        first = next(parameter for parameter in network.parameters() if parameter.dim() == 4)
        first.zero_()
        first[:, :, 1, 1] = 5e19
    finite = []
    for contrast in (0.5, 1.0):
        study = StudyImages("MR", noisy * np.float32(contrast), noisy, None, (1.0, 1.0))
        scores = task.score(task.predict(network, study), study).values
        finite.append(bool(np.isfinite(list(scores.values())).all()))
    assert finite[0] == finite[1], "whether a score is a number depends on the patients"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals_are_the_same_for_any_number_of_patients(tmp_path: Path) -> None:
    rules = toy.charter(privacy=PRIVACY, min_patients=7)
    reasons = set()
    for patients in (1, 2, 6):
        refusal = refused(train(hospital(tmp_path, patients, rules), header(rules)))
        reasons.add((refusal.code, refusal.reason))
    ((_, reason),) = reasons
    assert not re.search(r"\d", reason)


def test_a_refusal_for_the_budget_says_nothing_of_what_is_spent_or_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for patients, epsilon in ((4, 0.5), (12, 2.0)):
        folder = make_real(hospital(tmp_path, patients), monkeypatch)
        set_budget(folder, epsilon, patients=patients)
        while trained(answer := train(folder, header(run="run-1"))):
            pass
        answers.append(answer)
        close_sessions()
    assert refused(answers[0]) == refused(answers[1])
    assert record_bytes(answers[0]) == record_bytes(answers[1])


def images(key: str, value: float | None, side: int = 64) -> PatientImages:
    rng = np.random.default_rng(list(key.encode()))
    pixels = rng.random((2, side, side), np.float32) if value is None else np.full((2, side, side), value, np.float32)
    label = rng.integers(0, 4, pixels.shape).astype(np.uint8)
    return PatientImages(key, (StudyImages("MR", pixels, pixels.copy(), label, (1.0, 1.0)),))


@pytest.mark.parametrize(
    "odd",
    [images("X", math.nan), images("X", math.inf), images("X", 3e38), images("X", 0.0), images("X", None, 1)],
    ids=["NaN pixels", "infinite pixels", "huge pixels", "all black", "one pixel"],
)
@pytest.mark.parametrize("name", ["denoise", "superres", "superres_gan", "segment"])
def test_no_patients_images_turn_an_answer_into_a_refusal(name: str, odd: PatientImages) -> None:
    """Whoever turns a noisy answer into a refusal is seen with certainty, whatever epsilon is: an exception is a
    channel without noise, and the round is answered with its name in the clear."""
    task, plan = get_task(name), TaskPlan(name, rounds=1, local_steps=1)
    privacy = PrivacyPlan("patient", sample_rate=1.0, slices_per_patient=2)
    people, network = [images("A", None), images("B", None), odd], task.network(0)
    receipt = Receipt(price(task, people, plan, privacy, round_number=1))
    train_round(task, network, people, plan, round_number=1, privacy=privacy, seed=None, receipt=receipt)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
