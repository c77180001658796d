"""``fedward node subject``: what a patient asks for, and ``fedward node dataset``: what the hospital's data set is."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.basis_cli import basis_app, consent_app, known, named
from shared import console
from shared.errors import DataError, UsageError

if TYPE_CHECKING:
    from client.node import Node

_NODE = "The node's folder, from 'fedward node init'."
_PATIENT = "Patient ID as the archive has it; with --pseudonym the cohort's name."
_PSEUDONYM = "PATIENT is a pseudonym of the cohort."
_JSON = "Print JSON."
_WHO = "Who has it done; stands in the audit log."

app = typer.Typer(help="Patients' rights: report, restrict, rectify, erase.", no_args_is_help=True)
dataset_app = typer.Typer(help="The manifest of the data set.", no_args_is_help=True)


def mount(group: typer.Typer) -> None:
    """Add the commands to the node's group."""
    group.add_typer(basis_app, name="basis")
    group.add_typer(consent_app, name="consent")
    group.add_typer(app, name="subject")
    group.add_typer(dataset_app, name="dataset")


@app.command("report")
def report_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=_PATIENT)],
    *,
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print what was done with a patient's data: basis, studies, rounds, models, epsilon, recipients (GDPR Art. 15).

    Exit status 0: printed. 2: no node. 4: nothing is known of such a patient, and nothing is printed. 9: a record
    cannot be read or written.
    """
    from client.node import Node
    from client.presence import COMPARE, NOTHING, has_any
    from client.rights import resume
    from client.subject_report import report

    opened = Node.open(node)
    resume(opened)
    key = named(node, patient, pseudonym=pseudonym)
    if not has_any(opened, key):
        raise DataError(f"this patient is {NOTHING}: no report", hint=COMPARE)
    made = report(opened, key)
    if as_json:
        console.emit_json(dict(made.body))
        return
    for line in made.lines:
        console.say(line)


@app.command("restrict")
def restrict_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=_PATIENT)],
    *,
    who: Annotated[str, typer.Option(help=_WHO)],
    objection: Annotated[bool, typer.Option("--objection", help="An objection (Art. 21), no restriction.")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="It ends.")] = False,
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
) -> None:
    """Stop the processing of a patient's data from the next round on, or let it go on (GDPR Art. 18, 21).

    Exit status 0: recorded. 2: no node. 9: the register or the audit log cannot be read or written.
    """
    from client.node import Node
    from client.rights import restrict, resume

    opened = Node.open(node)
    resume(opened)
    changed = restrict(opened, known(node, patient, pseudonym=pseudonym), who=who, objection=objection, lift=lift)
    word = "lifted" if lift else "recorded"
    console.say(f"{word}; it counts from the next round on" if changed else "nothing to change")


@app.command("rectify")
def rectify_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=_PATIENT)],
    *,
    who: Annotated[str, typer.Option(help=_WHO)],
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
) -> None:
    """Take a patient's studies out, to be taken in anew as the archive has them then (GDPR Art. 16).

    He takes no part until an ingest has brought them, and stays on his side of the split.

    Exit status 0: done. 2: no node. 9: an ingest runs, or a record cannot be read or written.
    """
    from client.node import Node
    from client.rights import rectify, resume

    opened = Node.open(node)
    resume(opened)
    done = rectify(opened, known(node, patient, pseudonym=pseudonym), who=who)
    console.say(f"taken out: {done.cached} cached studies, {done.released} files; now run 'fedward node ingest' again")
    if done.cached and not done.studies:
        console.say(
            "ingest took these studies in before it noted whose they are: to have it fetch them anew, move "
            f"{node / 'ingest.jsonl'} away"
        )


@app.command("erase")
def erase_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=_PATIENT)],
    *,
    who: Annotated[str, typer.Option(help=_WHO)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also one of whom nothing is known: keep him out before he comes.")
    ] = False,
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help=_PSEUDONYM)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Delete what the node has of a patient, and never take him in again (GDPR Art. 17, PIPL Art. 47).

    Nobody can undo it, so it asks at the terminal. A patient of whom nothing is known needs --unknown.

    For the runs that he could be drawn in, policy.toml ([erasure] after) decides: record epsilon, stop, or retrain.
    An erasure that was broken off is finished by the next command about a patient, and by the next ingest.

    Exit status 0: erased. 2: no node, or not confirmed. 4: nothing is known of such a patient. 9: an ingest runs, or a
    record cannot be read or written: he takes no part meanwhile.
    """
    from client.node import Node
    from client.presence import erased_on
    from client.rights import erase, resume

    opened = Node.open(node)
    resume(opened)
    key = named(node, patient, pseudonym=pseudonym)
    day = erased_on(opened, key)
    if day is None:
        _sure(opened, key, unknown=unknown, yes=yes)
    done = erase(opened, key, who=who)
    if as_json:
        after = done and {**asdict(done.aftermath), "requests": [str(one) for one in done.aftermath.requests]}
        on = day or erased_on(opened, key)
        console.emit_json(
            {"erased": True, "on": on and on.isoformat(), "taken_out": done and asdict(done.taken_out), "after": after}
        )
        return
    if done is None:
        console.say(f"this patient was erased{f' on {day}' if day else ''}; nothing of him is here")
        return
    out, after_all = done.taken_out, done.aftermath
    console.say(f"deleted: {out.cached} cached studies, {out.released} released files, {out.held} files that waited")
    if out.personal:
        console.say(f"deleted: {console.plural(out.personal, 'personal model')} that the patient was trained into")
    if out.unread:
        console.say(f"{console.plural(out.unread, 'file')} that wait could not be read: look whose they are yourself")
    runs = ", ".join(after_all.runs) or "none"
    bound = "no epsilon bounds what they tell" if after_all.epsilon is None else f"epsilon {after_all.epsilon:.3f}"
    console.say(f"runs that the patient could be drawn in: {runs}; {bound}; policy: {after_all.policy}")
    for path in after_all.requests:
        console.say(f"send this request to the coordinator: {path}")


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _sure(node: "Node", patient: str, *, unknown: bool, yes: bool) -> None:
    """See that an erasure is of somebody, and that a person means it."""
    from client.presence import COMPARE, NOTHING, has_any

    if not unknown and not has_any(node, patient):
        raise DataError(
            f"this patient is {NOTHING}: nothing was erased", hint=f"{COMPARE}, or keep him out with --unknown"
        )
    if yes:
        return
    if not _at_a_terminal():
        raise UsageError("nobody confirms that this patient is to be erased", hint="no one can undo it; give --yes")
    if not typer.confirm(f"erase {patient} for ever, and keep him out?", err=True):
        raise UsageError("not confirmed: nothing was erased", hint="answer y, or give --yes")


@dataset_app.command("write")
def dataset_write(node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)]) -> None:
    """Write the manifest of the data set as it is now; its digest stands in the audit log.

    Exit status 0: written. 2: no node. 4: no cohort. 9: a record cannot be read or written.
    """
    from client.manifest import write_manifest
    from client.node import Node

    opened = Node.open(node)
    with opened.open_log() as log:
        made = write_manifest(opened, log)
    console.say(f"manifest {made.digest}")


@dataset_app.command("show")
def dataset_show(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    *,
    others: Annotated[bool, typer.Option("--for-others", help="Without small counts; fit to be handed on.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read every cached study, and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print the manifest, whether it is up to date, and whether a test patient was ever trained on.

    Exit status 0. 2: no node. 4: no cohort, or with --check a study that is not as the index says, or a test patient
    who was trained on. 9: a record cannot be read.
    """
    import json as text

    from client.lineage import Lineage
    from client.manifest import checked, fresh, index_digest, make_manifest, read_manifest
    from client.node import Node

    opened = Node.open(node)
    cohort = opened.cohort
    found = read_manifest(opened)
    written = found is not None and fresh(opened, found, index_digest(opened))
    made = found if found is not None and written else make_manifest(opened, cohort)
    mixed = Lineage(opened).mixed()
    wrong = checked(opened, cohort) if check else []
    # The time is inside: of one that is not written there is another digest at each call.
    digest = made.digest if written else None
    facts = {"sha256": digest, "written": written, "frozen_split": mixed == 0, "wrong_studies": len(wrong)}
    body = made.for_others() | {"manifest_sha256": digest} if others else dict(made.body)
    if as_json:
        console.emit_json({**facts, "manifest": body})
    else:
        console.say(text.dumps(body, indent=1, ensure_ascii=False))
        console.say(f"digest {digest}, as written" if digest else "not written yet: fedward node dataset write")
        console.say(f"test patients that were ever trained on: {mixed}")
    if mixed or wrong:
        raise DataError(
            f"{console.plural(mixed, 'test patient')} trained on, {console.plural(len(wrong), 'study', 'studies')} "
            "changed or gone",
            hint="put the cohort back from a copy",
        )
