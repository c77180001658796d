"""A folder, read recursively: DICOM files, zip archives of them, and file-sets with a DICOMDIR.

Where a folder holds a DICOMDIR (PS3.10 section 8), the files that it names are read and no others below that folder;
the DICOMDIR itself is an index that names patients and never an image.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from client.deid.codec import Dataset, MalformedError, read
from client.deid.single import PREFIX_END, head_of, kind_of
from client.deid.tables import vr_of
from client.sources.archive import Limits, members_of, read_member
from client.sources.intake import LARGEST, Header, Intake, Problem, header_of
from client.sources.selection import Instance, Selection
from client.sources.source import Study
from shared.errors import DataError, UsageError

INDEX = "DICOMDIR"
_MOST_REASONS = 3
_RECORDS, _FILE = 0x00041220, 0x00041500  # Directory Record Sequence, Referenced File ID (PS3.3 F.3)


@dataclass(frozen=True)
class _Place:
    """Where a file lies: its path, and its place and its name within where that is an archive."""

    path: Path
    member: str = ""
    number: int = 0

    def shown(self, root: Path) -> str:
        outer = os.path.relpath(self.path, root) if self.path != root else self.path.name
        return f"{outer}!{self.member}" if self.member else outer


class Folder:
    """Studies in a folder, or in one zip archive.

    Args:
        root: The folder or the archive; links to folders are not followed.
        limits: What an archive may hold.

    Raises:
        UsageError: There is none.
    """

    kind = "folder"

    def __init__(self, root: Path, *, limits: Limits | None = None) -> None:
        if not root.exists():
            raise UsageError(f"there is no folder {root}", hint="name the folder that holds the DICOM files")
        self.name = str(root)
        self._root, self._limits = root, limits or Limits()
        self._found: Mapping[str, dict[str, tuple[_Place, Header]]] | None = None
        self._problems: list[Problem] = []

    def studies(self, selection: Selection) -> Sequence[Study]:
        """See :meth:`client.sources.source.Source.studies`.

        Raises:
            DataError: There is no DICOM file at all that can be read.
        """
        if self._found is None:
            self._found = self._scan()
        if not self._found:
            reasons = Counter(one.reason for one in self._problems).most_common(_MOST_REASONS)
            what = "no DICOM file that can be read: " + ", ".join(f"{number} x {why}" for why, number in reasons)
            raise DataError(
                f"{self.name} holds {what if reasons else 'no files'}",
                hint="export the studies as DICOM Part 10 files, or a zip archive of them, and name their folder",
            )
        return [
            Study(uid)
            for uid, members in sorted(self._found.items())
            if any(selection.admits_study(header.facts) for _, header in members.values())
        ]

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:
        """See :meth:`client.sources.source.Source.instances`."""
        members = (self._found or {}).get(study.uid, {})
        candidates = ((header.instance, header.facts) for _, header in members.values())
        return sorted(one for one in selection.choose(candidates))

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        """See :meth:`client.sources.source.Source.fetch`."""
        members = (self._found or {}).get(study.uid, {})
        for one in wanted:
            try:
                data = self._read(members[one.uid][0])
            except MalformedError as error:
                intake.problems[one.uid] = str(error)
            else:
                intake.put(data, asked=one.uid)

    def problems(self) -> Sequence[Problem]:
        """See :meth:`client.sources.source.Source.problems`."""
        return self._problems

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    # --- finding files --------------------------------------------------------------------------------------------

    def _scan(self) -> Mapping[str, dict[str, tuple[_Place, Header]]]:
        found: dict[str, dict[str, tuple[_Place, Header]]] = defaultdict(dict)
        for place in self._places():
            try:
                data = self._read(place)
                header = _header(data)
            except MalformedError as error:
                self._note(place, str(error))
                continue
            first = found[header.study].setdefault(header.instance.uid, (place, header))
            if first[0] != place and self._read(first[0]) != data:
                self._note(place, "another file has its SOP Instance UID and other content")
        return found

    def _places(self) -> Iterator[_Place]:
        if self._root.is_file():
            yield from self._within(self._root)
            return
        covered: list[Path] = []  # folders that an index speaks for
        for name, folders, files in os.walk(self._root, onerror=self._unreadable):
            folder = Path(name)
            folders.sort()
            for link in (one for one in folders if (folder / one).is_symlink()):
                self._note(_Place(folder / link), "a link to a folder is not followed")
            if any(folder.is_relative_to(one) for one in covered):
                continue
            index = next((one for one in files if one.upper() == INDEX), None)
            if index and (named := self._named(folder / index)) is not None:
                covered.append(folder)
                yield from named
                continue
            for one in sorted(files):
                if one != index:
                    yield from self._within(folder / one)

    def _within(self, path: Path) -> Iterator[_Place]:
        """The file itself, or the members of an archive."""
        try:
            if kind_of(head_of(path)) != "zip archive":
                yield _Place(path)
                return
            for number, name, why in members_of(path, self._limits):
                place = _Place(path, name, number)
                if why:
                    self._note(place, why)
                elif PurePosixPath(name).name.upper() != INDEX:
                    yield place
        except MalformedError as error:
            self._note(_Place(path), str(error))

    def _named(self, index: Path) -> list[_Place] | None:
        """The files that a DICOMDIR names; None where it cannot be read, and all files are read instead."""
        try:
            records = _records(self._read(_Place(index)))
        except MalformedError as error:
            self._note(_Place(index), f"an index that cannot be read ({error}); all files beside it are read")
            return None
        places = {}
        for parts in filter(None, map(_file_id, records)):
            path = _resolve(index.parent, parts)
            if path is None:
                self._note(_Place(index.parent.joinpath(*parts[:1])), "named by the DICOMDIR, but not there")
            else:
                places[path] = _Place(path)
        return list(places.values())

    def _read(self, place: _Place) -> bytes:
        if place.member:
            return read_member(place.path, place.number, self._limits)
        head_of(place.path)  # a named pipe or a device is refused before it is read
        try:
            if place.path.stat().st_size > LARGEST:
                raise MalformedError(f"it is larger than {LARGEST >> 30} GiB")
            return place.path.read_bytes()
        except OSError as error:
            raise MalformedError(f"it cannot be read: {error.strerror}") from error

    def _unreadable(self, error: OSError) -> None:
        self._note(_Place(Path(error.filename)), f"the folder cannot be read: {error.strerror}")

    def _note(self, place: _Place, reason: str) -> None:
        self._problems.append(Problem(place.shown(self._root), reason))


def _header(data: bytes) -> Header:
    kind = kind_of(data[:PREFIX_END])
    if kind != "DICOM file":
        raise MalformedError(f"not a DICOM file but: {kind}")
    return header_of(data)


def _records(data: bytes) -> list[Dataset]:
    value = read(data, vr_of).dataset.get(_RECORDS, ("", b""))[1]
    if not isinstance(value, list) or not any(map(_file_id, value)):
        raise MalformedError("it names no files")
    return value


def _file_id(record: Dataset) -> list[str]:
    """The components of a Referenced File ID; empty where a record names no file."""
    value = record.get(_FILE, ("", b""))[1]
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else ""
    return [one.strip(" \0") for one in text.split("\\") if one.strip(" \0")]


def _resolve(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file below ``folder`` with these names in any case, as discs have them; None where there is none."""
    path = folder
    for part in parts:
        if part in {".", ".."} or "/" in part:
            return None
        exact = path / part
        if not exact.exists():
            try:
                exact = next(one for one in path.iterdir() if one.name.upper().split(";")[0] == part.upper())
            except (StopIteration, OSError):
                return None
        path = exact
    # A link on the disc may lead out of it.
    return path if path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None
