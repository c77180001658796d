"""``fedward server start``, ``run``, ``resume``, ``stop``, ``status`` and ``health``: a coordinator at work."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shared.console import complain, emit_json, plural, say
from shared.errors import ProtocolError

if TYPE_CHECKING:
    from server.coordinator import Coordinator
    from server.flower_line import Line
    from server.runs import RunFolder

INTERRUPTED: Final = 130
LOOK: Final = 0.3  # seconds between two looks at a run
ASK: Final = 5.0  # seconds between two questions to the SuperLink about it
LOST: Final = 20.0  # seconds for a run that the SuperLink calls finished to say how it ended
STOPPING: Final = 60.0

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]


def mount(app: typer.Typer) -> None:
    """Add the commands to the coordinator's group."""
    for command in (start, run, resume, retrain, stop, status, health):
        app.command()(command)


def start(
    folder: Folder,
    *,
    listen: Annotated[
        str | None,
        typer.Option(metavar="IP:PORT", help="Where the gate listens. Default: the port of the address, everywhere."),
    ] = None,
    audit_listen: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT", help="Where the audit exchange listens. Default: the port above the gate's, beside it."
        ),
    ] = None,
    health: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="PORT", help="Answer questions about its health there, on 127.0.0.1."),
    ] = None,
) -> None:
    """Run the coordinator in the foreground until SIGTERM or Ctrl-C: the link to the hospitals, and what carries out
    runs.

    Only the gate and the audit exchange can be reached from outside, by TLS and with a certificate of a member;
    hospitals look for the exchange at the port above that of the coordinator's address. What is started is kept
    running; a run that was under way when the coordinator ended is not gone on with until 'fedward server resume'.

    Exit status 0: it was asked to end. 2: a value is wrong, or the address is in use. 5: DIR cannot be written. 6:
    others may read a key, or enter the folder of the SuperLink. 8: the gate's certificate is none that hospitals take.
    """
    from server.keeper import keep

    raise typer.Exit(keep(folder, listen=listen, audit_listen=audit_listen, health=health))


def run(
    folder: Folder,
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The charter, as its members have pinned it.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: made of the time.")] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="Begin only if enough hospitals are connected by then. Default: CHARTER's."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """Train what CHARTER says with its members, and follow it until it ends; Ctrl-C ends only the following.

    The coordinator must be running ('fedward server start'). The run's folder is DIR/runs/NAME.

    Exit status 0: trained. 2: a value is wrong. 5: DIR cannot be written. 6: the charter is not one for this
    coordinator, or has members that it has not approved. 8: too few hospitals answered in time, also where it was a
    privacy budget that kept them from it, or the coordinator is not running. 9: the record failed. 130: it was stopped.
    """
    from server.coordinator import Coordinator
    from server.flower_line import Line
    from server.runs import RunFolder
    from server.starting import check, free, gathered, launch, ready, register
    from shared.charter import Charter, charter_text

    coordinator = Coordinator.open(folder)
    text = charter_text(charter)
    plan = Charter.parse(text, source=str(charter))
    check(coordinator, plan)
    ready(coordinator)
    with Line(coordinator) as line:
        free(line)
        register(coordinator, plan, line)
        if wait is not None:
            gathered(plan, line, wait)
        made = launch(RunFolder.create(coordinator, plan, text.encode(), name=name), line)
        _after(coordinator, made, line, detach=detach)


def resume(
    folder: Folder,
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Default: the last one.")] = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """Go on with a run that ended before it was done, in the round in which it was; tasks that are finished stay.

    Nobody does this by himself: a coordinator that was restarted waits for this command. Hospitals whose answer had
    come are not asked again.

    Exit status: as 'fedward server run'.
    """
    from server.coordinator import Coordinator
    from server.flower_line import Line
    from server.starting import check, free, launch, ready, register, unfinished
    from shared.charter import Charter

    coordinator = Coordinator.open(folder)
    found = unfinished(coordinator, name)
    plan = Charter.load(found.charter_path)
    check(coordinator, plan)
    ready(coordinator)
    with Line(coordinator) as line:
        free(line)
        register(coordinator, plan, line)
        _after(coordinator, launch(found.again(), line), line, detach=detach)


def retrain(
    folder: Folder,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="A hospital's request, from its erasure.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the new run. Default: made of the time.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also without differential privacy.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """Train one task again from the last model before a patient whom a hospital has erased, as a run of its own.

    The run that is named must have ended. Its model stays where it is, for people to withdraw. Without differential
    privacy two sums of one round, with the patient and without, tell of him: refused (6) but with --anyway.

    Exit status: as 'fedward server run'. 8 also where no member of the charter signed REQUEST, 9 also where no state
    from before the patient was kept.
    """
    from server.coordinator import Coordinator
    from server.flower_line import Line
    from server.retrain import prepare
    from server.runs import RunFolder
    from server.starting import check, free, launch, ready, register
    from shared.charter import Charter
    from shared.retraining import Retraining

    coordinator = Coordinator.open(folder)
    asked = Retraining.read(request)
    ready(coordinator)
    with Line(coordinator) as line:
        free(line)
        plan = Charter.load(RunFolder.open(coordinator, asked.run).charter_path)
        check(coordinator, plan)
        made = prepare(coordinator, asked, name=name, anyway=anyway)
        register(coordinator, plan, line)
        _after(coordinator, launch(made, line), line, detach=detach)


def stop(folder: Folder, name: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]) -> None:
    """End the run RUN now; 'fedward server resume' goes on with it later.

    Exit status 0: it has ended. 2: there is no such run under way. 8: the coordinator is not running, or the run does
    not end.
    """
    from server.coordinator import Coordinator
    from server.flower_line import Line
    from server.runs import RunFolder
    from server.starting import ready
    from server.starting import stop as end

    coordinator = Coordinator.open(folder)
    found = RunFolder.open(coordinator, name)
    ready(coordinator)
    with Line(coordinator) as line:
        ending = end(found, line, patience=STOPPING)
    say(f"{name}: {ending.outcome}" + (f"; {ending.hint}" if ending.hint else ""))


def status(folder: Folder, *, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print whether the coordinator runs, which hospitals are connected, and how far each run is.

    Exit status 0, also where it does not run. 2: DIR is no coordinator's folder.
    """
    from dataclasses import asdict

    from server.coordinator import Coordinator
    from server.flower_line import FlowerRun, Line, Node
    from server.keeper import running, serving
    from server.runs import RunFolder
    from server.starting import state

    coordinator = Coordinator.open(folder)
    word = ("serving" if serving(coordinator) else "starting") if running(coordinator) else "stopped"
    nodes: tuple[Node, ...] = ()
    there: tuple[FlowerRun, ...] = ()
    if word == "serving":
        with Line(coordinator) as line:
            nodes, there = line.nodes(), line.runs()
    known = {one.number: one for one in there}
    found = RunFolder.all(coordinator, skipped=lambda error: complain(error.message, error.hint))
    runs = [state(coordinator, one, known.get(one.number or 0)) for one in found]
    online = {one.name: one.online for one in nodes}
    members = [{"site": one.site, "connected": online.get(one.site, False)} for one in coordinator.members()]
    if json:
        emit_json(
            {
                "name": coordinator.name,
                "address": coordinator.address,
                "state": word,
                "members": members,
                "runs": [asdict(one) for one in runs],
            }
        )
        return
    say(f"{coordinator.name} at {coordinator.address}: {word}")
    for member in members:
        say(f"{member['site']}: {'connected' if member['connected'] else 'not connected'}")
    for one in runs:
        where = f", {one.task} round {one.round} of {one.rounds}" if one.task else ""
        say(f"{one.name}: {one.state}{where}" + "".join(f"; {text}" for text in (one.error, one.hint) if text))


def health(port: Annotated[int, typer.Argument(min=1, max=65535, help="What --health was given.")]) -> None:
    """Ask the coordinator on this machine whether it serves.

    Exit status 0: it does. 8: it does not, or nobody answers.
    """
    from shared.health import check

    if not check(port):
        raise ProtocolError(f"nobody serves on 127.0.0.1:{port}", hint="look at 'fedward server status'")
    say("serving")


def _after(coordinator: "Coordinator", run: "RunFolder", line: "Line", *, detach: bool) -> None:
    """Follow the run, or say how to."""
    look = f"'fedward server status {coordinator.folder}' shows it, "
    look += f"'fedward server stop {coordinator.folder} {run.name}' ends it"
    say(f"run {run.name} of {run.federation}" + (f"; {look}" if detach else ""))
    if detach:
        return
    try:
        status = _follow(coordinator, run, line)
    except KeyboardInterrupt:
        complain(f"the run goes on; {look}")
        raise SystemExit(INTERRUPTED) from None
    if status:
        raise SystemExit(status)


def _follow(coordinator: "Coordinator", run: "RunFolder", line: "Line") -> int:
    """Print a line a round until the run ends; gives its exit status."""
    from server.starting import over

    shown = len(run.progress()) if run.resumed else 0
    quiet_since: float | None = None
    asked = time.monotonic()
    while True:
        ending = run.outcome()
        progress = run.progress()
        for one in progress[shown:]:
            say(_in_words(one))
        shown = len(progress)
        if ending:
            if ending.outcome == "ok":
                say(f"{run.name}: ok; the models are in {run.path}")
            else:
                complain(f"{run.name} {ending.outcome}: {ending.error}", ending.hint)
            return ending.exit_code
        if time.monotonic() - asked > ASK:
            asked = time.monotonic()
            quiet_since = (quiet_since or asked) if over(coordinator, run, line) else None
        if quiet_since and time.monotonic() - quiet_since > LOST:
            raise ProtocolError(
                f"the run {run.name} has no process any more, and did not say how it ended",
                hint=f"look at {run.log_path}, then 'fedward server resume {coordinator.folder} {run.name}'",
            )
        time.sleep(LOOK)


def _in_words(one: dict[str, Any]) -> str:
    """A line of progress for people."""
    if "round" not in one:
        return f"{one['task']}: {plural(one['rounds'], 'round')}"
    missing = f", without {', '.join(one['missing'])}" if one["missing"] else ""
    answered = plural(len(one["answered"]), "hospital")
    where = f"round {one['round']} of {one['rounds']}" if one["round"] else "before its first round"
    return f"{one['task']} {where}: {answered}{missing}, {one['seconds']:.1f} s"
