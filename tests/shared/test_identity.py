"""An identity and a request for membership: what is read out, what is signed, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from shared import identity
from shared.errors import FedwardError, OutputError, ProtocolError, UsageError
from shared.identity import MAX_REQUEST, Request, fingerprint, forgeable, same_fingerprint
from shared.link_keys import public_der

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
PURPOSE = "research on image quality"
LINK_KEY = public_der(ec.derive_private_key(5, ec.SECP384R1()).public_key())


def request(**changes: Any) -> Request:
    return Request.make(KEY, **{"site": "H1", "purpose": PURPOSE, "link_key": LINK_KEY} | changes)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    request().write(path)
    return path


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_half_a_sha256_in_groups_that_can_be_read_aloud() -> None:
    found = fingerprint(PUBLIC)
    assert found.replace(" ", "") == hashlib.sha256(PUBLIC).hexdigest()[:32]
    assert [len(group) for group in found.split(" ")] == [4] * 8


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", " ", "-", ":", "  "]), st.booleans())
def test_it_is_compared_whatever_its_case_and_its_gaps(public: bytes, gap: str, upper: bool) -> None:
    heard = fingerprint(public).replace(" ", gap)
    assert same_fingerprint(heard.upper() if upper else heard, public)
    other = bytes([public[0] ^ 1]) + public[1:]
    assert not same_fingerprint(heard, other)


@pytest.mark.parametrize("heard", ["", "abcd", fingerprint(PUBLIC)[:-1], fingerprint(PUBLIC) + "0", "x" * 32, "١" * 32])
def test_half_a_fingerprint_is_none(heard: str) -> None:
    with pytest.raises(UsageError, match="8 groups of 4") as caught:
        same_fingerprint(heard, PUBLIC)
    assert "without the name before them" in caught.value.hint


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_reads_back_equal_and_is_small(written: Path) -> None:
    found = Request.read(written)
    assert (found.site, found.public_key, found.purpose, found.link_key) == ("H1", PUBLIC, PURPOSE, LINK_KEY)
    assert found.created.tzinfo is UTC
    assert found.fingerprint == fingerprint(PUBLIC)
    assert written.stat().st_size < 1000


def test_it_holds_no_private_key_and_does_not_show_its_signature(written: Path) -> None:
    secret = KEY.private_bytes_raw().hex()
    assert secret not in written.read_text()
    assert request().signature.hex() not in repr(request())


def test_the_time_of_another_zone_is_written_in_utc(tmp_path: Path) -> None:
    when = datetime(2026, 3, 1, 1, 30, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    request(now=when).write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["created"] == "2026-02-28T23:30:05Z"
    assert Request.read(tmp_path / "r.json").created == when.replace(microsecond=0)


def test_the_longest_purpose_in_any_script_fits(tmp_path: Path) -> None:
    made = request(purpose="研" * 200, site="x" * 64)
    made.write(tmp_path / "r.json")
    assert Request.read(tmp_path / "r.json") == made


@pytest.mark.parametrize("purpose", ["", "ab", "x" * 201, "two\nlines", "\x1b[2J clear"])
def test_a_purpose_that_no_charter_can_have_is_refused_when_it_is_made(purpose: str) -> None:
    with pytest.raises(UsageError, match="3 to 200 printable characters"):
        request(purpose=purpose)


def altered(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda form: form | changes


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda form: {key: value for key, value in form.items() if key != name}


OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


OTHER_LINK = public_der(ec.derive_private_key(6, ec.SECP384R1()).public_key())
OFF_CURVE = OTHER_LINK[:-1] + bytes([OTHER_LINK[-1] ^ 1])
P256 = public_der(ec.derive_private_key(5, ec.SECP256R1()).public_key())
COMPRESSED = (
    ec.derive_private_key(5, ec.SECP384R1())
    .public_key()
    .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
)


@pytest.mark.parametrize("link_key", [b"", OFF_CURVE, P256, COMPRESSED, LINK_KEY + b"\0", PUBLIC])
def test_a_link_key_that_is_no_point_of_p384_is_refused_when_it_is_made(link_key: bytes) -> None:
    with pytest.raises(UsageError, match="the key of the link is no public key"):
        request(link_key=link_key)


@given(st.integers(0, len(LINK_KEY) * 8 - 1))
def test_no_bit_of_a_link_key_can_be_turned(bit: int) -> None:
    turned = bytearray(LINK_KEY)
    turned[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UsageError, match="the key of the link"):
        request(link_key=bytes(turned))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (altered(link_key=OTHER_LINK.hex()), ProtocolError, "the signature does not fit"),
        (altered(link_key=OFF_CURVE.hex()), UsageError, "link_key: is no public key"),
        (altered(link_key=LINK_KEY.hex().upper()), UsageError, "link_key: must be 240 hex"),
        (without("link_key"), UsageError, "link_key: is missing"),
        (altered(site="H2"), ProtocolError, "the signature does not fit"),
        (altered(purpose="marketing"), ProtocolError, "the signature does not fit"),
        (altered(created="2020-01-01T00:00:00Z"), ProtocolError, "the signature does not fit"),
        (altered(public_key=OTHER.public_key().public_bytes_raw().hex()), ProtocolError, "the signature does not fit"),
        (altered(signature=OTHER.sign(request().signed_bytes()).hex()), ProtocolError, "the signature does not fit"),
        (altered(signature="0" * 128), ProtocolError, "the signature does not fit"),
        (altered(public_key="f" * 64), ProtocolError, "the signature does not fit"),
        (altered(public_key="0" * 64), ProtocolError, "anybody could sign"),
        (altered(site="../H1"), UsageError, "site: must be 1 to 64 letters"),
        (altered(site="H1\n"), UsageError, "site: must be 1 to 64 letters"),
        (altered(site=7), UsageError, "site: must be text"),
        (altered(public_key="AB" * 32), UsageError, "public_key: must be 64 hex"),
        (altered(signature="ab"), UsageError, "signature: must be 128 hex"),
        (altered(purpose="x" * 201), UsageError, "purpose: must have 200 letters at most"),
        (altered(purpose="a\x1b[2Jb"), UsageError, "purpose: has control characters"),
        (altered(created="yesterday"), UsageError, "created: must have the form"),
        (altered(created="2026-13-01T00:00:00Z"), UsageError, "created: no such time"),
        (altered(created="2026-01-01T00:00:00"), UsageError, "created: must have the form"),
        (altered(note="\x1b[2J"), UsageError, "it has a field that no request has"),
        (without("site"), UsageError, "site: is missing"),
        (without("signature"), UsageError, "signature: is missing"),
        (lambda form: [form], UsageError, "is no membership request"),
        (lambda form: None, UsageError, "is no membership request"),
    ],
)
def test_an_altered_request_is_refused_in_one_line(
    written: Path, change: Callable[[dict[str, Any]], object], kind: type[FedwardError], words: str
) -> None:
    written.write_text(json.dumps(change(json.loads(written.read_text()))))
    refused(written, kind, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no membership request"),
        (b"not json", "is no membership request"),
        (b"\xff\xfe", "is no membership request"),
        (b'{"site": "\\ud800"}', "is no membership request"),
        (b"[" * 5000, "is no membership request"),
        (b" " * (MAX_REQUEST + 1), f"larger than {MAX_REQUEST} bytes"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_bytes(content)
    refused(path, UsageError, words)


def refused(path: Path, kind: type[FedwardError], words: str) -> None:
    with pytest.raises(FedwardError) as caught:
        Request.read(path)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_a_folder_is_no_request(tmp_path: Path) -> None:
    refused(tmp_path, UsageError, "cannot read")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        request().write(tmp_path / "file" / "request.json")


# --- keys under which anybody could sign ------------------------------------------------------------------------------

P = 2**255 - 19
NOTHING = b"\x01" + bytes(31) + bytes(32)
"""The signature with R the neutral point and S zero: its author needs no key."""


def signs_without_a_key(public: bytes) -> bool:
    for number in range(200):
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(NOTHING, str(number).encode())
        except InvalidSignature:
            continue
        return True
    return False


@pytest.mark.parametrize("public", sorted(identity._SMALL_ORDER), ids=bytes.hex)
def test_every_key_of_the_list_can_be_signed_under_by_anybody(public: bytes) -> None:
    assert forgeable(public)
    assert signs_without_a_key(public)


def test_the_list_is_whole() -> None:
    """Y of small order: 0, 1 and -1, and of order 8 (roots of the doubling formula); each also as y + p, if it fits."""
    d = -121665 * pow(121666, P - 2, P) % P
    i = pow(2, (P - 1) // 4, P)
    ys = {0, 1, P - 1}
    # A point of order 8 doubles to one with y = 0, so y^2 = -x^2; the curve then says d y^4 + 2 y^2 - 1 = 0.
    for square in roots(1 + d, i):
        for sign in (1, -1):
            value = (-1 + sign * square) * pow(d, P - 2, P) % P
            ys |= set(roots(value, i))
    expected = set()
    for y in ys:
        for form in (y, y + P):
            if form < 2**255:
                for sign in (0, 1):
                    expected.add((form | sign << 255).to_bytes(32, "little"))
    assert expected == identity._SMALL_ORDER


def roots(value: int, i: int) -> list[int]:
    root = pow(value, (P + 3) // 8, P)
    found = [one for one in (root, root * i % P) if one * one % P == value % P]
    return [sign * found[0] % P for sign in (1, -1)] if found else []


def test_an_honest_key_is_not_among_them() -> None:
    assert not forgeable(PUBLIC)
    assert not signs_without_a_key(PUBLIC)
