"""Remember what was computed of a study for as long as the study itself is in memory."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from shared.imaging.images import StudyImages

Value = TypeVar("Value")
How = ParamSpec("How")


def once_per_study(
    compute: Callable[Concatenate[StudyImages, How], Value],
) -> Callable[Concatenate[StudyImages, How], Value]:
    """Make a pure function of a study compute once for each of its further arguments, which must be hashable.

    A decorator. Nothing is kept after the study is gone.
    """
    known: WeakKeyDictionary[StudyImages, dict[Any, Value]] = WeakKeyDictionary()

    @wraps(compute)
    def remembered(study: StudyImages, /, *args: How.args, **kwargs: How.kwargs) -> Value:
        values, how = known.setdefault(study, {}), (args, tuple(sorted(kwargs.items())))
        if how not in values:
            values[how] = compute(study, *args, **kwargs)
        return values[how]

    return remembered
