"""Make the hospitals: every patient from the seed alone, whatever the number of workers; all of them or nothing."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from shared.errors import FedwardError, UsageError
from shared.files import output_errors, write_json
from shared.parsing import parse_json
from shared.processes import WorkerPool
from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import atlas_file, load_atlas
from simulation.sites.ct import simulate_ct
from simulation.sites.dicom import FAST, REFERENCE, SECOND, Context, write_series
from simulation.sites.headers import Visit, draw_person, draw_visits
from simulation.sites.mri import Head, draw_head, simulate_mr
from simulation.sites.segmentation import write_segmentation
from simulation.sites.specs import CtProtocol, MrProtocol, SiteSpec
from simulation.sites.torso import Torso, draw_torso
from simulation.sites.warp import Move

MANIFEST = "manifest.json"
MAKER = "fedward data synthesize"
FORMAT = 1
SMALLEST = 32  # pixels

_ANATOMY, _HEADER, _SCAN, _MOVE, _AGAIN = range(
    5
)  # streams of randomness: a change in one leaves the others as they are


@dataclass(frozen=True)
class SiteCount:
    """What was written for one site."""

    site: str
    patients: int
    studies: int
    files: int


@dataclass(frozen=True)
class Synthesized:
    """What was written, site by site."""

    out: Path
    seed: int
    sites: tuple[SiteCount, ...]

    @property
    def patients(self) -> int:
        """All patients."""
        return sum(site.patients for site in self.sites)

    @property
    def files(self) -> int:
        """All DICOM files."""
        return sum(site.files for site in self.sites)


@dataclass(frozen=True)
class _Job:
    """One patient to make."""

    folder: Path
    site: SiteSpec
    patient: int
    size: int
    slices: int
    seed: int

    def random(self, stream: int, visit: int = 0) -> np.random.Generator:
        return _random(self.seed, self.site, self.patient, stream, visit)


def synthesize(
    out: Path,
    *,
    sites: Sequence[SiteSpec],
    patients: int | None,
    size: int,
    slices: int,
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesized:
    """Write the sites' patients: ``out/SITE/PATIENT/STUDY/SERIES/NNN.dcm`` and ``out/SITE/PATIENT/STUDY/seg.dcm``.

    The bytes depend on the seed, the sizes and the specifications only. A patient does not change when other patients
    or sites are added.

    Args:
        out: The folder; it must not exist, be empty, or be an earlier result of this function, which is then replaced.
        sites: Which hospitals.
        patients: Patients per site, or None for each site's own number.
        size: Rows and columns of a site with the matrix factor 1, at least 32; a site rounds to a multiple of 16.
        slices: Slices per series, at least 1.
        seed: Not negative.
        workers: Processes to use, at least 1.
        on_progress: Called with patients done and patients in all.

    Raises:
        UsageError: A number out of range, or ``out`` holds something that is not ours.
        DataError: The brain atlas is not installed.
        OutputError: The disk is full, or the folder may not be written. Nothing is left behind.
    """
    if not sites:
        raise UsageError("no site is chosen", hint="name at least one")
    _check(patients=patients, size=size, slices=slices, seed=seed, workers=workers)
    _check_folder(out)
    if any(isinstance(site.protocol, MrProtocol) for site in sites):
        atlas_file("t1")  # say that it is missing before anything is started
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        try:
            partial.chmod(0o755)
            jobs = [
                _Job(partial, site, patient, size, slices, seed)
                for site in sites
                for patient in range(patients or site.patients)
            ]
            counts = _run(jobs, workers, on_progress)
            done = Synthesized(out, seed, tuple(_count(site, counts) for site in sites))
            write_json(partial / MANIFEST, _manifest(done, sites, size, slices))
            _replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return done


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        least = {"size": SMALLEST, "seed": 0}.get(name, 1)
        if value is not None and value < least:
            raise UsageError(f"{name} must be {least} or more, not {value}", hint=f"choose another --{name}")


def _check_folder(out: Path) -> None:
    """Refuse a folder whose content somebody may miss."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", hint="choose a folder that does not exist yet")
    if any(out.iterdir()) and not _is_ours(out):
        raise UsageError(f"{out} holds other files", hint="choose a folder that is empty or does not exist yet")


def _is_ours(out: Path) -> bool:
    try:
        manifest = parse_json((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("made_by") == MAKER


def _replace(partial: Path, out: Path) -> None:
    """Put ``partial`` in the place of ``out``."""
    if out.exists() and any(out.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
        out.rename(old / out.name)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(out)


def _run(
    jobs: Sequence[_Job], workers: int, on_progress: Callable[[int, int], None] | None
) -> list[tuple[str, int, int]]:
    counts = []
    for count in _results(jobs, min(workers, len(jobs))):
        counts.append(count)
        if on_progress:
            on_progress(len(counts), len(jobs))
    return counts


def _results(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[str, int, int]]:
    """The outcome of each job as it ends, in any order."""
    if workers == 1:
        yield from map(_make_patient, jobs)
        return
    # Spawned, not forked: a fork of a process that runs threads may hang.
    pool = WorkerPool(workers, prepare=_start_worker)
    try:
        pending = {pool.submit(_make_patient, job) for job in jobs}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise FedwardError(
            "a worker process died while it made a patient", hint="it may lack memory: use fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _make_patient(job: _Job) -> tuple[str, int, int]:
    """Draw, scan and write one patient; returns site, studies and files."""
    header = job.random(_HEADER)
    person = draw_person(header, job.site, job.patient)
    visits = draw_visits(header, job.patient)
    anatomy = job.random(_ANATOMY)
    protocol = job.site.protocol
    body: Head | Torso
    body = draw_head(anatomy, ageing=job.site.ageing) if isinstance(protocol, MrProtocol) else draw_torso(anatomy)
    files = 0
    for visit in visits:
        current = round(protocol.current * header.uniform(0.8, 1.25)) if isinstance(protocol, CtProtocol) else 0
        context = Context(job.site, person, visit, job.seed, job.patient, current)
        acquired = _scan(job, body, visit, current)
        folder = job.folder / job.site.id / person.id / f"{visit.day:%Y%m%d}_{visit.accession}"
        files += write_series(folder / "001", context, acquired, FAST)[1]
        headers, count = write_series(folder / "002", context, acquired, REFERENCE)
        write_segmentation(folder / "seg.dcm", context, headers, acquired.label)
        files += count + 1
        if (again := _scan_again(job, body, visit)) is not None:
            files += write_series(folder / "003", context, again, SECOND)[1]
    return job.site.id, len(visits), files


def _scan(job: _Job, body: Head | Torso, visit: Visit, current: float) -> Acquisition:
    """The pictures of one visit."""
    rng = job.random(_SCAN, visit.index)
    pixels, fov = job.site.pixels(job.size), job.site.fov
    if isinstance(job.site.protocol, MrProtocol) and isinstance(body, Head):
        return simulate_mr(
            job.site.protocol,
            load_atlas(),
            body,
            rng,
            pixels=pixels,
            slices=job.slices,
            fov=fov,
            visit=visit.index,
        )
    if isinstance(job.site.protocol, CtProtocol) and isinstance(body, Torso):
        return simulate_ct(
            job.site.protocol,
            body,
            rng,
            pixels=pixels,
            slices=job.slices,
            fov=fov,
            current=current,
            visit=visit.index,
        )
    raise TypeError("the anatomy does not fit the scanner")


def _scan_again(job: _Job, body: Head | Torso, visit: Visit) -> Acquisition | None:
    """The second contrast of one visit, where the site takes one; the patient has moved."""
    if job.site.second is None or not isinstance(body, Head):
        return None
    return simulate_mr(
        job.site.second,
        load_atlas(),
        body,
        job.random(_AGAIN, visit.index),
        pixels=job.site.pixels(job.size, second=True),
        slices=job.slices,
        fov=job.site.fov,
        visit=visit.index,
        move=second_move(job.seed, job.site, job.patient, visit.index),
    )


def second_move(seed: int, site: SiteSpec, patient: int, visit: int = 0) -> Move:
    """How patient number ``patient`` of a site lies while the second contrast is taken."""
    return Move.draw(_random(seed, site, patient, _MOVE, visit))


def _random(seed: int, site: SiteSpec, patient: int, stream: int, visit: int) -> np.random.Generator:
    return np.random.default_rng([seed, crc32(site.id.encode()), patient, stream, visit])


def _count(site: SiteSpec, counts: Sequence[tuple[str, int, int]]) -> SiteCount:
    own = [(studies, files) for name, studies, files in counts if name == site.id]
    return SiteCount(site.id, len(own), sum(studies for studies, _ in own), sum(files for _, files in own))


def _manifest(done: Synthesized, sites: Sequence[SiteSpec], size: int, slices: int) -> dict[str, object]:
    return {
        "made_by": MAKER,
        "format": FORMAT,
        "seed": done.seed,
        "size": size,
        "slices": slices,
        "sites": [
            {
                "id": site.id,
                "title": site.title,
                "modality": site.protocol.modality,
                "patients": count.patients,
                "studies": count.studies,
                "files": count.files,
            }
            for site, count in zip(sites, done.sites, strict=True)
        ],
    }
