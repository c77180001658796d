"""``fedward audit witness``: cosign the logs of others by files, and decide where one showed two histories."""

from pathlib import Path
from typing import Annotated, Final

import typer

from compliance.carried import Answer, Offer, answer, offer, take
from compliance.checking import audit_folder, authority_in, reading_trail
from compliance.endorse import FILE, Endorsement
from compliance.log import entries
from compliance.place import Place
from compliance.witness import Decision, InconsistentError, Witness
from shared.charter import Charter
from shared.console import emit_json, plural, say
from shared.errors import UsageError

_JSON: Final = typer.Option("--json", help="Print JSON.")
_AUDIT: Final = typer.Argument(help="The folder of a node or a coordinator, or its audit/ folder.")
_NODE: Final = typer.Argument(help="The folder of the node that witnesses.")
_CHARTER: Final = typer.Option("--charter", help="The charter to go by (default: the one in the folder).")


def mount(app: typer.Typer) -> None:
    """Add the group ``witness``."""
    group = typer.Typer(help="Cosign the logs of others, by files if the coordinator does not carry them.")
    group.command("export")(export)
    group.command("import")(bring)
    group.command("collect")(collect)
    group.command("status")(status)
    group.command("resolve")(resolve)
    app.add_typer(group, name="witness", no_args_is_help=True)


def export(
    folder: Annotated[Path, _AUDIT],
    to: Annotated[Path, typer.Option("--to", help="The file to write.")],
    have: Annotated[list[int] | None, typer.Option(help="A size that a witness says it has.", min=0)] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Write the newest checkpoint with proofs from what each witness has, for them to import."""
    audit = audit_folder(folder)
    trail = reading_trail(folder, None)
    made = offer(trail, Endorsement.load(audit / FILE), authority_in(audit.parent), tuple(have or ()))
    made.save(to)
    size, sizes = int(made.checkpoint.split("\n")[1]), [one.size for one in made.proofs]
    if json:
        emit_json({"origin": trail.origin, "size": size, "from": sizes, "file": str(to)})
        return
    say(f"{to}: {trail.origin} at {plural(size, 'entry', 'entries')}, with proofs from {', '.join(map(str, sizes))}")


def bring(
    node: Annotated[Path, _NODE],
    file: Annotated[Path, typer.Argument(help="What another member exported.")],
    to: Annotated[Path | None, typer.Option("--to", help="The answer (default: FILE.answer).")] = None,
    charter: Annotated[Path | None, _CHARTER] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Check what another member exported against what this one has seen, cosign it, and write the answer.

    Exit 9 where it does not go on from that: the evidence is kept in audit/witness/evidence and an alert is written.
    """
    place, given = Place.open(node), Offer.load(file)
    if given.endorsement.get("origin") == place.endorsement.origin:
        raise UsageError(f"{file} is of this node's own log", hint="export it for the other members: they witness it")
    key, _ = given.keys(place.charter(charter))
    witness = Witness(place.witness_folder, place.signer, {key.name: key})
    witness.recall(entries(place.log) if place.log.exists() else ())
    with place.open_log() as log:
        try:
            made = answer(witness, given, place.endorsement, None if place.site else authority_in(place.folder))
        except InconsistentError as error:
            if error.entry is not None:
                log.append(error.entry)
            raise
        if made.cosignature is not None:
            log.append(witness.entry(key.name))
    target = to or file.with_name(f"{file.name}.answer")
    made.save(target)
    if json:
        emit_json(
            {
                "origin": key.name,
                "size": made.size,
                "cosigned": made.have is None,
                "have": made.have,
                "file": str(target),
            }
        )
    elif made.cosignature is None:
        say(f"{target}: not cosigned; {place.name} has seen {made.have} entries of it, and no proof leads from these")
    else:
        say(f"{target}: {key.name} cosigned at {plural(made.size, 'entry', 'entries')}")


def collect(
    folder: Annotated[Path, _AUDIT],
    answers: Annotated[list[Path], typer.Argument(help="Answers of witnesses.")],
    charter: Annotated[Path | None, _CHARTER] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Put the cosignatures that came back under the checkpoints."""
    audit = audit_folder(folder)
    trail = reading_trail(folder, None)
    pinned = Charter.load(charter or audit.parent / "charter.toml")
    rows = []
    for path in answers:
        given = Answer.load(path)
        _, key = given.keys(pinned)
        take(trail, given, key)
        rows.append({"size": given.size, "witness": key.name})
    if json:
        emit_json(rows)
        return
    for row in rows:
        say(f"{row['size']} entries cosigned by {row['witness']}")


def status(node: Annotated[Path, _NODE], json: Annotated[bool, _JSON] = False) -> None:
    """What this node has witnessed of others, and which of them showed two histories."""
    place = Place.open(node)
    witness = Witness(place.witness_folder, place.signer, {})
    witness.recall(entries(place.log) if place.log.exists() else ())
    marked, rows = witness.marked(), []
    for origin in witness.origins():
        seen = witness.state(origin)
        size, root = (seen.size, seen.root.hex()) if seen else (0, "")
        rows.append({"origin": origin, "size": size, "root": root, "evidence": marked.get(origin)})
    if json:
        emit_json(rows)
        return
    for row in rows:
        split = f"; two histories, see audit/witness/evidence/{row['evidence']}" if row["evidence"] else ""
        say(f"{row['origin']}: {row['size']} entries, head {row['root']}{split}")
    if not rows:
        say(f"{place.name} has cosigned nothing yet")


def resolve(
    node: Annotated[Path, _NODE],
    origin: Annotated[str, typer.Argument(help="The log, as 'witness status' names it.")],
    keep: Annotated[Decision, typer.Option(help="Go on from the head seen here, or trust the next one anew.")],
    who: Annotated[str, typer.Option(help="Who decides.")],
    why: Annotated[str, typer.Option(help="Why, in words without identifiers.")],
) -> None:
    """Decide about a log that showed two histories; the decision is an entry of this node's log."""
    place = Place.open(node)
    witness = Witness(place.witness_folder, place.signer, {})
    with place.open_log() as log:
        witness.decide(log, origin, keep, who=who, why=why)
    say(f"{origin}: decided, {keep.value}")
