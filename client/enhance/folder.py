"""A folder of images through a model: every file gets a line in the report, every study an entry in the audit log.

A study is worked on stack by stack (:mod:`client.enhance.found`); what is there already is not made again, since its
name follows from the model and the source. The audit log has a study before anything of it is written.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.special import softmax

from client.cohort_scale import in_window, window
from client.deid.known import UNREADABLE
from client.enhance import tiles
from client.enhance.beside import Behind, behind, paired
from client.enhance.derive import Story, derived, encode, refer, refine, set_pixels
from client.enhance.found import Found, Image, Record, Stack, Status, apart, find
from client.enhance.model import Model
from client.enhance.multiframe import derive_frames
from client.enhance.segment import segmentation
from client.enhance.slices import ENHANCED, Frames, Stored, UnusableError, back, frames, read
from client.registration import Kind
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import DataError, OutputError, UsageError
from shared.files import private_folder, write_bytes, write_json
from shared.imaging.denoise import Denoise
from shared.imaging.images import StudyImages

NAME: Final = "enhance.json"
PRIVATE: Final = 0o600
MOST_WILD: Final = 0.5
"""Of the pixels that a model makes, which should lie in [0, 1]: so many outside [-1, 2] are no image."""

Slice = tuple[Image, int]
"""A frame of a file, counted from 1."""
Unit = NDArray[np.float32]
"""Slices in [0, 1], or what a network is given of each of them."""
Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of images in all."""


@dataclass(frozen=True)
class Enhanced:
    """What became of a folder.

    Attributes:
        records: A line for every file, in the order of their paths.
        path: The report.
    """

    records: tuple[Record, ...]
    path: Path

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of files by what became of them."""
        found = Counter(record.status for record in self.records)
        return {status.value: found[status] for status in Status}

    def results(self) -> tuple[str, ...]:
        """Results that lie in the output folder, by their paths there."""
        return tuple(sorted({record.result for record in self.records if record.result}))


def enhance_folder(
    source: Path,
    out: Path,
    *,
    model: Model,
    log: AuditLog,
    reports: Path,
    fractional: bool = False,
    second: Path | None = None,
    kind: Kind = "rigid",
    on_progress: Progress | None = None,
) -> Enhanced:
    """Apply ``model`` to every image of ``source`` that it is for, into ``out``.

    Results lie at ``<study>/<series>/<instance>.dcm`` by their UIDs: one for each image, or one segmentation for each
    series.

    Args:
        source: A DICOM file, or a folder that is read recursively; links to folders are not followed.
        out: Made with mode 0700 where missing; results name patients.
        model: What is applied.
        log: The audit log.
        reports: The folder for ``enhance.json``.
        fractional: Whether segmentations tell the probability of each class; no matter for images.
        second: For a model that sees two contrasts: the folder of the other one, of the same studies.
        kind: How that one is registered.
        on_progress: Told how far it is.

    Raises:
        UsageError: There is no ``source`` or no ``second``, the folders lie in each other, or the model sees another
            number of contrasts than were named.
        DataError: There is no image that the model is for.
        OutputError: ``out`` or ``reports`` cannot be written.
        RecordError: The audit log cannot be written; nothing further is done then.
    """
    for folder in filter(None, (source, second)):
        check_folders(folder, out, reports)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of pydicom quote values of headers
        found = paired(find(source, model), model, second, kind)
        _require(found, source, model)
        records, passed = list(found.records), len(found.records)

        def tell(record: Record) -> None:
            records.append(record)
            if on_progress:
                on_progress(len(records) - passed, found.images)

        for study, stacks in found.studies.items():
            jobs = [_Job(stack, model, out / study, fractional=fractional) for stack in stacks]
            _study(study, jobs, log, tell)
    private_folder(reports)
    result = Enhanced(tuple(sorted(records, key=lambda one: one.path)), reports / NAME)
    write_json(result.path, _report(result, model), mode=PRIVATE)
    return result


def check_folders(source: Path, out: Path, reports: Path) -> None:
    """See that input and output are apart, before anything is made.

    Raises:
        UsageError: There is no ``source``, or one folder lies in the other.
        OutputError: A file stands where ``out`` should be.
    """
    if not source.exists():
        raise UsageError(f"there is no {source}", hint="name a DICOM file, or a folder of them")
    inner, outer = out.resolve(), source.resolve()
    for folder, what in ((inner, "output"), (reports.resolve(), "reports")):
        if folder == outer or outer in folder.parents:
            raise UsageError(f"the {what} folder lies in {source}", hint="choose one apart from the input")
    if inner in outer.parents or inner in {reports.resolve(), *reports.resolve().parents}:
        raise UsageError(f"the input or the reports lie in {out}", hint="choose an output folder apart from them")
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write {out}: it is no folder", hint="choose another folder")


def _require(found: Found, source: Path, model: Model) -> None:
    if found.images:
        return
    if not found.records:
        raise DataError(f"{source} has no files", hint="name a DICOM file, or a folder of them")
    reasons = Counter(record.reason for record in found.records).most_common(4)
    told = "; ".join(f"{reason} ({count})" for reason, count in reasons)
    kinds = " or ".join(sorted(model.task.modalities, reverse=True))
    hint = f"give DICOM images of {kinds}; docs/enhance.md says which"
    raise DataError(f"{source} has no image that the model is for: {told}", hint=hint)


def _report(result: Enhanced, model: Model) -> dict[str, object]:
    about = {"name": model.name, "task": model.task.name, "weights_sha256": model.digest, "manifest": model.manifest}
    return {
        "format": "fedward enhance 1",
        "model": about,
        "counts": dict(result.counts),
        "files": [asdict(record) | {"path": _printable(record.path)} for record in result.records],
    }


def _printable(path: str) -> str:
    """A file's name, which need not be UTF-8, as text that is."""
    return path.encode(errors="backslashreplace").decode()


# --- a study ----------------------------------------------------------------------------------------------------------


def _study(study: str, jobs: Iterable["_Job"], log: AuditLog, tell: Callable[[Record], None]) -> None:
    """Do what is left to do of a study, recorded before and after."""
    left = []
    for job in jobs:
        for record in job.there():
            tell(record)
        if job.left:
            left.append(job)
    if not left:
        return
    model = left[0].model
    about = {"task": model.task.name, "weights_sha256": model.digest, "manifest": model.manifest}
    facts: dict[str, Scalar] = {"images": sum(len(job.left) for job in left), **about}
    entry = Entry(Action.ENHANCE, Outcome.STARTED, subject=("study", log.digest(study)), detail=facts)
    with log.act(entry) as detail:
        counts = Counter[Status]()
        for job in left:
            for record in job.run():
                counts[record.status] += 1
                detail |= {status.value: counts[status] for status in (Status.WRITTEN, Status.FAILED)}
                tell(record)


class _Job:
    """One stack: what is there of its results, and the rest."""

    def __init__(self, stack: Stack, model: Model, folder: Path, *, fractional: bool) -> None:
        self._stack, self.model, self._folder = stack, model, folder
        together = "" if apart(stack.modality, model) else stack.digest
        self._story = Story(model, together, datetime.now(UTC), fractional and model.segments)
        self.left = tuple(one for one in stack.images if not self._target(one).exists())
        self._behind: Behind | None = None

    def _target(self, image: Image) -> Path:
        """Where the result of an image goes; those of a segmentation have one together."""
        source = self._stack.images[0] if self.model.segments else image
        series, uid = self._story.uid("series", source.series), self._story.uid("instance", source.uid)
        return self._folder / series / f"{uid}.dcm"

    def _named(self, image: Image) -> str:
        return self._target(image).relative_to(self._folder.parent).as_posix()

    def there(self) -> Iterator[Record]:
        """A record for each image whose result is there from before."""
        for one in self._stack.images:
            if one not in self.left:
                yield Record(one.name, Status.THERE, result=self._named(one))

    def run(self) -> Iterator[Record]:
        """Do what is left; where files cannot be read, with the rest of them, which is another stack."""
        readable: list[tuple[Image, Frames]] = []
        for image in self._stack.images:
            try:
                readable.append((image, frames(read(image.path))))
            except UnusableError as error:
                yield Record(image.name, Status.FAILED, str(error))
        if not readable:
            return
        if len(readable) < len(self._stack.images):
            rest = replace(self._stack, images=tuple(image for image, _ in readable))
            job = _Job(rest, self.model, self._folder, fractional=self._story.fractional)
            yield from job.there()
            if job.left:
                yield from job.work(readable)
        else:
            yield from self.work(readable)

    def work(self, sources: list[tuple[Image, Frames]]) -> Iterator[Record]:
        """Write what is left, given the frames of every image of the stack."""
        values = np.concatenate([one.values for _, one in sources])
        ends = window(self._stack.modality, values)
        unit = in_window(values, ends)
        try:
            self._behind = behind(self._stack, values) if self.model.pairs else None
        except UnusableError as error:
            yield from (Record(image.name, Status.FAILED, str(error)) for image in self.left)
            return
        inputs = self._inputs(unit)
        del values
        if self.model.segments:
            yield from self._segment(inputs)
            return
        slices = [(image, number) for image, source in sources for number in range(1, len(source.stored) + 1)]
        start = 0
        for image, source in sources:
            stop = start + len(source.stored)
            if image in self.left:
                try:
                    pixels = self._pixels(source, unit[start:stop], inputs[start:stop], ends)
                except UnusableError as error:
                    yield Record(image.name, Status.FAILED, str(error))
                else:
                    resampled = self._behind.sources[start] if self._behind else ()
                    seen = [self._seen(slices, index) for index in range(start, stop)]
                    yield self._write(image, pixels, seen, resampled)
            start = stop

    def _seen(self, slices: list[Slice], index: int) -> list[Slice]:
        """The slices that the network makes one of, that one first."""
        before, after = self.model.reach
        return [slices[index], *slices[max(index - before, 0) : index], *slices[index + 1 : index + 1 + after]]

    def _inputs(self, unit: Unit) -> Unit:
        """What the network sees; super-resolution sees the image as it is, and not what training made coarse."""
        if self.model.factor > 1:
            return unit
        second = self._behind.images if self._behind else None
        return self.model.task.inputs(StudyImages(self._stack.modality, unit, unit, None, (1.0, 1.0), second))

    def _pixels(self, source: Frames, unit: Unit, inputs: Unit, ends: tuple[float, float]) -> Stored:
        """What the network makes of the frames of an image, as stored values."""
        factor, task, modality = self.model.factor, self.model.task, self._stack.modality
        rows, columns = unit.shape[1:]
        result = np.empty((len(unit), factor * rows, factor * columns), source.stored.dtype)
        for part, made in self._made(inputs):
            images = task.finished(made, unit[part], modality) if isinstance(task, Denoise) else made[:, 0]
            result[part] = back(source.of(part), np.clip(images, 0.0, 1.0), ends)
        return result

    def _write(self, image: Image, pixels: Stored, seen: list[list[Slice]], resampled: Iterable[Image]) -> Record:
        factor = self.model.factor
        try:
            source = read(image.path)
            made = derived(source, self._story, factor=factor)
            set_pixels(made, pixels)
            if image.sop_class in ENHANCED:
                numbers = [[number for _, number in one] for one in seen]
                derive_frames(made, source, self._story, seen=numbers, factor=factor)
            else:
                sources = dict.fromkeys((one.sop_class, one.uid) for of_frame in seen for one, _ in of_frame)
                refer(made, sources, [(one.sop_class, one.uid) for one in resampled])
                if factor > 1:
                    _refine(made, factor)
            data = encode(made)
        except (UnusableError, *UNREADABLE) as error:
            return Record(image.name, Status.FAILED, _reason(error))
        self._save(image, data)
        return Record(image.name, Status.WRITTEN, result=self._named(image))

    def _segment(self, inputs: NDArray[np.float32]) -> Iterator[Record]:
        images = self._stack.images
        try:
            classes = self._shares(inputs) if self._story.fractional else self._classes(inputs)
            made = segmentation([_header(one) for one in images], classes, self._story, self._stack.second)
            data = encode(made)
        except (UnusableError, *UNREADABLE) as error:
            for one in images:
                yield Record(one.name, Status.FAILED, _reason(error))
            return
        self._save(images[0], data)
        for one in images:
            yield Record(one.name, Status.WRITTEN, result=self._named(one))

    def _made(self, inputs: Unit) -> Iterator[tuple[slice, Unit]]:
        """What the network makes of the slices, a part after the other.

        Raises:
            UnusableError: It is no number somewhere, or no image: then a black or white slice would look like one.
        """
        for part, made in tiles.outputs(self.model.network, inputs, scale=self.model.factor):
            wild = not self.model.segments and np.mean((made < -1.0) | (made > 2.0)) > MOST_WILD
            if wild or not np.isfinite(made).all():
                raise UnusableError("what the model makes of it is no image; evaluate the model before it is used")
            yield part, made

    def _classes(self, inputs: Unit) -> NDArray[np.uint8]:
        """The most likely class of each pixel, ``[n, rows, columns]``."""
        made = np.zeros((len(inputs), *inputs.shape[-2:]), np.uint8)
        for part, scores in self._made(inputs):
            made[part] = scores.argmax(axis=1)
        return made

    def _shares(self, inputs: Unit) -> NDArray[np.float32]:
        """The probability of each class but the background, ``[n, rows, columns, classes]`` in [0, 1]."""
        made: NDArray[np.float32] | None = None
        for part, scores in self._made(inputs):
            shares = softmax(scores, axis=1)[:, 1:]
            if made is None:
                made = np.zeros((len(inputs), *inputs.shape[-2:], shares.shape[1]), np.float32)
            made[part] = np.moveaxis(shares, 1, -1)
        if made is None:
            raise ValueError("a stack without slices has no classes")
        return made

    def _save(self, image: Image, data: bytes) -> None:
        target = self._target(image)
        private_folder(target.parent)
        write_bytes(target, data, mode=PRIVATE, durable=True)


def _reason(error: Exception) -> str:
    """Why it failed. What a library says may quote the header, so of that nothing is told."""
    return str(error) if isinstance(error, UnusableError) else "its header cannot be understood"


def _header(image: Image) -> Dataset:
    made = read(image.path)
    for name in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in made:
            del made[name]
    return made


def _refine(made: Dataset, factor: int) -> None:
    if not all(made.get(name) for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")):
        raise UnusableError("it does not tell where its pixels lie")
    refine(made, made, made.ImageOrientationPatient, factor)
