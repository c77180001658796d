"""Remember what was computed of a study for as long as the study itself is in memory."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from shared.imaging.images import StudyImages

Value = TypeVar("Value")


def once_per_study(compute: Callable[[StudyImages], Value]) -> Callable[[StudyImages], Value]:
    """Make a pure function of a study compute once (a decorator). Nothing is kept after the study is gone."""
    known: WeakKeyDictionary[StudyImages, Value] = WeakKeyDictionary()

    @wraps(compute)
    def remembered(study: StudyImages) -> Value:
        if study not in known:
            known[study] = compute(study)
        return known[study]

    return remembered
