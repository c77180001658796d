"""``fedward server approve``: take hospitals into the draft of a charter."""

import stat
from pathlib import Path
from typing import Annotated

import typer

from shared.console import say


def approve(
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The draft of the charter (TOML).")],
    requests: Annotated[
        list[Path],
        typer.Argument(metavar="REQUEST...", help="Files that 'fedward node request' wrote."),
    ],
    *,
    fingerprint: Annotated[
        list[str],
        typer.Option(metavar="'XXXX XXXX ...'", help="What the hospital read out by telephone; one for each REQUEST."),
    ],
) -> None:
    """Add the hospitals of REQUEST... to the charter as members, after their fingerprints were compared.

    Call each hospital under a number that you knew before, and let it read out its fingerprint: type what you hear, and
    do not copy it from the message that brought the request. Fingerprints stand in the order of the requests. The file
    keeps its comments; either all hospitals are added or none.

    Exit status 0: added. 2: a file, a name or a fingerprint is wrong, or a member stands twice. 5: CHARTER
    cannot be written. 6: another purpose. 8: a request was altered, or its key is not the one that was read out.
    """
    from shared.charter import Charter
    from shared.files import output_errors, write_bytes
    from shared.identity import grouped
    from shared.membership import Draft, read_requests

    draft = Draft.load(charter)
    found = read_requests(requests, fingerprint)
    for request, heard in found:
        draft = draft.admit(request, heard)
    target = charter.resolve()  # a link stays a link
    with output_errors(target):
        mode = stat.S_IMODE(target.stat().st_mode)
    write_bytes(target, draft.text.encode(), mode=mode, durable=True)
    first = len(draft.members) - len(found) + 1
    for number, (request, _) in enumerate(found, start=first):
        say(f"{request.site} is member {number}, fingerprint {request.fingerprint}")
    if missing := draft.missing():
        say(f"not a charter yet: {missing}")
    else:
        digest = Charter.parse(draft.text).sha256
        say(f"{charter} is a charter of {len(draft.members)} members; SHA-256 {grouped(digest)}")
        say("send it to every member; who pinned an earlier one joins again")
        say(f"look at it first: fedward charter check {charter}")
