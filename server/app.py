"""The Flower ServerApp of the coordinator: one task of a charter, from an initial model to a written one."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.numpy
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import nn

from compliance.log import Action, AuditLog, Entry, Outcome
from server.exchange import Exchange
from server.history import HISTORY
from server.release import ModelCard, write_model
from server.strategy import FederatedTraining, OnRound, Result
from shared.charter import Charter
from shared.errors import CharterError, FedwardError, ProtocolError, UsageError
from shared.files import write_json
from shared.imaging.start import prepared
from shared.imaging.tasks import get_task
from shared.vector import Layout, State
from shared.weights import load_weights, travelling, weights_of


@dataclass(frozen=True)
class Settings:
    """What a run of the coordinator needs to be told.

    Attributes:
        charter: File of the charter.
        task: Name of one of its tasks.
        out: Folder for ``history.json``, ``model.safetensors`` and ``model.json``.
        run: Id of the run, the same in every task of it: a hospital's privacy charges are kept by it.
        log: File of the coordinator's audit log.
        initial: Weights to start from (safetensors); None starts from the task's network and the charter's seed.
        poll: Seconds between two looks for answers.
        plain: Whether updates may travel in the clear, where the charter has no secure aggregation; only virtual
            hospitals send them.
    """

    charter: Path
    task: str
    out: Path
    run: str
    log: Path
    initial: Path | None = None
    poll: float = 0.01
    plain: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings in a Flower run configuration: ``charter``, ``task``, ``out``, ``run``, and, where they are not
        the defaults, ``log`` (``OUT/audit/log.jsonl``), ``initial``, ``poll`` and ``plain``.

        Raises:
            UsageError: A key is missing or unknown.
        """
        known = {name.name for name in dataclasses.fields(cls)}
        missing, unknown = {"charter", "task", "out", "run"} - set(config), set(config) - known
        if missing or unknown:
            name, what = (min(missing), "lacks") if missing else (min(unknown), "does not know")
            raise UsageError(f"the run configuration {what} '{name}'", hint=f"its keys are {', '.join(sorted(known))}")
        out = Path(str(config["out"]))
        return cls(
            charter=Path(str(config["charter"])),
            task=str(config["task"]),
            out=out,
            run=str(config["run"]),
            log=Path(str(config.get("log", out / "audit" / "log.jsonl"))),
            initial=Path(str(config["initial"])) if config.get("initial") else None,
            poll=float(config.get("poll", cls.poll)),
            plain=config.get("plain", False) is True,
        )


def make_app(on_round: OnRound | None = None) -> ServerApp:
    """The ServerApp; ``on_round`` is called after every round, for progress."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        run_task(grid, Settings.of(context.run_config), on_round=on_round)

    return made


app = make_app()


def run_task(grid: Grid, settings: Settings, *, on_round: OnRound | None = None) -> Result:
    """Train one task with the sites that ``grid`` knows, and write what happened and the model.

    ``history.json`` is written whatever happens, if the disk takes it; the model only by a run that trained.

    Raises:
        FedwardError: The charter or the initial model cannot be used, too few sites answered, nothing was learnt, or
            the output or the record cannot be written.
    """
    charter = Charter.load(settings.charter)
    charter.task(settings.task)
    if charter.masking is None and not settings.plain:
        raise CharterError(
            f"the charter {charter.id} has no secure aggregation, so every update would be readable here",
            hint="add [secure_aggregation] and its members; only simulations run in the clear, and say so",
        )
    state = _initial(charter, settings)
    layout = Layout.of(state)
    begin = Entry(
        Action.RUN_START, Outcome.STARTED, run=settings.run, detail={"task": settings.task, "charter": charter.sha256}
    )
    with AuditLog(settings.log, site="coordinator", purpose=charter.purpose, subject_key=b"") as log:
        training = FederatedTraining(
            charter, settings.task, run=settings.run, layout=layout, log=log, on_round=on_round
        )
        log.append(begin)
        try:
            result = training.start(Exchange(grid, site_names(grid), poll=settings.poll), layout.flatten(state))
            write_json(settings.out / HISTORY, result.history.to_json())
            network = _network(charter, settings)
            load_weights(network, layout.restore(result.model))
            write_model(settings.out, weights_of(network), _card(result, charter), log=log)
        except BaseException as error:
            with _second_to(error):
                log.append(dataclasses.replace(begin, action=Action.RUN_END, outcome=Outcome.FAILED))
            text = error.message if isinstance(error, FedwardError) else type(error).__name__
            failed = dataclasses.replace(training.history, outcome="failed", error=text)
            with _second_to(error):
                write_json(settings.out / HISTORY, failed.to_json())
            raise
        log.append(dataclasses.replace(begin, action=Action.RUN_END, outcome=Outcome.OK))
    return result


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


def site_names(grid: Grid) -> dict[int, str]:
    """The site behind each node id, by the name under which its node was registered (``flwr supernode register``).

    Raises:
        ProtocolError: A node has no name, or two have the same.
    """
    nodes: Iterable[_Node] = grid.get_nodes()
    names = {node.node_id: node.name for node in nodes}
    if not all(names.values()) or len(set(names.values())) != len(names):
        raise ProtocolError(
            "the nodes that are connected have no names, or two have the same",
            hint="register every node under the name of its site",
        )
    return names


def _network(charter: Charter, settings: Settings) -> nn.Module:
    return prepared(get_task(settings.task), charter.task(settings.task), charter.seed)


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
