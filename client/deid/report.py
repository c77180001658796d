"""The report of a batch: one line per input file, written as the batch goes on and in place only when it is done."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from shared.errors import DataError
from shared.files import atomic_file, private_folder
from shared.parsing import load_json, parse_json

FORMAT = 1
OUTSIDE = "outside_regions_blanked"
"""Stands among the rules of an ultrasound file that was blanked outside its regions."""
NAME = "deid.json"
_AGAIN = "run the same command again: it writes the report anew"


class Status(StrEnum):
    """What became of a file."""

    RELEASED = "released"
    QUARANTINED = "quarantined"
    REFUSED = "refused"


@dataclass(frozen=True)
class FileRecord:
    """One line of the report.

    Attributes:
        path: The input file, relative to the input folder.
        status: What became of it.
        reason: Why it was not released; empty where it was.
        rules: How often each rule was applied; never a value.
        frames: How many frames were looked at for text.
        boxes: How many boxes were blanked in them; never what stood there.
    """

    path: str
    status: Status
    reason: str = ""
    rules: Mapping[str, int] = field(default_factory=dict)
    frames: int = 0
    boxes: int = 0

    def line(self) -> str:
        """The record as one line of JSON."""
        row: dict[str, Any] = {"input": self.path, "status": self.status.value}
        if self.reason:
            row["reason"] = self.reason
        if self.frames:
            row["pixels"] = {"frames": self.frames, "boxes": self.boxes}
        if self.rules:
            row["rules"] = dict(sorted(self.rules.items()))
        return json.dumps(row, ensure_ascii=True)


@dataclass(frozen=True)
class DeidReport:
    """What a batch came to.

    Attributes:
        files: How many files there were in all.
        released: How many came out.
        quarantined: How many wait for a person; the report names each and why.
        refused: How many could not be read; likewise.
        rules: How often each rule was applied, over all files.
        profile: The name of the profile.
        profile_sha256: Its digest.
        path: The report file, which has a line per input file.
        redacted: How many of those released had text blanked in their pixels.
    """

    files: int
    released: int
    quarantined: int
    refused: int
    rules: Mapping[str, int]
    profile: str
    profile_sha256: str
    path: Path
    redacted: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Files by what became of them, as ``summary.json`` of a run has them."""
        return {
            "files": self.files,
            "released": self.released,
            "quarantined": self.quarantined,
            "refused": self.refused,
        }

    def records(self) -> Iterator[FileRecord]:
        """The lines of the report file.

        Raises:
            DataError: It was altered meanwhile.
        """
        for row in load_json(self.path, error=DataError, hint=_AGAIN)["files"]:
            looked = row.get("pixels", {"frames": 0, "boxes": 0})
            yield FileRecord(
                row["input"],
                Status(row["status"]),
                row.get("reason", ""),
                row.get("rules", {}),
                looked["frames"],
                looked["boxes"],
            )


class ReportWriter:
    """Writes lines to a report that is open; made by :func:`open_report`."""

    def __init__(self, stream: IO[bytes], profile: Profile, path: Path, key: str = "") -> None:
        self._stream, self._profile, self._path = stream, profile, path
        self._statuses: Counter[Status] = Counter()
        self._rules: Counter[str] = Counter()
        self._redacted = 0
        head = {"format": FORMAT, "profile": profile.name, "profile_sha256": profile.sha256}
        head |= {"key": key} if key else {}
        if profile.determination:
            head |= {
                "expert": profile.determination.expert,
                "expert_key": profile.determination.fingerprint,
                "expires": profile.determination.expires.isoformat(),
            }
        self._stream.write(json.dumps(head)[:-1].encode() + b', "files": [')

    def add(self, record: FileRecord) -> None:
        """Write one line."""
        self._stream.write((",\n" if self._statuses else "\n").encode() + record.line().encode())
        self._statuses[record.status] += 1
        self._rules.update(record.rules)
        self._redacted += record.status is Status.RELEASED and (record.boxes > 0 or OUTSIDE in record.rules)

    def close(self) -> DeidReport:
        """Write the totals and say what they are."""
        report = DeidReport(
            files=self._statuses.total(),
            released=self._statuses[Status.RELEASED],
            quarantined=self._statuses[Status.QUARANTINED],
            refused=self._statuses[Status.REFUSED],
            rules=dict(sorted(self._rules.items())),
            profile=self._profile.name,
            profile_sha256=self._profile.sha256,
            path=self._path,
            redacted=self._redacted,
        )
        tail = {"counts": report.counts, "redacted": report.redacted, "rules": report.rules}
        self._stream.write(b"\n], " + json.dumps(tail)[1:].encode() + b"\n")
        return report


@contextlib.contextmanager
def open_report(folder: Path, profile: Profile, key: SiteKey | None = None) -> Iterator[ReportWriter]:
    """A report in ``folder``, readable by its owner alone, since input paths may name patients.

    Args:
        folder: Made with mode 0700 where missing.
        profile: The profile of the batch.
        key: The site key, of which the report keeps a fingerprint.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / NAME
    private_folder(folder)
    with atomic_file(path, mode=0o600) as stream:
        yield ReportWriter(stream, profile, path, key.fingerprint if key else "")


def key_of(folder: Path) -> str:
    """The fingerprint of the site key that the report in ``folder`` was made under; empty where none tells."""
    try:
        with (folder / NAME).open("rb") as stream:
            head = parse_json(stream.readline() + b"]}")  # the files follow from the second line on
    except (OSError, ValueError):
        return ""
    return str(head.get("key", "")) if isinstance(head, dict) else ""
