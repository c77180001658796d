"""Pseudonyms: stable under a key, different under another, and not to be had without one."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.deid import SiteKey
from client.deid.pseudonyms import LONGEST_SHIFT, Pseudonyms
from shared.errors import OutputError, PolicyError, UsageError

ONE, OTHER = Pseudonyms(SiteKey(b"1" * 32)), Pseudonyms(SiteKey(b"2" * 32))


def test_the_values_are_fixed_for_ever() -> None:
    """A change here would break the link between batches that were de-identified years apart."""
    assert ONE.uid("1.2.3") == "2.25.236001051067597340589458514338651262285"
    assert ONE.patient("id:4711") == "FW5LP3QP3EYTYZT5C2"
    assert ONE.shift("id:4711") == -792


@pytest.mark.control("HIPAA-164.514-c-pseudonyms")
@given(st.text(max_size=64))
def test_uids_are_valid_and_keyed(value: str) -> None:
    uid = ONE.uid(value)
    number = int(uid.removeprefix("2.25."))
    assert len(uid) <= 64
    assert number >> 76 & 0xF == 8  # version and variant of an RFC 9562 UUID of free form
    assert number >> 62 & 0b11 == 0b10
    assert uid == ONE.uid(value) != OTHER.uid(value)


@given(st.text(max_size=64))
def test_dates_move_by_whole_days_and_never_stay(identity: str) -> None:
    assert -LONGEST_SHIFT <= ONE.shift(identity) <= -1


@pytest.mark.control("HIPAA-164.514-c-pseudonyms")
def test_purposes_do_not_meet() -> None:
    key = SiteKey(b"1" * 32)
    assert key.derive("a", b"bc") != key.derive("ab", b"c")
    assert key.derive("uid", b"x") != key.derive("patient", b"x")


def test_shifts_are_spread() -> None:
    shifts = {ONE.shift(f"id:{number}") for number in range(400)}
    assert len(shifts) > 300
    assert min(shifts) < -1300
    assert max(shifts) > -150


def test_a_key_file_is_secret_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site.key"
    key = SiteKey.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SiteKey.load(path) == key
    assert len(key.secret) == 32
    assert key.secret.hex() not in repr(key)


def test_a_key_of_raw_bytes_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "raw.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(range(32)))
    assert SiteKey.load(path).secret == bytes(range(32))


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    SiteKey.create(tmp_path / "site.key")
    before = (tmp_path / "site.key").read_bytes()
    with pytest.raises((UsageError, OutputError)):
        SiteKey.create(tmp_path / "site.key")
    assert (tmp_path / "site.key").read_bytes() == before


@pytest.mark.control("HIPAA-164.514-c-pseudonyms")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    SiteKey.create(path)
    path.chmod(mode)
    with pytest.raises(PolicyError, match="others may read"):
        SiteKey.load(path)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33, b"\x00\xff" * 32, b"k" * 31])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.key"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, content)
    os.close(descriptor)
    with pytest.raises(UsageError, match="not a site key"):
        SiteKey.load(path)


def test_a_missing_key_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        SiteKey.load(tmp_path / "nowhere.key")
