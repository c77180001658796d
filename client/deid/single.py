"""One file: read it, decide whether it may go out, de-identify it, write it. Nothing that it holds stops a batch."""

import os
import resource
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from client.deid import pixels, streams, triage
from client.deid.check import Facts, check, count_of
from client.deid.check import reason as reason_of
from client.deid.codec import MalformedError, Part10, read
from client.deid.engine import Deidentified, Engine
from client.deid.faces import Faces
from client.deid.known import Known
from client.deid.marks import marked
from client.deid.place import TWIN, holds, put
from client.deid.profile import Profile
from client.deid.profile_file import FaceRule
from client.deid.pseudonyms import SiteKey
from client.deid.report import FileRecord, Status
from client.deid.tables import vr_of
from shared.errors import FedwardError

WORKER_MEMORY = 4 << 30
"""Bytes that a worker process may take for its files: one that would need more is refused."""

PREFIX_END = 132
_KINDS = (
    (b"\xff\xd8\xff", "JPEG picture"),
    (b"\x89PNG", "PNG picture"),
    (b"GIF8", "GIF picture"),
    (b"BM", "BMP picture"),
    (b"II*\0", "TIFF picture"),
    (b"MM\0*", "TIFF picture"),
    (b"%PDF", "PDF document"),
    (b"PK\3\4", "zip archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"NRRD", "NRRD volume"),
)


@dataclass(frozen=True)
class Processed:
    """What became of one file.

    Attributes:
        record: Its line in the report.
        target: Where it was written below the output folder; empty where it was not.
        proposed: What in its pixels may be text, for the person who decides on a file that is held.
    """

    record: FileRecord
    target: str = ""
    proposed: tuple[streams.FrameBox, ...] = ()


def kind_of(head: bytes) -> str:
    """What a file is by its first bytes, for people: ``DICOM file``, ``JPEG picture``, ``file of another kind``."""
    if head[128:PREFIX_END] == b"DICM":
        return "DICOM file"
    if not head:
        return "empty file"
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), "file of another kind")


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file, as far as :func:`kind_of` looks.

    Raises:
        MalformedError: It is no regular file, or cannot be opened.
    """
    try:
        # O_NONBLOCK: a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MalformedError("it is no regular file")
            return stream.read(PREFIX_END)
    except OSError as error:
        raise MalformedError(f"it cannot be read: {error.strerror}") from error


class Processor:
    """Takes the files of one input folder through an engine to one output folder.

    Args:
        source: The input folder.
        out: The output folder.
        profile: The profile.
        key: The site's key.
        room: Where processes that work on the input folder note its faces (:func:`client.deid.faces.room_for`).
    """

    def __init__(self, source: Path, out: Path, profile: Profile, key: SiteKey, room: Path | None = None) -> None:
        self._source, self._out, self._profile, self._engine = source, out, profile, Engine(profile, key)
        self._facts = Facts.of(profile)
        self._faces = Faces(source, room) if profile.pixels.faces is FaceRule.DEFACE else None

    def process(self, path: str, *, takes_place: bool = False) -> Processed:
        """De-identify one file, given by its path below the input folder.

        A file whose place another one has, made under the same profile, is held: the same instance was released before.

        Args:
            path: The file.
            takes_place: Whether it replaces whatever stands in its place.

        Raises:
            OutputError: The output folder does not take it; the batch cannot go on.
        """
        return self.guarded(path, lambda: self._process(path, takes_place=takes_place))

    @staticmethod
    def guarded(path: str, act: Callable[[], Processed]) -> Processed:
        """What ``act`` makes of a file; where it fails on what the file holds, a refusal that says why.

        Raises:
            FedwardError: It failed on something else; the batch cannot go on.
        """
        try:
            return act()
        except MalformedError as error:
            return Processed(FileRecord(path, Status.REFUSED, str(error)))
        except MemoryError:
            return Processed(FileRecord(path, Status.REFUSED, "it needs more memory than a file may take"))
        except FedwardError:
            raise
        except Exception as error:  # noqa: BLE001  # the boundary of one file: whatever it holds, the batch goes on
            # The text of the error may hold values of the file; its type does not.
            return Processed(FileRecord(path, Status.REFUSED, f"it cannot be de-identified: {type(error).__name__}"))

    def settle(self, first: str, second: str) -> Processed:
        """Two files came out as one instance: the first keeps the place; is the second the same file once more?

        Returns:
            What becomes of the second.
        """
        chunks = [self._done(self._readable(path))[0].chunks() for path in (first, second)]
        same = b"".join(chunks[0]) == b"".join(chunks[1])
        again = self.process(first, takes_place=True)
        if same:
            return Processed(replace(again.record, path=second), again.target)
        return Processed(FileRecord(second, Status.QUARANTINED, TWIN))

    def release(
        self, path: str, lifted: str, boxes: tuple[streams.FrameBox, ...] = (), *, takes_place: bool = False
    ) -> Processed:
        """De-identify a file although it is held for ``lifted``: a person has looked at it. Every other rule holds.

        Args:
            path: The file, below the input folder.
            lifted: The reason that it is held for.
            boxes: What the person wants blanked, within the picture; the detector is not asked again.
            takes_place: Whether it replaces what stands in its place.

        Raises:
            OutputError: The output folder does not take it.
            MalformedError: The file cannot be read.
        """
        return self._process(path, lifted, boxes, takes_place=takes_place)

    def stands(self, path: str, lifted: str, boxes: tuple[streams.FrameBox, ...] = ()) -> bool:
        """Whether what stands in the file's place is this file, released with these boxes blanked."""
        try:
            done, _ = self._done(self._readable(path), lifted, boxes)
            return bool(holds(self._out / done.path, b"".join(done.chunks())))
        except (streams.UnclearError, OSError):
            return False

    def _readable(self, path: str) -> Part10:
        return triage.exact_pixels(read((self._source / path).read_bytes(), vr_of))

    def _done(
        self, part10: Part10, lifted: str = "", boxes: tuple[streams.FrameBox, ...] = ()
    ) -> tuple[Deidentified, pixels.Cleared | None]:
        """The file as it may go out, and what was done to its pixels where they were looked at.

        Raises:
            UnclearError: Its pixels cannot be cleared.
        """
        head = pixels.is_head(part10.dataset) or (self._faces is not None and self._faces.has(part10))
        if head and self._profile.pixels.faces is FaceRule.HOLD:
            raise streams.UnclearError("a head, whose face could be rendered, and the profile has heads held")
        found = streams.stripped(part10)
        bare = pixels.stored_bits_only(found)
        hidden, defaced = bare is not found, None
        if head and self._faces is not None:  # whatever a person lifted: one picture does not show what can be rendered
            defaced = self._faces.defaced(bare)
            bare = defaced.part10
        cleared = None
        if lifted:  # a person has looked, and vouches for the pixels (PS3.3 C.7.6.1.1.5)
            cleared = pixels.blank(bare, boxes)
        elif why := pixels.look(bare, everything=self._profile.pixels.every_image):
            cleared = pixels.clear(bare, why, only_regions=self._profile.pixels.only_regions)
        done = self._engine.deidentify(cleared.part10 if cleared else bare)
        return marked(done, self._profile, cleared, head=head, hidden=hidden, defaced=defaced), cleared

    def _process(
        self, path: str, lifted: str = "", boxes: tuple[streams.FrameBox, ...] = (), *, takes_place: bool = False
    ) -> Processed:
        file = self._source / path
        kind = kind_of(head_of(file))
        if kind != "DICOM file":
            return Processed(FileRecord(path, Status.REFUSED, f"not a DICOM file but: {kind}"))
        try:
            data = file.read_bytes()
        except OSError as error:
            raise MalformedError(f"it cannot be read: {error.strerror}") from error
        part10 = read(data, vr_of)
        if why := triage.refusal(part10):
            return Processed(FileRecord(path, Status.REFUSED, why))
        part10 = triage.exact_pixels(part10)
        if why := triage.quarantine(part10, lifted):
            return Processed(FileRecord(path, Status.QUARANTINED, why))
        try:
            done, cleared = self._done(part10, lifted, boxes)
        except streams.UnclearError as error:
            return Processed(FileRecord(path, Status.QUARANTINED, str(error)), proposed=error.boxes)
        looked = (cleared.frames, len(cleared.boxes)) if cleared else (0, 0)
        content = b"".join(done.chunks())
        if findings := check(content, Known.of(data, self._facts.kept), self._facts, str(done.path)):
            counts = {**done.counts, **count_of(findings)}
            return Processed(FileRecord(path, Status.QUARANTINED, reason_of(findings), counts, *looked))
        if not put(self._out / done.path, content, self._profile.sha256, replace=takes_place):
            return Processed(FileRecord(path, Status.QUARANTINED, TWIN, done.counts, *looked))
        return Processed(FileRecord(path, Status.RELEASED, "", done.counts, *looked), str(done.path))


def _address_space() -> int:
    """Bytes of address space that this process has already (proc(5), statm)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def limit_memory() -> None:
    """Bound what this process may take from now on, so that one file cannot take the machine."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + WORKER_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
