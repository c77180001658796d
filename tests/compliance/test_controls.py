"""The catalogue of controls: whole, honest about what is missing, and without a word that it may not use."""

import re

import pytest

from compliance.controls import Status, catalogue, parse
from shared.errors import RecordError

GOOD = """
[[control]]
id = "HIPAA-1-x"
title = "A control"
sources = ["45 CFR 1"]
enforced = "The code keeps this."
code = ["compliance.log:AuditLog"]
evidence = ["the log"]
cannot = "It cannot show that."
status = "enforced"
"""


def test_the_table_of_the_law_is_there() -> None:
    ids = {one.id for one in catalogue()}
    laws = ["164.514", "164.312", "164.404", "164.316", "5-1-b", "6-basis", "7-3", "12-22", "17-", "28-", "30-", "35-"]
    for part in [*laws, "33-", "44-", "PIPL-57", "AIACT-12", "EHDS", "MODEL-bias", "MODEL-held-out"]:
        assert any(part in one for one in ids), part


def test_what_is_not_built_says_what_is_missing() -> None:
    for one in catalogue():
        assert bool(one.missing) is (one.status is not Status.ENFORCED), one.id
        assert one.cannot, one.id


def test_no_control_claims_what_only_a_person_can_judge() -> None:
    for one in catalogue():
        words = " ".join((one.title, one.enforced, one.missing, *one.evidence)).lower()
        assert not re.search(r"\bcompliant\b|\banonymous data\b|\bguarantees\b|\bcertified\b", words), one.id


def test_a_good_control_is_read() -> None:
    (one,) = parse(GOOD, source="here")
    assert (one.id, one.status) == ("HIPAA-1-x", Status.ENFORCED)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('status = "enforced"', 'status = "done"', "status"),
        ('status = "enforced"', 'status = "planned"', "missing"),
        ('code = ["compliance.log:AuditLog"]', "code = []", "enforced control has code"),
        ('evidence = ["the log"]', "evidence = []", "enforced control has code"),
        ('id = "HIPAA-1-x"', 'id = "hipaa x"', "id"),
        ('sources = ["45 CFR 1"]', "sources = []", "sources"),
        ('cannot = "It cannot show that."', "", "cannot"),
        ('title = "A control"', 'title = "A control"\nproof = "yes"', "proof"),
        ('code = ["compliance.log:AuditLog"]', 'code = ["rm -rf /"]', "code"),
        ("[[control]]", "[[control", "no TOML"),
    ],
)
def test_what_is_no_control_is_told_in_one_line(old: str, new: str, says: str) -> None:
    with pytest.raises(RecordError, match=says) as caught:
        parse(GOOD.replace(old, new), source="here")
    assert "\n" not in caught.value.message
    assert caught.value.hint
