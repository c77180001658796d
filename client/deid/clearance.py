"""What people decided on held files, kept to when their folder is de-identified again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client.deid.boxes import to_blank
from client.deid.codec import MalformedError
from client.deid.quarantine import Decision, Held, sha256_of
from client.deid.report import FileRecord, Status
from client.deid.single import Processed, Processor
from shared.errors import DataError, FedwardError, UsageError

Decided = Mapping[str, Sequence[Held]]
"""Decisions under the profile at hand, by input path."""

CLEARED = "cleared by a person"
"""Stands among the rules of a file that a person cleared."""
_REFUSED = "a person refused it"
_CHANGED = "it changed while it was read"
_TWIN = "another file has its SOP Instance UID and other content"


def release(processor: Processor, held: Held) -> Processed:
    """Take a file that a person cleared through the engine and the checker; all that was not lifted holds.

    Raises:
        UsageError: What is to be blanked does not lie in the picture.
        DataError: Something is to be blanked, and there is no picture.
        OutputError: The output folder does not take it.
        MalformedError: The file cannot be read.
    """
    return processor.release(held.input, held.reason, to_blank(held.path, held.blanked))


class Clerk:
    """De-identifies the files of one folder as a processor does, but as people decided where they have.

    A decision holds for the path, the content and the profile that it was made for, and for nothing else.

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
        held = self._decision(path)
        if held is None:
            return self._processor.process(path)
        if held.decision is Decision.REFUSED:
            return Processed(FileRecord(path, Status.REFUSED, _REFUSED))
        return self._cleared(held)

    def settle(self, first: str, second: str) -> Processed:
        """As :meth:`Processor.settle`: what becomes of the second of two files that came out as one instance."""
        cleared = [self._decision(path) for path in (first, second)]
        if cleared == [None, None]:
            return self._processor.settle(first, second)
        again = self.process(first)
        if cleared[0] and cleared[1] and cleared[0].sha256 == cleared[1].sha256:
            return Processed(replace(again.record, path=second), again.target)
        return Processed(FileRecord(second, Status.QUARANTINED, _TWIN))

    def _decision(self, path: str) -> Held | None:
        known = self._decided.get(path, ())
        try:
            digest = sha256_of(self._source / path) if known else ""
        except OSError:
            return None  # the processor says why
        matching = [held for held in known if held.sha256 == digest]
        # A refusal holds whatever else was said of the file.
        return min(matching, key=lambda held: held.decision is not Decision.REFUSED, default=None)

    def _cleared(self, held: Held) -> Processed:
        path = held.input
        try:
            done = release(self._processor, held)
            if done.target and sha256_of(self._source / path) != held.sha256:
                (self._out / done.target).unlink(missing_ok=True)
                return Processed(FileRecord(path, Status.QUARANTINED, _CHANGED))
        except (MalformedError, UsageError, DataError) as error:  # the last two: boxes that do not fit
            return Processed(FileRecord(path, Status.REFUSED, str(error)))
        except FedwardError:
            raise
        except Exception as error:  # noqa: BLE001  # the boundary of one file, as in the processor
            return Processed(FileRecord(path, Status.REFUSED, f"it cannot be de-identified: {type(error).__name__}"))
        rules = {**done.record.rules, CLEARED: 1} if done.target else done.record.rules
        return replace(done, record=replace(done.record, rules=rules))
