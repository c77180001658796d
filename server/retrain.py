"""Training a task again from the last model before a patient who was erased (GDPR Art. 17).

Beside the checkpoint, which is gone when a task is done, every round's state is kept in ``RUN/TASK/kept/``. A new run
under the same charter begins with the newest one that is not after the round that the hospital named; the other tasks
of the charter are left as they are. Its first rounds have numbers that the hospitals have unmasked before: each helps
only where the same hospitals are in the sum as then (:mod:`client.summed`). Where they cannot be, a new charter is
needed.

The first of these rounds is summed twice from one model, with the patient and without. Without differential privacy the
difference of the two sums is his own part, so that what should forget him would lay him open: it is refused.

The old model stays where it is: to withdraw it from those who have it is for people.
"""

from dataclasses import replace
from pathlib import Path

from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from server.checkpoint import CHECKPOINT, KEPT, Checkpoint, kept_round
from server.coordinator import Coordinator
from server.runs import RunFolder
from shared.charter import Charter
from shared.errors import PolicyError, RecordError, UsageError
from shared.retraining import Retraining


def prepare(
    coordinator: Coordinator, request: Retraining, *, name: str | None = None, anyway: bool = False
) -> RunFolder:
    """Make the run that a request asks for, so that it is resumed after the round that is clean.

    Args:
        coordinator: Whose runs.
        request: What a hospital asks for.
        name: Of the new run; None for one made of the time.
        anyway: Also where the charter has no differential privacy.

    Raises:
        PolicyError: The charter has no differential privacy.
        UsageError: There is no such run, it is under way, or the name is taken.
        ProtocolError: No member of its charter signed the request.
        RecordError: No state from before the patient was kept, or it is damaged.
    """
    old = RunFolder.open(coordinator, request.run)
    charter = Charter.load(old.charter_path)
    request.check(charter)
    if charter.privacy.mode == "off" and not anyway:
        raise PolicyError(
            "without differential privacy a round that is trained again, less its first sum, tells of the patient",
            hint="begin a new run of a new charter; or --anyway, where who may see both sums may know him",
        )
    if old.outcome() is None:
        raise UsageError(f"the run {old.name} has not ended", hint="stop it first with 'fedward server stop'")
    state, identity = kept_round(_clean(old.path / request.task / KEPT, request.clean_round))
    with AuditLog(coordinator.log_path, site="coordinator", purpose=charter.purpose, subject_key=b"") as log:
        text = old.charter_path.read_bytes()
        made = RunFolder.create(coordinator, charter, text, name=name).alone(request.task)
        facts: dict[str, Scalar] = {
            "task": request.task,
            "again": old.name,
            "asked_by": request.site,
            "clean_round": request.clean_round,
            "anyway": anyway,
        }
        with log.act(Entry(Action.RUN_START, Outcome.STARTED, run=made.name, detail={**facts, "retrain": True})):
            place = made.path / request.task
            checkpoint = Checkpoint(place / CHECKPOINT, {**identity, "run": made.name}, kept=place / KEPT)
            # Keys are agreed on anew, and who declined the old run is asked again.
            checkpoint.save(replace(state, book=None, declined=()))
    return made


def _clean(folder: Path, last: int) -> Path:
    """The newest kept state that is not after round ``last``."""
    found = [path for path in sorted(folder.glob("round-*.bin")) if int(path.stem.partition("-")[2]) <= last]
    if not found:
        raise RecordError(
            f"{folder} has no state from round {last} or before",
            hint="begin a new run of the charter: 'fedward server run'; it has nothing of the old one",
        )
    return found[-1]
