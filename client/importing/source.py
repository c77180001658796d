"""A data set as a source of studies, like an archive: it is looked through once, and then made into DICOM by study.

What comes of it goes the way of every ingest (:mod:`client.ingest`): into the private spool, through de-identification,
and into the cohort; a study that was taken in is not taken in again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from client.enhance.slices import UnusableError
from client.importing.content import Case, Content, digest_of
from client.importing.settings import Settings
from client.importing.walk import Found, walk
from client.importing.write import Naming, files, scaled
from client.sources.intake import Intake, Problem
from client.sources.selection import Facts, Instance, Selection
from client.sources.source import Study

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ready:
    """A study that was looked through and can be made into DICOM.

    Attributes:
        case: Its files.
        digests: SHA-256 of each file, by its path below the source.
        digest: SHA-256 of these and of all settings that change the images.
        images: SHA-256 of the values of the reference series, however they are stored in the files.
        modality: ``MR`` or ``CT``.
        slices: How many.
        labelled: Whether it has labels.
        labels: What each of its labels became.
        noisy: Where the noisy series is from.
        notes: What was changed in the values.
    """

    case: Case
    digests: Mapping[str, str]
    digest: str
    images: str
    modality: str
    slices: int
    labelled: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    noisy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def naming(self) -> Naming:
        """Who and what it is."""
        return Naming(self.case.patient, self.digest)

    def row(self, *, named: bool) -> dict[str, Any]:
        """As it stands in the record.

        Args:
            named: Whether with the Patient ID and the names of the files: not where they may be real people's, since
                the record outlives an erasure.
        """
        own = {_text(name): one for name, one in self.digests.items()}
        names = own if named else {f"file {n}": one for n, one in enumerate(self.digests.values(), start=1)}
        return {
            "patient": self.case.patient if named else "",
            "files": dict(names),
            "digest": self.digest,
            "images": self.images,
            "modality": self.modality,
            "slices": self.slices,
            "labelled": self.labelled,
            "labels": dict(self.labels),
            "noisy": self.noisy,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Looked:
    """What lies in a data set: what can be used, and what cannot, with the reason."""

    ready: tuple[Ready, ...]
    problems: tuple[Problem, ...]


def look(
    root: Path, settings: Settings, known: Mapping[str, Mapping[str, Any]], on_progress: Progress | None = None
) -> Looked:
    """Read every study of a data set once, so that one that cannot be used is known before anything is made of it.

    Args:
        root: The folder.
        settings: How it is read.
        known: Rows of an earlier record by digest: a study that did not change since is not read again.
        on_progress: Told the studies done and in all.
    """
    problems: list[Problem] = []
    paths = list(walk(root, problems))
    cases: list[Case] = []
    for found in _layout(root, settings, paths):
        (problems if isinstance(found, Problem) else cases).append(found)  # type: ignore[arg-type]  # by its class
    ready: list[Ready] = []
    first: dict[str, str] = {}  # the name of the first study with these images
    for number, case in enumerate(cases, start=1):
        try:
            one = _ready(root, settings, case, known)
        except UnusableError as error:
            problems.append(Problem(case.name, str(error)))
        else:
            if one.images in first:
                reason = f"its images are those of {first[one.images]}: one patient under two names"
                problems.append(Problem(case.name, reason))
            else:
                first[one.images] = case.name
                ready.append(one)
        if on_progress:
            on_progress(number, len(cases))
    return Looked(tuple(ready), tuple(Problem(_text(one.where), _text(one.reason)) for one in problems))


def _text(path: str) -> str:
    """The name of a file, which need not be UTF-8, as text that is: the record and the reports are."""
    return path.encode(errors="backslashreplace").decode()


def _layout(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterable[Found]:
    if settings.layout == "dicom":
        from client.importing.dicom_cases import studies  # noqa: PLC0415  # highdicom: a second that others need not wait

        return studies(root, settings, paths)
    if settings.layout == "png":
        from client.importing.pictures import pictures  # noqa: PLC0415  # each layout its own readers

        return pictures(root, settings, paths)
    from client.importing.volume_cases import brainweb, lits, plain_nifti  # noqa: PLC0415  # as above

    return {"lits": lits, "nifti": plain_nifti, "brainweb": brainweb}[settings.layout](root, settings, paths)


def _ready(root: Path, settings: Settings, case: Case, known: Mapping[str, Mapping[str, Any]]) -> Ready:
    digests = {str(path.relative_to(root)): digest_of(path) for path in case.files}
    digest = _digest(case, digests, settings)
    if digest in known:
        row = known[digest]
        told = {name: row[name] for name in ("images", "modality", "slices", "labelled", "labels", "noisy")}
        return Ready(case, digests, digest, notes=tuple(row["notes"]), **told)
    content = case.read()
    scaled(content)  # what it refuses is to be known now
    given = "of the data set" if content.noisy is not None else settings.degradation.told(content.modality)
    return Ready(
        case,
        digests,
        digest,
        hashlib.sha256(content.reference.tobytes()).hexdigest(),
        content.modality,
        content.grid.shape[0],
        content.label is not None,
        content.labels,
        given,
        content.notes,
    )


def _digest(case: Case, digests: Mapping[str, str], settings: Settings) -> str:
    """Over the content of the files and what is made of them; not over where they lie."""
    parts = [settings.digest, case.patient, *digests.values()]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


class Dataset:
    """A data set that was looked through, as a :class:`client.sources.source.Source`.

    Args:
        root: Its folder.
        settings: How it is read.
        looked: What lies in it.
    """

    kind = "import"

    def __init__(self, root: Path, settings: Settings, looked: Looked) -> None:
        self.name = str(root)
        self._root, self._settings, self._problems = root, settings, looked.problems
        self._ready = {str(one.naming.study): one for one in looked.ready}

    def studies(self, selection: Selection) -> Sequence[Study]:
        """See :meth:`client.sources.source.Source.studies`."""
        found = (Study(uid, Facts(frozenset({one.modality}), patient=one.case.patient)) for uid, one in self._items())
        return [study for study in found if selection.admits_study(study.facts)]

    def _items(self) -> list[tuple[str, Ready]]:
        return sorted(self._ready.items())

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:  # all or nothing
        """See :meth:`client.sources.source.Source.instances`."""
        one = self._ready[study.uid]
        return sorted(Instance(*names) for names in one.naming.instances(one.slices, labelled=one.labelled))

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        """See :meth:`client.sources.source.Source.fetch`."""
        one, missing = self._ready[study.uid], {instance.uid for instance in wanted}
        try:
            for uid, data in files(self._content(one), one.naming):
                if uid in missing:
                    intake.put(data, asked=uid)
        except UnusableError as error:
            intake.problems.update(dict.fromkeys(missing, str(error)))

    def _content(self, one: Ready) -> Content:
        if {name: digest_of(self._root / name) for name in one.digests} != one.digests:
            raise UnusableError("its files were changed while they were read")
        content = one.case.read()
        if content.noisy is None:
            made = self._settings.degradation.apply(content.modality, content.reference, one.digest)
            content = replace(content, noisy=made)
        return content

    def problems(self) -> Sequence[Problem]:
        """See :meth:`client.sources.source.Source.problems`."""
        return self._problems

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
