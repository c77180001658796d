"""``fedward node basis`` and ``fedward node consent``: why patients' data may be processed, and who said no."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from client.consent import Register
    from client.node import Node

_NODE = "The node's folder, from 'fedward node init'."
_PATIENT = "Patient ID as the archive has it; with --pseudonym the cohort's name."
_PSEUDONYM = "PATIENT is a pseudonym of the cohort."
_JSON = "Print JSON."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

basis_app = typer.Typer(help="The lawful basis of everybody in the data set.", no_args_is_help=True)
consent_app = typer.Typer(help="What patients consented to: import, show, withdraw.", no_args_is_help=True)


@basis_app.command("set")
def basis_set(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    basis: Annotated[
        str, typer.Argument(metavar="BASIS", help="'GDPR 6(1)(e), 9(2)(j)', 'PIPL 13(1)(2)' or 'HIPAA 164.512(i)'.")
    ],
    *,
    act: Annotated[str, typer.Option(help="What it rests on: national law, approval, agreement; 1 to 300 letters.")],
    who: Annotated[str, typer.Option(help="Who decided.")],
    why: Annotated[str, typer.Option(help="Why.")],
    purpose: Annotated[
        list[str] | None, typer.Option(help="For which purpose, word for word. Default: the node's; may be repeated.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="DAY", help="First day, UTC. Default: today.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Last day, UTC, inclusive. Default: no end.")] = None,
) -> None:
    """Set the basis of every patient who has no decision of his own. It cannot be consent.

    Until there is one, a real hospital takes only those patients into a round whose consents were imported.

    Exit status 0: set. 2: no node, or no such basis. 9: the register or the audit log cannot be read or written.
    """
    from client.basis import Basis, DefaultBasis
    from client.consenting import set_basis
    from client.eligible import today
    from client.node import Node

    opened = Node.open(node)
    first = _day(since) or today()
    default = DefaultBasis(Basis.parse(basis), tuple(purpose or [opened.purpose]), first, _day(until), act, who, why)
    _tell_basis(set_basis(opened, default))


@basis_app.command("show")
def basis_show(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print the basis of the data set.

    Exit status 0, also where there is none. 2: no node. 9: the register cannot be read.
    """
    from client.node import Node
    from client.records import log_of, read_register

    opened = Node.open(node)
    register, _ = read_register(opened, log_of(opened))
    if as_json:
        default = register.default
        console.emit_json(
            {"basis": None}
            if default is None
            else {
                "basis": str(default.basis),
                "purposes": list(default.purposes),
                "since": default.since.isoformat(),
                "until": default.until.isoformat() if default.until else None,
                **{name: getattr(default, name) for name in ("act", "who", "why")},
            }
        )
    else:
        _tell_basis(register)


@basis_app.command("clear")
def basis_clear(node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)]) -> None:
    """Take the basis of the data set away: from the next round on only patients with a consent take part.

    Exit status 0: there is none now. 2: no node. 9: the register or the audit log cannot be read or written.
    """
    from client.consenting import set_basis
    from client.node import Node

    _tell_basis(set_basis(Node.open(node), None))


@consent_app.command("import")
def consent_import(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV (patient_id, decision, purpose, date, until, basis) or FHIR R4 Consent."
        ),
    ],
    *,
    purpose: Annotated[
        str | None, typer.Option(help="What a consent without a purpose is for. Default: the node's.")
    ] = None,
    system: Annotated[str, typer.Option(metavar="URI", help="FHIR: the system of the Patient ID.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Take decisions of patients from a file; Patient IDs become pseudonyms and are not kept.

    All lines or none: one that is wrong is named, and nothing is taken. The same file again changes nothing; a newer
    decision takes the place of an older one, and on the same day the stricter one. It counts from the next round on.

    Exit status 0: taken, or nothing new. 2: no node, or the file cannot be read or has a line that is wrong. 9: the
    register or the audit log cannot be read or written.
    """
    from dataclasses import asdict

    from client.consent_file import read_consents
    from client.consenting import import_consents
    from client.eligible import today
    from client.node import Node

    opened = Node.open(node)
    rows = read_consents(file, purpose=purpose or opened.purpose, today=today(), system=system)
    done = import_consents(opened, rows, file=file, dry=dry_run)
    nobody = _of_nobody(opened, [row.patient_id for row in rows])
    if as_json:
        console.emit_json({**asdict(done), "nobody": nobody, "dry_run": dry_run})
        return
    counts = ", ".join(f"{count} {choice}" for choice, count in done.choices.items())
    would = "would be" if dry_run else "is"
    console.say(f"{console.plural(done.rows, 'decision')} of {console.plural(done.patients, 'patient')}: {counts}")
    console.say(f"something new {would} recorded of {done.changed}; {done.stopped} of them said no")
    if nobody:
        console.say(
            f"{console.plural(nobody, 'decision')} of {done.rows} of nobody in the cohort, to count if he comes: "
            "compare their Patient IDs with the archive"
        )


@consent_app.command("show")
def consent_show(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str | None, typer.Argument(metavar="[PATIENT]", help=_PATIENT)] = None,
    *,
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print how many patients are in which state today, or what one of them decided.

    Of a Patient ID that nobody has it says that nothing is recorded: compare it with the archive.

    Exit status 0. 2: no node. 4: no cohort where all were asked for. 9: the register or the lineage cannot be read.
    """
    from client.consent import ALL, Choice
    from client.eligible import judged
    from client.node import Node
    from client.presence import COMPARE, NOTHING, erased_on, has_any, in_cohort
    from client.records import log_of, read_register

    opened = Node.open(node)
    register, _ = read_register(opened, log_of(opened))
    if patient is None:
        _tell_all(node, register, as_json=as_json)
        return
    key = named(node, patient, pseudonym=pseudonym)
    record, there = register.of(key), in_cohort(opened, key)
    ((_, why),) = judged([key], opened)
    body = {
        "pseudonym": key,
        "holds": sorted(hold.value for hold in record.holds),
        "decisions": {
            purpose: {
                "choice": one.choice.value,
                "since": one.since.isoformat(),
                "until": one.until.isoformat() if one.until else None,
                "basis": str(one.basis) if one.choice is Choice.GIVEN else None,
            }
            for purpose, one in record.decisions.items()
        },
        "in_cohort": there,
        "today": (why or "takes part") if has_any(opened, key) else NOTHING,
    }
    if as_json:
        console.emit_json(body)
        return
    day = erased_on(opened, key)
    console.say(f"{key}: {body['today']}{f' on {day}' if day else ''}")
    if body["today"] == NOTHING:
        console.complain("nobody in the cohort has this Patient ID", COMPARE)
    elif not there and day is None:
        console.say("not in the cohort: it counts if he comes")
    for purpose, one in sorted(record.decisions.items()):
        end = f" to {one.until}" if one.until else ""
        basis = f", {one.basis}" if one.choice is Choice.GIVEN else ""
        console.say(f"{'every purpose' if purpose == ALL else purpose}: {one.choice.value}, {one.since}{end}{basis}")


@consent_app.command("withdraw")
def consent_withdraw(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=_PATIENT)],
    *,
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
    purpose: Annotated[str, typer.Option(help="For which purpose. Default: all.")] = "*",
    refused: Annotated[bool, typer.Option("--refused", help="He never consented.")] = False,
) -> None:
    """Record that a patient withdraws his consent. His studies are not read from the next round on.

    What was trained before is not undone: see 'fedward node subject erase'.

    Exit status 0: recorded. 2: no node. 9: the register or the audit log cannot be read or written.
    """
    from client.consenting import withdraw
    from client.node import Node

    opened = Node.open(node)
    before, after = withdraw(opened, known(node, patient, pseudonym=pseudonym), purpose=purpose, refused=refused)
    console.say("recorded; it counts from the next round on" if before != after else "it was recorded before")


def named(node: Path, patient: str, *, pseudonym: bool) -> str:
    """The pseudonym of a patient who was named on the command line."""
    from client.node import Node
    from client.records import pseudonym_of

    if not patient.strip():
        raise UsageError("no patient is named", hint="give the Patient ID as the archive has it")
    if pseudonym and not _NAME.fullmatch(patient.strip()):  # it is the name of a folder in the node
        raise UsageError("that is no pseudonym", hint="a Patient ID is given without --pseudonym")
    return patient.strip() if pseudonym else pseudonym_of(Node.open(node), patient)


def known(node: Path, patient: str, *, pseudonym: bool) -> str:
    """As :func:`named`; whoever names nobody in the cohort hears so, since a typing error would go unseen."""
    from client.node import Node
    from client.presence import COMPARE, erased_on, in_cohort

    key, opened = named(node, patient, pseudonym=pseudonym), Node.open(node)
    if day := erased_on(opened, key):
        console.complain(
            f"this patient was erased on {day}", "nothing more is written down of him; his lineage still answers"
        )
    elif not in_cohort(opened, key):
        console.complain("nobody in the cohort has this Patient ID", f"it counts if he comes; {COMPARE}")
    return key


def _of_nobody(node: "Node", patient_ids: Sequence[str]) -> int:
    """How many of these are of nobody in the cohort: a number that the archive writes otherwise would go unseen."""
    from client.records import pseudonym_of

    there = (node.folder / "cohort" / "index.json").exists()
    keys = {entry.key for entry in node.cohort.entries} if there else set[str]()
    fits = {one: pseudonym_of(node, one) in keys for one in set(patient_ids)}
    return sum(not fits[one] for one in patient_ids)


def _tell_all(node: Path, register: "Register", *, as_json: bool) -> None:
    from collections import Counter

    from client.node import Node

    opened = Node.open(node)
    keys = [entry.key for entry in opened.cohort.entries]
    found = Counter(register.why_not(key, opened.purpose, _now(), virtual=opened.virtual) for key in keys)
    states = {why or "takes part": count for why, count in sorted(found.items())}
    if as_json:
        console.emit_json({"patients": len(keys), "states": states, "recorded": len(register.patients)})
        return
    console.say(f"{console.plural(len(keys), 'patient')} in the cohort, {len(register.patients)} with a record")
    for why, count in states.items():
        console.say(f"{count}: {why}")


def _tell_basis(register: "Register") -> None:
    default = register.default
    if default is None:
        console.say("the data set has no basis: only patients with a consent of their own take part")
        return
    end = f"to {default.until}" if default.until else "without an end"
    console.say(f"{default.basis}, from {default.since} {end}, for: {'; '.join(default.purposes)}")
    console.say(f"{default.act}; decided by {default.who}: {default.why}")


def _now() -> date:
    return datetime.now(UTC).date()


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is no day", hint="use the form 2026-05-31") from error
