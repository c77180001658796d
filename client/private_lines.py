"""A private file of canonical JSON lines (RFC 8785): appended under a lock, rewritten whole where it must forget."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from shared.errors import RecordError
from shared.files import canonical_json, locked, output_errors, private_folder, sync_folder, write_bytes
from shared.parsing import parse_json

_PATIENCE: Final = 30.0
Row = dict[str, Any]


class Lines:
    """The file at ``path`` (0600, in a folder of 0700); any number of processes may use it, in turn.

    Every method raises :class:`OutputError` where the disk will not take it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Mapping[str, object], *, durable: bool = True) -> None:
        """Add a line; with ``durable`` it is on disk when this returns."""
        line = canonical_json(row) + b"\n"
        with self._alone(), output_errors(self._path):
            fresh = not self._path.exists()
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _cut_off(handle)
                os.lseek(handle, 0, os.SEEK_END)
                if os.write(handle, line) != len(line):
                    raise OSError("a line was cut short")
                if durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            if fresh and durable:
                sync_folder(self._path.parent)

    def raw(self) -> bytes:
        """All lines as they stand there; one without its end was never acknowledged and is left out.

        Raises:
            RecordError: They cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RecordError(f"cannot read {self._path}: {error.strerror}", hint="look at its permissions") from error
        return data[: data.rfind(b"\n") + 1]

    def rows(self) -> Iterator[Row]:
        """All lines, as :meth:`raw` has them.

        Raises:
            RecordError: One is damaged.
        """
        for number, line in enumerate(self.raw().split(b"\n")[:-1], start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise self._damaged(number) from error
            if not isinstance(row, dict):
                raise self._damaged(number)
            yield row

    def rewrite(self, change: Callable[[Row], Row | None]) -> int:
        """Put what ``change`` makes of it in the place of each line, nothing where it gives None.

        Returns:
            How many lines are others now, or gone.
        """
        if not self._path.exists():
            return 0
        with self._alone():
            before = list(self.rows())
            after = [change(dict(row)) for row in before]
            count = sum(old != new for old, new in zip(before, after, strict=True))
            if count:
                sweep_parts(self._path)
                data = b"".join(canonical_json(row) + b"\n" for row in after if row is not None)
                write_bytes(self._path, data, mode=0o600, durable=True)
        return count

    def _damaged(self, number: int) -> RecordError:
        return RecordError(f"{self._path} is damaged at line {number}", hint="put it back from a copy")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        private_folder(self._path.parent)
        with locked(
            self._path.with_name(f"{self._path.name}.lock"),
            "another process writes the same record",
            patience=_PATIENCE,
        ):
            yield


def sweep_parts(path: Path) -> None:
    """Delete what writers of ``path`` left that were killed; the caller is the only one who writes it."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink(missing_ok=True)


def _cut_off(handle: int) -> None:
    """Take a last line without its newline away: its process was killed before it was acknowledged."""
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)
