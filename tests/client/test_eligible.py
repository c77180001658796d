"""Who takes part in a round: nobody without a basis for this purpose today, and whoever said no never."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import eligible as module
from client.basis import Basis, DefaultBasis
from client.consent import ALL, Choice, Decision, Hold, Patient, Register
from client.consenting import set_basis, withdraw
from client.eligible import eligible, reasons
from client.node import Node
from client.records import FILE, folder_of, read_register
from client.rights import restrict
from shared.errors import PolicyError, RecordError, UsageError
from tests.federation import toy

TODAY = date(2026, 6, 15)
PURPOSES = ("research", "marketing", "teaching")
LAW = Basis.parse("GDPR 6(1)(e), 9(2)(j)")


@pytest.fixture(autouse=True)
def _fixed_day(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "today", lambda: TODAY)
    return


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="research")


def default(**changes: object) -> DefaultBasis:
    made = DefaultBasis(LAW, ("research",), date(2026, 1, 1), None, "a law", "Ada", "a test")
    return replace(made, **changes)  # type: ignore[arg-type]


# --- the rule ---------------------------------------------------------------------------------------------------------

days = st.dates(TODAY - timedelta(days=5), TODAY + timedelta(days=5))
choices = st.builds(Decision, st.sampled_from(Choice), days, st.none() | days)
decisions = st.lists(
    st.tuples(st.sampled_from(PURPOSES), choices)
    | st.tuples(st.just(ALL), choices.filter(lambda one: one.choice is not Choice.GIVEN)),
    max_size=6,
)
bases = st.none() | st.builds(
    lambda purposes, since, length: default(
        purposes=tuple(sorted(purposes)), since=since, until=None if length < 0 else since + timedelta(days=length)
    ),
    st.sets(st.sampled_from(PURPOSES), min_size=1),
    days,
    st.integers(-1, 5),
)
holds = st.frozensets(st.sampled_from(Hold), max_size=2)


@pytest.mark.control("GDPR-6-basis", "GDPR-7-3-withdrawal")
@given(said=decisions, basis=bases, held=holds, day=days, purpose=st.sampled_from(PURPOSES), virtual=st.booleans())
def test_nobody_takes_part_whose_basis_is_withdrawn_expired_for_another_purpose_or_missing(  # noqa: PLR0917
    said: list[tuple[str, Decision]],
    basis: DefaultBasis | None,
    held: frozenset[Hold],
    day: date,
    purpose: str,
    virtual: bool,
) -> None:
    register = Register(default=basis).decided([("P", *one) for one in said])
    for hold in held:
        register = register.hold("P", hold, on=True)
    if register.why_not("P", purpose, day, virtual=virtual):
        return
    assert not held
    if said:
        newest = max(one.since for about, one in said if about in {purpose, ALL})
        last = [one for about, one in said if about in {purpose, ALL} and one.since == newest]
        assert all(one.choice is Choice.GIVEN for one in last), "on one day the stricter decision counts"
        assert any(one.since <= day and (one.until is None or day <= one.until) for one in last)
    elif basis is not None:
        assert purpose in basis.purposes
        assert basis.since <= day <= (basis.until or date.max)
    else:
        assert virtual


@pytest.mark.control("GDPR-7-3-withdrawal")
@given(said=decisions, day=days, purpose=st.sampled_from(PURPOSES))
def test_a_withdrawal_of_everything_stops_everything_and_the_same_again_changes_nothing(
    said: list[tuple[str, Decision]], day: date, purpose: str
) -> None:
    rows = [("P", *one) for one in said]
    once = Register().decided(rows)
    assert once.decided(rows) == once
    newest = max([TODAY, *(one.since for _, one in said)])
    gone = once.decided([("P", ALL, Decision(Choice.WITHDRAWN, newest))])
    assert gone.why_not("P", purpose, day)
    assert gone.decided(rows).why_not("P", purpose, day), "an older file read again takes nothing back"


def test_the_last_day_of_a_consent_is_covered_and_the_next_is_not() -> None:
    given_until = Register().decided([("P", "research", Decision(Choice.GIVEN, date(2026, 1, 1), TODAY))])
    assert not given_until.why_not("P", "research", TODAY)
    assert given_until.why_not("P", "research", TODAY + timedelta(days=1)) == "consent expired"
    assert given_until.why_not("P", "marketing", TODAY) == "consent for another purpose"
    assert Patient().empty


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GDPR 6(1)(e), 9(2)(j)", "GDPR 6(1)(e), 9(2)(j)"),
        ("Art. 6(1)(E) and Art. 9(2)(J)", "GDPR 6(1)(e), 9(2)(j)"),
        ("PIPL 13(1)(2)", "PIPL 13(1)(2)"),
        ("pipl 13(1)(1), 29", "PIPL 13(1)(1), 29"),
        ("HIPAA 45 CFR 164.512(i)", "HIPAA 164.512(i)"),
    ],
)
def test_a_basis_is_read_as_people_write_it(text: str, shown: str) -> None:
    assert str(Basis.parse(text)) == shown
    assert Basis.parse(shown) == Basis.parse(text)


@pytest.mark.control("GDPR-6-basis")
@pytest.mark.parametrize("text", ["", "consent", "GDPR 6(1)(e)", "GDPR 6(1)(z), 9(2)(j)", "PIPL 13(1)(1)", "PIPL 9"])
def test_what_is_no_basis_for_data_on_health_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Basis.parse(text)


def test_consent_is_no_basis_of_a_data_set() -> None:
    with pytest.raises(UsageError, match="consent"):
        default(basis=Basis.parse("GDPR 6(1)(a), 9(2)(a)"))


# --- a node -----------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-6-basis")
def test_a_real_hospital_that_has_recorded_nothing_has_nobody_and_a_virtual_one_everybody(
    node: Node, tmp_path: Path
) -> None:
    virtual = Node.create(tmp_path / "v", site="V1", purpose="research", seed=7)
    assert eligible(("A", "B"), node) == ()
    assert reasons(("A", "B"), node) == {"no basis": 2}
    assert eligible(("A", "B"), virtual) == ("A", "B")
    withdraw(virtual, "A")
    assert eligible(("A", "B"), virtual) == ("B",)


@given(st.permutations((None, TODAY, TODAY + timedelta(days=9))))
def test_of_two_consents_of_one_day_the_one_that_ends_earlier_holds(ends: list[date | None]) -> None:
    known = Patient()
    for until in ends:
        known = known.decided("research", Decision(Choice.GIVEN, TODAY, until))
    assert known.decisions["research"].until == TODAY
    later = known.decided("research", Decision(Choice.GIVEN, TODAY + timedelta(days=1)))
    assert later.decisions["research"].until is None, "a decision of a later day may reach further"


def test_a_basis_covers_those_who_did_not_say_no(node: Node) -> None:
    set_basis(node, default())
    withdraw(node, "B")
    restrict(node, "C", who="Ada")
    restrict(node, "D", who="Ada", objection=True)
    assert eligible(("A", "B", "C", "D"), node) == ("A",)
    assert eligible(("A",), node, purpose="marketing") == ()
    restrict(node, "C", who="Ada", lift=True)
    assert eligible(("A", "B", "C", "D"), node) == ("A", "C")
    rows = toy.log_rows(node.folder)
    assert {row["action"] for row in rows} == {"basis.set", "consent.withdraw", "rights.restrict"}
    assert not any('"B"' in json.dumps(row) for row in rows), "no pseudonym stands in the log"


def test_the_register_is_private(node: Node) -> None:
    set_basis(node, default())
    path = folder_of(node) / FILE
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.chmod(0o644)
    with pytest.raises(PolicyError, match="others may read"):
        eligible(("A",), node)


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("how", ["lost", "older", "altered"])
def test_a_register_that_the_log_does_not_know_lets_nobody_take_part(node: Node, how: str) -> None:
    set_basis(node, default())
    path = folder_of(node) / FILE
    older = path.read_bytes()
    withdraw(node, "B")
    if how == "lost":
        path.unlink()
    elif how == "older":
        path.write_bytes(older)
    else:
        path.write_bytes(path.read_bytes().replace(b"withdrawn", b"given"))
    with node.open_log() as log, pytest.raises(RecordError):
        eligible(("A", "B"), node, log=log)
    with pytest.raises(RecordError):
        eligible(("A", "B"), node, log=node.folder / "audit" / "log.jsonl")


def test_a_change_that_was_recorded_and_not_made_leaves_the_register_as_it_was(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_basis(node, default())

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("client.records.write_bytes", dies)
        with pytest.raises(KeyboardInterrupt):
            withdraw(node, "B")
    with node.open_log() as log:
        assert eligible(("A", "B"), node, log=log) == ("A", "B")
    withdraw(node, "B")
    with node.open_log() as log:
        assert eligible(("A", "B"), node, log=log) == ("A",)


def test_a_withdrawal_counts_although_a_consent_of_tomorrow_is_known(node: Node) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with node.open_log() as log:
        from client.records import change
        from compliance.log import Action

        given = ("A", "research", Decision(Choice.GIVEN, tomorrow))
        change(node, log, Action.CONSENT_IMPORT, lambda register: register.decided([given]))
    withdraw(node, "A")
    register, _ = read_register(node)
    assert all(register.why_not("A", "research", tomorrow + timedelta(days=n)) for n in range(3))
