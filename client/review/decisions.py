"""What a person's decision does: first the record, then the act, and only what a person may decide."""

from dataclasses import dataclass, replace
from pathlib import Path

from client.deid.boxes import Box, to_blank
from client.deid.clearance import release
from client.deid.codec import MalformedError
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.quarantine import Decision, Held, Quarantine
from client.deid.report import Status
from client.deid.single import Processor
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import DataError, PolicyError, UsageError


class DecidedError(UsageError):
    """Somebody has decided on this file already."""


@dataclass(frozen=True)
class Desk:
    """Where one reviewer decides.

    Attributes:
        quarantine: The held files.
        out: The folder of released files.
        profile: Under which they were held.
        key: The site's key.
        log: Where each decision is recorded before it acts.
        reviewer: Who decides.
    """

    quarantine: Quarantine
    out: Path
    profile: Profile
    key: SiteKey
    log: AuditLog
    reviewer: str

    def decide(self, name: str, decision: Decision, boxes: tuple[Box, ...] = ()) -> Held:
        """Clear or refuse a held file.

        Clearing takes the file through the engine and the checker; only the reason that it was held for is lifted. The
        node's own copy of a file goes with the decision.

        Args:
            name: The record.
            decision: What becomes of the file.
            boxes: What is blanked in a file that is cleared; frame -1 stands for every frame.

        Raises:
            DecidedError: It is decided already.
            UsageError: The boxes do not fit the picture, or belong to a file that is refused.
            PolicyError: A person may not lift this reason, or the file still may not go out.
            DataError: The file has changed since it was held, or cannot be read.
            RecordError: The audit log cannot be written; nothing was done then.
        """
        with self.quarantine.claim(name) as found:
            held = replace(found, blanked=boxes)
            if held.decision is not Decision.PENDING:
                raise DecidedError(f"that file was {held.decision} already", hint="load the page again")
            if boxes and decision is not Decision.CLEARED:
                raise UsageError("boxes belong to a file that is released", hint="refuse it without them")
            if decision is Decision.CLEARED:
                self._may_clear(held)
                to_blank(held.path, boxes)
            detail: dict[str, Scalar] = {"decision": decision.value, "reviewer": self.reviewer, "reason": held.reason}
            detail |= {"profile_sha256": self.profile.sha256, "copy_deleted": held.kept, "boxes": len(boxes)}
            subject = ("file", self.log.digest(held.sha256))
            with self.log.act(Entry(Action.REVIEW, Outcome.STARTED, subject=subject, detail=detail)):
                if decision is Decision.CLEARED:
                    self._release(held)
                return self.quarantine.decide(held, decision, self.reviewer)

    def _may_clear(self, held: Held) -> None:
        if not held.liftable:
            raise PolicyError("looking at the picture does not answer this reason", hint="refuse the file")
        if held.profile_sha256 != self.profile.sha256:
            raise PolicyError("the file was held under another profile", hint="name that one with --profile")
        try:
            now = held.digest()
        except OSError as error:
            raise DataError("the file cannot be read any more", hint="de-identify the folder again") from error
        if now != held.sha256:
            raise DataError("the file has changed since it was held", hint="de-identify the folder again")

    def _release(self, held: Held) -> None:
        processor = Processor(Path(held.source), self.out, self.profile, self.key)
        try:
            done = release(processor, held)
        except MalformedError as error:
            raise DataError("the file cannot be read", hint="refuse it") from error
        if done.record.status is not Status.RELEASED:
            raise PolicyError(f"it may still not go out: {done.record.reason}", hint="refuse the file")
