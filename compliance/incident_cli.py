"""``fedward compliance incident``: open, update, notice, list."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.console import emit_json, plural, say
from shared.errors import UsageError

if TYPE_CHECKING:
    from compliance.incident import Incidents
    from compliance.incident_form import Incident

app = typer.Typer(
    help="Breaches: one record each, the clocks of GDPR, HIPAA and PIPL, drafts of notices. Nothing is ever sent.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a node, a coordinator or a simulation.")]
Name = Annotated[str, typer.Argument(metavar="INCIDENT", help="As 'incident list' names it.")]
Who = Annotated[str, typer.Option(help="Who does this.")]
Affected = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SITE=N",
        help="People affected at a site: a number, '?' for not known, or @FILE with one pseudonym a line, of which "
        "only keyed digests are kept. May be given several times.",
    ),
]
Residents = Annotated[
    list[str] | None, typer.Option(metavar="STATE=N", help="People affected who live in a State, for 45 CFR 164.406.")
]
RiskOption = Annotated[
    str | None, typer.Option(metavar="LEVEL", help="To people, as a person judged it: unlikely, risk or high.")
]
Happened = Annotated[str | None, typer.Option(help="What happened, in words for the notices.")]
Occurred = Annotated[str | None, typer.Option(help="When it happened, or from when to when.")]
Data = Annotated[str | None, typer.Option(help="Kinds of data.")]
Records = Annotated[str | None, typer.Option(help="About how many records.")]
Consequences = Annotated[str | None, typer.Option(help="Likely consequences for people.")]
Measures = Annotated[str | None, typer.Option(help="What was done and will be done.")]
Protect = Annotated[str | None, typer.Option(help="What people can do to protect themselves.")]
Contact = Annotated[str | None, typer.Option(help="Whom to ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("open")
def open_(
    folder: Folder,
    *,
    who: Who,
    aware: Annotated[
        str, typer.Option(metavar="TIME", help="When you became aware, with its zone: 2026-03-01T09:30:00+01:00.")
    ],
    discovered: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it was discovered, or could have been with diligence. Default: AWARE."),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(help="controller or processor. Default: processor for a coordinator, else controller."),
    ] = None,
    law: Annotated[list[str] | None, typer.Option(help="gdpr, hipaa, pipl; may be repeated. Default: all.")] = None,
    affected: Affected = None,
    residents: Residents = None,
    risk: RiskOption = None,
    happened: Happened = None,
    occurred: Occurred = None,
    data: Data = None,
    records: Records = None,
    consequences: Consequences = None,
    measures: Measures = None,
    protect: Protect = None,
    contact: Contact = None,
    json: Json = False,
) -> None:
    """Open an incident in FOLDER/incidents and start all clocks.

    Exit status 0: opened. 2: a value is wrong, or FOLDER is none that fedward knows. 5: it cannot be written. 9: it
    cannot be recorded, or the record does not verify; nothing was opened.
    """
    from compliance.incident import moment

    incidents = _of(folder)
    facts = _facts(incidents, affected, residents, risk)
    facts["words"] = _words(happened, occurred, data, records, consequences, measures, protect, contact)
    facts |= {key: value for key, value in {"role": role, "laws": law}.items() if value}
    when = moment(discovered) if discovered else None
    _tell(incidents.open(who=who, aware=moment(aware), discovered=when, **facts), as_json=json)


@app.command()
def update(
    folder: Folder,
    incident: Name,
    *,
    who: Who,
    close: Annotated[bool, typer.Option("--close", help="Close it; it can be updated all the same.")] = False,
    why: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    affected: Affected = None,
    residents: Residents = None,
    risk: RiskOption = None,
    happened: Happened = None,
    occurred: Occurred = None,
    data: Data = None,
    records: Records = None,
    consequences: Consequences = None,
    measures: Measures = None,
    protect: Protect = None,
    contact: Contact = None,
    json: Json = False,
) -> None:
    """Add what became known; what was said before stays in the record, and the newest counts.

    Exit status 0: recorded. 2: a value is wrong, or there is no such incident. 5: it cannot be written. 9: it cannot be
    recorded, or the record does not verify.
    """
    incidents = _of(folder)
    words = _words(happened, occurred, data, records, consequences, measures, protect, contact)
    facts = _facts(incidents, affected, residents, risk) | {"words": words, "why": why}
    _tell(incidents.update(incident, who=who, close=close, **facts), as_json=json)


@app.command()
def notice(
    folder: Folder,
    incident: Name,
    duty: Annotated[str, typer.Argument(help="As 'incident list' names it, such as GDPR-33-authority.")],
    *,
    who: Who,
    out: Annotated[Path | None, typer.Option(help="Write a draft to this file (0600).")] = None,
    sent: Annotated[str | None, typer.Option(metavar="TIME", help="Record that a person sent it then.")] = None,
    not_due: Annotated[str | None, typer.Option(metavar="WHY", help="Record that none is due, and why.")] = None,
) -> None:
    """Draft a notice, or record that a person sent it, or decided that none is due. Nothing is sent from here.

    Exit status 0: done. 2: a value is wrong, or there is no such incident or duty. 5: the draft cannot be written. 9:
    it cannot be recorded, or the record does not verify.
    """
    from compliance.incident import duty_of, moment
    from compliance.notices import draft
    from shared.files import write_bytes

    if sum(one is not None for one in (out, sent, not_due)) != 1:
        raise UsageError("say one of --out, --sent and --not-due", hint="--out FILE writes a draft")
    incidents = _of(folder)
    found = incidents.get(incident)
    wanted = duty_of(found, duty)
    if out is not None:
        if out.exists():
            raise UsageError(f"{out} is there already", hint="name another file; a draft replaces nothing")
        incidents.note(incident, duty, "drafted", who=who)
        write_bytes(out, draft(found, wanted, incidents.party).encode(), mode=0o600)
        say(f"{out}: a draft to {wanted.to} ({wanted.source}); check it, fill the gaps, send it yourself")
    elif sent is not None:
        incidents.note(incident, duty, "sent", who=who, at=moment(sent))
        say(f"{incident}: recorded that {duty} was sent")
    else:
        incidents.note(incident, duty, "not due", who=who, why=not_due or "")
        say(f"{incident}: recorded that {duty} is not due, and why")


@app.command("list")
def list_(folder: Folder, json: Json = False) -> None:
    """List incidents with what is due, what is overdue, and what was done.

    Exit status 0. 2: FOLDER is none that fedward knows. 9: an incident or the audit log does not verify.
    """
    found = _of(folder).all()
    now = datetime.now(UTC)
    if json:
        emit_json([summary(one, now) for one in found])
        return
    if not found:
        say(f"{folder}: no incident is recorded")
    for one in found:
        _say(one, now)


def mount(group: typer.Typer) -> None:
    """Add the commands to ``fedward compliance``."""
    group.add_typer(app, name="incident")


def summary(one: "Incident", now: datetime) -> dict[str, Any]:
    """An incident for programs; numbers of people are for the officer who asks and are not suppressed."""
    return {
        "id": one.id,
        "open": one.closed is None,
        "aware": one.breach.aware.isoformat(),
        "discovered": one.breach.discovered.isoformat(),
        "role": one.breach.role.value,
        "affected": dict(one.breach.affected),
        "head": one.head,
        "duties": [
            {
                "id": duty.id,
                "source": duty.source,
                "to": duty.to,
                "due": None if duty.due is None else duty.due.isoformat(),
                "words": duty.words,
                "overdue": duty.id not in one.settled and duty.overdue(now),
                "done": None if (done := one.settled.get(duty.id)) is None else done.act,
                "at": None if done is None else done.at.isoformat(),
            }
            for duty in one.duties
        ],
    }


def _of(folder: Path) -> "Incidents":
    from compliance.incident import Incidents
    from compliance.party import party_in

    return Incidents(party_in(folder))


def _words(*given: str | None) -> dict[str, str]:
    """What was said, under the names of WORDS, in their order."""
    from compliance.incident_form import WORDS

    return {name: text for name, text in zip(WORDS, given, strict=True) if text}


def _facts(
    incidents: "Incidents", affected: list[str] | None, residents: list[str] | None, risk: str | None
) -> dict[str, Any]:
    numbers: dict[str, int | None] = {}
    digests: dict[str, list[str]] = {}
    for site, value in map(_pair, affected or ()):
        if value.startswith("@"):
            digests[site] = incidents.digests(Path(value[1:]))
        else:
            numbers[site] = None if value == "?" else _count(value)
    facts: dict[str, Any] = {"affected": numbers, "digests": digests, "risk": risk}
    facts["residents"] = {state: _count(value) for state, value in map(_pair, residents or ())}
    return facts


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise UsageError(f"'{text}' is not NAME=VALUE", hint="write it as H1=12")
    return name, value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"'{text}' is no number of people", hint="give a whole number, as in H1=12")
    return int(text)


def _tell(one: "Incident", *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        emit_json(summary(one, now))
    else:
        _say(one, now)


def _say(one: "Incident", now: datetime) -> None:
    total = one.breach.total
    people = "an unknown number of people" if total is None else plural(total, "person", "people")
    say(f"{one.id}: {'open' if one.closed is None else 'closed'}, aware {one.breach.aware.isoformat()}, {people}")
    for duty in one.duties:
        done = one.settled.get(duty.id)
        if done is not None:
            late = " (late)" if done.act == "sent" and duty.overdue(done.at) else ""
            say(f"  {duty.id}: {done.act}, {done.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC{late}")
            continue
        due = "now" if duty.due is None else f"{duty.due:%Y-%m-%d %H:%M} UTC"
        word = "OVERDUE since" if duty.overdue(now) else "due"
        say(f"  {duty.id}: {word} {due}, to {duty.to} ({duty.source}); {duty.words}")
