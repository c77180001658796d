"""Zip archives, read member by member without unpacking them to disk.

A member's name is never made into a path, so an archive cannot write anywhere. What it claims is checked before
anything is inflated, and what it inflates to is counted while it does: a claim may be a lie.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.deid.codec import MalformedError
from client.sources.intake import LARGEST

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # others shrink without bound, and no archive of images uses them
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Limits:
    """What an archive may claim and hold.

    Attributes:
        members: How many.
        member: Bytes of one, inflated.
        total: Bytes of all, inflated.
        ratio: How many times larger than the archive all members may be, once they are above ``member``.
    """

    members: int = 200_000
    member: int = LARGEST
    total: int = 256 << 30
    ratio: int = 200


def members_of(path: Path, limits: Limits) -> Iterator[tuple[int, str, str]]:
    """The files in an archive: their places in its directory, their names, and why one cannot be read, empty if it can.

    Raises:
        MalformedError: The archive as a whole is refused.
    """
    with _opened(path) as archive:
        entries = [(number, entry) for number, entry in enumerate(archive.infolist()) if not entry.is_dir()]
    total = sum(entry.file_size for _, entry in entries)
    if len(entries) > limits.members:
        raise MalformedError(f"an archive of more than {limits.members} files")
    if total > limits.total or (total > limits.member and total > limits.ratio * path.stat().st_size):
        raise MalformedError("an archive that grows beyond all measure when it is inflated")
    for number, entry in entries:
        yield number, entry.filename, _refusal(entry, limits)


def read_member(path: Path, number: int, limits: Limits) -> bytes:
    """One member of an archive, by its place in the directory, since two may have one name.

    Raises:
        MalformedError: It is damaged, refused, or larger than it claims.
    """
    with _opened(path) as archive:
        try:
            entry = archive.infolist()[number]
            if why := _refusal(entry, limits):
                raise MalformedError(why)
            with archive.open(entry) as stream:
                data = stream.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, IndexError, NotImplementedError, RuntimeError) as error:
            raise MalformedError("a damaged member of an archive") from error
    if len(data) != entry.file_size:
        raise MalformedError("a member of an archive with another length than it claims")
    return data


def _refusal(entry: zipfile.ZipInfo, limits: Limits) -> str:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return "a member of an archive whose name leads out of it"
    if entry.flag_bits & _ENCRYPTED:
        return "an encrypted member of an archive"
    if entry.compress_type not in _METHODS:
        return "a member of an archive in an unusual compression"
    if entry.file_size > limits.member:
        return "a member of an archive that is too large"
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise MalformedError("a damaged archive") from error
    except (OSError, NotImplementedError) as error:
        raise MalformedError(f"an archive that cannot be read: {type(error).__name__}") from error
