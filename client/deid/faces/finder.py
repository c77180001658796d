"""The faces of one folder: which files are one series, where its face is, and each file without it.

Files are de-identified one by one, and a face is found in whole series. So the first head that is met has the headers
of the folder read, and the first file of a series has its face looked for; what was found is a few planes. Processes
that work on one folder share both through a private folder, one at a time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.deid import triage
from client.deid.codec import PIXEL_DATA, Part10, read
from client.deid.engine import text_of
from client.deid.faces.atlas import WEDGES, Wedge, moved
from client.deid.faces.geometry import TOO_FEW, Slice, ordered, slice_of
from client.deid.faces.register import fit
from client.deid.faces.volume import NO_VALUES, volume_of
from client.deid.pixels.bits import stored_bits_only
from client.deid.pixels.decide import is_head
from client.deid.pixels.frames import Frames
from client.deid.pixels.redact import GREYS, blanked_where
from client.deid.profile import Profile
from client.deid.profile_file import FaceRule
from client.deid.streams import UnclearError, stripped
from client.deid.tables import vr_of
from shared.files import write_bytes
from shared.parsing import parse_json

_SERIES, _MODALITY = 0x0020000E, 0x00080060
UNFINISHED = "a head, and the search for its face did not come to an end"
_Series = dict[str, list[tuple[str, Slice]]]


@dataclass(frozen=True)
class Defaced:
    """A file without its face.

    Attributes:
        part10: The file; the very same where none of its pixels lie in the face.
        pixels: How many of its pixels lie in the face.
        recoded: Whether a frame that was compressed otherwise, perhaps with loss, is stored without loss now.
    """

    part10: Part10
    pixels: int = 0
    recoded: bool = False


@contextlib.contextmanager
def room_for(profile: Profile, reports: Path) -> Iterator[Path | None]:
    """A private folder in which the processes of one batch note where faces are; none where no profile asks for it.

    Args:
        profile: The profile of the batch.
        reports: The folder of its reports, which may hold paths and UIDs of the input; there, and gone in the end.
    """
    if profile.pixels.faces is not FaceRule.DEFACE:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=".faces-", dir=reports) as folder:  # mode 0700
        yield Path(folder)


class Faces:
    """Where the faces are in the files of one folder.

    Args:
        source: The folder.
        room: Where other processes that work on it note the same (:func:`room_for`); None where there are none.
    """

    def __init__(self, source: Path, room: Path | None = None) -> None:
        self._source, self._room = source, room
        self._heads: _Series | None = None
        self._found: dict[str, dict[str, Any]] = {}

    def has(self, part10: Part10) -> bool:
        """Whether a file is of a series of which any file says that it shows a head."""
        dataset = part10.dataset
        if PIXEL_DATA not in dataset or text_of(dataset, _MODALITY) not in {"CT", "MR"}:
            return False
        return text_of(dataset, _SERIES) in self._series()

    def defaced(self, part10: Part10) -> Defaced:
        """The file with its darkest value in the place of the face; outside it every stored value stays as it is.

        Args:
            part10: A file of the folder, with nothing but pixels in its compressed streams.

        Raises:
            UnclearError: Its face cannot be found or not be taken out; the text says why.
        """
        place = slice_of(part10.dataset, big=part10.encoding.big)
        uid = text_of(part10.dataset, _SERIES)
        members = self._series().get(uid, [])
        wedges = self._wedges(uid, members)
        if place not in {one for _, one in members}:
            raise UnclearError(TOO_FEW)  # it was not there when its series was looked at
        frames = Frames(part10)
        if frames.photometric not in GREYS or frames.layout.shape != place.shape or frames.layout.frames != 1:
            raise UnclearError(NO_VALUES)
        mask = np.logical_or.reduce([np.logical_and.reduce([place.side(one) > 0 for one in its]) for its in wedges])
        if not mask.any():
            return Defaced(part10)
        frames.write(0, blanked_where(frames.read(0), mask, frames.photometric))
        return Defaced(frames.result(), int(mask.sum()), frames.recoded)

    def _series(self) -> _Series:
        if self._heads is None:
            with self._alone("survey") as noted:
                if noted is None or not noted.exists():
                    self._heads = _survey(self._source)
                    if noted is not None:
                        rows = {uid: [(path, asdict(one)) for path, one in its] for uid, its in self._heads.items()}
                        _note(noted, rows)
                else:
                    rows = parse_json(noted.read_text("utf-8"))
                    self._heads = {uid: [(path, _slice(one)) for path, one in its] for uid, its in rows.items()}
        return self._heads

    def _wedges(self, uid: str, members: list[tuple[str, Slice]]) -> tuple[Wedge, ...]:
        """Where the face of a series is, in the patient's coordinates.

        Raises:
            UnclearError: It was not found.
        """
        if uid not in self._found:
            with self._alone(hashlib.sha256(uid.encode()).hexdigest()) as noted:
                if noted is not None and noted.exists():
                    self._found[uid] = parse_json(noted.read_text("utf-8"))
                else:
                    self._found[uid] = {"reason": UNFINISHED}  # stays where the search ends this process
                    if noted is not None:
                        _note(noted, self._found[uid])
                    self._found[uid] = self._looked_for(members)
                    if noted is not None:
                        _note(noted, self._found[uid])
        found = self._found[uid]
        if "reason" in found:
            raise UnclearError(found["reason"])
        return tuple(tuple((a, b, c, d) for a, b, c, d in wedge) for wedge in found["wedges"])

    def _looked_for(self, members: list[tuple[str, Slice]]) -> dict[str, Any]:
        try:
            found = fit(volume_of(ordered(members), self._load))
        except UnclearError as error:
            return {"reason": str(error)}
        return {"wedges": moved(WEDGES, found.matrix, found.shift)}

    def _load(self, path: str) -> Part10:
        """A slice as it is de-identified: hidden bits are no part of its values."""
        try:
            part10 = read((self._source / path).read_bytes(), vr_of)
        except OSError as error:
            raise UnclearError(UNFINISHED) from error
        return stored_bits_only(stripped(triage.exact_pixels(part10)))

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[Path | None]:
        """The file of a note, which no other process writes meanwhile; a process that ends gives its lock back."""
        if self._room is None:
            yield None
            return
        with (self._room / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._room / f"{name}.json"


def _survey(source: Path) -> _Series:
    """All series of a folder of which any file says that it shows a head, with their slices, in the order of paths."""
    series: _Series = {}
    heads: set[str] = set()
    paths = sorted(
        os.path.relpath(Path(folder) / name, source) for folder, _, names in os.walk(source) for name in names
    )
    for path in paths:
        found = _looked_at(source / path)
        if found is None:
            continue
        uid, place, head = found
        if head:
            heads.add(uid)
        if place is not None:
            series.setdefault(uid, []).append((path, place))
    return {uid: series.get(uid, []) for uid in sorted(heads)}


def _looked_at(file: Path) -> tuple[str, Slice | None, bool] | None:
    """Of one file its series, its place where it has one, and whether it shows a head; None where it is no image."""
    try:
        if not file.is_file():
            return None
        part10 = read(file.read_bytes(), vr_of)
        if triage.refusal(part10):
            return None
        dataset = part10.dataset
        head = is_head(dataset)
        if not head and text_of(dataset, _MODALITY) not in {"CT", "MR"}:
            return None
        try:
            place = slice_of(dataset, big=part10.encoding.big) if PIXEL_DATA in dataset else None
        except UnclearError:
            place = None
        return text_of(dataset, _SERIES), place, head
    except Exception:  # noqa: BLE001  # the boundary of one file: it gets its own line in the report, with the reason
        return None


def _slice(row: dict[str, Any]) -> Slice:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Slice(**values)


def _note(path: Path, value: object) -> None:
    """Write a note whole, in ASCII: names of files need not be UTF-8."""
    write_bytes(path, json.dumps(value).encode(), mode=0o600)
