"""``fedward audit export``: the audit log in the forms that others read."""

import json as json_module
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from compliance.export import dicom, fhir, jsonl, syslog
from compliance.export.reading import Reader, Record, Selection, checkpoint, instant
from compliance.log import Action
from shared.console import emit_json, plural, say
from shared.errors import UsageError
from shared.files import atomic_file, output_errors

BESIDE: Final = ".leaves.jsonl"


class Form(StrEnum):
    """What is written."""

    JSONL = "jsonl"
    FHIR = "fhir"
    DICOM = "dicom"


_Maker = Callable[[Iterable[Record], str], Iterator[bytes]]
_MAKERS: Final[Mapping[Form, _Maker]] = {
    Form.JSONL: lambda records, _: jsonl.lines(records),
    Form.FHIR: fhir.ndjson,
    Form.DICOM: dicom.documents,
}


def mount(app: typer.Typer) -> None:
    """Add the command to the group ``audit``."""
    app.command("export", epilog=_EPILOG)(export)


_EPILOG: Final = (
    "Exit codes: 0 done; 2 wrong use, such as no such log, or a file that is there already; 5 the file cannot be "
    "written; 6 others may read the key; 8 the receiver cannot be reached, is not who it should be, or cut the "
    "connection; 9 the log does not verify, or is not the one that the receiver was sent."
)


def export(
    log: Annotated[Path, typer.Argument(help="The audit log (log.jsonl), or the folder of a node or a coordinator.")],
    to: Annotated[str, typer.Option("--to", help="A file, or syslog+tls://HOST:PORT.")],
    form: Annotated[
        Form | None,
        typer.Option("--format", help="jsonl: the entries as they are. fhir: R4 AuditEvent. dicom: PS3.15 A.5."),
    ] = None,
    since: Annotated[str, typer.Option(help="Not before: 2026-11-01 (UTC) or 2026-11-01T08:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Before, in the same form.")] = "",
    action: Annotated[list[str] | None, typer.Option(help="Only this act, such as train; may be repeated.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="Only this run; may be repeated.")] = None,
    bundle: Annotated[bool, typer.Option("--bundle", help="FHIR: one Bundle instead of one resource a line.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    ca: Annotated[Path | None, typer.Option(help="Syslog: the authority of the receiver's certificate, PEM.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Syslog: our certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Syslog: its key, PEM, mode 0600.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Syslog: remembers what was taken in; without it, exports/ beside the log.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Syslog: seconds for one step.")] = syslog.SECONDS,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export LOG, verifying it from its first line on. A selection says how many entries it left out.

    A file is written whole or not at all. Beside it, FILE.leaves.jsonl says what was exported of what, and for each
    entry its leaf index and leaf hash (RFC 6962), by which a checkpoint can prove it.
    """
    reader = Reader(_found(log), _selection(since, until, action or [], run or []))
    if to.startswith(f"{syslog.SCHEME}:"):
        if bundle or overwrite or form not in {None, Form.DICOM}:
            raise UsageError("a syslog receiver gets DICOM audit messages", hint="leave out --format and --bundle")
        _to_receiver(reader, syslog.Receiver.parse(to), (ca, certificate, key), state, timeout, json=json)
        return
    if "://" in to:
        raise UsageError(f"nothing can be exported to '{to}'", hint=f"name a file, or {syslog.SCHEME}://HOST:PORT")
    if ca or certificate or key or state:
        raise UsageError("--ca, --certificate, --key and --state are for a syslog receiver", hint="leave them out")
    if bundle and form is not Form.FHIR:
        raise UsageError("only FHIR has bundles", hint="add --format fhir")
    _to_file(reader, Path(to), form or Form.JSONL, bundle=bundle, overwrite=overwrite, json=json)


def _found(log: Path) -> Path:
    """The log's file: ``log``, or the one in that folder or in its ``audit/``."""
    places = (log, log / "log.jsonl", log / "audit" / "log.jsonl")
    try:
        file = next((path for path in places if path.is_file()), None)
    except OSError as error:
        raise UsageError(f"cannot look for the audit log {log}: {error.strerror}", hint="check the path") from error
    if file is None:
        raise UsageError(f"there is no audit log {log}", hint="name a log.jsonl, or the audit.jsonl of a report")
    return file


def _selection(since: str, until: str, actions: list[str], runs: list[str]) -> Selection:
    known = {one.value for one in Action}
    if unknown := sorted(set(actions) - known):
        raise UsageError(f"there is no act '{unknown[0]}'", hint=f"choose of {', '.join(sorted(known))}")
    first, last = instant(since) if since else None, instant(until) if until else None
    if first and last and first >= last:
        raise UsageError("--since is not before --until", hint="--until itself is left out")
    return Selection(first, last, frozenset(actions), frozenset(runs))


def _to_file(reader: Reader, path: Path, form: Form, *, bundle: bool, overwrite: bool, json: bool) -> None:
    if not path.name:
        raise UsageError(f"'{path}' is no file", hint="name one with --to")
    beside = path.with_name(path.name + BESIDE)
    with output_errors(path):
        for one in (path, beside):
            if one.exists() and one.samefile(reader.log):
                raise UsageError(f"{one} is the audit log itself", hint="choose another file")
            if one.is_dir() or (one.exists() and not overwrite):
                raise UsageError(f"{one} is there already", hint="choose another file, or add --overwrite")
    make = fhir.bundle if bundle else _MAKERS[form]
    with (
        output_errors(path),
        tempfile.TemporaryFile() as leaves,
        atomic_file(path, mode=0o600, durable=True) as stream,
        atomic_file(beside, mode=0o600, durable=True) as side,
    ):
        for piece in make(_noting(reader, leaves), checkpoint(reader.log)):
            stream.write(piece)
        summary = reader.summary("bundle" if bundle else form.value)
        side.write(_line(summary))
        leaves.seek(0)
        shutil.copyfileobj(leaves, side)
    if json:
        emit_json({"file": str(path), "leaves": str(beside), **summary})
        return
    say(
        f"{path}: {plural(reader.taken, 'entry', 'entries')}, {reader.entries - reader.taken} left out by the selection"
    )
    say(f"{beside}: where each stands in the log ({plural(reader.entries, 'entry', 'entries')}, head {reader.head})")


def _noting(reader: Reader, leaves: IO[bytes]) -> Iterator[Record]:
    for record in reader:
        leaves.write(_line({"index": record.index, "leaf": record.leaf}))
        yield record


def _line(value: object) -> bytes:
    return json_module.dumps(value, ensure_ascii=False).encode() + b"\n"


def _to_receiver(
    reader: Reader,
    receiver: syslog.Receiver,
    files: tuple[Path | None, Path | None, Path | None],
    state: Path | None,
    timeout: float,
    *,
    json: bool,
) -> None:
    ca, certificate, key = files
    if math.isnan(timeout):
        raise UsageError("--timeout is no number", hint="give seconds")
    if ca is None:
        raise UsageError("a syslog receiver needs --ca", hint="name the authority of its certificate, a PEM file")
    name = f"{receiver.host}_{receiver.port}.json".replace(":", "-")
    where = state or reader.log.parent / "exports" / name
    memory = syslog.State(where, str(receiver), reader.selection.facts())
    context = syslog.tls_context(ca, certificate, key)
    sent = syslog.send(reader, receiver, context, memory, checkpoint=checkpoint(reader.log), seconds=timeout)
    left_out = reader.entries - reader.taken
    if json:
        facts = {"sent": sent.messages, "sent_before": sent.before, "left_out": left_out, "large": sent.large}
        emit_json({"receiver": str(receiver), "state": str(where), **facts})
        return
    say(f"{receiver}: {plural(sent.messages, 'message')} taken in, {sent.before} before, {left_out} left out")
    if sent.large:
        say(f"{plural(sent.large, 'message')} larger than {syslog.LARGE} octets; the receiver may have cut them")
