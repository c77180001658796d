"""What secure aggregation costs, beside a plain sum, the key stream that it cannot do without, and Flower's SecAgg+.

    python -m benchmarks.secagg [--size 1000000,10000000] [--members 3,10,32] [--drops 0,1,2] [--bits 32,16]
                                [--workers 2] [--no-flower] [--no-memory] [--post-quantum]

One process plays every hospital in turn and the coordinator. Times are milliseconds of CPU for a whole round:

plain, coord        a float32 sum of the same vectors by numpy; the coordinator's absorb, confirm, reveal and finish
co/pl, wall/pl      their ratio, in CPU time and in wall time with --workers threads
client, stream      median hospital: mask, confirm and unmask, its ledger in memory; the AES-256-CTR stream alone of its
                    n masks of d words
setup               an epoch with one round dealt: everyone's CPU time over n
up, small           bytes of the upload per element; all other bytes that a hospital sends in a round
MiB                 peak memory of the coordinator, one upload in flight and the float64 average included
max_err             against the float64 average; the clip is 1
fl_*                quantize, masks, shares and sums of flwr.common.secure_aggregation (complete graph, its defaults of
                    2^22 levels and a ring of 2^32): client CPU, server CPU, upload in bytes per element
"""

import argparse
import gc
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray

from shared.secagg.masks import CHUNK_BYTES, key_stream
from shared.secagg.member import Masked
from shared.secagg.tally import Outcome
from shared.vector import Vector
from tests.shared.secagg.world import THRESHOLDS, World

COLUMNS = (
    "d",
    "n",
    "drop",
    "bits",
    "plain",
    "client",
    "stream",
    "cl/str",
    "coord",
    "co/pl",
    "wall/pl",
    "setup",
    "up",
    "small",
    "MiB",
    "max_err",
    "fl_client",
    "fl_server",
    "fl_up",
)
LEVELS, RING = 2**22, 2**32  # Flower's quantization_range and modulus_range


@dataclass
class Clock:
    """CPU and wall seconds of what is run under it."""

    cpu: float = 0.0
    wall: float = 0.0

    def run(self, work: Callable[..., Any], *given: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = work(*given)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return result


def draw(index: int, size: int) -> Vector:
    return np.random.default_rng(index).standard_normal(size, dtype=np.float32) * np.float32(0.05)


def stream_ms(size: int, streams: int, bits: int) -> float:
    """The AES-256-CTR stream of so many masks, in chunks as the masks take it, and nothing else; best of three."""
    zeros, out = memoryview(bytes(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES))

    def generate() -> None:
        for key in range(streams):
            cipher = key_stream(bytes([key]) * 32)
            left = size * bits // 8
            while left:
                now = min(left, CHUNK_BYTES)
                cipher.update_into(zeros[:now], out[:now])
                left -= now

    clocks = [Clock() for _ in range(3)]
    for clock in clocks:
        clock.run(generate)
    return 1e3 * min(clock.cpu for clock in clocks)


class Round:
    """One round of ours, stage by stage, each under its clock."""

    def __init__(self, size: int, members: int, drops: int, bits: int, asked: argparse.Namespace) -> None:
        threshold = min(THRESHOLDS[members], members - drops)
        self.world = World.of(members, threshold=threshold, ring_bits=bits, post_quantum=asked.post_quantum)
        self.setup, self.coordinator, self.plain = Clock(), Clock(), Clock()
        self.setup.run(partial(self.world.begin, rounds=1))
        self.task = self.world.task(1, size)
        self.clients = {index: Clock() for index in self.world.everyone[drops:]}
        self.weights = {index: 500 + 7 * index for index in self.clients}
        self.tally = self.world.tally(self.task, asked.workers)
        self.upload = self.small = self.peak = 0

    def mask(self, index: int, update: Vector) -> memoryview:
        member, weight = self.world.member(index), self.weights[index]
        masked: Masked = self.clients[index].run(member.mask, self.task, update, weight, {"loss": 1.0})
        self.upload = len(masked.upload)
        return masked.upload

    def finish(self) -> Outcome:
        request = self.coordinator.run(self.tally.confirm_request)
        for index, clock in self.clients.items():
            raw = clock.run(self.world.member(index).confirm, request)
            self.coordinator.run(self.tally.confirmation, raw)
            self.small = len(raw)
        for index, clock in self.clients.items():
            wanted = self.coordinator.run(self.tally.unmask_request, index)
            raw = clock.run(self.world.member(index).unmask, wanted)
            self.coordinator.run(self.tally.reveal, raw)
        self.small += len(raw)
        outcome: Outcome = self.coordinator.run(self.tally.finish)
        return outcome


def ours(size: int, members: int, drops: int, bits: int, asked: argparse.Namespace) -> dict[str, Any]:
    one_round = Round(size, members, drops, bits, asked)
    total, exact = np.zeros(size, np.float32), np.zeros(size)
    for index in one_round.clients:
        update = draw(index, size)
        masked = one_round.mask(index, update)
        exact += update.astype(np.float64) * one_round.weights[index]
        update *= np.float32(one_round.weights[index])  # a plain hospital sends it weighted
        one_round.plain.run(partial(np.add, total, update, out=total))
        one_round.coordinator.run(one_round.tally.absorb, index, masked)
    outcome = one_round.finish()
    coordinator, plain = one_round.coordinator, one_round.plain
    return {
        "plain": 1e3 * plain.cpu,
        "client": 1e3 * statistics.median(clock.cpu for clock in one_round.clients.values()),
        "coord": 1e3 * coordinator.cpu,
        "co/pl": coordinator.cpu / plain.cpu,
        "wall/pl": coordinator.wall / plain.wall,
        "setup": 1e3 * one_round.setup.cpu / members,
        "up": one_round.upload / size,
        "small": one_round.small,
        "max_err": np.abs(outcome.average - exact / sum(one_round.weights.values())).max(),
    }


def memory(size: int, members: int, drops: int, bits: int, asked: argparse.Namespace) -> float:
    """Peak MiB that the coordinator allocates, with one upload in flight; traced, so apart from the times."""
    one_round = Round(size, members, drops, bits, asked)
    gc.collect()
    tracemalloc.start()
    peak = 0
    for index in one_round.clients:
        update = draw(index, size)
        masked = one_round.mask(index, update)
        del update
        tracemalloc.reset_peak()
        one_round.tally.absorb(index, masked)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        del masked
    tracemalloc.reset_peak()
    one_round.finish()
    peak = max(peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return peak / 2**20


Arrays = list[NDArray[Any]]


class Flower:
    """Flower's functions in the order of its client mod and its workflow; keys are stood for by random seeds."""

    def __init__(self, size: int, members: int, drops: int) -> None:
        self.size, self.members, self.drops = size, members, drops
        self.threshold = min(THRESHOLDS[members], members - drops)
        self.seeds = [os.urandom(32) for _ in range(members)]
        self.pairs = {(i, j): os.urandom(32) for i in range(members) for j in range(i + 1, members)}
        self.shares: dict[int, list[bytes]] = {}

    def mask(self, i: int, update: Vector) -> Arrays:
        self.shares[i] = create_shares(self.seeds[i], self.threshold, self.members)
        vector = factor_combine(512, quantize([update], 1.0, LEVELS))
        shapes = [part.shape for part in vector]
        vector = parameters_addition(vector, pseudo_rand_gen(self.seeds[i], RING, shapes))
        for j in (j for j in range(self.members) if j != i):
            stream = pseudo_rand_gen(self.pairs[min(i, j), max(i, j)], RING, shapes)
            vector = (parameters_addition if i > j else parameters_subtraction)(vector, stream)
        return parameters_mod(vector, RING)

    def unmask(self, vector: Arrays) -> None:
        shapes = [part.shape for part in vector]
        for _ in range(self.drops, self.members):
            seed = combine_shares(self.shares[self.drops][: self.threshold])
            vector = parameters_subtraction(vector, pseudo_rand_gen(seed, RING, shapes))
        for i in range(self.drops):
            for j in range(self.drops, self.members):
                vector = parameters_subtraction(vector, pseudo_rand_gen(self.pairs[i, j], RING, shapes))
        _, vector = factor_extract(parameters_mod(vector, RING))
        dequantize(vector, 1.0, LEVELS)

    def run(self) -> dict[str, float]:
        client, server = Clock(), Clock()
        # One client is timed; its vector stands for those of the others, which cost the sum the same.
        masked = client.run(self.mask, self.drops, draw(1, self.size))
        total = masked
        for _ in range(self.drops + 1, self.members):
            total = server.run(parameters_addition, total, masked)
        server.run(self.unmask, total)
        sent = sum(part.nbytes for part in masked)
        return {"fl_client": 1e3 * client.cpu, "fl_server": 1e3 * server.cpu, "fl_up": sent / self.size}


def show(values: Iterable[Any]) -> str:
    texts = []
    for value in values:
        if not isinstance(value, float):
            texts.append(str(value))
        elif 0 < abs(value) < 1e-3:
            texts.append(f"{value:.1e}")
        else:
            texts.append(f"{value:.4f}" if 2 <= value < 10 and value != round(value, 2) else f"{value:.2f}")
    return " ".join(f"{text:>9s}" for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", "1000000,10000000"), ("members", "3,10,32"), ("drops", "0,1,2"), ("bits", "32")):
        parser.add_argument(f"--{name}", default=default, type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--flower", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--post-quantum", action="store_true")
    asked = parser.parse_args()
    print(show(COLUMNS), flush=True)
    for size in asked.size:
        for members in asked.members:
            for drops in asked.drops:
                if members == 3 and drops:
                    continue  # a drop among three ends the round
                there = Flower(size, members, drops).run() if asked.flower else {}
                for bits in asked.bits:
                    row: dict[str, Any] = {"d": size, "n": members, "drop": drops, "bits": bits, **there}
                    row |= ours(size, members, drops, bits, asked)
                    row["stream"] = stream_ms(size, members, bits)
                    row["cl/str"] = row["client"] / row["stream"]
                    if asked.memory:
                        row["MiB"] = memory(size, members, drops, bits, asked)
                    print(show(row.get(name, "-") for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
