"""``fedward server init``: keys and certificates of a coordinator, which stay once they are made."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.authority import establish, plan_of
from server.cli import app
from server.coordinator import Coordinator
from shared.certificates import Authority, check_server, digest, hosts_of, pem, read
from shared.errors import FedwardError, PolicyError, ProtocolError, UsageError
from shared.identity import grouped
from shared.link_keys import read_key
from tests.federation.members import command

ADDRESS = "fl.example.org:9443"


def init(folder: Path, *options: str, address: str = ADDRESS) -> str:
    return command(app, "init", folder, "--address", address, *options)


def refused(kind: type[FedwardError], words: str, folder: Path, *options: str, **rest: Any) -> None:
    with pytest.raises(FedwardError) as caught:
        init(folder, *options, **rest)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def gate(folder: Path) -> tuple[Any, Any]:
    (own,), (authority,) = read(folder / "gate.pem", count=1), read(folder / "authority.pem", count=1)
    return own, authority


def test_it_makes_an_authority_and_a_gate_that_it_signs(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    told = init(folder, "--name", "imaging-1", "--country", "DE", "--also", "192.0.2.7", "--also", "localhost")
    made = Coordinator.open(folder)
    assert (made.name, made.address, made.country) == ("imaging-1", ADDRESS, "DE")
    own, authority = gate(folder)
    for host in ("fl.example.org", "192.0.2.7", "localhost"):
        check_server(own, authority, host)
    assert grouped(digest(authority)) in told
    assert plan_of(made).authority == digest(authority)
    for name in ("authority.key", "gate.key", "link.secret"):
        assert (folder / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    years = (
        (authority.not_valid_after_utc - datetime.now(UTC)).days / 365.25,
        (own.not_valid_after_utc - datetime.now(UTC)).days / 365.25,
    )
    assert [round(one) for one in years] == [10, 2]
    for key in (made.authority_key_path, made.gate_key_path):
        assert "PRIVATE" not in told
        assert key.read_text() not in told
    assert made.secret() not in told


def test_again_it_renews_the_gate_and_nothing_else(tmp_path: Path) -> None:
    init(tmp_path, "--name", "imaging-1", "--country", "DE", "--also", "localhost")
    kept = [tmp_path / "keys" / name for name in ("authority.key", "gate.key", "link.secret")] + [
        tmp_path / "authority.pem"
    ]
    before, first = [path.read_bytes() for path in kept], gate(tmp_path)[0]
    init(tmp_path, "--also", "10.0.0.1")
    assert [path.read_bytes() for path in kept] == before
    second = gate(tmp_path)[0]
    assert digest(second) != digest(first)
    assert set(hosts_of(second)) == {"fl.example.org", "localhost", "10.0.0.1"}
    assert Coordinator.open(tmp_path).name == "imaging-1"
    assert Coordinator.open(tmp_path).country == "DE"


def test_it_has_a_name_also_where_none_is_given(tmp_path: Path) -> None:
    init(tmp_path)
    assert Coordinator.open(tmp_path).name == "coordinator"


def test_an_ipv6_address_of_a_gate_stands_in_its_certificate_without_brackets(tmp_path: Path) -> None:
    init(tmp_path, address="[2001:db8::7]:9443")
    own, authority = gate(tmp_path)
    check_server(own, authority, "2001:db8::7")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--also", "a b"), "must be a host's name"),
        (("--also", "host:443"), "must be a host's name"),
        (("--country", "UK"), "country: must be a country's code"),
        (("--name", "a b"), "name: must be 1 to 64 letters"),
    ],
)
def test_what_cannot_stand_in_a_charter_is_refused_and_nothing_is_made(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    refused(UsageError, words, tmp_path / "c", *options)
    refused(UsageError, "must be host:port", tmp_path / "c", address="fl.example.org")
    assert not (tmp_path / "c").exists()


def test_another_coordinators_folder_is_not_taken_over(tmp_path: Path) -> None:
    init(tmp_path, "--name", "imaging-1")
    refused(UsageError, "is the coordinator imaging-1", tmp_path, "--name", "imaging-2")


def test_a_lost_or_exchanged_part_of_the_authority_is_never_made_anew(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    folder, other = tmp_path / "a", tmp_path / "b"
    pair = folder / "authority.pem", folder / "keys" / "authority.key"
    certificate, key = (path.read_bytes() for path in pair)
    pair[0].write_bytes((other / "authority.pem").read_bytes())
    refused(UsageError, "not that of its key", folder)
    pair[0].write_bytes(certificate)
    pair[1].unlink()
    refused(UsageError, "authority.key cannot be read", folder)
    pair[1].write_bytes(key)
    pair[1].chmod(0o644)
    refused(PolicyError, "others may read", folder)
    pair[1].chmod(0o600)
    pair[0].unlink()
    (folder / "certificates" / "H1.pem").write_text("")
    refused(UsageError, "authority.pem is lost", folder)


def test_an_authority_whose_time_is_over_signs_nothing(tmp_path: Path) -> None:
    made = establish(tmp_path, address=ADDRESS)
    old = Authority.make(read_key(made.authority_key_path), made.name, now=datetime.now(UTC) - timedelta(days=4000))
    made.authority_path.write_bytes(pem(old.certificate))
    refused(PolicyError, "the authority's certificate expired", tmp_path)
    with pytest.raises(ProtocolError, match="expired"):
        plan_of(made)


def test_its_help_says_its_exit_codes() -> None:
    assert "Exit status 0" in command(app, "init", "--help")
