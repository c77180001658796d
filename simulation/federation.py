"""One federated arm of a run: the real ServerApp and ClientApps on this machine's grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.ledger import Ledger
from client.node import Node
from client.training.accounting import PrivacyStatement
from server.app import Settings, run_task
from server.history import HISTORY, Traffic
from server.release import CARD, WEIGHTS
from shared.charter import Charter, CharterMember, MaskingPlan
from shared.errors import CharterError, UsageError
from shared.files import write_bytes
from shared.imaging.metrics import Sums, summarise
from shared.parsing import parse_json
from shared.secagg.parameters import MIN_MEMBERS, Thresholds, check_parameters, recommended
from simulation.cpu import metered, noted
from simulation.local_grid import LocalGrid, Seen
from simulation.private import PrivateArm
from simulation.record import Metrics

if TYPE_CHECKING:
    from simulation.ray_engine import RayGrid

ENGINES = ("local", "ray")
APP = "client.app:app"
POLL = 0.002
"""Seconds; a masked round is three exchanges, and on one machine each of them takes milliseconds."""
VIRTUAL_WEIGHT = 1000
"""More training slices than a virtual hospital has: the less room above them, the finer the fixed-point numbers."""


@dataclass(frozen=True)
class Federated:
    """What a federated arm came to.

    Attributes:
        weights: File of the model.
        run: Id of the run, by which the hospitals keep their privacy charges.
        parameters: Length of the model's vector.
        seconds: Wall time of all rounds.
        curve: Metrics on the held-out slices of all hospitals together, by round.
        bytes_down, bytes_up: Content to the hospitals and from them.
        messages: Requests and answers.
        bytes_per_answer: Content of one hospital's answer to a training request.
        traffic: All messages by Flower's type.
        aggregation: ``masked`` or ``plain``.
        charter: What its hospitals pinned.
        cpu_seconds: Processor time of the coordinator and all hospitals, in all rounds; None where it was not measured.
        price: Which of the arms that show what privacy costs; None for the others.
    """

    weights: Path
    run: str
    parameters: int
    seconds: float
    curve: tuple[tuple[int, Metrics], ...]
    bytes_down: int
    bytes_up: int
    messages: int
    bytes_per_answer: int
    traffic: Mapping[str, Traffic]
    aggregation: str
    charter: Charter
    cpu_seconds: float | None
    price: PrivateArm | None = None

    @property
    def rounds(self) -> int:
        """Rounds of its charter."""
        return self.charter.tasks[0].rounds

    @property
    def local_steps(self) -> int:
        """Steps of a hospital in a round."""
        return self.charter.tasks[0].local_steps


def check_engine(name: str) -> None:
    """See that there is such an engine and that it is installed, before anything is made.

    Raises:
        UsageError: There is not, or it is not.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine '{name}'", hint=f"choose one of {', '.join(ENGINES)}")
    if name == "ray":
        from simulation.ray_engine import require_ray  # noqa: PLC0415  # an extra

        require_ray()


def make_grid(
    nodes: Mapping[str, Path], workers: int, watch: Seen | None = None, *, engine: str = "local"
) -> "LocalGrid | RayGrid":
    """A grid of the hospitals in ``nodes`` (folder by site), for every arm: a worker takes seconds to start.

    Raises:
        UsageError: As :func:`check_engine`.
    """
    check_engine(engine)
    configs = {
        number: {"node-dir": str(node), "site": site} for number, (site, node) in enumerate(nodes.items(), start=1)
    }
    workers = min(workers, len(nodes))
    if engine == "ray":
        from simulation.ray_engine import RayGrid  # noqa: PLC0415  # an extra

        return RayGrid(APP, configs, workers=workers, watch=watch)
    return LocalGrid(APP, configs, workers=workers, watch=watch)


def masked(charter: Charter, nodes: Mapping[str, Path]) -> Charter:
    """``charter`` with the virtual hospitals in ``nodes`` as its members, and updates that only their sum unmasks.

    Settings of masks that it already has stay, but for the threshold, which is the recommended one of so many
    hospitals, and for ``colluding`` and ``min_included`` where so many do not allow them: then the recommended ones.

    Raises:
        CharterError: There are fewer than three, so that each would read the other's update off the sum.
    """
    members = tuple(
        CharterMember(site, Node.open(node).identity.public_key().public_bytes_raw().hex())
        for site, node in nodes.items()
    )
    row = recommended(len(members))
    settings = charter.masking or MaskingPlan(row.threshold, w_max=VIRTUAL_WEIGHT)
    least = settings.min_included if settings.min_included <= len(members) else MIN_MEMBERS
    masking = replace(settings, threshold=row.threshold, colluding=_colluding(row, settings), min_included=least)
    return replace(charter, members=members, masking=masking)


def _colluding(row: Thresholds, settings: MaskingPlan) -> int:
    try:
        check_parameters(row.members, row.threshold, settings.colluding)
    except CharterError:
        return row.colluding
    return settings.colluding


def federate(
    charter: Charter,
    nodes: Mapping[str, Path],
    *,
    grid: "LocalGrid | RayGrid",
    folder: Path,
    on_round: Callable[[int], None],
    price: PrivateArm | None = None,
) -> Federated:
    """Train the one task of ``charter`` with the hospitals in ``nodes``; an arm that is finished is only read.

    Raises:
        FedwardError: As :func:`server.app.run_task`.
    """
    plan = charter.tasks[0]
    run = folder.name
    if not _finished(folder, charter):
        write_bytes(folder / "charter.toml", charter.to_toml().encode())
        for node in nodes.values():
            Node.open(node).pin(charter)
        settings = Settings(
            charter=folder / "charter.toml",
            task=plan.name,
            out=folder,
            run=run,
            log=folder / "audit" / "log.jsonl",
            poll=POLL,
            plain=charter.masking is None,
        )
        grid.select(nodes)
        with metered(folder / WEIGHTS):
            run_task(grid, settings, on_round=lambda record: on_round(record.round))
    return replace(_read(folder, run, charter), price=price)


def _finished(folder: Path, charter: Charter) -> bool:
    try:
        history = parse_json((folder / HISTORY).read_bytes())
        whole: bool = history["outcome"] == "ok" and history["charter"] == charter.sha256
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return whole and (folder / WEIGHTS).exists() and (folder / CARD).exists()


def _read(folder: Path, run: str, charter: Charter) -> Federated:
    task = charter.tasks[0].name
    history = parse_json((folder / HISTORY).read_bytes())
    rounds = history["rounds"]
    phases = [phase for one in rounds for phase in (one["train"], one["evaluation"]) if phase]
    traffic: dict[str, Traffic] = {}
    for kind, values in (item for phase in phases for item in phase["traffic"].items()):
        traffic[kind] = traffic.get(kind, Traffic(0, 0, 0, 0)) + Traffic(**values)
    last = [one["train"] for one in rounds if one["train"]][-1]["traffic"]["train"]
    return Federated(
        weights=folder / WEIGHTS,
        run=run,
        parameters=history["parameters"],
        seconds=sum(one["seconds"] for one in rounds),
        curve=tuple(
            (one["round"], summarise(task, Sums(one["evaluation"]["sums"]))) for one in rounds if one["evaluation"]
        ),
        bytes_down=sum(phase["bytes_down"] for phase in phases),
        bytes_up=sum(phase["bytes_up"] for phase in phases),
        messages=sum(one.questions + one.answers for one in traffic.values()),
        bytes_per_answer=last["bytes_up"] // max(1, last["answers"]),
        traffic=traffic,
        aggregation=history["aggregation"],
        charter=charter,
        cpu_seconds=noted(folder / WEIGHTS),
    )


def spent(node: Path, run: str, delta: float | None) -> PrivacyStatement:
    """What a run cost the patients of the hospital in ``node``."""
    with Ledger(Node.open(node).ledger(run)) as ledger:
        return ledger.statement(delta)
