"""``fedward server approve``: a hospital is in the charter once its fingerprint was heard, and never by mistake."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.authority import establish, plan_of
from server.cli import app
from server.coordinator import Coordinator
from shared.certificates import check_client, digest, read, site_of
from shared.charter import Charter, CoordinatorPlan
from shared.errors import CharterError, FedwardError, PolicyError, ProtocolError, UsageError
from shared.identity import Request
from shared.link_keys import public_der
from tests.federation import members as fed
from tests.federation import toy


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    path = tmp_path / "charter.toml"
    path.write_text(fed.DRAFT)
    return path


def asked(folder: Path, site: str, *, key: int = 0, link: int = 0, purpose: str = toy.PURPOSE) -> tuple[Path, Request]:
    """A request of ``site``, signed with the key of that number (that of its name where 0)."""
    number = key or int(site[1:])
    made = fed.request_of(site, number, purpose=purpose, link=link)
    path = folder / f"{site}-{number}-{link}.json"
    made.write(path)
    return path, made


def approve(
    draft: Path,
    *requests: tuple[Path, Request],
    heard: list[str] | None = None,
    server: Path | None = None,
    countries: Sequence[str] = (),
) -> str:
    read_out = [made.fingerprint for _, made in requests] if heard is None else heard
    spoken = [word for one in read_out for word in ("--fingerprint", one)]
    spoken += [word for one in countries for word in ("--country", one)]
    spoken += ["--server", str(server)] if server else []
    return fed.command(app, "approve", draft, *(path for path, _ in requests), *spoken)


def refused(kind: type[FedwardError], words: str, draft: Path, *requests: tuple[Path, Request], **rest: Any) -> None:
    before = draft.read_bytes()
    with pytest.raises(FedwardError) as caught:
        approve(draft, *requests, **rest)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert draft.read_bytes() == before, "either all are added or nothing changes"


def test_one_hospital_after_the_other_becomes_a_member_and_comments_stay(draft: Path, tmp_path: Path) -> None:
    draft.chmod(0o640)
    for number in (1, 2, 3):
        path, made = asked(tmp_path, f"H{number}")
        told = approve(draft, (path, made))
        assert f"H{number} is member {number}, fingerprint {made.fingerprint}" in told
        assert ("not a charter yet" in told) == (number < 3)
    rules = Charter.load(draft)
    assert [member.name for member in rules.members] == ["H1", "H2", "H3"]
    assert rules.sha256[:4] in told
    assert draft.read_text().startswith(fed.DRAFT)
    assert draft.stat().st_mode & 0o777 == 0o640


def test_all_at_once_in_their_order(draft: Path, tmp_path: Path) -> None:
    three = [asked(tmp_path, site) for site in ("H3", "H1", "H2")]
    told = approve(draft, *three)
    assert [member.name for member in Charter.load(draft).members] == ["H3", "H1", "H2"]
    assert "is a charter of 3 members" in told


def test_a_fingerprint_is_taken_as_it_was_heard(draft: Path, tmp_path: Path) -> None:
    path, made = asked(tmp_path, "H1")
    approve(draft, (path, made), heard=[made.fingerprint.upper().replace(" ", "-")])
    assert 'name = "H1"' in draft.read_text()


@pytest.mark.parametrize("ending", ["", "\n", "# no line end", "\r\n"])
def test_any_ending_of_the_file_will_do(draft: Path, tmp_path: Path, ending: str) -> None:
    draft.write_bytes(fed.DRAFT.rstrip("\n").encode() + b"\n" * bool(ending.strip()) + ending.encode())
    approve(draft, asked(tmp_path, "H1"), asked(tmp_path, "H2"), asked(tmp_path, "H3"))
    assert len(Charter.load(draft).members) == 3


def test_a_link_stays_a_link(draft: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(draft)
    approve(link, asked(tmp_path, "H1"))
    assert link.is_symlink()
    assert "H1" in draft.read_text()


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_another_key_than_the_one_that_was_read_out_is_not_let_in(draft: Path, tmp_path: Path) -> None:
    _, real = asked(tmp_path, "H1")
    forged = asked(tmp_path, "H1", key=66)
    refused(ProtocolError, "not the one that was read out", draft, forged, heard=[real.fingerprint])


def test_two_fingerprints_in_the_wrong_order_are_not_let_in(draft: Path, tmp_path: Path) -> None:
    one, two = asked(tmp_path, "H1"), asked(tmp_path, "H2")
    heard = [two[1].fingerprint, one[1].fingerprint]
    refused(ProtocolError, "not the one that was read out", draft, one, two, heard=heard)


def test_each_request_needs_its_own_fingerprint(draft: Path, tmp_path: Path) -> None:
    one, two = asked(tmp_path, "H1"), asked(tmp_path, "H2")
    refused(UsageError, "2 requests and 1 fingerprints", draft, one, two, heard=[one[1].fingerprint])
    refused(UsageError, "1 requests and 2 fingerprints", draft, one, heard=[one[1].fingerprint] * 2)
    refused(UsageError, "8 groups of 4", draft, one, heard=[one[1].fingerprint[:19]])


def test_a_request_without_any_fingerprint_is_wrong_use(draft: Path, tmp_path: Path) -> None:
    fed.command(app, "approve", draft, asked(tmp_path, "H1")[0], status=2)


def test_nobody_is_a_member_twice(draft: Path, tmp_path: Path) -> None:
    approve(draft, asked(tmp_path, "H1"))
    refused(UsageError, "is already that of H1", draft, asked(tmp_path, "H1"))
    refused(UsageError, "is already that of H1", draft, asked(tmp_path, "H2", key=1))
    refused(UsageError, "has a member H1 already", draft, asked(tmp_path, "H1", key=2))
    refused(UsageError, "has a member H1 already", draft, asked(tmp_path, "h1", key=2))
    refused(UsageError, "is already that of H2", draft, asked(tmp_path, "H2"), asked(tmp_path, "H3", key=2))


@pytest.mark.control("GDPR-5-1-b-purpose")
def test_another_purpose_is_not_let_in(draft: Path, tmp_path: Path) -> None:
    refused(PolicyError, "'marketing'", draft, asked(tmp_path, "H1", purpose="marketing"))


def test_an_altered_request_is_not_let_in(draft: Path, tmp_path: Path) -> None:
    path, made = asked(tmp_path, "H1")
    path.write_text(path.read_text().replace('"H1"', '"H2"'))
    refused(ProtocolError, "the signature does not fit", draft, (path, made))
    path.write_text("{}")
    refused(UsageError, "is no membership request", draft, (path, made))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[secure_aggregation]\nthreshold = 3\n", ""), "members need the table [secure_aggregation]"),
        (("threshold = 3", "threshhold = 3"), "unknown key 'secure_aggregation.threshhold'"),
        (("rounds = 3", "rounds = "), "is not valid TOML"),
        (("# the draft of a federation", "member = []"), "cannot be added behind this file"),
    ],
)
def test_a_draft_that_cannot_take_members_is_told(
    draft: Path, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    draft.write_text(fed.DRAFT.replace(*change))
    refused(CharterError, words, draft, asked(tmp_path, "H1"))


def test_a_draft_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CharterError, match="cannot read the charter"):
        approve(tmp_path / "none.toml", asked(tmp_path, "H1"))


def test_it_says_what_the_draft_still_lacks(draft: Path, tmp_path: Path) -> None:
    draft.write_text(fed.DRAFT.replace("threshold = 3", "threshold = 2"))
    told = approve(draft, *(asked(tmp_path, f"H{number}") for number in (1, 2, 3)))
    assert "not a charter yet" in told
    assert "the threshold 2 is too low" in told
    assert "at least 3 is needed" in told


def test_its_help_tells_to_call(draft: Path) -> None:
    told = " ".join(fed.command(app, "approve", "--help").split())
    assert "type what you hear" in told
    assert "Exit status 0" in told


# --- with a coordinator -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Coordinator:
    return establish(tmp_path / "server", address="fl.example.org:9443", name="imaging-1", country="DE")


def kept(server: Coordinator) -> dict[str, bytes]:
    """All that a coordinator keeps of hospitals."""
    folders = (server.members_folder, server.certificates_folder)
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}


def test_hospitals_get_certificates_and_the_charter_names_the_coordinator(
    draft: Path, tmp_path: Path, server: Coordinator
) -> None:
    three = [asked(tmp_path, site) for site in ("H1", "H2", "H3")]
    told = approve(draft, *three, server=server.folder, countries=["DE", "FR", "DE"])
    rules = Charter.load(draft)
    assert rules.coordinator == plan_of(server)
    assert rules.coordinator == CoordinatorPlan("imaging-1", "fl.example.org:9443", rules.coordinator.authority, "DE")
    assert [member.country for member in rules.members] == ["DE", "FR", "DE"]
    assert server.members() == tuple(made for _, made in three)
    for _, made in three:
        own, authority = read(server.certificates_folder / f"{made.site}.pem", count=2)
        assert digest(authority) == rules.coordinator.authority
        assert site_of(own) == made.site
        assert public_der(own.public_key()) == made.link_key
        check_client(own, authority)
        assert f"{made.site}.pem: send it to {made.site}; it holds until 20" in told
    assert draft.read_text().startswith(fed.DRAFT)


def test_one_after_the_other_the_coordinator_stands_once(draft: Path, tmp_path: Path, server: Coordinator) -> None:
    for site in ("H1", "H2", "H3"):
        approve(draft, asked(tmp_path, site), server=server.folder)
    assert draft.read_text().count("[coordinator]") == 1
    assert len(Charter.load(draft).members) == 3


def test_a_member_that_is_approved_again_gets_a_new_certificate_for_its_new_key_of_the_link(
    draft: Path, tmp_path: Path, server: Coordinator
) -> None:
    approve(draft, *(asked(tmp_path, f"H{number}") for number in (1, 2, 3)), server=server.folder, countries=["DE"] * 3)
    text, path = draft.read_bytes(), server.certificates_folder / "H2.pem"
    first = read(path, count=2)[0]
    told = approve(draft, asked(tmp_path, "H2"), server=server.folder)
    second = read(path, count=2)[0]
    assert "H2 is member 2 already" in told
    assert "joins again" not in told
    approve(draft, asked(tmp_path, "H2", link=7), server=server.folder, countries=["DE"])
    third = read(path, count=2)[0]
    assert len({digest(one) for one in (first, second, third)}) == 3
    assert public_der(third.public_key()) == fed.link_key(7) == server.members()[1].link_key
    assert draft.read_bytes() == text
    refused(
        UsageError,
        "the country of H2 is DE, not FR",
        draft,
        asked(tmp_path, "H2"),
        server=server.folder,
        countries=["FR"],
    )


def test_what_is_not_admitted_leaves_the_charter_and_the_coordinator_as_they_were(
    draft: Path, tmp_path: Path, server: Coordinator
) -> None:
    approve(draft, asked(tmp_path, "H1"), server=server.folder)
    before = kept(server)
    again, options = asked(tmp_path, "H1"), {"server": server.folder}
    other = asked(tmp_path, "H1", key=9)
    refused(ProtocolError, "not the one that was read out", draft, again, heard=[other[1].fingerprint], **options)
    refused(UsageError, "has a member H1 already", draft, other, **options)
    refused(PolicyError, "'marketing'", draft, asked(tmp_path, "H1", purpose="marketing", link=8), **options)
    refused(UsageError, "the key of the link of H2 is also that of H1", draft, asked(tmp_path, "H2", link=1), **options)
    two = asked(tmp_path, "H2", link=5), asked(tmp_path, "H3", link=5)
    refused(UsageError, "the key of the link of H3 is also that of H2", draft, *two, **options)
    refused(UsageError, "2 requests and 1 countries", draft, *two, countries=["DE"], **options)
    refused(UsageError, "must be a country's code", draft, two[0], countries=["UK"], **options)
    assert kept(server) == before


def test_a_name_at_the_gate_belongs_to_the_one_who_had_it_first_also_under_another_charter(
    draft: Path, tmp_path: Path, server: Coordinator
) -> None:
    approve(draft, asked(tmp_path, "H1"), server=server.folder)
    draft.write_text(fed.DRAFT)
    refused(UsageError, "has admitted H1 with another key", draft, asked(tmp_path, "H1", key=9), server=server.folder)
    refused(UsageError, "has admitted H1 with another key", draft, asked(tmp_path, "h1", key=9), server=server.folder)
    approve(draft, asked(tmp_path, "H1"), server=server.folder)


def test_a_charter_has_one_coordinator(draft: Path, tmp_path: Path, server: Coordinator) -> None:
    approve(draft, asked(tmp_path, "H1"), server=server.folder)
    other = establish(tmp_path / "other", address="fl.example.org:9443", name="imaging-1", country="DE")
    refused(CharterError, "the authority of its [coordinator] is", draft, asked(tmp_path, "H2"), server=other.folder)
    moved = establish(server.folder, address="elsewhere.example.org:9443")
    refused(
        CharterError,
        "the address of its [coordinator] is fl.example",
        draft,
        asked(tmp_path, "H2"),
        server=moved.folder,
    )


def test_without_the_authoritys_key_nothing_is_approved(draft: Path, tmp_path: Path, server: Coordinator) -> None:
    server.authority_key_path.chmod(0o644)
    refused(PolicyError, "others may read the key", draft, asked(tmp_path, "H1"), server=server.folder)
    server.authority_key_path.unlink()
    refused(UsageError, "cannot be read", draft, asked(tmp_path, "H1"), server=server.folder)
    refused(UsageError, "is not a coordinator's folder", draft, asked(tmp_path, "H1"), server=tmp_path / "none")
    assert kept(server) == {}


def test_countries_stand_in_the_charter_without_a_coordinator_as_well(draft: Path, tmp_path: Path) -> None:
    approve(draft, asked(tmp_path, "H1"), asked(tmp_path, "H2"), asked(tmp_path, "H3"), countries=["DE", "CN", "US"])
    assert [member.country for member in Charter.load(draft).members] == ["DE", "CN", "US"]
    assert Charter.load(draft).coordinator is None
