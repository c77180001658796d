"""What the coordinator sees of one hospital, beside what that hospital learnt: one update of a run, kept as it passed.

The masked numbers are those of the message. The true ones never left the hospital; the simulation, which owns the
virtual hospital, trains the same round once more from the same seeds to show them.
"""

from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from shared.charter import Charter
from shared.files import write_bytes
from shared.imaging.pictures import grayscale
from shared.secagg.round_messages import upload_start
from shared.vector import WIRE_FLOAT, Vector
from shared.wire import TRAIN_SUMS, MaskedBody, Refusal, TrainReply, TrainRequest, kind_of
from simulation.record import SeenRecord

NAME = "seen.upload"
"""The file of the upload, in the folder of its arm."""
START = "seen.model"
"""The file of the model that it started from."""
SIDE = 96
"""Of the pictures, pixels: one number each."""


@dataclass(frozen=True)
class _Wanted:
    """Which update is to be kept, and where."""

    site: str
    round: int
    folder: Path


class Watch:
    """Keeps one masked update of one hospital as it passes; ``expect`` says which."""

    def __init__(self) -> None:
        self._wanted: _Wanted | None = None

    def expect(self, site: str, number: int, folder: Path) -> None:
        """Keep the update of ``site`` in round ``number`` of the arm of ``folder``, and the model it started from."""
        self._wanted = _Wanted(site, number, folder)

    def __call__(self, site: str, kind: str, asked: RecordDict, content: RecordDict) -> None:
        """An answer of ``site`` to a message of ``kind``."""
        wanted = self._wanted
        if kind != "train" or wanted is None or wanted.site != site or kind_of(content) == Refusal.kind:
            return
        reply = TrainReply.from_record(content)
        # An arm that an earlier start of the run has finished sends nothing now, and the next arm is not the one.
        mine = (reply.header.run, reply.header.round) == (wanted.folder.name, wanted.round)
        if mine and isinstance(reply.body, MaskedBody):
            write_bytes(wanted.folder / START, TrainRequest.from_record(asked).model.vector.tobytes())
            write_bytes(wanted.folder / NAME, reply.body.upload)
            self._wanted = None


def started_from(folder: Path) -> Vector:
    """The model that the update in ``folder`` started from, float32 ``[d]``."""
    return np.frombuffer((folder / START).read_bytes(), WIRE_FLOAT)


def masked_numbers(folder: Path, charter: Charter) -> NDArray[np.signedinteger] | None:
    """The update that was kept in ``folder``, read as the signed integers that it would be without masks, ``[d]``."""
    path = folder / NAME
    if charter.masking is None or not path.exists():
        return None
    names = TRAIN_SUMS if charter.privacy.mode == "off" else ()
    word = np.dtype("<i4" if charter.masking.ring_bits == 32 else "<i2")
    return np.frombuffer(path.read_bytes(), word, offset=upload_start(len(names)))


def record(site: str, task: str, number: int, true: Vector, masked: NDArray[np.signedinteger]) -> SeenRecord:
    """Both as pictures, mid-grey for 0, and how alike they are.

    Args:
        site: Whose update it is.
        task: Of which task.
        number: Of which round.
        true: float32 ``[d]``.
        masked: The ring's words, signed, ``[d]``.
    """
    side = min(SIDE, isqrt(true.size))
    scale = float(np.quantile(np.abs(true), 0.995)) or 1.0
    full = float(np.iinfo(masked.dtype).max)
    planes = [
        grayscale(0.5 + 0.5 * numbers[: side * side].reshape(side, side).astype(np.float64) / extent)
        for numbers, extent in ((true, scale), (masked, full))
    ]
    return SeenRecord(
        site=site,
        task=task,
        round=number,
        numbers=true.size,
        shown=side * side,
        true=planes[0],
        masked=planes[1],
        correlation=float(np.corrcoef(true.astype(np.float64), masked.astype(np.float64))[0, 1]),
        chance=1.96 / float(np.sqrt(true.size)),
    )
