"""What was taken in before: a durable file in the node, without identifiers, that a later run goes on from."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from shared.errors import RecordError
from shared.files import output_errors
from shared.parsing import parse_json

DIGEST = 32
"""Hexadecimal digits of a keyed digest that stand for an instance: 128 bits."""


class Ledger:
    """Lines of JSON, one per study that was taken in, each on disk before the study leaves the spool.

    Args:
        path: The file; made with mode 0600.
        profile: The digest of the profile: what was de-identified under another one counts as not taken in.

    Attributes:
        held: How many of the instances that were taken in were not released.
        last: The digest of the profile that the last study was taken in under; empty where there is none.

    Raises:
        RecordError: A line cannot be read.
    """

    def __init__(self, path: Path, profile: str) -> None:
        self._path, self._profile = path, profile
        self._done: dict[str, set[str]] = defaultdict(set)
        self.held = 0
        self.last = ""
        if path.exists():
            self._load()

    def _load(self) -> None:
        lines = self._path.read_bytes().split(b"\n")
        torn = lines.pop()  # a line that a crash cut short has no end
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line)
                profile, study, instances, held = row["profile"], row["study"], set(row["instances"]), int(row["held"])
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(
                    f"{self._path} is damaged at line {number}", hint="move it away to take everything in anew"
                ) from error
            self.last = profile
            if profile == self._profile:
                self._done[study] |= instances
                self.held += held
        if torn:
            with output_errors(self._path):
                os.truncate(self._path, self._path.stat().st_size - len(torn))

    def done(self, study: str) -> set[str]:
        """The digests of the instances of a study that were taken in."""
        return self._done.get(study, set())

    def add(self, study: str, instances: Iterable[str], *, held: int) -> None:
        """Record that these instances were taken in.

        Args:
            study: The keyed digest of the study.
            instances: The keyed digests of its instances.
            held: How many of them were not released.
        """
        digests = sorted(instances)
        row = {"profile": self._profile, "study": study, "instances": digests, "held": held}
        with output_errors(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._done[study] |= set(digests)
