"""What people decided on held files, kept to when their folder is de-identified again."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from client.deid.boxes import to_blank
from client.deid.place import TWIN
from client.deid.quarantine import Decided, Held, sha256_of
from client.deid.report import FileRecord, Status
from client.deid.single import Processed, Processor
from client.deid.streams import FrameBox
from shared.errors import DataError, UsageError

CLEARED = "cleared by a person"
"""Stands among the rules of a file that a person cleared."""
_REFUSED = "a person refused it"
_CHANGED = "it changed while it was read"


def together(held: Held, alike: Iterable[Held]) -> Held:
    """The clearance with all that was ever blanked in the same content: the strictest of several decisions counts."""
    return replace(held, blanked=_union(held.blanked, *(one.blanked for one in alike)))


def release(processor: Processor, held: Held, alike: Sequence[Held] = (), *, takes_place: bool = False) -> Processed:
    """Take a file that a person cleared through the engine and the checker; all that was not lifted holds.

    What another file has left in its place stays; what this content has left there, as an earlier decision wanted it,
    gives way.

    Args:
        processor: Of the folder that the file lies in.
        held: The clearance, with all that is to be blanked.
        alike: Other clearances of the same content.
        takes_place: Whether it replaces whatever stands in its place.

    Raises:
        UsageError: What is to be blanked does not lie in the picture.
        DataError: Something is to be blanked, and there is no picture.
        OutputError: The output folder does not take it.
        MalformedError: The file cannot be read.
    """
    boxes = to_blank(held.path, held.blanked)
    if takes_place:
        return processor.release(held.input, held.reason, boxes, takes_place=True)
    done = processor.release(held.input, held.reason, boxes)
    if done.record.reason != TWIN:
        return done
    earlier = {one.blanked for one in alike} | {_union(*(one.blanked for one in alike))} if alike else set()
    if any(processor.stands(held.input, held.reason, to_blank(held.path, one)) for one in earlier):
        return processor.release(held.input, held.reason, boxes, takes_place=True)
    return done


def _union(*decisions: Sequence[FrameBox]) -> tuple[FrameBox, ...]:
    """All boxes, those of the first decision as they are."""
    first, *others = decisions
    return (*first, *sorted({box for boxes in others for box in boxes} - set(first)))


class Clerk:
    """De-identifies the files of one folder as a processor does, but as people decided where they have.

    A refusal holds for the content, wherever it lies and whatever the profile. A clearance holds for the path, the
    content and the profile that it was made for; what was blanked in that content anywhere is blanked.

    Args:
        source: The input folder.
        out: The output folder.
        processor: Of these folders.
        decided: What people decided.
    """

    def __init__(self, source: Path, out: Path, processor: Processor, decided: Decided) -> None:
        self._source, self._out, self._processor, self._decided = source, out, processor, decided

    def process(self, path: str) -> Processed:
        """De-identify one file, given by its path below the input folder.

        Raises:
            OutputError: The output folder does not take it; the batch cannot go on.
        """
        return self._process(path)

    def settle(self, first: str, second: str) -> Processed:
        """As :meth:`Processor.settle`: what becomes of the second of two files that came out as one instance."""
        digests = [self._digest(path) for path in (first, second)]
        cleared = [self._clearance(path, digest) for path, digest in zip((first, second), digests, strict=True)]
        if cleared == [None, None]:
            return self._processor.settle(first, second)
        again = self._process(first, takes_place=True)
        if all(cleared) and digests[0] == digests[1]:  # the union of their boxes is blanked in either
            return Processed(replace(again.record, path=second), again.target)
        return Processed(FileRecord(second, Status.QUARANTINED, TWIN))

    def _process(self, path: str, *, takes_place: bool = False) -> Processed:
        digest = self._digest(path)
        if digest in self._decided.refused:
            return Processed(FileRecord(path, Status.REFUSED, _REFUSED))
        held = self._clearance(path, digest)
        if held is not None:
            return self._cleared(held, takes_place=takes_place)
        return self._processor.process(path, takes_place=takes_place)

    def _digest(self, path: str) -> str:
        """The SHA-256 of the input, where any decision could be about it: most folders are read once only."""
        if not self._decided.refused and path not in self._decided.cleared:
            return ""
        try:
            return sha256_of(self._source / path)
        except OSError:
            return ""  # the processor says why

    def _clearance(self, path: str, digest: str) -> Held | None:
        return next((one for one in self._decided.cleared.get(path, ()) if one.sha256 == digest), None)

    def _cleared(self, found: Held, *, takes_place: bool) -> Processed:
        alike = self._decided.alike[found.sha256]
        # The file lies in the folder at hand, which need not be the one that it was held in.
        held = replace(together(found, alike), source=str(self._source), kept=False)
        return self._processor.guarded(found.input, lambda: self._released(held, alike, takes_place=takes_place))

    def _released(self, held: Held, alike: Sequence[Held], *, takes_place: bool) -> Processed:
        path = held.input
        try:
            done = release(self._processor, held, alike, takes_place=takes_place)
        except (UsageError, DataError) as error:  # boxes that do not fit
            return Processed(FileRecord(path, Status.REFUSED, error.message))
        if sha256_of(self._source / path) != held.sha256:
            if done.target:
                (self._out / done.target).unlink(missing_ok=True)
            return Processed(FileRecord(path, Status.QUARANTINED, _CHANGED))
        rules = {**done.record.rules, CLEARED: 1} if done.target else done.record.rules
        return replace(done, record=replace(done.record, rules=rules))
