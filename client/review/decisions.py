"""What a person's decision does: first the record, then the act, and only what a person may decide."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.deid.boxes import MOST_BOXES, shape_of, to_blank
from client.deid.clearance import release, together
from client.deid.codec import MalformedError
from client.deid.place import TWIN
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.quarantine import Decision, Held, Quarantine
from client.deid.report import Status
from client.deid.single import Processor
from client.deid.streams import FrameBox
from client.review.pictures import STORED, png
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
        shown: The frames that were shown, by the record's name.
        broken: The frames that were asked for and could not be shown, likewise.
    """

    quarantine: Quarantine
    out: Path
    profile: Profile
    key: SiteKey
    log: AuditLog
    reviewer: str
    shown: dict[str, set[int]] = field(default_factory=dict)
    broken: dict[str, set[int]] = field(default_factory=dict)

    def picture(self, name: str, frame: int, window: str) -> bytes:
        """One frame of a held file as PNG; it counts as looked at.

        Raises:
            UsageError: That is no name of a record.
            DataError: There is no such record or frame, or it cannot be shown.
        """
        held = self.quarantine.get(name)
        try:
            picture = png(held.path, frame, window=window)
        except DataError:
            self.broken.setdefault(name, set()).add(frame)
            raise
        self.shown.setdefault(name, set()).add(frame)
        return picture

    def decide(self, name: str, decision: Decision, boxes: tuple[FrameBox, ...] = ()) -> Held:
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
            if found.decision is not Decision.PENDING:
                raise DecidedError(f"that file was {found.decision} already", hint="load the page again")
            if boxes and decision is not Decision.CLEARED:
                raise UsageError("boxes belong to a file that is released", hint="refuse it without them")
            held, alike = replace(found, blanked=boxes, looked=len(self.shown.get(name, ()))), self._alike(found)
            if decision is Decision.CLEARED:
                self._may_clear(held, alike)
                held = together(held, alike)
                to_blank(held.path, held.blanked)
            with self.log.act(self._entry(held, decision)):
                if decision is Decision.CLEARED:
                    self._release(held, alike)
                return self.quarantine.decide(held, decision, self.reviewer)

    def _entry(self, held: Held, decision: Decision) -> Entry:
        shape = shape_of(held.path)
        detail: dict[str, Scalar] = {"decision": decision.value, "reviewer": self.reviewer, "reason": held.reason}
        detail |= {"profile_sha256": self.profile.sha256, "copy_deleted": held.kept, "boxes": len(held.blanked)}
        detail |= {"frames": shape.frames if shape else 0, "frames_looked_at": held.looked}
        return Entry(Action.REVIEW, Outcome.STARTED, subject=("file", self.log.digest(held.sha256)), detail=detail)

    def _alike(self, held: Held) -> list[Held]:
        """What people decided on the same content, wherever it lay."""
        decided = (one for one in self.quarantine.all() if one.decision is not Decision.PENDING)
        return [one for one in decided if one.sha256 == held.sha256]

    def _may_clear(self, held: Held, alike: Sequence[Held]) -> None:
        if len(held.blanked) > MOST_BOXES:
            raise UsageError(f"more than {MOST_BOXES} boxes", hint="draw larger ones, or refuse the file")
        if not held.liftable:
            raise PolicyError("looking at the picture does not answer this reason", hint="refuse the file")
        if refused := next((one for one in alike if one.decision is Decision.REFUSED), None):
            raise PolicyError(f"{refused.reviewer} refused a file with the same content", hint="refuse this one too")
        if held.key not in {"", self.key.fingerprint}:
            raise PolicyError("the file was held under another site key", hint="name that one with --key or --node")
        if held.profile_sha256 != self.profile.sha256:
            raise PolicyError("the file was held under another profile", hint="name that one with --profile")
        try:
            now = held.digest()
        except OSError as error:
            raise DataError("the file cannot be read any more", hint="de-identify the folder again") from error
        if now != held.sha256:
            raise DataError("the file has changed since it was held", hint="de-identify the folder again")
        if not self._can_be_seen(held):
            raise PolicyError("its picture cannot be shown: nobody has seen it", hint="refuse the file")

    def _can_be_seen(self, held: Held) -> bool:
        """Whether every frame that somebody asked for was shown in some view, and at least one can be."""
        shown = self.shown.get(held.id, set())
        shape = shape_of(held.path)
        if shape is None or {frame for frame in self.broken.get(held.id, ()) if frame < shape.frames} - shown:
            return False
        return bool(shown) or any(_shows(held.path, window) for window in ("full", STORED))

    def _release(self, held: Held, alike: Sequence[Held]) -> None:
        processor = Processor(Path(held.source), self.out, self.profile, self.key)
        try:
            done = release(processor, held, alike)
        except MalformedError as error:
            raise DataError("the file cannot be read", hint="refuse it") from error
        if done.record.reason == TWIN:
            raise PolicyError(f"it may not go out: {TWIN}, and is released", hint="refuse the file")
        if done.record.status is not Status.RELEASED:
            raise PolicyError(f"it may still not go out: {done.record.reason}", hint="refuse the file")


def _shows(path: Path, window: str) -> bool:
    try:
        return bool(png(path, 0, window=window))
    except DataError:
        return False
