"""``fedward export``: a model for other runtimes, and smaller ones that do nearly as well."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compliance.told import charter_digits
from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from client.evaluation.models import Model
    from client.export.people import People
    from client.export.run import Export, Wishes
    from client.node import Node

_MODEL = "A release folder, the folder of a run's model, a personal model, or a public one such as public-1."
_CHARTER = "SHA-256 of the charter of a release, as a member told you: 32 digits or more."
_QUORUM = "So many hospitals must have cosigned a release's checkpoint; 0: none. Default: over half."
_DATA = "A hospital's node: its test patients give the figures, and its log has the export."
_OWN = "Calibrate, tune and distil on the node's training patients: the files must not leave that hospital then."


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files: new, or of an earlier export.")],
    task: Annotated[str | None, typer.Option(help="The task, for public models.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also with convolutions in eight bits.")] = False,
    prune: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Also without this share of its channels, 0.1 to 0.75.")
    ] = None,
    distil: Annotated[bool, typer.Option("--distil", help="Also a student with half the channels.")] = False,
    data: Annotated[Path | None, typer.Option(metavar="NODE", help=_DATA)] = None,
    own: Annotated[bool, typer.Option("--own-patients", help=_OWN)] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps to tune the pruned model and to teach the student.")] = 2000,
    rounds: Annotated[int, typer.Option(min=0, help="How often each runtime is timed; 0: not at all.")] = 15,
    force: Annotated[bool, typer.Option("--force", help="Write the eight-bit model whatever it loses.")] = False,
    charter: Annotated[str | None, typer.Option(metavar="SHA256", help=_CHARTER)] = None,
    quorum: Annotated[int | None, typer.Option(min=0, help=_QUORUM)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Write a model as ONNX, held against torch; on wish also an eight-bit, a pruned and a distilled one.

    Smaller models are fitted to synthetic phantoms, so that no patient is looked at, unless --own-patients says
    otherwise. A table says what each loses, weighs and takes. Preparing images stays with the caller: docs/export.md
    says how. Research use, not for diagnosis.

    Exit status 0: written. 1: a graph differs from torch, and nothing is written. 2: no such model, task or node, or a
    network that cannot be made smaller so. 3: the eight-bit model loses too much and is not written. 4: a damaged model
    or cohort, or nobody to look at. 5: the folder cannot be written. 6: others may read a key, or a cohort without its
    node. 9: a release does not hold, or the audit log or a register cannot be read or written.
    """
    digits = charter_digits(charter)
    if own and data is None:
        raise UsageError("--own-patients needs a node", hint="name it with --data")
    if own and not (int8 or distil or prune is not None):
        raise UsageError("--own-patients is for what is fitted", hint="ask for --int8, --prune or --distil too")
    _require_libraries(*(["torch_pruning"] if prune is not None else []))
    from client.evaluation.data import node_of
    from client.export.fitting import check_ratio
    from client.export.run import Wishes
    from client.export.write import PAGE, RECORD, check_folder

    if prune is not None:
        check_ratio(prune)
    check_folder(out)
    node = None if data is None else node_of(data)
    wishes = Wishes(int8, prune, distil, steps, rounds, force)
    opened = _opened(model, task, digits, quorum, node)
    found, record = _made(opened, wishes, out, node, own=own, quiet=as_json)
    if as_json:
        console.emit_json(record)
    else:
        _tell(found, record)
        console.say(f"files in {out}, described in {RECORD} and {PAGE}")
    for one in found.variants:
        if one.refused:
            raise PartialError(f"no {one.name} model was written: {one.refused}", hint="--force writes it all the same")


def _require_libraries(*more: str) -> None:
    """See that the extra is installed, before seconds are spent on torch.

    Raises:
        UsageError: It is not.
    """
    from importlib.util import find_spec

    for name in ("onnx", "onnxruntime", *more):
        if find_spec(name) is None:
            raise UsageError(f"{name} is not installed", hint="pip install 'fedward[client,export]'")


def _opened(name: str, task: str | None, charter: str, quorum: int | None, node: "Node | None") -> "Model":
    from client.evaluation.models import PERSONAL, open_models

    (model,) = open_models([name], task=task, charter=charter, quorum=quorum)
    if model.kind == PERSONAL and (node is None or node.site not in model.sites):
        raise UsageError(
            f"{name} is a personal model of {', '.join(model.sites)}, which is exported at its hospital alone",
            hint="name that hospital's node with --data, whose log will have it",
        )
    return model


def _made(
    model: "Model", wishes: "Wishes", out: Path, node: "Node | None", *, own: bool, quiet: bool
) -> "tuple[Export, dict[str, Any]]":
    """Make and write everything, under an entry of the node's log where there is a node."""
    from client.export.people import FITTED, NOBODY, patients, phantoms, phantoms_here
    from client.export.record import recorded
    from client.export.run import export as exported
    from client.export.write import write

    with ExitStack() as stack:
        bar = stack.enter_context(console.progress(quiet=quiet))
        lines: dict[str, Any] = {}

        def shown(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total)
            bar.update(lines[what], completed=done, total=total)

        # Without a node the figures are of phantoms, where this installation can draw them.
        drawn: People | None = None
        if (wishes.fits and not own) or (node is None and phantoms_here() is not None):
            fit = FITTED if wishes.fits else 0
            drawn = phantoms(model.task, fit=fit, on_progress=lambda done, total: shown("Phantoms", done, total))
        if node is None:
            found = exported(model, drawn or NOBODY, wishes, shown)
            return found, write(found, out, private=False)
        chosen, detail = stack.enter_context(recorded(model, node, own=own))
        people = patients(model.task, chosen, None if own else drawn or NOBODY)
        found = exported(model, people, wishes, shown)
        record = write(found, out, private=True)
        detail |= {f"sha256_{row['name']}": row["sha256"] for row in record["models"] if row["file"]}
        return found, record


def _tell(found: "Export", record: "dict[str, Any]") -> None:
    from client.export import words

    sizes = {row["name"]: row["bytes"] for row in record["models"]}
    tried = record["tried_on"]
    times = f"; time for {record['slice']}, GPU: {record['gpu']}" if found.wishes.rounds else ""
    console.say(f"{found.model.task.title}, {found.model.label}: tried on {tried['what']} ({tried['patients']}){times}")
    for line in words.aligned(words.table(found, sizes)):
        console.say(line)
    for one in found.variants[1:]:
        console.say(words.verdict(found, one))
    for one in found.variants:
        if one.parity is not None:
            console.say(
                f"{one.name}: differs from torch by {one.parity.worst:.1e}, {one.parity.tolerance:g} is allowed"
            )
    for warning in dict.fromkeys(filter(None, (row["warning"] for row in record["models"]))):
        console.say(warning)
