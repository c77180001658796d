"""Profiles: what each attribute's rule is, and which mistakes in a hospital's own file are caught."""

from datetime import date
from pathlib import Path

import pytest

from client.deid import Profile
from client.deid.actions import Action
from client.deid.determination import read_determination
from client.deid.tables import Option, definition, safe_private, table
from shared.errors import PolicyError, UsageError
from tests.client.deid.experts import determination, digest_of

CONDITIONAL = {
    "X": (Action.REMOVE, Action.REMOVE, Action.REMOVE),
    "Z": (Action.EMPTY, Action.EMPTY, Action.EMPTY),
    "D": (Action.DUMMY, Action.DUMMY, Action.DUMMY),
    "U": (Action.UID, Action.UID, Action.UID),
    "Z/D": (Action.EMPTY, Action.EMPTY, Action.DUMMY),
    "X/Z": (Action.REMOVE, Action.EMPTY, Action.EMPTY),
    "X/D": (Action.REMOVE, Action.DUMMY, Action.DUMMY),
    "X/Z/D": (Action.REMOVE, Action.EMPTY, Action.DUMMY),
}


def own(folder: Path, text: str) -> str:
    path = folder / "ours.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
def test_the_table_is_whole() -> None:
    assert len(table()) == 652  # 656 rows less the repeating groups and the private attributes
    assert len(safe_private()) == 87
    assert all(definition(tag) for tag in table())


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
def test_basic_follows_the_table() -> None:
    rules = Profile.load("basic").rules
    looked_at = 0
    for row in table().values():
        rule = rules[row.tag]
        if rule.required in {Action.PSEUDONYM, Action.REFERENCES}:
            continue
        optional, empty, required = CONDITIONAL[row.basic]
        assert (rule.optional, rule.empty) == (optional, empty), row
        assert rule.required is required or row.vr == "SQ", row
        looked_at += 1
    assert looked_at == 648


def test_the_profiles_differ_where_they_say() -> None:
    basic, harbor = Profile.load("basic"), Profile.load("safe-harbor")
    assert basic.sha256 != harbor.sha256
    changed = {tag for tag in table() if basic.rules[tag] != harbor.rules[tag]}
    assert {harbor.rules[tag].required for tag in changed} == {Action.YEAR, Action.AGE}
    assert not harbor.needs_expert


def test_options_of_the_table_are_applied(tmp_path: Path) -> None:
    name = own(tmp_path, 'extends = "basic"\noptions = ["retain_patient_characteristics", "clean_descriptors"]\n')
    profile = Profile.load(name)
    assert profile.rules[0x00100040].required is Action.KEEP
    assert profile.rules[0x0008103E].required is Action.CLEAN
    assert profile.rules[0x00101010].required is Action.AGE
    assert profile.rules[0x00080020].required is Action.EMPTY
    assert profile.has(Option.CLEAN_DESCRIPTORS)


def test_a_hospital_may_remove_more(tmp_path: Path) -> None:
    profile = Profile.load(
        own(tmp_path, 'extends = "basic"\n[overrides]\n"0018,1020" = "remove"\n"(0008,1030)" = "clean"\n')
    )
    assert profile.rules[0x00181020].required is Action.REMOVE
    assert profile.rules[0x00081030].optional is Action.CLEAN
    assert not profile.needs_expert


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('extends = "basic"\nspeed = 3\n', "speed"),
        ('extends = "basics"\n', "extends"),
        ("options = []\n", "does not say what it extends"),
        ('extends = "basic"\noptions = ["retain_everything"]\n', "no option retain_everything"),
        ('extends = "basic"\noptions = "clean_descriptors"\n', "options"),
        ('extends = "basic"\n[overrides]\n"PatientName" = "remove"\n', "is not a tag"),
        ('extends = "basic"\n[overrides]\n"0010,0010" = "remove"\n', "cannot be overridden"),
        ('extends = "basic"\n[overrides]\n"0010,1040" = "keep"\n', "cannot be set to keep"),
        ('extends = "basic"\n[overrides]\n"0010,1040" = "shift"\n', "cannot be set to shift"),
        ('extends = "basic"\n[overrides]\n"0010,1040" = "erase"\n', "cannot be set to erase"),
        ('extends = "basic"\n[overrides]\n"0009,1040" = "keep"\n', "not an attribute of PS3.6"),
        ('extends = "safe-harbor"\noptions = ["retain_long_modified_dates"]\n', "more than one way with dates"),
        ("extends = basic\n", "is not TOML"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Profile.load(own(tmp_path, text))
    assert says in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["reserch", "no/such/file.toml", "."])
def test_a_profile_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="profile"):
        Profile.load(name)


@pytest.mark.control("HIPAA-164.514-b1-determination")
@pytest.mark.parametrize(
    "text",
    [
        'extends = "basic"\noptions = ["retain_long_full_dates"]\n',
        'extends = "basic"\noptions = ["retain_device_identity"]\n',
        'extends = "basic"\n[overrides]\n"0008,0020" = "shift"\n',
        'extends = "basic"\n[overrides]\n"0018,1000" = "keep"\n',
        'extends = "basic"\n[overrides]\n"0062,0006" = "keep"\n',
    ],
)
def test_whatever_keeps_an_identifier_needs_an_expert(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyError, match="Safe Harbor"):
        Profile.load(own(tmp_path, text))


def test_research_with_a_determination(tmp_path: Path) -> None:
    path = determination(tmp_path, digest_of("research"), expires="2030-06-30")
    profile = Profile.load("research", determination=path, today=date(2030, 6, 30))
    assert profile.determination
    assert profile.determination.expert == "E. Xpert"
    assert profile.rules[0x00080020].required is Action.SHIFT
    assert profile.rules[0x00100030].required is Action.EMPTY  # the birth date is in no option


@pytest.mark.control("HIPAA-164.514-b1-determination")
def test_a_determination_expires(tmp_path: Path) -> None:
    path = determination(tmp_path, digest_of("research"), expires="2030-06-30")
    with pytest.raises(PolicyError, match="expired") as caught:
        Profile.load("research", determination=path, today=date(2030, 7, 1))
    assert caught.value.exit_code == 6


@pytest.mark.control("HIPAA-164.514-b1-determination")
def test_a_determination_is_for_one_profile(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="for another profile"):
        Profile.load("research", determination=determination(tmp_path, "0" * 64))


def test_a_profile_may_name_its_experts(tmp_path: Path) -> None:
    text = 'extends = "research"\nexperts = ["{}"]\n'
    signed = determination(tmp_path / "known", "0" * 64)
    known, other = read_determination(signed).fingerprint, "f" * 64
    for name, fingerprint in (("a.toml", known), ("b.toml", other)):
        (tmp_path / name).write_text(text.format(fingerprint))
    path = determination(tmp_path / "known", digest_of(str(tmp_path / "a.toml")))
    assert Profile.load(str(tmp_path / "a.toml"), determination=path).determination
    path = determination(tmp_path / "known", digest_of(str(tmp_path / "b.toml")))
    with pytest.raises(PolicyError, match="does not name"):
        Profile.load(str(tmp_path / "b.toml"), determination=path)


def test_the_digest_is_of_the_content_not_of_the_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    for path in (first, second):
        path.write_text('extends = "basic"\ntitle = "T"\n[overrides]\n"0018,1020" = "remove"\n')
    assert Profile.load(str(first)).sha256 == Profile.load(str(second)).sha256 != Profile.load("basic").sha256
