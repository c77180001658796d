"""Who is trained on and who is kept for tests: decided once for each patient, and for ever.

The order in which new patients are assigned follows from their pseudonyms alone, and a patient keeps his side when
studies come, go, or come back: those who are in no index any more are remembered with their side. So no test patient is
ever trained on.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from shared.errors import DataError
from shared.parsing import load_json


class Split(StrEnum):
    """Which patients: those trained on, or those kept for evaluation only."""

    TRAIN = "train"
    HELD_OUT = "held_out"


def assigned(patients: Sequence[str], before: Mapping[str, Split], holdout: float) -> dict[str, Split]:
    """Assign patients that are new, in an order that only their pseudonyms decide; leave the others as they are."""
    splits = {key: before[key] for key in patients if key in before}
    wanted = max(round(holdout * len(patients)), 1 if len(patients) > 2 else 0)
    held = sum(split is Split.HELD_OUT for split in splits.values())
    for key in sorted(set(patients) - set(splits), key=lambda key: hashlib.sha256(f"split|{key}".encode()).digest()):
        splits[key] = Split.HELD_OUT if held < wanted else Split.TRAIN
        held += splits[key] is Split.HELD_OUT
    return splits


def gone(folder: Path) -> dict[str, Split]:
    """Patients that the index in ``folder`` remembers without a study, with their sides.

    Raises:
        DataError: The index is damaged.
    """
    path = folder / "index.json"
    if not path.exists():
        return {}
    hint = "restore it from a copy: a new index may hold out other patients than those held out before"
    raw = load_json(path, error=DataError, hint=hint)
    try:
        return {str(key): Split(side) for key, side in raw.get("gone", {}).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged", hint=hint) from error


def left(before: Mapping[str, Split], present: Collection[str]) -> dict[str, str]:
    """Of all that were ever assigned those who are not present, as the index has them."""
    return {key: split.value for key, split in sorted(before.items()) if key not in present}
