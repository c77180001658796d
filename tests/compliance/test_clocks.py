"""Deadlines: whatever the zone, the day and the year; the shorter one where something is not known."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.clocks import Breach, Duty, Law, Risk, Role, duties, year_end

ZONES = st.sampled_from(
    [
        UTC,
        timezone(timedelta(hours=14)),
        timezone(timedelta(hours=-12)),
        *map(ZoneInfo, ("Europe/Berlin", "Asia/Tokyo")),
    ]
)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=ZONES)  # noqa: DTZ001  the zones follow
COUNTS = st.one_of(st.none(), st.integers(0, 5000))
BREACHES = st.builds(
    Breach,
    aware=TIMES,
    discovered=TIMES,
    affected=st.dictionaries(st.sampled_from(["H1", "H2", "H3"]), COUNTS),
    residents=st.dictionaries(st.sampled_from(["NY", "CA"]), st.integers(0, 5000)),
    risk=st.sampled_from([None, *Risk]),
    role=st.sampled_from(Role),
)


def named(breach: Breach) -> dict[str, Duty]:
    return {one.id: one for one in duties(breach)}


@pytest.mark.control("GDPR-33-breach")
@given(BREACHES)
def test_the_authority_is_told_within_72_hours_of_awareness(breach: Breach) -> None:
    found = named(breach)
    if breach.role is Role.PROCESSOR:
        assert found["GDPR-33-2-controller"].due is None
        assert "GDPR-33-authority" not in found
        return
    due = found["GDPR-33-authority"].due
    assert due is not None
    assert due - breach.aware.astimezone(UTC) == timedelta(hours=72)
    assert not found["GDPR-33-authority"].overdue(due)
    assert found["GDPR-33-authority"].overdue(due + timedelta(seconds=1))
    assert ("GDPR-34-people" in found) is (breach.risk in {None, Risk.HIGH})


def test_a_change_to_summer_time_moves_no_deadline() -> None:
    aware = datetime(2026, 3, 27, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))  # the clocks change on 29 March
    due = named(Breach(aware, aware))["GDPR-33-authority"].due
    assert due == datetime(2026, 3, 30, 11, 0, tzinfo=UTC)  # 13:00 in Berlin: 72 hours, not three calendar days


@pytest.mark.control("HIPAA-164.404-breach")
@given(BREACHES)
def test_no_notice_under_hipaa_is_later_than_60_days_after_discovery_but_that_of_the_year(breach: Breach) -> None:
    found = named(breach)
    last = breach.discovered.astimezone(UTC) + timedelta(days=60)
    for one in found.values():
        if one.id.startswith("HIPAA") and one.source != "45 CFR 164.408(c)":
            assert one.due == last
            assert one.due.date() <= breach.discovered.date() + timedelta(days=60) + timedelta(days=1)
    if breach.role is Role.CONTROLLER:
        few = breach.total is not None and breach.total < 500
        assert (found["HIPAA-164.408-secretary"].source == "45 CFR 164.408(c)") is few
        assert "HIPAA-164.404-individuals" in found
    else:
        assert {one for one in found if one.startswith("HIPAA")} == {"HIPAA-164.410-entity"}


@pytest.mark.parametrize(
    ("affected", "residents", "media"),
    [
        ({"H1": 500}, {"NY": 500}, []),
        ({"H1": 501}, {"NY": 501}, ["HIPAA-164.406-media-NY"]),
        ({"H1": 1001}, {"NY": 500, "CA": 501}, ["HIPAA-164.406-media-CA"]),
        ({"H1": 501}, {}, ["HIPAA-164.406-media"]),
        ({"H1": 500}, {}, []),
        ({"H1": 1100}, {"NY": 20}, ["HIPAA-164.406-media"]),
        ({"H1": None}, {"NY": 20}, ["HIPAA-164.406-media"]),
        ({}, {}, ["HIPAA-164.406-media"]),
    ],
)
def test_media_are_told_above_500_in_a_state_and_where_nobody_knows(
    affected: dict[str, int | None], residents: dict[str, int], media: list[str]
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = named(Breach(now, now, affected, residents))
    assert [one for one in found if "406" in one] == media


@pytest.mark.parametrize(("number", "section"), [(0, "(c)"), (499, "(c)"), (500, "(b)"), (None, "(b)")])
def test_the_secretary_hears_of_500_at_once_and_of_fewer_once_a_year(number: int | None, section: str) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert named(Breach(now, now, {"H1": number}))["HIPAA-164.408-secretary"].source.endswith(section)


def test_sites_are_counted_together_and_one_that_is_not_known_makes_the_whole_unknown() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert Breach(now, now, {"H1": 300, "H2": 200}).total == 500
    assert Breach(now, now, {"H1": 3, "H2": None}).total is None
    assert Breach(now, now).total is None


@pytest.mark.parametrize(
    ("discovered", "last"),
    [
        ("2026-06-01T00:00:00+00:00", "2027-03-01"),
        ("2027-06-01T00:00:00+00:00", "2028-02-29"),
        ("2099-01-01T00:00:00+00:00", "2100-03-01"),
    ],
)
def test_the_yearly_notice_knows_leap_years(discovered: str, last: str) -> None:
    assert year_end(datetime.fromisoformat(discovered)).date().isoformat() == last


@given(TIMES)
def test_the_yearly_notice_is_due_on_the_sixtieth_day_of_the_next_year(discovered: datetime) -> None:
    due = year_end(discovered)
    assert due.timetuple().tm_yday == 60
    assert due.year - 1 in {discovered.year, discovered.astimezone(UTC).year}
    assert due.year - 1 == min(discovered.year, discovered.astimezone(UTC).year)


@pytest.mark.control("PIPL-57-breach")
@given(BREACHES)
def test_a_leak_is_due_at_once_and_no_hours_are_made_up(breach: Breach) -> None:
    one = named(breach)["PIPL-57"]
    assert one.due is None
    assert not one.overdue(datetime.max.replace(tzinfo=UTC))


@given(BREACHES, st.sets(st.sampled_from(Law)))
def test_only_the_laws_that_are_followed_have_clocks_and_ids_stand_once(breach: Breach, laws: set[Law]) -> None:
    some = Breach(
        breach.aware, breach.discovered, breach.affected, breach.residents, None, breach.role, frozenset(laws)
    )
    ids = [one.id for one in duties(some)]
    assert len(ids) == len(set(ids))
    assert {one.split("-")[0].lower() for one in ids} == {law.value for law in laws}
