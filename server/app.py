"""The Flower ServerApp of the coordinator: the tasks of a charter, each from an initial model to a written one."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.numpy
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import nn

from compliance.bundle_start import start_weights
from compliance.log import Action, AuditLog, Entry, Outcome
from server.checkpoint import CHECKPOINT, KEPT, Checkpoint
from server.exchange import Exchange
from server.history import HISTORY
from server.journal import remove_folder
from server.release import (
    CARD,
    WEIGHTS,
    ModelCard,
    anything_is_left,
    ended_well,
    model_is_whole,
    never_began,
    write_model,
)
from server.strategy import FederatedTraining, OnRound, Result
from shared.charter import Charter
from shared.errors import CharterError, FedwardError, ProtocolError, RecordError, UsageError
from shared.files import write_json
from shared.imaging.start import prepared
from shared.imaging.tasks import get_task
from shared.vector import Flat, Layout, State
from shared.weights import load_weights, travelling, weights_of


@dataclass(frozen=True)
class Settings:
    """What a run of the coordinator needs to be told.

    Attributes:
        charter: File of the charter.
        task: Name of one of its tasks; None for all of them, in the charter's order.
        out: Folder for ``history.json``, ``model.safetensors`` and ``model.json``; with all tasks, for a
            folder of each.
        run: Id of the run, the same in every task of it: a hospital's privacy charges are kept by it.
        log: File of the coordinator's audit log.
        initial: Weights to start from (safetensors); None starts from the task's network and the charter's seed.
        poll: Seconds between two looks for answers.
        plain: Whether updates may travel in the clear, where the charter has no secure aggregation; only virtual
            hospitals send them.
        checkpoint: Whether to keep in ``checkpoint/`` of the output what another process needs to go on with it.
        resume: Whether to go on with a run that was kept so, and to leave out tasks that are finished; keeps a
            checkpoint too.
        publish: Gives the newest checkpoint of the audit log, which every round shows the sites; None: none is shown.
        home: The coordinator's folder, whose releases a charter may start from; None where it has none.
    """

    charter: Path
    task: str | None
    out: Path
    run: str
    log: Path
    initial: Path | None = None
    poll: float = 0.01
    plain: bool = False
    checkpoint: bool = False
    resume: bool = False
    publish: Callable[[], str] | None = None
    home: Path | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings in a run configuration: ``charter``, ``out``, ``run``, and, where they are not the defaults,
        ``task`` (all), ``log`` (``OUT/audit/log.jsonl``), ``initial``, ``poll``, ``plain``, ``checkpoint`` and
        ``resume``.

        Raises:
            UsageError: A key is missing or unknown.
        """
        known = {name.name for name in dataclasses.fields(cls)}
        missing, unknown = {"charter", "out", "run"} - set(config), set(config) - known
        if missing or unknown:
            name, what = (min(missing), "lacks") if missing else (min(unknown), "does not know")
            raise UsageError(f"the run configuration {what} '{name}'", hint=f"its keys are {', '.join(sorted(known))}")
        out = Path(str(config["out"]))
        return cls(
            charter=Path(str(config["charter"])),
            task=str(config["task"]) if config.get("task") else None,
            out=out,
            run=str(config["run"]),
            log=Path(str(config.get("log", out / "audit" / "log.jsonl"))),
            initial=Path(str(config["initial"])) if config.get("initial") else None,
            poll=float(config.get("poll", cls.poll)),
            plain=config.get("plain", False) is True,
            checkpoint=config.get("checkpoint", False) is True,
            resume=config.get("resume", False) is True,
        )


def make_app(on_round: OnRound | None = None) -> ServerApp:
    """The ServerApp; ``on_round`` is called after every round, for progress."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        run_tasks(grid, Settings.of(context.run_config), on_round=on_round)

    return made


app = make_app()


def run_tasks(
    grid: Grid, settings: Settings, *, on_task: Callable[[str], None] | None = None, on_round: OnRound | None = None
) -> None:
    """Train the task that ``settings`` name, or all tasks of the charter one after the other, each in a folder of its
    name. With ``resume`` a task that is finished is left as it is.

    Args:
        grid: Flower's grid.
        settings: What to run.
        on_task: Called with the name of each task before it begins, for progress.
        on_round: Called after every round, for progress.

    Raises:
        FedwardError: As :func:`run_task`; the tasks after the one that failed are not begun.
    """
    charter = Charter.load(settings.charter)
    chosen = (
        {settings.task: settings.out} if settings.task else {one.name: settings.out / one.name for one in charter.tasks}
    )
    if settings.initial and len(chosen) > 1:
        raise UsageError("one initial model is given for several tasks", hint="name the task that begins at it")
    for task, out in chosen.items():
        one = replace(settings, task=task, out=out)
        if settings.resume and _is_done(one, charter):
            continue
        if on_task:
            on_task(task)
        run_task(grid, one, on_round=on_round)


def _is_done(settings: Settings, charter: Charter) -> bool:
    """Whether a task has its model already; what is left of its checkpoint is removed then.

    Raises:
        RecordError: There is no checkpoint, and what is there instead is not the whole result of this run: the task may
            have been trained, and is not trained again, and paid for, unasked.
    """
    out, about = settings.out, {"run": settings.run, "charter": charter.sha256}
    if ended_well(out, **about) and model_is_whole(out, **about):
        remove_folder(out / CHECKPOINT)
        return True
    if (out / CHECKPOINT).exists() or not anything_is_left(out) or never_began(out, **about):
        return False
    raise RecordError(
        f"there is no checkpoint of the run in {out}, and its history or its model is missing or damaged",
        hint=f"put {HISTORY}, {WEIGHTS} and {CARD} back from a copy; or delete {out}: the task is then trained, "
        "and paid for, anew",
    )


def run_task(grid: Grid, settings: Settings, *, on_round: OnRound | None = None) -> Result:
    """Train one task with the sites that ``grid`` knows, and write what happened and the model.

    ``history.json`` is written whatever happens, if the disk takes it; the model only by a run that trained.

    Raises:
        FedwardError: The charter or the initial model cannot be used, too few sites answered, nothing was learnt, or
            the output or the record cannot be written.
    """
    charter = Charter.load(settings.charter)
    task = settings.task or ""
    charter.task(task)
    if charter.masking is None and not settings.plain:
        raise CharterError(
            f"the charter {charter.id} has no secure aggregation, so every update would be readable here",
            hint="add [secure_aggregation] and its members; only simulations run in the clear, and say so",
        )
    state = _initial(charter, settings)
    layout = Layout.of(state)
    initial = layout.flatten(state)
    checkpoint, resumed = _checkpoint(charter, settings, layout, initial)
    begin = Entry(
        Action.RUN_START,
        Outcome.STARTED,
        run=settings.run,
        detail={"task": task, "charter": charter.sha256} | ({"resumed": True} if resumed else {}),
    )
    with AuditLog(settings.log, site="coordinator", purpose=charter.purpose, subject_key=b"") as log:
        training = FederatedTraining(
            charter,
            task,
            run=settings.run,
            layout=layout,
            log=log,
            on_round=on_round,
            checkpoint=checkpoint,
            publish=settings.publish,
        )
        log.append(begin)
        members = frozenset(member.name for member in charter.members) if charter.masking else None
        exchange = Exchange(grid, lambda: site_names(grid, members), poll=settings.poll)
        try:
            result = training.start(exchange, initial)
            write_json(settings.out / HISTORY, result.history.to_json(), durable=True)
            network = _network(charter, settings)
            load_weights(network, layout.restore(result.model))
            write_model(settings.out, weights_of(network), _card(result, charter), log=log)
        except BaseException as error:
            with _second_to(error):
                log.append(replace(begin, action=Action.RUN_END, outcome=Outcome.FAILED))
            text = error.message if isinstance(error, FedwardError) else type(error).__name__
            failed = replace(training.history, outcome="failed", error=text)
            with _second_to(error):
                write_json(settings.out / HISTORY, failed.to_json())
            raise
        log.append(replace(begin, action=Action.RUN_END, outcome=Outcome.OK))
    if checkpoint:
        checkpoint.remove()
    return result


def _checkpoint(charter: Charter, settings: Settings, layout: Layout, initial: Flat) -> tuple[Checkpoint | None, bool]:
    """Where the run is kept, and whether one is there to go on with.

    Raises:
        UsageError: One is there, and nobody said that it is to go on.
    """
    if not (settings.checkpoint or settings.resume):
        return None, False
    identity: dict[str, str | int] = {
        "run": settings.run,
        "charter": charter.sha256,
        "task": settings.task or "",
        "layout": layout.sha256,
        "initial model": layout.digest(initial),
    }
    made = Checkpoint(settings.out / CHECKPOINT, identity, kept=settings.out / KEPT)
    if made.exists and not settings.resume:
        raise UsageError(
            f"{settings.out} holds a run that has not ended",
            hint="resume it, or choose another folder; what it had done is lost only if you delete it",
        )
    return made, made.exists


@contextlib.contextmanager
def _second_to(first: BaseException) -> Iterator[None]:
    """What fails while a failure is written down is noted on it, and does not take its place."""
    try:
        yield
    except FedwardError as error:
        first.add_note(f"besides, {error}")


class _Node(Protocol):
    """What Flower's ``NodeInfo`` tells of a node."""

    @property
    def node_id(self) -> int: ...

    @property
    def name(self) -> str: ...


def site_names(grid: Grid, members: Collection[str] | None = None) -> dict[int, str]:
    """The site behind each node that is connected, by the name under which the node was registered.

    Args:
        grid: Flower's grid.
        members: Whoever else is connected is left out; None takes all, as in a simulation in the clear.

    Raises:
        ProtocolError: A node has no name, or two have the same.
    """
    nodes: Iterable[_Node] = grid.get_nodes()
    names = {node.node_id: node.name for node in nodes if members is None or node.name in members}
    if not all(names.values()) or len(set(names.values())) != len(names):
        raise ProtocolError(
            "the nodes that are connected have no names, or two have the same",
            hint="register every node under the name of its site, and each site once",
        )
    return names


def _network(charter: Charter, settings: Settings) -> nn.Module:
    plan = charter.task(settings.task or "")
    release = start_weights(plan, settings.home) if settings.home else None
    return prepared(get_task(plan.name), plan, charter.seed, release=release)


def _initial(charter: Charter, settings: Settings) -> State:
    """The weights to start from, in the network's own order: those that train, and travel."""
    network = _network(charter, settings)
    whole, fresh = weights_of(network), travelling(network)
    if settings.initial is None:
        return fresh
    try:
        loaded = safetensors.numpy.load_file(settings.initial)
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"cannot read the initial model {settings.initial}", hint="give a safetensors file") from error
    layout = Layout.of(fresh)
    frozen = whole.keys() - fresh.keys()
    if any(name in loaded and not np.array_equal(loaded[name], whole[name]) for name in frozen):
        raise UsageError(
            f"the initial model {settings.initial} differs where the charter trains nothing",
            hint="hospitals have that part from 'start'; train it too, or begin at a model with the same start",
        )
    return layout.restore(layout.flatten({name: array for name, array in loaded.items() if name not in frozen}))


def _card(result: Result, charter: Charter) -> ModelCard:
    history = result.history
    trained = [one.train for one in history.rounds if one.train]
    return ModelCard(
        federation=history.federation,
        charter=history.charter,
        run=history.run,
        task=history.task,
        rounds=len(trained),
        sites=tuple(sorted({site for phase in trained for site in phase.answered})),
        privacy=charter.privacy.mode,
        parameters=history.parameters,
        model=history.rounds[-1].model,
        start=charter.task(history.task).start,
        trained=charter.task(history.task).trained,
    )
