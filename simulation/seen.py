"""What the coordinator sees of one hospital, beside what that hospital learnt: one update of a run, kept as it passed.

The masked numbers are those of the message. The true ones never left the hospital; the simulation, which owns the
virtual hospital, trains the same round once more from the same seeds to show them.
"""

from math import isqrt
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from shared.charter import Charter
from shared.files import write_bytes
from shared.secagg.round_messages import upload_start
from shared.vector import Vector
from shared.wire import TRAIN_SUMS, MaskedBody, Refusal, TrainReply, kind_of
from simulation.pictures import grayscale
from simulation.record import SeenRecord

NAME = "seen.upload"
"""The file of the upload, in the folder of its arm."""
SIDE = 96
"""Of the pictures, pixels: one number each."""


class Watch:
    """Keeps the first masked update of one hospital that passes; ``expect`` says of which."""

    def __init__(self) -> None:
        self._wanted: tuple[str, Path] | None = None

    def expect(self, site: str, folder: Path) -> None:
        """Keep the next update of ``site`` in ``folder``, unless one is there."""
        self._wanted = None if (folder / NAME).exists() else (site, folder / NAME)

    def __call__(self, site: str, kind: str, content: RecordDict) -> None:
        """An answer of ``site`` to a message of ``kind``."""
        if kind != "train" or self._wanted is None or self._wanted[0] != site or kind_of(content) == Refusal.kind:
            return
        body = TrainReply.from_record(content).body
        if isinstance(body, MaskedBody):
            write_bytes(self._wanted[1], body.upload)
            self._wanted = None


def masked_numbers(folder: Path, charter: Charter) -> NDArray[np.signedinteger] | None:
    """The update that was kept in ``folder``, read as the signed integers that it would be without masks, ``[d]``."""
    path = folder / NAME
    if charter.masking is None or not path.exists():
        return None
    names = TRAIN_SUMS if charter.privacy.mode == "off" else ()
    word = np.dtype("<i4" if charter.masking.ring_bits == 32 else "<i2")
    return np.frombuffer(path.read_bytes(), word, offset=upload_start(len(names)))


def record(site: str, task: str, true: Vector, masked: NDArray[np.signedinteger]) -> SeenRecord:
    """Both as pictures, mid-grey for 0, and how alike they are.

    Args:
        site: Whose update it is.
        task: Of which task.
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
        numbers=true.size,
        shown=side * side,
        true=planes[0],
        masked=planes[1],
        correlation=float(np.corrcoef(true.astype(np.float64), masked.astype(np.float64))[0, 1]),
        chance=1.96 / float(np.sqrt(true.size)),
    )
