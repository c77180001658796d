"""How a run begins, is resumed, stopped and looked at, from outside of the processes that carry it out."""

import time
from dataclasses import dataclass
from typing import Any, Final

from server.authority import plan_of
from server.coordinator import Coordinator
from server.flower_line import FlowerRun, Line
from server.keeper import running, serving
from server.members import pem_of
from server.runs import INTERRUPTED, Outcome, RunFolder
from shared.bundle import bundle, require_listed
from shared.charter import Charter
from shared.errors import CharterError, PolicyError, ProtocolError, UsageError

START: Final = 60.0  # seconds for a coordinator that starts to answer
_LOOK: Final = 0.2
_AGAIN: Final = "restore it from a copy"


def check(coordinator: Coordinator, charter: Charter) -> None:
    """Refuse a charter that this coordinator cannot run.

    Raises:
        CharterError: Its updates would be readable here.
        PolicyError: It names another coordinator, a member that was not approved here, or other releases.
    """
    if charter.masking is None:
        raise CharterError(
            f"the charter {charter.id} has no secure aggregation, so every update would be readable here",
            hint="add [secure_aggregation] and its members; only simulations run in the clear, and say so",
        )
    own = plan_of(coordinator)
    if charter.coordinator is None:
        raise PolicyError(
            f"the charter {charter.id} names no coordinator",
            hint=f"'fedward server approve' adds it: give it --server {coordinator.folder}",
        )
    for what in ("name", "address", "authority", "country"):
        if (said := getattr(charter.coordinator, what)) != (mine := getattr(own, what)):
            raise PolicyError(
                f"the charter {charter.id} is for the coordinator with {what} {said}, and this one's is {mine}",
                hint="run it where it belongs, or agree on a new charter",
            )
    admitted = {one.site: one.public_key.hex() for one in coordinator.members()}
    for member in charter.members:
        if admitted.get(member.name) != member.identity:
            raise PolicyError(
                f"{member.name} is a member of the charter {charter.id}, and was not approved here",
                hint=f"'fedward server approve' with --server {coordinator.folder} does that",
            )
    require_listed(charter)


def ready(coordinator: Coordinator) -> None:
    """Wait until the coordinator answers, if somebody has started it.

    Raises:
        ProtocolError: Nobody has, or it does not answer within a minute.
    """
    end = time.monotonic() + START
    while not serving(coordinator):
        up = running(coordinator)
        if not up or time.monotonic() > end:
            raise ProtocolError(
                f"the coordinator in {coordinator.folder} " + ("does not answer" if up else "is not running"),
                hint=f"look at {coordinator.superlink_folder / 'superlink.log'}"
                if up
                else f"start it: fedward server start {coordinator.folder}",
            )
        time.sleep(_LOOK)


def free(line: Line) -> None:
    """Refuse to begin beside a run that is under way: one is carried out at a time.

    Raises:
        UsageError: There is one.
    """
    for one in line.runs():
        if one.status != "finished":
            raise UsageError(
                f"the run {one.name} is {one.status}", hint="wait for its end, or stop it with 'fedward server stop'"
            )


def register(coordinator: Coordinator, charter: Charter, line: Line) -> None:
    """Have the SuperLink know the node of every member, by its name and its key."""
    names = {member.name for member in charter.members}
    line.register({one.site: pem_of(one.link_key) for one in coordinator.members() if one.site in names})


def gathered(charter: Charter, line: Line, seconds: float) -> None:
    """Wait until enough members are connected.

    Raises:
        ProtocolError: There are fewer in time; it names those that are not.
    """
    end, members = time.monotonic() + seconds, {member.name for member in charter.members}
    while len(there := {node.name for node in line.nodes() if node.online} & members) < charter.min_sites:
        if time.monotonic() > end:
            raise ProtocolError(
                f"connected hospitals: {len(there)} of the {charter.min_sites} that are needed; not connected: "
                + ", ".join(sorted(members - there)),
                hint="'fedward node status' there says what is wrong",
            )
        time.sleep(_LOOK)


def launch(run: RunFolder, line: Line) -> RunFolder:
    """Have a run carried out. What travels to the hospitals is which federation, charter and run it is."""
    config = {"federation": run.federation, "charter": run.charter, "run": run.name}
    return run.started(line.start(bundle(), config))


def unfinished(coordinator: Coordinator, name: str | None) -> RunFolder:
    """The run to resume: that of the name, or the last one where it has not ended well.

    Raises:
        UsageError: There is none, it has ended well, or a damaged one may be the last.
    """
    damaged: list[UsageError] = []
    found = RunFolder.all(coordinator, skipped=damaged.append) if name is None else (RunFolder.open(coordinator, name),)
    if damaged:
        raise UsageError(damaged[0].message, hint=f"{_AGAIN}, or say which run to resume")
    if not found:
        raise UsageError(f"{coordinator.folder} has no runs", hint="begin one with 'fedward server run'")
    ending = found[-1].outcome()
    if ending and ending.outcome == "ok":
        raise UsageError(f"the run {found[-1].name} has ended well", hint="begin another one with 'fedward server run'")
    return found[-1]


def stop(run: RunFolder, line: Line, *, patience: float) -> Outcome:
    """End a run that is under way, and wait for it to write down where it is.

    Args:
        run: Which.
        line: To the SuperLink.
        patience: Seconds to wait.

    Raises:
        UsageError: It is not under way.
        ProtocolError: It has not ended in time.
    """
    there = _at(run, line)
    if run.outcome() or there is None or there.status == "finished":
        raise UsageError(f"the run {run.name} is not under way", hint="'fedward server status' shows what is")
    run.stop()
    if there.status == "pending":
        line.stop(there.number)
        run.end(Outcome.now("stopped", "stopped before it began", exit_code=INTERRUPTED))
    end = time.monotonic() + patience
    while (ending := run.outcome()) is None:
        if time.monotonic() > end:
            raise ProtocolError(f"the run {run.name} does not end", hint=f"look at {run.log_path}")
        time.sleep(_LOOK)
    return ending


def _at(run: RunFolder, line: Line) -> FlowerRun | None:
    return next(iter(line.runs(run.number)), None) if run.number is not None else None


def over(coordinator: Coordinator, run: RunFolder, line: Line) -> bool:
    """Whether nobody carries the run out any more: the SuperLink says so, or there is none that will be back."""
    try:
        there = _at(run, line)
    except ProtocolError:
        return not running(coordinator)
    return there is None or there.status == "finished"


@dataclass(frozen=True)
class State:
    """A run as ``fedward server status`` shows it.

    Attributes:
        name: Its name.
        state: ``waiting``, ``running``, ``unfinished``, how it ended, or ``damaged`` where that cannot be read.
        begun: When it was asked for.
        task: The task that is under way, or was the last.
        round: Its last finished round; 0 where there is none.
        rounds: How many it has.
        error: What was wrong.
        hint: What to do.
    """

    name: str
    state: str
    begun: str
    task: str
    round: int
    rounds: int
    error: str
    hint: str


def state(coordinator: Coordinator, run: RunFolder, there: FlowerRun | None) -> State:
    """How far a run is.

    Args:
        coordinator: Whose run.
        run: Its folder.
        there: What the SuperLink knows of it; None where it knows nothing, or does not answer.
    """
    last = latest(run.progress())
    where = last.get("task", ""), last.get("round", 0), last.get("rounds", 0)
    try:
        ending, error, word = run.outcome(), "", "unfinished"
    except UsageError as damage:
        return State(run.name, "damaged", run.begun.isoformat(), *where, damage.message, damage.hint)
    resume = f"'fedward server resume {coordinator.folder} {run.name}' goes on with it"
    hint = resume if ending is None or ending.outcome != "ok" else ""
    if ending:
        word, error = str(ending.outcome), ending.error
        hint = ending.hint if not hint or resume in ending.hint else "; ".join(filter(None, (ending.hint, resume)))
    elif there and there.status != "finished":
        word, hint = "waiting" if there.status == "pending" else "running", ""
    return State(run.name, word, run.begun.isoformat(), *where, error, hint)


def latest(progress: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of a progress, with the last finished round of its task; nothing where there is none.

    A run that is resumed begins its task anew in the progress, and not at its first round.
    """
    if not progress:
        return {}
    last = progress[-1]
    return {**last, "round": max((one.get("round", 0) for one in progress if one["task"] == last["task"]), default=0)}
