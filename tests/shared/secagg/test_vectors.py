"""The known answers hold for this implementation, and for a second one that was written from the documents alone.

The second one is below: the standard library, and AES one block at a time.
"""

import hashlib
import hmac
import json
import math
import struct
from fractions import Fraction
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tests.shared.secagg.vectors.make import PATH, build

VECTORS: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
PRIME = 2**255 - 19


def encoding(domain: str, *fields: Any) -> bytes:
    return b"fwsa\x01" + b"".join(item(field) for field in (domain, *fields))


def item(field: Any) -> bytes:
    if isinstance(field, int):
        return b"u" + field.to_bytes(8, "big")
    if isinstance(field, dict):
        field = bytes.fromhex(field["hex"])
    if isinstance(field, bytes):
        return b"b" + len(field).to_bytes(4, "big") + field
    if isinstance(field, str):
        return b"s" + len(field.encode()).to_bytes(4, "big") + field.encode()
    return b"l" + len(field).to_bytes(4, "big") + b"".join(item(one) for one in field)


def expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869, section 2.3."""
    made, block = b"", b""
    for count in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([count]), "sha256")
        made += block
    return made[:length]


def stream(key: bytes, length: int, start: int = 0) -> bytes:
    """SP 800-38A, section 6.5, from block ``start`` on."""
    block = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - one block at a time is what a counter mode is made of
    return b"".join(block.update((start + n).to_bytes(16, "big")) for n in range(-(-length // 16)))[:length]


def test_the_answers_are_those_of_this_implementation() -> None:
    assert json.loads(json.dumps(build())) == VECTORS


@pytest.mark.parametrize("case", VECTORS["encoding"])
def test_encoding(case: dict[str, Any]) -> None:
    assert encoding(case["domain"], *case["fields"]).hex() == case["encoding"]


def test_key_ladder() -> None:
    given = VECTORS["hkdf"]
    chain, pair = bytes.fromhex(given["chain"]), {k: v for k, v in given["pair"].items() if k != "indices"}
    shared, kem, ciphertext, transcript = (
        bytes.fromhex(pair[k]) for k in ("x25519", "kem", "ciphertext_sha256", "transcript")
    )
    extracted = hmac.digest(transcript, shared + kem, "sha256")  # RFC 5869, section 2.2
    assert expand(extracted, encoding("key pair", [1, 2], ciphertext)).hex() == pair["secret"]
    assert expand(chain, encoding("key ratchet")).hex() == given["labels"]["RATCHET"]
    wide = int.from_bytes(expand(chain, encoding("key self secret"), 64), "big")
    assert f"{wide % PRIME:064x}" == given["self_secret"]
    second = int.from_bytes(expand(chain, encoding("key self polynomial", 2), 64), "big")
    assert f"{second % PRIME:064x}" == given["self_polynomial"][1]
    assert expand(chain, encoding("key box", 1, 2)).hex() == given["box_key_1_to_2"]
    context = bytes.fromhex(given["context"])
    assert expand(chain, encoding("key mask body", context)).hex() == given["mask_body_key"]
    assert expand(chain, encoding("key mask header", context)).hex() == given["mask_header_key"]


def test_shamir() -> None:
    given = VECTORS["shamir"]
    powers = [int(one, 16) for one in (given["secret"], *given["coefficients"])]
    for x, share in given["shares"].items():
        assert f"{sum(a * int(x) ** k for k, a in enumerate(powers)) % PRIME:064x}" == share
    weights = [int(one, 16) for one in given["weights_at_zero_1_3_5"]]
    secret = sum(w * int(given["shares"][x], 16) for w, x in zip(weights, "135", strict=True)) % PRIME
    assert f"{secret:064x}" == given["secret"]


def test_masks() -> None:
    given = VECTORS["masks"]
    key, other = bytes.fromhex(given["key"]), bytes.fromhex(given["subtracted_key"])
    assert stream(key, 48).hex() == given["stream"]
    assert stream(key, 16, 256).hex() == given["stream_from_byte_4096"]
    for name, masked in given["masked"].items():
        size = int(name[-1])
        for place, (word, result) in enumerate(zip(given["words"], masked, strict=True)):
            add, subtract = (int.from_bytes(stream(one, 48)[place * size :][:size], "little") for one in (key, other))
            assert (word + add - subtract) % 2 ** (8 * size) == result


@pytest.mark.parametrize("case", VECTORS["codec"])
def test_codec(case: dict[str, Any]) -> None:
    bits, weight = case["bits"], Fraction(case["weight"], case["w_max"])
    whole = (2 ** (bits - 1) - 1) // case["members"]
    assert case["scale"] == (math.floor(whole * (1 - Fraction(1, 2**20))) if bits == 32 else whole)
    coins = stream(bytes.fromhex(case["coins"]), 2 * len(case["words"])) if case["coins"] else b""
    for place, (x, word) in enumerate(zip(case["float32"], case["words"], strict=True)):
        exact = max(min(Fraction(x), 1), -1) * weight * case["scale"]
        if coins:
            coin = int.from_bytes(coins[2 * place : 2 * place + 2], "little")
            wanted = math.floor(exact + Fraction(2 * coin + 1, 2**17))
        else:
            wanted = round(exact)
        assert word == wanted % 2**bits
    assert case["clipped"] == 2
    signed = [word - 2**bits if word >= 2 ** (bits - 1) else word for word in case["words"]]
    average = [Fraction(one) * case["w_max"] / (case["scale"] * case["weight"]) for one in signed]
    assert case["average"] == pytest.approx([float(one) for one in average], rel=1e-14)
    assert case["lanes"] == [1, case["weight"], 2**18, 2**64 - 3 * 2**19, 0, 0, 0, 0]


def test_the_round() -> None:
    """What a reader of the documents can recompute without writing both state machines."""
    given = VECTORS["round"]
    bodies = [bytes.fromhex(raw)[:-64] for raw in given["adverts"]]
    fingerprint = bytes.fromhex(given["fingerprint"])
    transcript = hashlib.sha256(encoding("hash transcript", fingerprint, given["epoch"], bodies)).digest()
    assert transcript.hex() == given["transcript"]
    codec = encoding("codec", 32, 3, struct.pack(">d", 1.0), 1000, math.floor((2**31 - 1) // 3 * (1 - 2**-20)))
    context = hashlib.sha256(encoding("hash context", transcript, bytes.fromhex(given["task"]), codec)).digest()
    total = sum(w * x[0] for w, x in zip(given["weights"], given["updates"], strict=True)) / given["weight"]
    assert given["average"][0] == pytest.approx(total, abs=1e-8)
    for index, raw in enumerate(map(bytes.fromhex, given["uploads"]), 1):
        head = encoding("masked", index, context)
        assert raw.startswith(head)
        assert len(raw) == 144 + 4 * 5
