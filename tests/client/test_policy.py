"""The hospital decides by the charter that it pinned; a request cannot talk it into anything else."""

from dataclasses import fields, replace

import pytest

from client.policy import HospitalPolicy, decide
from shared.charter import Charter
from shared.header import Header
from tests.federation import toy

RULES = toy.charter(min_patients=3, plan={"rounds": 4})
HEADER = Header(RULES.id, RULES.sha256, "run-1", 1, 1, "toy", "0" * 64)


NOTHING = HospitalPolicy(require_masks=False, require_privacy=False)


def judge(
    header: Header = HEADER, charter: Charter = RULES, policy: HospitalPolicy = NOTHING, **terms: object
) -> tuple[bool, str]:
    given = {"purpose": toy.PURPOSE, "patients": 3, "training": True} | terms
    decision = decide(header, charter, policy, **given)  # type: ignore[arg-type]
    return decision.allowed, decision.reason


def test_what_the_pinned_charter_asks_for_is_done() -> None:
    assert judge() == (True, "")
    assert judge(replace(HEADER, round=4))[0]
    assert judge(replace(HEADER, round=0), training=False)[0]


@pytest.mark.control("GDPR-29-pinned-charter")
@pytest.mark.parametrize(
    ("header", "terms", "reason"),
    [
        (replace(HEADER, charter="f" * 64), {}, "another charter"),
        (replace(HEADER, federation="stranger"), {}, "another charter"),
        (HEADER, {"purpose": "marketing"}, "purpose"),
        (replace(HEADER, task="segment"), {}, "no such task"),
        (replace(HEADER, round=5), {}, "4 rounds"),
        (replace(HEADER, round=0), {}, "4 rounds"),
        (replace(HEADER, round=5), {"training": False}, "4 rounds"),
        (HEADER, {"patients": 2}, "too few patients"),
        (HEADER, {"patients": 0, "training": False}, "too few patients"),
    ],
)
def test_anything_else_is_refused_with_its_reason(header: Header, terms: dict[str, object], reason: str) -> None:
    allowed, said = judge(header, **terms)
    assert not allowed
    assert reason in said


def test_a_charter_that_differs_in_privacy_alone_is_another_charter() -> None:
    weaker = toy.charter(min_patients=3, plan={"rounds": 4}, privacy={"mode": "patient", "noise_multiplier": 0.1})
    assert not judge(replace(HEADER, charter=weaker.sha256))[0]


@pytest.mark.control("GDPR-29-pinned-charter")
def test_a_request_has_no_field_in_which_it_could_ask_for_less_privacy() -> None:
    names = {field.name for field in fields(Header)}
    assert names == {"federation", "charter", "run", "round", "attempt", "task", "model", "protocol"}
