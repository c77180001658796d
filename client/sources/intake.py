"""What arrives: looked at, and kept in a private spool only if it is what was asked for.

Spool files are whole or absent and are named by a hash of their SOP Instance UID, so that nothing a sender says becomes
a path, and a restart knows what is there already.
"""

import contextlib
import hashlib
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from client.deid.codec import MalformedError, read
from client.deid.engine import text_of
from client.deid.tables import vr_of
from client.deid.text import decode, encodings
from client.sources.selection import Facts, Instance, Selection
from shared.errors import FedwardError, PolicyError
from shared.files import output_errors, write_bytes

PRIVATE_FOLDER, PRIVATE = 0o700, 0o600
LARGEST = 2 << 30
"""Bytes of one instance: a file is held in memory while it is de-identified."""

_SUFFIX = ".dcm"


class ClosedError(FedwardError):
    """Nothing is taken in any more: the ingest ended."""


@dataclass(frozen=True)
class Problem:
    """Something that could not be taken in: where it stands, and why, in words without values."""

    where: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its study, its instance, and what a selection looks at."""

    study: str
    instance: Instance
    facts: Facts


def header_of(data: bytes) -> Header:
    """The header of a Part 10 file, read as strictly as de-identification will read it.

    Raises:
        MalformedError: It is no DICOM file, or one that cannot be read without guessing, or it has no UIDs.
    """
    dataset = read(data, vr_of).dataset
    if any(tag >> 16 == 4 for tag in dataset):
        raise MalformedError("a DICOMDIR, an index and no image")
    study, series, uid = (text_of(dataset, tag) for tag in (0x0020000D, 0x0020000E, 0x00080018))
    if not (study and series and uid):
        raise MalformedError("it lacks the UIDs of its study, series or instance")
    codecs = encodings(text_of(dataset, 0x00080005))

    def text(tag: int) -> str:
        value = dataset.get(tag, ("", b""))[1]
        return (decode(value, codecs) or "").strip() if isinstance(value, bytes) else ""

    facts = Facts(
        modalities=frozenset({text_of(dataset, 0x00080060)}),
        day=day_of(text_of(dataset, 0x00080020)),
        descriptions=(text(0x00081030), text(0x0008103E)),
        patient=text(0x00100020),
    )
    return Header(study, Instance(series, uid, text_of(dataset, 0x00080016)), facts)


def day_of(text: str) -> date | None:
    """A DA value (PS3.5 6.2) as a date, also in the form with dots of ACR-NEMA; None where it is none."""
    with contextlib.suppress(ValueError):
        digits = text.strip().replace(".", "")
        return date.fromisoformat(digits) if len(digits) == 8 and digits.isdigit() else None
    return None


class Spool:
    """A folder that its owner alone can enter, with one folder per study.

    Args:
        folder: Made with mode 0700 where missing.

    Raises:
        PolicyError: It is there and others may enter it.
    """

    def __init__(self, folder: Path) -> None:
        with output_errors(folder):
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            mode = folder.lstat().st_mode
        if mode & 0o077 or not stat.S_ISDIR(mode):
            raise PolicyError(f"others may enter the spool {folder}", hint=f"run: chmod 700 {folder}")
        self.folder = folder

    def of(self, study: str) -> Path:
        """The folder of one study, made where missing; files that were not finished are taken away."""
        path = self.folder / _name(study)
        with output_errors(path):
            path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            for torn in path.glob(".*.part"):
                torn.unlink()
        return path

    def clear(self) -> None:
        """Take everything away: what no study of a finished ingest needed was left by one that was broken off."""
        for path in self.folder.iterdir():
            with output_errors(path):
                shutil.rmtree(path)

    def drop(self, study: str) -> None:
        """Take the files of a study away."""
        path = self.folder / _name(study)
        if path.exists():
            with output_errors(path):
                shutil.rmtree(path)


class Intake:
    """Takes the instances of one study, and no others.

    Args:
        folder: Where they are kept.
        study: The UID of the study that was asked for.
        wanted: Its instances that were asked for.
        selection: What every file must meet once more.
    """

    def __init__(self, folder: Path, study: str, wanted: Iterable[Instance], selection: Selection) -> None:
        self.folder, self._study, self._selection = folder, study, selection
        self._wanted: Mapping[str, Instance] = {one.uid: one for one in wanted}
        self.turned_away: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self.files = 0
        self.bytes = 0
        self._closed = False

    def close(self) -> None:
        """Take nothing in any more: whoever still fetches gets :class:`ClosedError`."""
        self._closed = True

    def readmit(self) -> None:
        """Look again at what an earlier run left in the spool, and take away what this one does not want."""
        for path in self.folder.iterdir():
            data = path.read_bytes()
            try:
                header = header_of(data)
                uid, study = header.instance.uid, header.study
                fits = study == self._study and uid in self._wanted and self._selection.admits_file(header.facts)
            except MalformedError:
                fits = False
            if not fits:
                path.unlink()

    def put(self, data: bytes, *, asked: str = "") -> bool:
        """Keep a file if it is one that was asked for and can be read; say whether it was kept.

        Args:
            data: A DICOM Part 10 file.
            asked: The UID of the instance that this is the answer for, where an answer is for one.

        Raises:
            OutputError: The spool does not take it.
            ClosedError: The ingest ended meanwhile.
        """
        if self._closed:
            raise ClosedError("the ingest ended", hint="run the same command again to go on")
        if len(data) > LARGEST:
            return self._refuse(asked, f"it is larger than {LARGEST >> 30} GiB")
        try:
            header = header_of(data)
        except MalformedError as error:
            return self._refuse(asked, str(error))
        uid = header.instance.uid
        if header.study != self._study or uid not in self._wanted or (asked and uid != asked):
            self.turned_away["an instance that was not asked for"] += 1
            return False
        if not self._selection.admits_file(header.facts):
            self.problems[uid] = "its header does not meet the selection that the query was made with"
            return False
        write_bytes(self.path(uid), data, mode=PRIVATE)
        self.problems.pop(uid, None)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)
        return True

    def _refuse(self, asked: str, reason: str) -> bool:
        if asked in self._wanted:
            self.problems[asked] = reason
        else:
            self.turned_away[reason] += 1
        return False

    def path(self, uid: str) -> Path:
        """Where the instance ``uid`` is kept, or would be."""
        return self.folder / file_name(uid)

    def missing(self) -> list[Instance]:
        """What was asked for, did not arrive and was not found wanting."""
        return [one for uid, one in self._wanted.items() if uid not in self.problems and not self.path(uid).exists()]

    def uids(self) -> Mapping[str, str]:
        """The SOP Instance UIDs by the names of their files."""
        return {self.path(uid).name: uid for uid in self._wanted}

    def kept(self) -> list[str]:
        """The SOP Instance UIDs that are in the spool."""
        return [uid for uid in self._wanted if self.path(uid).exists()]


def file_name(uid: str) -> str:
    """The name of a spool file by its SOP Instance UID."""
    return _name(uid) + _SUFFIX


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()
