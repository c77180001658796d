"""``fedward node review``: serve the page until the reviewer ends it."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from client.deid import Profile, SiteKey
from client.deid.quarantine import Decision, Quarantine
from client.review.decisions import Desk
from client.review.server import ReviewServer
from compliance.log import AuditLog
from shared import console
from shared.errors import UsageError


def review(
    reports: Path,
    out: Path,
    *,
    reviewer: str,
    profile: Profile,
    key: SiteKey,
    log: Callable[[], AbstractContextManager[AuditLog]],
    shelf: Path | None = None,
) -> None:
    """Serve the held files of one reports folder on the loopback interface until Ctrl-C.

    Args:
        reports: The reports folder.
        out: The folder of released files.
        reviewer: Who decides.
        profile: Under which the files are held.
        key: The site's key.
        log: Opens the audit log.
        shelf: Where a node keeps the held files of its ingests.

    Raises:
        UsageError: Nothing is held there, or the reviewer has no name.
    """
    name = reviewer.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise UsageError("a reviewer has a name of 1 to 100 letters", hint="say who decides: --reviewer NAME")
    quarantine = Quarantine(reports, shelf)
    waiting = sum(held.decision is Decision.PENDING for held in quarantine.all())
    if not waiting:
        raise UsageError(f"nothing in {reports} waits for a person", hint="name the folder with deid.json")
    with log() as opened:
        quarantine.sweep()
        desk = Desk(quarantine, out, profile, key, opened, name)
        _serve(desk, waiting)


def _serve(desk: Desk, waiting: int) -> None:
    with ReviewServer(desk) as server:
        console.say(f"{waiting} files wait; open {server.address} on this machine, once; end with Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
