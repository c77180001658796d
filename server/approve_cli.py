"""``fedward server approve``: take hospitals into the draft of a charter."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.console import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.coordinator import Coordinator
    from shared.identity import Request
    from shared.membership import Draft


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
    server: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The coordinator's folder: hospitals get certificates for its gate."),
    ] = None,
    country: Annotated[
        list[str] | None,
        typer.Option(metavar="CC", help="Where the hospital is (ISO 3166-1 alpha-2); one for each REQUEST, or none."),
    ] = None,
) -> None:
    """Add the hospitals of REQUEST... to the charter as members, after their fingerprints were compared.

    Call each hospital under a number that you knew before, and let it read out its fingerprint: type what you hear, and
    do not copy it from the message that brought the request. Fingerprints stand in the order of the requests. The file
    keeps its comments; either all hospitals are added or none.

    With --server the charter names that coordinator, and DIR/certificates has a file for each hospital, which is sent
    to it: nothing in it is secret. A member that is approved again with the same key gets a new one, and the charter
    stays as it is: a certificate holds for two years.

    Exit status 0: added. 2: a file, a name or a fingerprint is wrong, a member stands twice, or DIR is not the
    charter's coordinator. 5: CHARTER or DIR cannot be written. 6: another purpose, or others may read a key of DIR.
    8: a request was altered, its key is not the one that was read out, or the authority's time is over.
    """
    from server.authority import authority_of, check_admissible, plan_of
    from server.coordinator import Coordinator
    from shared.membership import Draft, read_requests

    before = draft = Draft.load(charter)
    coordinator = Coordinator.open(server) if server else None
    found = read_requests(requests, fingerprint, country or ())
    for one in found:
        draft = draft.admit(one.request, one.heard, country=one.country, again=coordinator is not None)
    asking = [one.request for one in found]
    if coordinator:
        draft = draft.connect(plan_of(coordinator))
        check_admissible(coordinator, asking)
        authority_of(coordinator)  # what could not be issued later is not written into the charter
    if draft != before:
        _write(charter, draft.text)
    _tell(charter, before, draft, asking)
    if coordinator:
        _issue(coordinator, asking)


def _write(charter: Path, text: str) -> None:
    from shared.files import output_errors, write_bytes

    target = charter.resolve()  # a link stays a link
    with output_errors(target):
        mode = stat.S_IMODE(target.stat().st_mode)
    write_bytes(target, text.encode(), mode=mode, durable=True)


def _tell(charter: Path, before: "Draft", draft: "Draft", asking: "Sequence[Request]") -> None:
    from shared.charter import Charter
    from shared.identity import grouped

    numbers = {member.name: number for number, member in enumerate(draft.members, start=1)}
    known = {member.name for member in before.members}
    for request in asking:
        already = " already" if request.site in known else ""
        say(f"{request.site} is member {numbers[request.site]}{already}, fingerprint {request.fingerprint}")
    if missing := draft.missing():
        say(f"not a charter yet: {missing}")
        return
    digest = Charter.parse(draft.text).sha256
    say(f"{charter} is a charter of {len(draft.members)} members; SHA-256 {grouped(digest)}")
    if draft != before:
        say("send it to every member; who pinned an earlier one joins again")
        say(f"look at it first: fedward charter check {charter}")


def _issue(coordinator: "Coordinator", asking: "Sequence[Request]") -> None:
    from server.authority import admit

    for request in asking:
        path, certificate = admit(coordinator, request)
        say(f"{path}: send it to {request.site}; it holds until {certificate.not_valid_after_utc:%Y-%m-%d}")
