"""For models that see two contrasts: which series of the study is the other one, and what of it lies behind each slice.

It is chosen, registered and scaled as in training (:mod:`client.cohort_series`, :mod:`client.cohort_second`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from client.cohort_second import taken
from client.cohort_series import Instance, second_of
from client.deid.known import UNREADABLE
from client.enhance.found import TOO_LARGE, Found, Image, Record, Stack, Status, look, walk
from client.enhance.model import Model
from client.enhance.slices import ENHANCED, MOST_PIXELS, UnusableError, bounded, frames, read
from client.registration import Kind
from shared.errors import UsageError

MANY_FRAMES = "a model of two contrasts is for files of one slice"
NONE_BESIDE = "the folder of the second contrast has none of its patient and study"


@dataclass(frozen=True, eq=False)
class Behind:
    """The second contrast on the pixels of the first.

    Attributes:
        images: ``[n, h, w]`` in [0, 1], 0 where it has no values.
        sources: Of each slice the images that it was interpolated from.
    """

    images: NDArray[np.float32]
    sources: tuple[tuple[Image, ...], ...]


def paired(found: Found, model: Model, second: Path | None, kind: Kind) -> Found:
    """What there is to do, each stack with its second contrast where the model sees two.

    Args:
        found: What lies in the input.
        model: What is applied.
        second: The folder with the other contrast, of the same studies; the input itself may lie in it.
        kind: How it is registered.

    Raises:
        UsageError: The model sees two contrasts and there is no such folder, or sees one and there is.
    """
    if not model.pairs:
        if second is not None:
            raise UsageError(f"a model for {model.task.name} sees one series", hint="leave out --second")
        return found
    if second is None:
        raise UsageError(
            f"a model for {model.task.name} sees two contrasts of a study",
            hint="name the folder of the other with --second",
        )
    if not second.exists():
        raise UsageError(f"there is no {second}", hint="name the folder of the other contrast")
    studies: dict[str, list[Stack]] = defaultdict(list)
    records, others = list(found.records), _others(second, model, set(found.studies))
    for study, stacks in found.studies.items():
        for stack in stacks:
            one = _with_second(stack, others.get(study, ()), kind)
            if isinstance(one, Stack):
                studies[study].append(one)
            else:
                records += (Record(image.name, Status.SKIPPED, one) for image in stack.images)
    return Found(dict(studies), records)


def _others(second: Path, model: Model, studies: set[str]) -> Mapping[str, list[Image]]:
    """Images of the folder that could be a second contrast, by study, each instance once."""
    found: dict[str, dict[str, Image]] = defaultdict(dict)
    for path, name in walk(second, []):
        image = look(path, name, model)
        if isinstance(image, Image) and image.study in studies and image.sop_class not in ENHANCED:
            found[image.study].setdefault(image.uid, image)
    return {study: list(images.values()) for study, images in found.items()}


def _with_second(stack: Stack, others: Sequence[Image], kind: Kind) -> Stack | str:
    """The stack with its second contrast, or why it has none."""
    if stack.images[0].sop_class in ENHANCED:
        return MANY_FRAMES
    by_path = {one.path: one for one in others}
    try:
        first = _instances(stack.images[:1])
        patient = str(first[0].header.get("PatientID", ""))
        own = [one for one in _instances(others) if str(one.header.get("PatientID", "")) == patient]
        chosen = second_of(own, first, [])
    except UNREADABLE:
        return "a header of its study cannot be understood"
    if not chosen:
        return NONE_BESIDE
    return replace(stack, second=tuple(by_path[one.path] for one in chosen), kind=kind)


def _instances(images: Iterable[Image]) -> list[Instance]:
    return [Instance(one.path, pydicom.dcmread(bounded(one.path), stop_before_pixels=True)) for one in images]


def behind(stack: Stack, values: NDArray[np.float32]) -> Behind:
    """Register the second contrast of a stack onto it.

    Args:
        stack: With a second contrast.
        values: Of its slices, in the unit of the modality, ``[n, h, w]``.

    Raises:
        UnusableError: It cannot be read, or not be registered with certainty.
    """
    if sum(one.pixels for one in stack.second) > MOST_PIXELS:
        raise UnusableError(f"its second contrast has {TOO_LARGE}")
    try:
        beside = np.concatenate([frames(read(one.path)).values for one in stack.second])
    except UnusableError as error:
        raise UnusableError(f"its second contrast: {error}") from error
    try:
        made = taken(_instances(stack.images), values, _instances(stack.second), beside, stack.kind)
    except UNREADABLE as error:
        raise UnusableError("a header of its study cannot be understood") from error
    if made.images is None:
        raise UnusableError(made.why_not)
    return Behind(made.images, tuple(tuple(stack.second[index] for index in one) for one in made.slices))
