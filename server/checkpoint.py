"""Where a run is, on disk: after every round what the next one begins with, and a journal of the round under way.

In the folder of a checkpoint, for its owner alone::

    state.bin           model, optimiser, average, the rounds so far, who declined; replaced whole after every round
    epoch-NUMBER.bin    the public messages of the epoch of keys that state.bin names
    round-00007/        the journal of the round after it (server/journal.py)

The model is what the coordinator may see anyway; the journal holds masked answers and boxes that only hospitals can
open. Nothing is pickled.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.history import RoundRecord, round_of
from server.journal import Journal, make_folder, remove_folder
from server.sealed import DamagedError, arrays_to_parts, parts_to_arrays, read_parts, write_parts
from shared.errors import RecordError, UsageError
from shared.files import output_errors, sync_folder

CHECKPOINT: Final = "checkpoint"
STATE: Final = "state.bin"
KEPT: Final = "kept"
"""The folder of the states of all rounds, beside that of the checkpoint."""
VERSION: Final = 1
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Book:
    """An epoch of keys at the coordinator: its public messages in the order in which they were taken, and its use.

    Attributes:
        number: Of the epoch.
        used: Its rounds that are used up.
        invited: Who was asked to come into it, and has been there since.
        messages: Adverts, key encapsulations and deals.
    """

    number: int
    used: int
    invited: tuple[str, ...]
    messages: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class State:
    """What a round begins with.

    Attributes:
        round: The last round that is done.
        model: After that round, float32 ``[d]``.
        released: What is evaluated and released after it, float32 ``[d]``.
        optimiser: The optimiser's arrays, by name.
        average: Those of the moving average.
        rounds: What happened so far.
        declined: Sites that will not be asked in this run any more.
        last_epoch: The newest number of an epoch, or -1.
        book: The epoch at hand.
    """

    round: int
    model: NDArray[np.float32]
    released: NDArray[np.float32]
    optimiser: Arrays
    average: Arrays
    rounds: tuple[RoundRecord, ...]
    declined: tuple[str, ...] = ()
    last_epoch: int = -1
    book: Book | None = None


class Checkpoint:
    """The checkpoint of one task of a run.

    Args:
        folder: For it alone.
        identity: What a run must have in common with the one that made it, as facts that JSON can say.
        kept: Where the state of every round stays, so that training can go back to it; None keeps none.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str | int], *, kept: Path | None = None) -> None:
        self._folder, self._identity, self._kept = folder, dict(identity), kept

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self._folder.exists()

    def load(self) -> State | None:
        """The state after the last round that was done; None before the first.

        Raises:
            RecordError: It is damaged, or cannot be read.
            UsageError: It is of another run.
        """
        path = self._folder / STATE
        if not path.exists():
            return None
        hint = (
            f"put it back from a copy of the disk; or delete {self._folder} and start a new run: the hospitals have "
            "paid for the rounds that were done"
        )
        parts, _ = read_parts(path, hint=hint)
        try:
            facts, arrays = parts_to_arrays(parts)
            version, identity = facts["version"], facts["identity"]
            self._check(path, version, identity)
            return _state(facts, arrays, self._book(facts["epoch"], hint))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DamagedError(f"{path} was made by another release", hint=hint) from error

    def save(self, state: State) -> None:
        """Make ``state`` durable, then forget the journals that it has made superfluous.

        Raises:
            OutputError: The disk will not take it; what was there before still stands.
        """
        make_folder(self._folder)
        epoch = None
        if state.book is not None:
            path, rows = (
                self._epoch(state.book.number),
                [(kind, one) for kind, messages in state.book.messages.items() for one in messages],
            )
            if not path.exists():
                facts = [kind for kind, _ in rows]
                write_parts(path, [*arrays_to_parts(facts, {}), *(one for _, one in rows)])
            epoch = {"number": state.book.number, "used": state.book.used, "invited": list(state.book.invited)}
        facts_now = {
            "version": VERSION,
            "identity": self._identity,
            "round": state.round,
            "declined": list(state.declined),
            "last_epoch": state.last_epoch,
            "epoch": epoch,
            "rounds": [asdict(one) for one in state.rounds],
        }
        arrays = {"model": state.model, "released": state.released}
        arrays |= {f"optimiser/{name}": array for name, array in state.optimiser.items()}
        arrays |= {f"average/{name}": array for name, array in state.average.items()}
        write_parts(self._folder / STATE, arrays_to_parts(facts_now, arrays))
        self._keep(state.round)
        self._forget(state)

    def _keep(self, number: int) -> None:
        """Have another name for the state, which stays when a newer one takes its place: no byte is copied."""
        if self._kept is None:
            return
        make_folder(self._kept)
        path = self._kept / f"round-{number:05d}.bin"
        with output_errors(path):
            path.unlink(missing_ok=True)
            path.hardlink_to(self._folder / STATE)
            sync_folder(self._kept)

    def journal(self, number: int) -> Journal:
        """The journal of round ``number``.

        Raises:
            OutputError: It cannot be made.
        """
        make_folder(self._folder)
        return Journal(self._round(number))

    def remove(self) -> None:
        """Forget all of it: the task is done.

        Raises:
            OutputError: It cannot be removed.
        """
        remove_folder(self._folder)

    def _check(self, path: Path, version: int, identity: Mapping[str, str | int]) -> None:
        if version != VERSION:
            raise RecordError(f"{path} was made by another release", hint="resume with the release that began the run")
        other = next((name for name, value in self._identity.items() if identity.get(name) != value), None)
        if other is not None:
            raise UsageError(
                f"{self._folder} is of another run: its {other} is {identity.get(other)}, not {self._identity[other]}",
                hint="resume the run with its own charter and settings, or choose another folder",
            )

    def _book(self, epoch: Mapping[str, Any] | None, hint: str) -> Book | None:
        if epoch is None:
            return None
        parts, _ = read_parts(self._epoch(epoch["number"]), hint=hint)
        kinds, _ = parts_to_arrays(parts[:1])
        messages: dict[str, tuple[bytes, ...]] = {}
        for kind, one in zip(kinds, parts[1:], strict=True):
            messages[kind] = (*messages.get(kind, ()), one)
        return Book(epoch["number"], epoch["used"], tuple(epoch["invited"]), messages)

    def _forget(self, state: State) -> None:
        """Remove what was before ``state``; what cannot be removed now goes with the next state."""
        keep = {self._folder / STATE, self._round(state.round + 1)}
        if state.book is not None:
            keep.add(self._epoch(state.book.number))
        for path in self._folder.iterdir():
            if path in keep:
                continue
            if path.is_dir():
                remove_folder(path)
            else:
                with output_errors(path):
                    path.unlink()

    def _epoch(self, number: int) -> Path:
        return self._folder / f"epoch-{number}.bin"

    def _round(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}"


def kept_round(path: Path) -> tuple[State, dict[str, str | int]]:
    """The state of a round that was kept, without its epoch of keys, and the identity of the run that made it.

    Raises:
        RecordError: It is damaged, or cannot be read.
    """
    parts, _ = read_parts(path, hint="put it back from a copy, or begin a new run")
    try:
        facts, arrays = parts_to_arrays(parts)
        return _state(facts, arrays, None), dict(facts["identity"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedError(f"{path} was made by another release", hint="begin a new run") from error


def _state(facts: Mapping[str, Any], arrays: Arrays, book: Book | None) -> State:
    def under(place: str) -> Arrays:
        return {name.removeprefix(place): array for name, array in arrays.items() if name.startswith(place)}

    return State(
        round=facts["round"],
        model=arrays["model"],
        released=arrays["released"],
        optimiser=under("optimiser/"),
        average=under("average/"),
        rounds=tuple(round_of(one) for one in facts["rounds"]),
        declined=tuple(facts["declined"]),
        last_epoch=facts["last_epoch"],
        book=book,
    )
