"""Write ``vectors.json`` anew: ``python -m tests.shared.secagg.vectors.make``.

The format is in docs/secure-aggregation.md. A change of this file's output is a change of the protocol.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from shared.secagg import field, keys
from shared.secagg.codec import Codec, Quantiser
from shared.secagg.encoding import encode
from shared.secagg.ledger import MemoryLedger
from shared.secagg.masks import apply_masks, key_stream
from tests.shared.secagg.world import World, identity

PATH = Path(__file__).with_name("vectors.json")
KEY = bytes(range(32))


def build() -> dict[str, Any]:
    return {
        "version": 1,
        "encoding": _encoding(),
        "hkdf": _hkdf(),
        "shamir": _shamir(),
        "masks": _masks(),
        "codec": _codec(),
        "round": _round(),
    }


def _encoding() -> list[dict[str, Any]]:
    # A byte string is written as {"hex": ...}.
    cases: list[list[Any]] = [
        [],
        [0, 2**64 - 1],
        [b"", b"\x00\x01"],
        ["", "Charité"],
        [[], [1, [b"a", "b"]], [[]]],
    ]
    return [
        {"domain": "example", "fields": _plain(fields), "encoding": encode("example", *fields).hex()}
        for fields in cases
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _hkdf() -> dict[str, Any]:
    context = bytes(range(32, 64))
    chain = keys.pair_secret(bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32, bytes([4]) * 32, (1, 2))
    return {
        "seed": KEY.hex(),
        "exchange_public": keys.exchange_key(KEY).public_key().public_bytes_raw().hex(),
        "kem_public_sha256": hashlib.sha256(keys.kem_key(KEY).public_key().public_bytes_raw()).hexdigest(),
        "pair": {
            "x25519": (bytes([1]) * 32).hex(),
            "kem": (bytes([2]) * 32).hex(),
            "ciphertext_sha256": (bytes([3]) * 32).hex(),
            "transcript": (bytes([4]) * 32).hex(),
            "indices": [1, 2],
            "secret": chain.hex(),
        },
        "chain": KEY.hex(),
        "labels": {label.name: keys.expand(KEY, label).hex() for label in keys.Label},
        "self_secret": field.to_bytes(keys.self_secret(KEY)).hex(),
        "vault_secret": field.to_bytes(keys.vault_secret(KEY)).hex(),
        "self_polynomial": [field.to_bytes(one).hex() for one in keys.polynomial(KEY, keys.Label.SELF_POLYNOMIAL, 3)],
        "box_key_1_to_2": keys.box_key(KEY, 1, 2).hex(),
        "context": context.hex(),
        "mask_body_key": keys.mask_keys([KEY], keys.Label.MASK_BODY, context)[0].hex(),
        "mask_header_key": keys.mask_keys([KEY], keys.Label.MASK_HEADER, context)[0].hex(),
    }


def _shamir() -> dict[str, Any]:
    secret, coefficients = int.from_bytes(KEY, "big"), [7, field.PRIME - 1]
    shares = field.split(secret, coefficients, range(1, 6))
    return {
        "prime": hex(field.PRIME),
        "secret": KEY.hex(),
        "coefficients": [field.to_bytes(one).hex() for one in coefficients],
        "shares": {str(x): share.hex() for x, share in shares.items()},
        "weights_at_zero_1_3_5": [field.to_bytes(one).hex() for one in field.weights_at_zero((1, 3, 5))],
    }


def _masks() -> dict[str, Any]:
    other = bytes(range(1, 33))
    masked = {}
    for name in ("<u2", "<u4", "<u8"):
        words = np.arange(6).astype(name)
        apply_masks(words, [KEY], [other])
        masked[name] = words.tolist()
    return {
        "key": KEY.hex(),
        "stream": key_stream(KEY).update(bytes(48)).hex(),
        "stream_from_byte_4096": key_stream(KEY, 4096).update(bytes(16)).hex(),
        "subtracted_key": other.hex(),
        "words": list(range(6)),
        "masked": masked,
    }


def _codec() -> list[dict[str, Any]]:
    values = [0.0, 1.0, -1.0, 0.5, -0.123456789, 3.0, -3.0, 1e-9]
    cases = []
    for bits, weight in ((32, 1000), (32, 333), (16, 1000), (16, 333)):
        codec = Codec(bits, 5, 1.0, 1000)
        vector = np.array(values, np.float32)
        out = np.zeros(len(values), codec.words)
        quantiser = Quantiser(codec, weight, clips=True, coins=KEY if bits == 16 else None)
        quantiser.quantise(vector, out)
        average = np.zeros(len(values))
        codec.average(out, weight, average)
        cases.append(
            {
                "bits": bits,
                "members": 5,
                "clip": 1.0,
                "w_max": 1000,
                "scale": codec.scale,
                "weight": weight,
                "coins": KEY.hex() if bits == 16 else None,
                "float32": vector.astype(float).tolist(),
                "words": out.tolist(),
                "clipped": quantiser.clipped,
                "average": average.tolist(),
                "metrics": [0.25, -1.5],
                "lanes": codec.header(weight, [0.25, -1.5]).tolist(),
                "encoded": codec.encoded().hex(),
            }
        )
    return cases


def seed(index: int) -> bytes:
    return hashlib.sha256(b"seed %d" % index).digest()


def _round() -> dict[str, Any]:
    """Three hospitals, one round: every message, since all of them follow from the seeds."""
    world = World.of(3)
    world.ledgers = {index: MemoryLedger(lambda _, index=index: seed(index)) for index in world.everyone}  # type: ignore[misc]
    world.begin(rounds=2)
    task = world.task(2, 5)
    tally = world.tally(task)
    sent: dict[str, list[str]] = {"deals": [], "uploads": [], "confirmations": [], "reveals": []}
    updates = {index: np.arange(5, dtype=np.float32) / 8 - index / 4 for index in world.everyone}
    for index in world.everyone:
        deal = world.member(index).share(world.epoch.share_request(index, 1, 2))
        sent["deals"].append(hashlib.sha256(deal).hexdigest())
        upload = world.member(index).mask(task, updates[index], 10 * index, {"loss": index / 2}).upload
        tally.absorb(index, upload)
        sent["uploads"].append(upload.hex())
    for index in world.everyone:
        raw = world.member(index).confirm(tally.confirm_request())
        tally.confirmation(raw)
        sent["confirmations"].append(raw.hex())
    for index in world.everyone:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(raw)
        sent["reveals"].append(raw.hex())
    outcome = tally.finish()
    return {
        "identity_seeds": [identity(index).private_bytes_raw().hex() for index in world.everyone],
        "epoch_seeds": [seed(index).hex() for index in world.everyone],
        "fingerprint": world.federation.fingerprint.hex(),
        "epoch": 1,
        "adverts": [raw.hex() for raw in world.epoch.adverts()],
        "transcript": world.epoch.transcript.hex(),
        "deals_of_rounds_1_and_2_sha256": sent["deals"],
        "task": task.to_bytes().hex(),
        "updates": [one.tolist() for one in updates.values()],
        "weights": [10, 20, 30],
        "metrics": [0.5, 1.0, 1.5],
        "uploads": sent["uploads"],
        "confirmations": sent["confirmations"],
        "reveals": sent["reveals"],
        "average": outcome.average.tolist(),
        "weight": outcome.weight,
        "metrics_sum": outcome.metrics["loss"],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
