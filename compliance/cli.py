"""``fedward audit``: check the record."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from compliance import export_cli, hold_cli, witness_cli
from compliance.checking import Checked, audit_folder, check, key_of, reading_trail
from compliance.log import entries
from compliance.note import parse_key
from compliance.place import Place, establish
from compliance.standing import members_keys
from compliance.trail import LOG, Trail
from compliance.verify import COSIGNATURE, ED25519, LIMITS, Key, leaf_hash
from shared.console import emit_json, plural, say
from shared.errors import RecordError, UsageError

app = typer.Typer(
    help="The audit log: what was done, in an order that cannot be changed unnoticed.", no_args_is_help=True
)
export_cli.mount(app)
hold_cli.mount(app)
witness_cli.mount(app)

_JSON: Final = typer.Option("--json", help="Print JSON.")
_FOLDER: Final = typer.Argument(help="The folder of a node or a coordinator, or its audit/ folder.")
_LOG_KEY: Final = typer.Option("--log-key", help="The log's verifier key, as its owner told it to you.", metavar="VKEY")


@app.command("verify")
def verify_logs(
    logs: Annotated[list[Path], typer.Argument(help="Audit log files (log.jsonl), or folders of members.")],
    log_key: Annotated[str | None, _LOG_KEY] = None,
    witness: Annotated[
        list[str] | None, typer.Option(help="A witness's verifier key; once for each.", metavar="VKEY")
    ] = None,
    quorum: Annotated[int, typer.Option(help="So many of these witnesses must have cosigned.", min=0)] = 0,
    charter: Annotated[
        Path | None, typer.Option(help="A charter, which says whose log key it is (default: the node's own).")
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Check form, order and hash chain of each LOG, and the checkpoints beside it. Exit 9 where one is not sound.

    A bare log without checkpoints shows only that nothing inside it was altered, dropped or reordered since: not that
    the end was not cut off, nor that the whole was not written anew. Compare the printed head with one noted elsewhere.
    Cosignatures are checked by the keys of --witness; without them, in a member's folder, by those that its own
    federation vouches for.
    """
    keys = [parse_key(text, COSIGNATURE) for text in witness or ()]
    own = None if log_key is None else parse_key(log_key, ED25519)
    if quorum > len(keys):
        raise UsageError(f"--quorum {quorum} asks for more witnesses than are named", hint="name each with --witness")
    paths = {str(path): audit_folder(path) / LOG if path.is_dir() else path for path in logs}
    if missing := next((path for path in paths.values() if not path.is_file()), None):
        raise UsageError(f"there is no audit log {missing}", hint="name a log.jsonl, or the audit.jsonl of a report")
    found = {}
    for given, path in paths.items():
        theirs = keys or (() if path == Path(given) else members_keys(Path(given)))
        found[given] = check(path, key_of(path.parent, own, charter), theirs, quorum)
    if empty := next((path for path, one in found.items() if not one.entries), None):
        raise RecordError(
            f"{empty} holds not one whole entry: it is no audit log, or one that was emptied",
            hint="name a log.jsonl, or the audit.jsonl of a report; if it was one, its witnesses know how long",
        )
    if json:
        emit_json({path: one.as_json() for path, one in found.items()})
        return
    for given, one in found.items():
        _tell(given, one)
    if any(one.published for one in found.values()):
        for line in LIMITS:
            say(line)


def _tell(path: str, one: Checked) -> None:
    say(f"{path}: verified, {plural(one.entries, 'entry', 'entries')}, head {one.head}")
    if one.torn:
        say(f"{path}: {one.torn} bytes follow of an entry that was never finished; the next one to write cuts them")
    if one.published is None:
        if one.unchecked:
            say(f"{path}: {plural(one.unchecked, 'checkpoint')} not checked; name the log's key with --log-key")
        return
    say(
        f"{path}: it is the log that {one.origin} signed at {plural(one.checkpoints, 'checkpoint')}, the newest of "
        f"{plural(one.published, 'entry', 'entries')}; whose key this is, says {one.trusted}"
    )
    if one.witnessed is not None:
        known = plural(one.witnessed, "entry", "entries")
        say(f"{path}: {known} witnessed by {', '.join(one.witnesses)}; {one.unwitnessed} behind them are not")
    elif one.claimed:
        say(f"{path}: cosignatures of {', '.join(one.claimed)}, not checked; name their keys with --witness")
    else:
        say(f"{path}: nobody has witnessed it: who has the log key could write it anew")


@app.command()
def prove(
    folder: Annotated[Path, _FOLDER],
    entry: Annotated[int, typer.Argument(help="The number of the entry (seq), from 0.", min=0)],
    size: Annotated[
        int | None, typer.Option(help="The checkpoint's size (default: the newest that has the entry).", min=1)
    ] = None,
    log_key: Annotated[str | None, _LOG_KEY] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Prove that an entry stands in the log as it was published, for somebody who sees nothing else of the log.

    Exit status 0: proved. 2: the log has no such entry, or none that is published yet. 9: the log does not verify.
    """
    trail = reading_trail(folder, None if log_key is None else parse_key(log_key, ED25519))
    if size is None:
        newest = trail.newest()
        size = newest.size if newest else 0
    if size:
        _require_published(trail, entry, size)
    proof, line, signed = trail.inclusion(entry, size), trail.line(entry), trail.at(size)
    trail.require_leaf(entry, line)
    hashes = [base64.b64encode(one).decode() for one in proof]
    if json:
        text = {"entry": line.decode(), "index": entry, "leaf": leaf_hash(line).hex(), "size": size}
        emit_json(text | {"proof": hashes, "checkpoint": signed.raw.decode(), "log_key": str(trail.key)})
        return
    say(line.decode())
    say(f"entry {entry} of {trail.origin}, leaf {leaf_hash(line).hex()}, stands in its {size} entries by")
    for one in hashes:
        say(f"  {one}")
    say(signed.raw.decode().rstrip("\n"))


def _require_published(trail: Trail, entry: int, size: int) -> None:
    if entry < size:
        return
    log = trail.folder / LOG
    total = sum(1 for _ in entries(log)) if log.exists() else 0
    if entry >= total:
        raise UsageError(f"there is no entry {entry} in a log of {total}", hint="entries count from 0")
    raise UsageError(
        f"entry {entry} is in no checkpoint of {plural(size, 'entry', 'entries')} yet",
        hint="wait for the next checkpoint, or publish one with 'audit checkpoints NODE --publish'",
    )


@app.command()
def checkpoints(
    folder: Annotated[Path, _FOLDER],
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish the log as it is now; needs the folder with keys/log.key.")
    ] = False,
    log_key: Annotated[str | None, _LOG_KEY] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """The checkpoints that were published, and who cosigned each."""
    if publish:
        place = Place.open(folder)
        place.trail.checkpoint()
    trail = reading_trail(folder, None if log_key is None else parse_key(log_key, ED25519))
    rows: list[dict[str, Any]] = []
    for size in trail.sizes():
        signed = trail.at(size)
        names = sorted({name for name, _, _ in signed.note.signatures} - {trail.origin})
        rows.append({"size": size, "root": signed.root.hex(), "cosigned": names})
    if json:
        emit_json({"origin": trail.origin, "log_key": str(trail.key), "checkpoints": rows})
        return
    if not rows:
        say(f"{trail.origin} has published no checkpoint yet")
    for row in rows:
        say(f"{row['size']} {row['root']} cosigned by {', '.join(row['cosigned']) or 'nobody'}")


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="The folder of a node or a coordinator.")],
    make: Annotated[bool, typer.Option("--make", help="Make and endorse a log key where there is none.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """The verifier keys of a member's log: give them to an auditor, and read them out by telephone."""
    place = Place.open(folder)
    signer = establish(place) if make else place.signer
    found: Sequence[Key] = (signer.log_key, signer.witness_key)
    if json:
        emit_json({"origin": signer.name, "log_key": str(found[0]), "witness_key": str(found[1])})
        return
    say(f"log      {found[0]}")
    say(f"witness  {found[1]}")
