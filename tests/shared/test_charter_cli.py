"""``fedward charter check``: what a charter means in plain words, and what it warns of."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.patient_dp import PatientDPOptimizer
from client.training.sampling import cap
from shared import console
from shared.bundle import digest
from shared.charter import Charter, CoordinatorPlan, MaskingPlan, PrivacyPlan, TaskPlan
from shared.charter_check import SIGMAS, cautions, update_bound
from shared.charter_cli import app
from shared.charter_words import NOT_PROTECTED, explain, lines
from shared.errors import CharterError
from shared.identity import fingerprint, grouped
from tests.federation import members as fed
from tests.federation import toy

PAGE = Path(__file__).parents[2] / "docs" / "secure-aggregation.md"


def charter(count: int = 3, threshold: int = 3, *, plan: dict[str, Any] | None = None, **changes: Any) -> Charter:
    return fed.masked(fed.invented(count), threshold, plan or {}, **changes)


def words(rules: Charter, title: str) -> str:
    return "\n".join(next(one.lines for one in explain(rules) if one.title == title))


def named(rules: Charter) -> set[str]:
    return {one.name for one in cautions(rules)}


def check(tmp_path: Path, rules: Charter, *options: str) -> str:
    (tmp_path / "charter.toml").write_text(rules.to_toml())
    return fed.command(app, "check", tmp_path / "charter.toml", *options)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_it_names_the_members_with_what_they_read_out(tmp_path: Path) -> None:
    rules = charter(4)
    text = check(tmp_path, rules)
    assert grouped(rules.sha256) in text
    assert toy.PURPOSE in text
    for number, member in enumerate(rules.members, start=1):
        assert f"{number}. {member.name}, fingerprint {fingerprint(bytes.fromhex(member.identity))}" in text


LINK = CoordinatorPlan("imaging-1", "fl.example.org:9443", "cd" * 32, "DE")


def test_it_says_whom_the_hospitals_connect_to_and_where_everybody_is(tmp_path: Path) -> None:
    at_home, abroad, silent = fed.invented(3)
    members = (dataclasses.replace(at_home, country="DE"), dataclasses.replace(abroad, country="CN"), silent)
    rules = fed.masked(members, 3, {}, coordinator=LINK)
    text = words(rules, "Coordinator")
    assert "imaging-1, at fl.example.org:9443, in DE" in text
    assert f"connect to nobody else: the SHA-256 of its authority's certificate is {grouped('cd' * 32)}" in text
    people = words(rules, "Members").splitlines()
    assert [line.rpartition(", in ")[2] for line in people[:2]] == ["DE", "CN"]
    assert ", in " not in people[2]
    assert "hospital connects to one" not in text
    found = json.loads(check(tmp_path, rules, "--json"))
    assert found["coordinator"] == dataclasses.asdict(LINK)
    assert [one["country"] for one in found["members"]] == ["DE", "CN", None]


def test_without_a_coordinator_it_says_so(tmp_path: Path) -> None:
    assert "no hospital connects to one" in words(charter(), "Coordinator")
    assert json.loads(check(tmp_path, charter(), "--json"))["coordinator"] is None


def test_it_prints_the_digest_of_the_release_that_is_installed(tmp_path: Path) -> None:
    assert f"app digest of this release: {digest()}" in check(tmp_path, charter())
    assert json.loads(check(tmp_path, toy.charter(), "--json"))["installed_app"] == digest()


def test_it_says_what_a_round_needs_and_what_it_costs() -> None:
    rules = charter(10, 8, plan={"colluding": 5, "post_quantum": True, "apps": ("ab" * 32,), "ring_bits": 16})
    text = words(rules, "Secure aggregation")
    assert "10 members; 8 must confirm and unmask a round (t = 8), so 2 may drop out of it (delta = 2)" in text
    assert "fewer than 8 hospitals" in text
    assert "c = 5" in text
    assert "16 bits, 2 bytes of upload for each parameter" in text
    assert "clipped to 4 either way" in text
    assert "10000 (w_max)" in text
    assert "ML-KEM-768" in text
    assert f"only a hospital with this release takes part (app digest, bound into every signature): {'ab' * 32}" in text
    assert "not post-quantum" in words(charter(), "Secure aggregation")


def test_min_included_above_the_threshold_takes_drop_outs_away() -> None:
    text = words(charter(5, 4, plan={"min_included": 5}), "Secure aggregation")
    assert "so 0 may drop out" in text
    assert "fewer than 5 hospitals" in text


def test_min_sites_above_the_quorum_takes_drop_outs_away(tmp_path: Path) -> None:
    rules = charter(5, 4, min_sites=5)
    text = words(rules, "Secure aggregation")
    assert "so 0 may drop out of it (delta = 1)" in text
    assert "needs 5 hospitals to the end of a round (the greater of these 4 and min_sites = 5)" in text
    assert "so 0 may drop out" in words(charter(5, 4, min_sites=9), "Secure aggregation")
    facts = json.loads(check(tmp_path, rules, "--json"))["secure_aggregation"]
    assert (facts["drops"], facts["needed"], facts["quorum"]) == (0, 5, 4)
    assert "fewer than min_sites = 2 answers ends the run" in words(toy.charter(), "What is trained")


def test_it_says_what_a_refusal_tells_and_what_no_round_tells() -> None:
    assert "why a hospital refuses, in one line without data of patients" in words(
        charter(), "What the coordinator learns"
    )
    text = words(charter(), "What it does not learn")
    assert "update, weight or metric from a round" in text
    assert "not summed a second time in the same round with others" in text


def test_it_says_whose_privacy_it_is() -> None:
    off, on = charter(), charter(privacy={"mode": "patient", "noise_multiplier": 5.5})
    assert "no differential privacy" in words(off, "Privacy of patients")
    text = words(on, "Privacy of patients")
    assert "the unit is the patient" in text
    assert "noise of 5.5 times" in text
    assert "toy 6" in text
    assert "rounds that are repeated (two repeats each at most) are charged again" in text
    assert "charged again" not in words(toy.charter(privacy={"mode": "patient"}), "Privacy of patients")
    assert "w_max" in words(on, "Secure aggregation")
    assert "is 1 (w_max)" in words(on, "Secure aggregation")


def shared(count: int = 10, threshold: int = 8, colluding: int = 5, **changes: Any) -> Charter:
    privacy = {"mode": "distributed", "noise_multiplier": 5.5, "patients": 400, **changes.pop("privacy", {})}
    masking = MaskingPlan(threshold=threshold, colluding=colluding, post_quantum=True)
    plan = {"local_steps": 1}
    return toy.charter(members=fed.invented(count), masking=masking, privacy=privacy, plan=plan, **changes)


def test_it_says_against_whom_shared_noise_protects_and_what_it_costs(tmp_path: Path) -> None:
    text = words(shared(), "Privacy of patients")
    assert "against the coordinator together with up to 5 of the other hospitals" in text
    assert "every hospital adds 3.175 times the clip, as 3 hospitals must make up what counts" in text
    assert "of the 8 that every sum has, 5 may know and subtract their own" in text
    assert "a sum over all 10 has 1.83 times the noise that counts" in text
    assert "the agreed number of patients, 400, a public constant" in text
    assert "N = 400" in text
    assert "an upload alone has too little noise" in text
    assert "images at two hospitals moves a sum by up to twice the clip" in text
    assert "each on its own" in words(shared(5, 4, 0), "Privacy of patients")
    assert "clip and w_max of [secure_aggregation] have no effect" in words(shared(), "Secure aggregation")
    learns = words(shared(), "What the coordinator learns")
    assert "the sum of all hospitals' clipped gradients with all their noise in it" in learns
    assert "weights" not in learns
    found = json.loads(check(tmp_path, shared(), "--json"))
    assert found["shared_noise"]["honest"] == 3
    assert found["shared_noise"]["noise_of_all"] == pytest.approx(5.5 * math.sqrt(10 / 3))
    assert json.loads(check(tmp_path, charter(), "--json"))["shared_noise"] is None


def test_shared_noise_has_warnings_of_its_own() -> None:
    rules = shared(min_sites=8, min_patients=3)
    assert named(rules) == set()
    assert rules.masking is not None
    bare = dataclasses.replace(rules, masking=dataclasses.replace(rules.masking, post_quantum=False, clip=1e-6))
    assert named(bare) == {"shared_noise_not_post_quantum"}, "and none of a clip that has no effect"
    assert "coarse_numbers" in named(shared(privacy={"patients": 300_000, "noise_multiplier": 50.0}))


def test_it_never_claims_more_than_evidence() -> None:
    for rules in (charter(), charter(privacy={"mode": "patient"}), toy.charter(), shared()):
        text = str(explain(rules)).lower()
        assert not any(word in text for word in ("compliant", "anonymous", "guaranteed", "secure against"))


@pytest.mark.parametrize("mode", ["off", "patient"])
def test_it_says_what_is_not_protected(mode: str) -> None:
    text = words(charter(privacy={"mode": mode}), "What this does not protect")
    for matter in ("poisoning", "another average", "denial of service", "membership inference", "more than c = 1"):
        assert matter in text
    assert ("nothing bounds it" in text) == (mode == "off")
    page = PAGE.read_text()
    section = page[page.index("## Not covered") : page.index("## Encoding")]
    for matter in ("poisons", "another average", "Denial of service", "membership inference"):
        assert matter in section
    assert len(NOT_PROTECTED) == 3


def test_without_masks_it_says_that_the_coordinator_reads_everything(tmp_path: Path) -> None:
    text = check(tmp_path, toy.charter())
    assert "the coordinator reads every hospital's update; only virtual hospitals may take part" in text
    assert "What it does not learn" not in text


def test_the_same_as_json(tmp_path: Path) -> None:
    rules = charter(5, 4, plan={"colluding": 2})
    found = json.loads(check(tmp_path, rules, "--json"))
    assert found["sha256"] == rules.sha256
    assert found["members"][4]["index"] == 5
    assert found["members"][4]["fingerprint"] == fingerprint(bytes([5] * 32))
    assert found["secure_aggregation"]["fingerprint"] == rules.federation.fingerprint.hex()
    wanted = {"members": 5, "threshold": 4, "drops": 1, "colluding": 2, "quorum": 4, "bytes_per_parameter": 4}
    assert wanted.items() <= found["secure_aggregation"].items()
    assert {one["name"] for one in found["warnings"]} == named(rules)
    plain = json.loads(check(tmp_path, toy.charter(), "--json"))
    assert plain["secure_aggregation"] is None
    assert plain["coordinator_does_not_learn"] == []


def test_what_is_no_charter_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(fed.DRAFT)
    with pytest.raises(CharterError, match="3 to 100 hospitals, not 0") as caught:
        fed.command(app, "check", tmp_path / "c.toml")
    assert caught.value.exit_code == 2
    with pytest.raises(CharterError, match="cannot read the charter"):
        fed.command(app, "check", tmp_path / "none.toml")


def test_its_help_explains_everything() -> None:
    told = fed.command(app, "check", "--help")
    assert "--json" in told
    assert "Exit status 0" in told


# --- what is warned of ------------------------------------------------------------------------------------------------


def test_three_hospitals_cannot_lose_one() -> None:
    assert "no_drop_out" in named(charter(3, 3))
    assert "no_drop_out" in named(charter(5, 5))
    assert "no_drop_out" not in named(charter(4, 3))
    assert "no_drop_out" in named(charter(4, 3, min_sites=4))
    told = next(one.text for one in cautions(charter(4, 3, min_sites=4)) if one.name == "no_drop_out")
    assert "because min_sites = 4; without that, 1 might drop out" in told
    assert "read each other's update" in next(one.text for one in cautions(charter()) if one.name == "no_drop_out")


def test_min_sites_that_does_nothing_or_too_much_is_named() -> None:
    assert "min_sites_without_effect" in named(charter(min_sites=2))
    assert "min_sites_without_effect" not in named(charter(min_sites=3))
    assert "min_sites_out_of_reach" in named(charter(min_sites=4))
    assert "min_sites_out_of_reach" not in named(charter(min_sites=3))


def test_a_charter_that_leaves_nothing_to_say_has_no_warning() -> None:
    rules = charter(4, 3, min_sites=3, min_patients=50, privacy={"mode": "patient"})
    assert named(rules) == set()
    assert "Warnings" not in {one.title for one in explain(rules)}


def test_a_start_that_no_epsilon_covers_is_named() -> None:
    def begun(rules: Charter) -> Charter:
        return dataclasses.replace(
            rules, tasks=tuple(dataclasses.replace(one, start="release", release="0" * 64) for one in rules.tasks)
        )

    private = charter(privacy={"mode": "patient"})
    assert named(begun(private)) == named(private) | {"start_not_covered"}
    assert named(begun(charter())) == named(charter())


def test_privacy_that_is_off_masks_that_are_not_there_and_no_collusion_are_named() -> None:
    assert "no_differential_privacy" in named(charter())
    assert {"readable_updates", "no_differential_privacy"} == named(toy.charter(min_patients=3))
    assert "no_collusion_tolerated" in named(charter(4, 3, plan={"colluding": 0}))


def test_a_hospital_that_holds_nobody_out_and_a_release_that_is_not_listed_are_named() -> None:
    assert "nobody_held_out" in named(charter(min_patients=2))
    assert "nobody_held_out" in named(toy.charter(min_patients=1))
    assert "nobody_held_out" not in named(charter(min_patients=3))
    assert "app_not_listed" in named(charter(plan={"apps": ("ab" * 32,)}))
    assert "app_not_listed" not in named(charter(plan={"apps": ("ab" * 32, digest())}))
    assert "app_not_listed" not in named(charter())


def test_numbers_that_are_too_coarse_are_named() -> None:
    assert "coarse_numbers" in named(charter(plan={"ring_bits": 16}))
    assert "coarse_numbers" not in named(charter(plan={"ring_bits": 16, "w_max": 50}))
    assert "coarse_numbers" not in named(charter())
    many = {"ring_bits": 16, "colluding": 1}
    assert "coarse_numbers" in named(charter(50, 45, plan=many, privacy={"mode": "patient"}))


def test_a_clip_that_eats_noise_is_named_with_one_that_does_not() -> None:
    """Rate 0.2, two steps, C = 1, q = 0.5, two patients, sigma 1: gradients 0.8, noise 0.2 sqrt(2) = 0.283."""
    rules = charter(privacy={"mode": "patient"}, plan={"clip": 3.0})
    told = next(one.text for one in cautions(rules) if one.name == "clip_too_small")
    assert "toy" in told
    assert "3.06" in told
    assert "gradients 0.8" in told
    assert "sigma 0.283" in told
    assert "a clip of 3.1" in told
    assert "clip_too_small" not in named(charter(privacy={"mode": "patient"}, plan={"clip": 3.1}))
    assert "clip_too_small" not in named(charter(plan={"clip": 0.01})), "without noise there is none to eat"
    assert "clip_too_small" not in named(charter(privacy={"mode": "patient"}, plan={"clip": 3.0}, min_patients=3))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"local_optimizer": "Adam"}, "Adam is not SGD"),
        ({"proximal": 11.0}, "local_lr times proximal is above 2"),
        ({"weight_decay": 0.1}, "weight_decay moves it too"),
    ],
)
def test_where_nothing_bounds_an_update_it_says_so(changes: dict[str, Any], why: str) -> None:
    rules = Charter(
        id="x",
        purpose="testing",
        tasks=(TaskPlan("toy", 3, 2, local_lr=0.2, **changes),),
        privacy=PrivacyPlan(mode="patient"),
        members=charter().members,
        masking=charter().masking,
    )
    told = next(one.text for one in cautions(rules) if one.name == "clip_unknown")
    assert why in told
    assert "cannot be bounded beforehand" in told


class Extreme:
    """Noise that is 8 standard deviations in every element of every step."""

    kind = "for a test"

    def normal(self, count: int) -> np.ndarray:
        return np.full(count, float(SIGMAS))


@settings(deadline=None)
@given(
    st.integers(2, 40),
    st.floats(0.05, 1.0),
    st.floats(0.01, 1.0),
    st.floats(0.1, 3.0),
    st.floats(0.1, 6.0),
    st.integers(1, 4),
    st.floats(0, 1.5),
)
def test_no_update_of_the_real_optimiser_is_above_the_bound(
    patients: int, chance: float, rate: float, clip: float, sigma: float, steps: int, pull: float
) -> None:
    """The worst that can be: every patient is drawn, every gradient lies in one element, the noise adds to it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = PatientDPOptimizer(
        torch.optim.SGD([weight], lr=rate),
        noise_multiplier=sigma,
        max_grad_norm=clip,
        expected_batch_size=chance * patients,
        noise=Extreme(),
    )

    def proximal(_: object) -> None:
        assert weight.grad is not None
        weight.grad.add_(weight.detach(), alpha=pull)

    optimizer.attach_step_hook(proximal)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(cap(patients, chance)):
            optimizer.accumulate([torch.tensor([1e9])])
        optimizer.step()
    plan = TaskPlan("toy", 3, steps, local_lr=rate, proximal=pull)
    privacy = PrivacyPlan("patient", clip=clip, sample_rate=chance, noise_multiplier=sigma)
    bound = update_bound(plan, privacy, patients)
    assert bound is not None
    # Eight deviations in every step are sqrt(steps) times eight of their sum.
    most = bound.signal + SIGMAS * bound.noise * math.sqrt(steps)
    assert abs(float(weight.detach())) <= most * (1 + 1e-5)
    if pull == 0 and cap(patients, chance) == patients:
        assert abs(float(weight.detach())) == pytest.approx(most, rel=1e-4)


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_a_charter_cannot_steer_the_terminal_of_who_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "research\x1b[2J\x9b1A\r\u202egnitekram"
    for line in explain(toy.charter(purpose=hostile))[0].lines:
        console.say(line)
    console.complain(f"a purpose '{hostile}'\nfedward: all is well", "mend it")
    shown = capsys.readouterr()
    assert not any(sign in shown.out + shown.err for sign in "\x1b\x9b\r\u202e")
    assert "research?[2J?1A??gnitekram" in shown.out
    assert shown.err.count("\n") == 1


def test_it_says_where_a_network_begins_what_of_it_trains_and_what_is_released() -> None:
    plan = TaskPlan("segment", 3, 1, start="public-1", trained="biases_norms_head", precision="bfloat16", average=0.8)
    (section,) = [one for one in explain(Charter("f", "research", (plan,))) if one.title == "What is trained"]
    text = section.lines[0]
    assert "begins at the public weights public-1" in text
    assert "only biases, the affine parameters of normalisation and the last layer train and travel" in text
    assert "in bfloat16" in text
    assert "decay 0.8" in text
    plain = Charter("f", "research", (TaskPlan("segment", 3, 1),))
    (section,) = [one for one in explain(plain) if one.title == "What is trained"]
    assert "begins at random weights, all of its parameters train and travel" in section.lines[0]


@pytest.mark.parametrize(("scores", "said"), [("masked", "nothing is evaluated"), ("open", "losses and scores")])
def test_without_masks_it_says_whether_scores_leave(scores: Literal["masked", "open"], said: str) -> None:
    rules = Charter("f", "research", (TaskPlan("segment", 3, 1),), PrivacyPlan(scores=scores))
    (section,) = [one for one in explain(rules) if one.title == "What the coordinator learns"]
    assert said in " ".join(section.lines)


def test_one_round_of_one_step_is_said_in_the_singular() -> None:
    plan = {"rounds": 1, "local_steps": 1, "evaluate_every": 1}
    said = str(explain(toy.charter(plan=plan)))
    assert "toy: 1 round; at each hospital 1 step of" in said
    assert "an evaluation every round;" in said


def test_what_training_does_beside_steps_is_said_in_plain_words() -> None:
    plan = TaskPlan("denoise", 3, 2, weight_decay=0.01, dropout=0.1, zoom=0.2, rotation=10.0, foreground=0.5)
    said = "\n".join(lines(explain(Charter(id="x", purpose="testing", tasks=(plan,)))))
    for part in ("weight decay 0.01", "dropout of 10%", "by up to 20%", "by up to 10 degrees", "50% of them chosen"):
        assert part in said
    assert "noise of up to" not in said
