"""The messages of a round, as frozen dataclasses, to and from bytes.

What a hospital signs is the message's ``body()``, an encoding of its own domain.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.secagg.codec import MAX_METRICS, Codec, Lanes, lane_count
from shared.secagg.encoding import Reader, encode, pieces
from shared.secagg.federation import SIGNATURE_BYTES, Federation
from shared.secagg.field import SHARE_BYTES
from shared.secagg.keys import MAX_ROUND, Digest, digest
from shared.secagg.masks import Ring
from shared.secagg.signing import BOX_BYTES, DIGEST_BYTES, MAX_EPOCH, MAX_SIZE, UPLOAD_ALIGNMENT, Buffer, unsign


@dataclass(frozen=True)
class RoundTask:
    """What everyone in a round must agree on; its hash, with T and the codec, is the context of every mask.

    Attributes:
        epoch: The epoch.
        round: Number within the epoch, from 1; a number is used once, also where the round failed.
        participants: Who is asked, ascending.
        size: D, elements of the update; 0 for a round of metrics alone.
        model: SHA-256 of the global model.
        config: SHA-256 of the round's configuration.
        metrics: Names of the summed metrics, in the order of the lanes.
    """

    epoch: int
    round: int
    participants: tuple[int, ...]
    size: int
    model: bytes
    config: bytes
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a list of participants that counts somebody twice, and metrics of one name."""
        if any(a >= b for a, b in itertools.pairwise(self.participants)):
            raise ProtocolError("the participants of a task do not rise", hint="name each once, in order")
        if len(set(self.metrics)) != len(self.metrics):
            raise ProtocolError("a metric stands twice in a task", hint="name each once")

    def to_bytes(self) -> bytes:
        """The message."""
        return encode(
            "task", self.epoch, self.round, self.participants, self.size, self.model, self.config, self.metrics
        )

    @classmethod
    def read(cls, raw: bytes) -> "RoundTask":
        """Read a task.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "task", party="the coordinator")
        epoch, number = reader.integer(0, MAX_EPOCH), reader.integer(1, MAX_ROUND)
        participants, size = reader.indices(), reader.integer(0, MAX_SIZE)
        model, config = reader.data(DIGEST_BYTES), reader.data(DIGEST_BYTES)
        metrics = reader.many(lambda one: one.text(), MAX_METRICS)
        reader.end()
        return cls(epoch, number, participants, size, model, config, metrics)

    def context(self, t: bytes, codec: Codec) -> bytes:
        """Ctx, 32 bytes: a mask of one context does not cancel one of another."""
        return digest(Digest.CONTEXT, t, self.to_bytes(), codec.encoded())


@dataclass(frozen=True, eq=False)
class Upload:
    """The answer to ``train``: a masked vector; everything in it but the index and the context looks random.

    On the wire: an encoding of constant length for a given number of lanes, zeros up to a multiple of 16 bytes, and the
    body's words, little-endian. It is not signed: the link says who sent it, and the masks fit nobody else.

    Attributes:
        index: Who.
        context: Ctx.
        lanes: Masked header, uint64 ``[lanes]``.
        body: Masked update, ring ``[d]``.
    """

    index: int
    context: bytes
    lanes: Lanes
    body: Ring

    @staticmethod
    def blank(task: RoundTask, codec: Codec) -> tuple[NDArray[np.uint8], Ring]:
        """A whole message of zeros, and its body as a writable view: the update is quantised into its message."""
        start = upload_start(len(task.metrics))
        message = np.zeros(start + task.size * codec.words.itemsize, np.uint8)
        return message, message[start:].view(codec.words)

    @staticmethod
    def head(index: int, context: bytes, lanes: Lanes) -> bytes:
        """The encoding in front of the body."""
        return encode("masked", index, context, lanes.tobytes())

    @classmethod
    def read(cls, raw: Buffer, task: RoundTask, codec: Codec) -> "Upload":
        """Read an upload; ``lanes`` and ``body`` are read-only views of ``raw``.

        Raises:
            ProtocolError: Malformed, or not of the length that the task asks for.
        """
        start, lanes = upload_start(len(task.metrics)), lane_count(len(task.metrics))
        length = len(Upload.head(0, bytes(DIGEST_BYTES), np.zeros(lanes, np.dtype("<u8"))))
        view = memoryview(raw).cast("B")
        reader = Reader(bytes(view[:length]), "masked")
        if len(view) != start + task.size * codec.words.itemsize:
            raise reader.fault(f"it has {len(view)} bytes, which is not one of {task.size} elements")
        index, context = reader.integer(1), reader.data(DIGEST_BYTES)
        header = np.frombuffer(reader.data(8 * lanes), np.dtype("<u8"))
        reader.end()
        if any(view[length:start]):
            raise reader.fault("its padding is not zero")
        body = np.frombuffer(view, codec.words, task.size, start) if task.size else np.zeros(0, codec.words)
        return cls(index, context, header, body)


def upload_start(metrics: int) -> int:
    """Bytes of an upload in front of its body: 144 for up to 6 metrics."""
    length = len(Upload.head(0, bytes(DIGEST_BYTES), np.zeros(lane_count(metrics), np.dtype("<u8"))))
    return -(-length // UPLOAD_ALIGNMENT) * UPLOAD_ALIGNMENT


@dataclass(frozen=True)
class ConfirmRequest:
    """``query.secagg_confirm``, to a hospital: sign that these members are in the sum."""

    epoch: int
    round: int
    context: bytes
    included: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """The message."""
        return encode("confirm request", self.epoch, self.round, self.context, self.included)

    @classmethod
    def read(cls, raw: bytes) -> "ConfirmRequest":
        """Read a request.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "confirm request", party="the coordinator")
        request = cls(
            reader.integer(0, MAX_EPOCH), reader.integer(1, MAX_ROUND), reader.data(DIGEST_BYTES), reader.indices()
        )
        reader.end()
        return request


@dataclass(frozen=True)
class Confirmation:
    """The answer to a :class:`ConfirmRequest`, signed: this hospital knows one included set of the round, this one."""

    transcript: bytes
    round: int
    context: bytes
    index: int
    included: tuple[int, ...]

    def body(self) -> bytes:
        """What is signed."""
        return encode("confirmation", self.transcript, self.round, self.context, self.index, self.included)

    @classmethod
    def read(cls, raw: bytes) -> tuple["Confirmation", bytes]:
        """Read a confirmation; gives its signature too, which is not checked yet.

        Raises:
            ProtocolError: Malformed.
        """
        body, signature = unsign(raw)
        reader = Reader(body, "confirmation")
        t, number, context = reader.data(DIGEST_BYTES), reader.integer(1, MAX_ROUND), reader.data(DIGEST_BYTES)
        found = cls(t, number, context, reader.integer(1), reader.indices())
        reader.end()
        return found, signature


@dataclass(frozen=True)
class UnmaskRequest:
    """``query.secagg_unmask``, to a hospital.

    Attributes:
        epoch: The epoch.
        round: The round.
        context: Ctx.
        included: The set that was confirmed.
        signers: Whose confirmations follow, ascending.
        signatures: Of their :class:`Confirmation` of this set.
        boxes: For each participant but the reader, by index: the box that it sealed for the reader.
    """

    epoch: int
    round: int
    context: bytes
    included: tuple[int, ...]
    signers: tuple[int, ...]
    signatures: tuple[bytes, ...]
    boxes: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The message."""
        return encode(
            "unmask request",
            self.epoch,
            self.round,
            self.context,
            self.included,
            self.signers,
            self.signatures,
            self.boxes,
        )

    @classmethod
    def read(cls, raw: bytes) -> "UnmaskRequest":
        """Read a request.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "unmask request", party="the coordinator")
        epoch, number, context = reader.integer(0, MAX_EPOCH), reader.integer(1, MAX_ROUND), reader.data(DIGEST_BYTES)
        included, signers = reader.indices(), reader.indices()
        signatures = reader.many(lambda one: one.data(SIGNATURE_BYTES))
        boxes = reader.many(lambda one: one.data(BOX_BYTES))
        reader.end()
        if len(signers) != len(signatures):
            raise reader.fault("it has not one signature for each signer")
        return cls(epoch, number, context, included, signers, signatures, boxes)


@dataclass(frozen=True)
class Reveal:
    """The answer to an :class:`UnmaskRequest`, signed: of each participant one share, b if included, R if dropped."""

    transcript: bytes
    round: int
    context: bytes
    index: int
    members: tuple[int, ...]
    shares: tuple[bytes, ...]

    def body(self) -> bytes:
        """What is signed."""
        return encode(
            "reveal", self.transcript, self.round, self.context, self.index, self.members, b"".join(self.shares)
        )

    @classmethod
    def read(cls, raw: bytes, federation: Federation) -> "Reveal":
        """Read a signed answer.

        Raises:
            ProtocolError: Malformed, or not signed by its member.
        """
        body, signature = unsign(raw)
        reader = Reader(body, "reveal")
        t, number, context = reader.data(DIGEST_BYTES), reader.integer(1, MAX_ROUND), reader.data(DIGEST_BYTES)
        index, members = reader.integer(1), reader.indices()
        shares = reader.data(SHARE_BYTES * len(members))
        reader.end()
        federation.verify(index, body, signature, "shares of the round")
        return cls(t, number, context, index, members, tuple(pieces(shares, SHARE_BYTES)))
