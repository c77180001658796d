"""The process of one run: ``python -m server.flower_run FOLDER RUN``, with the token of its task on standard input.

It is heard of at the SuperLink before it imports what takes seconds. What runs is the installed :mod:`server.app`; the
app that Flower hands out with the task is neither installed nor read.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from server.coordinator import Coordinator
from server.flower_line import Work, work
from server.runs import INTERRUPTED, Outcome, RunFolder
from shared.charter import Charter
from shared.console import complain
from shared.errors import FedwardError, ProtocolError

if TYPE_CHECKING:
    from server.history import RoundRecord

POLL: Final = 0.2  # seconds between two looks for an answer
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_FLOWER: Final = {"ok": "completed", "failed": "failed", "stopped": "stopped", "interrupted": "stopped"}


class _TurnedOffError(BaseException):
    """This process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(arguments: list[str]) -> int:
    """Carry out the run, and write how it ended; the exit status is that of ``fedward server run``."""
    folder, name = arguments
    token = sys.stdin.readline().strip()
    for number in _SIGNALS:
        signal.signal(number, _turn_off)
    try:
        coordinator = Coordinator.open(Path(folder))
        run = RunFolder.open(coordinator, name)
        outcome = carry_out(coordinator, run, token)
        run.end(outcome)
    except FedwardError as error:
        complain(error.message, error.hint)
        return error.exit_code
    return outcome.exit_code


def carry_out(coordinator: Coordinator, run: RunFolder, token: str) -> Outcome:
    """Take the task up, train, and tell the SuperLink how it ended."""
    outcome = None
    try:
        with work(coordinator, token) as job:
            outcome = ending(run, lambda: train(coordinator, run, job))
            job.finish(_FLOWER[outcome.outcome], outcome.error)
    except (FedwardError, _TurnedOffError) as error:
        return outcome or _outcome_of(run, error)
    return outcome


def train(coordinator: Coordinator, run: RunFolder, job: Work) -> None:
    """Run all tasks of the charter; a run that was resumed goes on where it was."""
    if job.name != run.name:
        raise ProtocolError(f"the task is of run {job.name}, not of {run.name}", hint="resume the run")
    from server.app import Settings, run_tasks  # noqa: PLC0415  # seconds, in which this process must be heard of
    from server.witnessing import published  # noqa: PLC0415  # as above

    whole = len(run.tasks) == len(Charter.load(run.charter_path).tasks)
    only = None if whole else next(iter(run.tasks))  # a run that trains one task again
    settings = Settings(
        charter=run.charter_path,
        task=only,
        out=run.path / only if only else run.path,
        run=run.name,
        log=coordinator.log_path,
        poll=POLL,
        checkpoint=True,
        resume=run.resumed,
        publish=lambda: published(coordinator),
        home=coordinator.folder,
    )
    current = [""]

    def on_task(task: str) -> None:
        current[0] = task
        run.note(task=task, rounds=run.tasks.get(task, 0))

    def on_round(record: "RoundRecord") -> None:
        phases = [one for one in (record.train, record.evaluation) if one]
        missing = {site for one in phases for site in (*one.missing, *one.refused, *one.dropped)}
        run.note(
            task=current[0],
            round=record.round,
            rounds=run.tasks.get(current[0], 0),
            seconds=round(record.seconds, 3),
            answered=sorted({site for one in phases for site in one.answered} - missing),
            missing=sorted(missing),
        )

    run_tasks(job.grid, settings, on_task=on_task, on_round=on_round)


def ending(run: RunFolder, do: Callable[[], None]) -> Outcome:
    """How ``do`` ends, whatever happens in it."""
    try:
        do()
    except (FedwardError, _TurnedOffError) as error:
        return _outcome_of(run, error)
    except Exception as error:  # noqa: BLE001  # the boundary of the process
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = f"a fault of the program: {run.log_path} says where; report it, then resume the run"
        return Outcome.now("failed", what, hint, exit_code=1)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it is over, and only remains to be told
    return Outcome.now("ok")


def _outcome_of(run: RunFolder, error: FedwardError | _TurnedOffError) -> Outcome:
    resume = f"'fedward server resume {run.path.parents[1]} {run.name}' goes on with it"
    if isinstance(error, FedwardError):
        return Outcome.of(error)
    if run.to_stop:
        return Outcome.now("stopped", "stopped by 'fedward server stop'", resume, exit_code=INTERRUPTED)
    if error.number == signal.SIGTERM:
        return Outcome.now("interrupted", "the coordinator was stopped", resume, exit_code=INTERRUPTED)
    return Outcome.now("failed", "the SuperLink has ended the run", resume, exit_code=ProtocolError.exit_code)


def _turn_off(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise _TurnedOffError(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
