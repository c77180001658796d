"""``fedward server release``: write a model so that others can check where it comes from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from server.release_bundle import Released

_LONGEST: Final = 8_000
_SUFFIXES: Final = frozenset({".txt", ".md"})


def mount(app: typer.Typer) -> None:
    """Add the command to the coordinator's group."""
    app.command("release")(release_command)


def release_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run that ended well.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the release goes; must not be there.")],
    task: Annotated[str | None, typer.Option(help="Which task, where the run has several.")] = None,
    statement: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A hospital's statement, from 'fedward node statement'; once for each."),
    ] = None,
    endorsement: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A witness's endorsement of its log key, where DIR/audit/known has none."),
    ] = None,
    intended_use: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT|FILE", help="What the model is for; a text, or a file (.txt, .md)."),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="What else the provider says for the card (docs/release.md)."),
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="Figures of 'fedward evaluate' for this model, for the card."),
    ] = None,
    version: Annotated[str | None, typer.Option(help="The model's version. Default: the name of the run.")] = None,
    replaces: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The release that this one replaces.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT|FILE", help="Why there is this version.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Release the model of RUN: weights, model card, history, the hospitals' statements, checkpoints, and a signature
    under the authority that the charter names. 'fedward model verify' checks the folder offline.

    The folder is written whole or not at all, and the coordinator's audit log has the release before and after. An
    ONNX file is not part of it.

    Exit status 0: released. 2: no such run, it did not end well, FOLDER is there, or a file is not what it should be.
    4: the run's model is damaged. 5: FOLDER cannot be written. 6: the charter names another coordinator, or others may
    read a key. 8: a statement or an endorsement does not hold. 9: the audit log does not verify or cannot be written.
    """
    from server.card import read_facts
    from server.coordinator import Coordinator
    from server.release_bundle import Order, release

    order = Order(
        run,
        out,
        task=task,
        statements=tuple(statement or ()),
        endorsements=tuple(endorsement or ()),
        intended_use=tuple(_text(one, "--intended-use") for one in intended_use or ()),
        facts=read_facts(_read(facts), str(facts)) if facts else None,
        evaluations=tuple(evaluation or ()),
        version=None if version is None else _version(version),
        replaces=replaces,
        reason=_text(reason, "--reason") if reason else None,
    )
    _tell(release(Coordinator.open(directory), order), as_json=as_json)


def _tell(made: "Released", *, as_json: bool) -> None:
    if as_json:
        console.emit_json(
            {
                "folder": str(made.folder),
                "manifest": made.manifest,
                "charter": made.charter,
                "without_statement": list(made.silent),
                "cosigned": list(made.cosigned),
                "gaps": list(made.gaps),
            }
        )
        return
    console.say(f"{made.folder}: released; manifest SHA-256 {made.manifest}")
    console.say(f"a reader checks it under the charter's SHA-256, from a member: {made.charter}")
    if made.silent:
        console.say(f"no statement of: {', '.join(made.silent)}")
    console.say(f"checkpoint cosigned by: {', '.join(made.cosigned) or 'no hospital'}")
    if len(made.cosigned) < made.quorum:
        console.say(f"'fedward model verify' asks for {made.quorum} hospitals, or --quorum for fewer")
    console.say(f"the card names {console.plural(len(made.gaps), 'gap')} that the provider has to fill in")


def _version(given: str) -> str:
    if not given.isprintable() or not 1 <= len(given.strip()) <= 64:
        raise UsageError("--version must be 1 to 64 visible characters", hint="such as 2.1")
    return given


def _text(given: str, option: str) -> str:
    """A text, or what stands in the file that it names."""
    path = Path(given)
    if path.suffix in _SUFFIXES and not any(sign.isspace() for sign in given):
        try:
            given = _read(path).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    if not given.strip() or len(given) > _LONGEST:
        raise UsageError(f"{option} must be a text of at most {_LONGEST} characters", hint="say it shorter")
    return given


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1 << 20)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a file of text") from error
