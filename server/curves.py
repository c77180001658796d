"""The record of a task as curves that TensorBoard reads, one point a round.

TensorBoard sees what ``history.json`` has and no more: sums over all hospitals, never one hospital's own figure.
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import DataError, UsageError
from shared.files import output_errors, private_folder
from shared.imaging.metrics import Sums, summarise

Point = tuple[str, int, float]
"""Name of the curve, round, value."""


def write_curves(histories: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the curves of each task to a folder of its own below ``folder``; of the run itself, into ``folder``.

    Args:
        histories: Contents of ``history.json`` by the path of its task below the run; ``.`` for the run itself.
        folder: Gets the event files; another program's files stay, event files must not be there.

    Raises:
        UsageError: tensorboard is not installed, or ``folder`` has curves already.
        DataError: A history is damaged.
        OutputError: The folder cannot be written.
    """
    try:
        boards = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise UsageError("tensorboard is not installed", hint="pip install 'fedward[tensorboard]'") from error
    with output_errors(folder):
        if folder.is_dir() and next(folder.rglob("events.out.tfevents.*"), None):
            raise UsageError(f"{folder} has curves already", hint="name another folder")
        for place, history in histories.items():
            try:
                curves = list(points(history))
            except (KeyError, TypeError, ValueError) as error:
                whose = "the run" if place == "." else place
                raise DataError(f"the record of {whose} cannot be read", hint="restore it from a copy") from error
            private_folder(folder / place)
            with boards.SummaryWriter(str(folder / place)) as board:
                for curve, number, value in curves:
                    board.add_scalar(curve, value, number)


def points(history: Mapping[str, Any]) -> Iterator[Point]:
    """What a history tells round by round.

    Yields:
        ``train/loss`` (mean over samples; not under privacy, where no hospital tells it), ``train/update_norm``,
        ``held_out/...`` (figures of :func:`shared.imaging.metrics.summarise`), ``traffic/...`` in bytes and
        ``seconds``.
    """
    for one in history["rounds"]:
        number = int(one["round"])
        yield "seconds", number, float(one["seconds"])
        if train := one["train"]:
            sums = train["sums"]
            if sums.get("samples") and "loss" in sums:
                yield "train/loss", number, float(sums["loss"]) / float(sums["samples"])
            yield "traffic/bytes_down", number, float(train["bytes_down"])
            yield "traffic/bytes_up", number, float(train["bytes_up"])
        if one["update_norm"] is not None:
            yield "train/update_norm", number, float(one["update_norm"])
        if (held_out := one["evaluation"]) and held_out["sums"]:
            for name, value in summarise(str(history["task"]), Sums(held_out["sums"])).items():
                yield f"held_out/{name}", number, value
