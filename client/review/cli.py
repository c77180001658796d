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
from shared.errors import DataError, UsageError


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
        UsageError: The folder is not there, or the reviewer has no name.
        DataError: Nothing there waits for a person.
    """
    name = reviewer.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise UsageError("a reviewer has a name of 1 to 100 letters", hint="say who decides: --reviewer NAME")
    if not reports.is_dir():
        raise UsageError(f"there is no folder {reports}", hint="name the folder with deid.json or ingest.json")
    quarantine = Quarantine(reports, shelf)
    waiting = sum(held.decision is Decision.PENDING for held in quarantine.all())
    if not waiting:
        raise DataError(
            f"nothing in {reports} waits for a person", hint="name the folder of another report, if there is one"
        )
    with log() as opened:
        quarantine.sweep()
        desk = Desk(quarantine, out, profile, key, opened, name)
        _serve(desk, waiting)


def _serve(desk: Desk, waiting: int) -> None:
    with ReviewServer(desk) as server:
        files = console.plural(waiting, "file waits", "files wait")
        console.say(f"{files}; open {server.address} on this machine, once; end with Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
