"""The arms that show what privacy costs differ in their noise and in nothing else."""

from dataclasses import replace

import pytest

from client.training.accounting import Mechanism, epsilon
from shared.charter import Charter, CharterMember, MaskingPlan, PrivacyPlan, TaskPlan
from shared.errors import UsageError
from simulation.private import arms, charter_of, noise_for

PRIVATE = Charter(
    "private",
    "research",
    (TaskPlan("denoise", 40, 1), TaskPlan("segment", 40, 1)),
    PrivacyPlan("patient", sample_rate=0.5, noise_multiplier=4.0),
    seed=7,
)
KEYS = (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
)
BASE = replace(
    PRIVATE,
    privacy=PrivacyPlan(),
    members=tuple(CharterMember(f"H{number}", key) for number, key in enumerate(KEYS, start=1)),
    masking=MaskingPlan(3, colluding=1),
)


def test_the_first_repeat_at_the_largest_epsilon_is_the_one_of_the_tables() -> None:
    names = [one.name for one in arms(PRIVATE, (1.0, 8.0), 2, masks=True) if one.task.name == "segment"]
    assert names == [
        *("tuned", "federated_dp", "local-1-0", "federated_shared", "shared-1-0"),
        *("tuned-1", "local-8-1", "local-1-1", "shared-8-1", "shared-1-1"),
    ]
    assert len(set(names)) == len(names)


def test_from_a_public_start_training_from_nothing_stands_beside_once_a_repeat() -> None:
    public = replace(PRIVATE, tasks=(TaskPlan("segment", 40, 1, start="public-1", trained="head"),))
    found = [one for one in arms(public, (1.0, 8.0), 2, masks=True) if one.kind == "scratch"]
    assert [(one.name, one.epsilon, one.task.start, one.task.trained) for one in found] == [
        ("scratch", 8.0, "fresh", "all"),
        ("scratch-8-1", 8.0, "fresh", "all"),
    ]
    assert not [one for one in arms(public, (), 1, masks=True) if one.kind == "scratch"]


def test_without_masks_nothing_is_shared() -> None:
    assert {one.kind for one in arms(PRIVATE, (8.0,), 1, masks=False)} == {"tuned", "local"}


def test_arms_differ_in_their_noise_alone() -> None:
    tuned, local, shared = (
        charter_of(BASE, one, PRIVATE.privacy, 24) for one in list(arms(PRIVATE, (8.0,), 1, masks=True))[:3]
    )
    assert (tuned.privacy.mode, local.privacy.mode, shared.privacy.mode) == ("off", "patient", "distributed")
    assert local.privacy == replace(shared.privacy, mode="patient")
    assert shared.privacy.patients == 24
    for other in (local, shared):
        assert replace(other, privacy=tuned.privacy) == tuned


def test_in_the_clear_the_consent_to_scores_is_that_of_the_run() -> None:
    plain = replace(PRIVATE, privacy=PrivacyPlan(scores="open"))
    kinds = [charter_of(plain, one, PRIVATE.privacy, 24).privacy for one in arms(PRIVATE, (8.0,), 1, masks=False)]
    assert {one.scores for one in kinds} == {"open"}


def test_repeats_begin_with_other_seeds() -> None:
    seeds = {charter_of(BASE, one, PRIVATE.privacy, 24).seed for one in arms(PRIVATE, (8.0,), 3, masks=True)}
    assert seeds == {7, 8, 9}


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_the_noise_reaches_the_guarantee_that_was_aimed_at_and_little_more(target: float) -> None:
    sigma = noise_for(target, 1e-5, 0.5, 40)
    found, _ = epsilon([Mechanism(sigma, 0.5, 40)], 1e-5)
    assert target - 0.05 <= found <= target


@pytest.mark.parametrize("target", [1e-9, 1e9])
def test_a_guarantee_that_no_noise_gives_is_refused(target: float) -> None:
    with pytest.raises(UsageError, match="is not from"):
        noise_for(target, 1e-5, 0.5, 3)
