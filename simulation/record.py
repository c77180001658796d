"""The record of one simulated run: the single source of ``summary.json`` and of the page ``report.html``.

Whoever runs a simulation fills a :class:`RunRecord`; nothing on the page is computed from anywhere else, so a figure
cannot differ between the two. Counts are plain integers, times seconds, sizes bytes, and a metric is named by the key
that the tasks use: ``mse``, ``psnr`` (dB), ``ssim``, ``miou``, ``dice``, ``accuracy`` (the last five between 0 and 1
except PSNR).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

Metrics = Mapping[str, float]
"""Values by metric key, for example ``{"mse": 0.0004, "psnr": 34.0, "ssim": 0.93}``."""

Role = Literal["input", "classical", "ours", "truth"]

# The ways of training, in the order of every table. A run fills those that it ran.
ARM_ORDER = (
    *("initial", "local", "pooled", "federated", "personal"),
    *("public", "tuned", "federated_dp", "federated_shared", "scratch"),  # what privacy costs
)


EVIDENCE: Final = "evidence"
"""The folder of the evidence report in that of a simulation."""


@dataclass(frozen=True)
class SiteRecord:
    """One virtual hospital, described without naming anybody.

    Attributes:
        id: The site's id in the federation, such as ``"H1"``.
        modality: ``"MR"`` or ``"CT"``.
        contrast: What a radiologist would call the series, such as ``"T1 spin echo"``.
        field: Field strength or reconstruction kernel, such as ``"1.5 T"``.
        noise: Degradation of the input series, such as ``"7 % Rician"``.
        train_patients, held_out_patients: Patients on each side of the split, which is by patient.
        studies, slices: Studies and slices in the cohort, both sides together.
        member: False for a site that never trained: models are only tried on it.
    """

    id: str
    modality: str
    contrast: str
    field: str
    noise: str
    train_patients: int
    held_out_patients: int
    studies: int
    slices: int
    member: bool = True


@dataclass(frozen=True)
class CurvePoint:
    """Quality after ``round`` rounds (0: before the first) over all held-out slices of the member sites together."""

    round: int
    metrics: Metrics


@dataclass(frozen=True)
class ArmRecord:
    """What one way of training reached on held-out patients.

    Attributes:
        all_sites: Mean over all member sites. Where each site has a model of its own,
            every one is tried on every member site.
        own_site: Mean of each model on the site that trained it. None where one model serves all sites: then it is
            ``all_sites`` by definition.
        unseen: Mean over the sites that never trained; None where there is no such site.
        gradients: Patch gradients computed in all, so that arms are compared at equal work; None if unknown.
        steps: Optimiser steps in all; None if unknown.
        seconds: Wall time of training; None if not measured.
        curve: Quality over rounds; empty where it was not followed.
        cpu_seconds: Processor time of training, of all hospitals and models of the arm; None if not measured.
    """

    all_sites: Metrics
    own_site: Metrics | None = None
    unseen: Metrics | None = None
    gradients: int | None = None
    steps: int | None = None
    seconds: float | None = None
    curve: tuple[CurvePoint, ...] = ()
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Panel:
    """One image of a picture row.

    Attributes:
        role: Which column it stands in.
        method: Name of the classical method or of the arm; empty for input and truth.
        png: The image as PNG bytes (see :mod:`shared.imaging.pictures`).
        metrics: Scores of exactly this image against the truth; empty for the truth itself.
    """

    role: Role
    png: bytes
    method: str = ""
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """One held-out slice of one site: input, best classical method, ours, truth, in that order."""

    site: str
    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class SweepPoint:
    """One training that shows what privacy costs.

    Attributes:
        kind: ``tuned`` without noise, ``local`` with all of the noise at every hospital, ``shared`` with a share each;
            ``scratch`` is ``shared`` from random weights, all of which train.
        epsilon: The guarantee aimed at; None without noise, or where the noise and not the guarantee was given.
        repeat: From 0: the same training with other random numbers.
        all_sites, unseen: As in :class:`ArmRecord`.
    """

    kind: Literal["tuned", "local", "shared", "scratch"]
    epsilon: float | None
    repeat: int
    all_sites: Metrics
    unseen: Metrics | None = None


@dataclass(frozen=True)
class TaskRecord:
    """Everything that a run shows about one task.

    Attributes:
        name, title: ``"denoise"`` and ``"Denoising"``.
        main_metric: The metric that decides which method is best.
        rounds: Federated rounds of this task.
        classical: Metrics by method name, mean over member sites like ``ArmRecord.all_sites``. Names as in
            ``Task.classical()``.
        arms: By name, see :data:`ARM_ORDER`; ``"federated"`` must be there.
        per_site: Metrics by site, then by arm or classical method name; the local arm is the site's own model.
        local_matrix: Metrics of local models: ``local_matrix[trained on][tried on]``. Empty where not run.
        together: Metrics by method or arm over all held-out slices of the member sites together, where large hospitals
            count more: what the curves show, since the record of the rounds sums them so. Empty without curves.
        sweep: The trainings that show what privacy costs.
        pictures: At least one per site where there is one to show.
        parameters: Trainable parameters of the network.
        classes: Names of the label classes, background first; empty unless the task labels pixels.
        setup: One line on how the arms were trained: optimisers, steps per round, batch, starting point.
    """

    name: str
    title: str
    main_metric: str
    rounds: int
    classical: Mapping[str, Metrics]
    arms: Mapping[str, ArmRecord]
    per_site: Mapping[str, Mapping[str, Metrics]]
    local_matrix: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    together: Mapping[str, Metrics] = field(default_factory=dict)
    sweep: tuple[SweepPoint, ...] = ()
    pictures: tuple[Picture, ...] = ()
    parameters: int | None = None
    classes: tuple[str, ...] = ()
    setup: str = ""


@dataclass(frozen=True)
class PrivacyRecord:
    """What training cost the patients of one site, composed over the named tasks.

    Attributes:
        site: The site's id.
        tasks: Names of the tasks that were trained under differential privacy and are composed here.
        epsilon, delta: The guarantee, for the unit and the neighbouring relation below.
        steps: Noisy steps charged, empty ones included.
        sample_rate: Poisson inclusion probability of a patient per step (q).
        noise_multiplier: Standard deviation of the noise over the clipping norm (sigma).
        clip: Clipping norm of one patient's gradient; its kind in ``clipping``.
        patients: Patients in training at this site, or at all of them.
        noise: ``local``: the guarantee holds for whatever leaves the site; ``shared``: for the masked sum of all sites,
            against a coordinator and as many hospitals in league with it as the charter says.
    """

    site: str
    tasks: tuple[str, ...]
    epsilon: float
    delta: float
    steps: int
    sample_rate: float
    noise_multiplier: float
    clip: float
    patients: int
    accountant: str = "PRV"
    unit: str = "patient"
    neighbouring: str = "add or remove one patient"
    clipping: str = "automatic"
    noise: Literal["local", "shared"] = "local"


@dataclass(frozen=True)
class DeidRecord:
    """De-identification of all sites together.

    Attributes:
        files, released, quarantined, refused: Counts of files; the last three add up to the first.
        profile, profile_sha256: The rule table that was applied, and its hash.
        reasons: How many files were held back, by reason.
        rules: How often each action was applied to an element, by action or rule name.
    """

    files: int
    released: int
    quarantined: int
    refused: int
    profile: str
    profile_sha256: str
    reasons: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LogRecord:
    """One audit log.

    Attributes:
        owner: Whose.
        entries: How long it is.
        verified: Whether its chain verified, and, of a hospital's, its newest checkpoint.
        head: The hash of its last entry (hex).
        witnesses: Other hospitals that cosigned it as it was at the end; 0 for a log that nobody was shown.
    """

    owner: str
    entries: int
    verified: bool
    head: str
    witnesses: int = 0


@dataclass(frozen=True)
class SeenRecord:
    """One hospital's update of one round, and what the coordinator got instead of it.

    Attributes:
        site, task, round: Whose, and of which round of which task.
        numbers: Length of the update.
        shown: How many of its numbers, from the first, the pictures show.
        true, masked: PNG pictures of both, a pixel a number, mid-grey for 0.
        correlation: Pearson's, over all numbers.
        chance: Bound, either way, within which the correlation of numbers that have nothing to do with each other lies
            in 95 of 100 cases.
    """

    site: str
    task: str
    round: int
    numbers: int
    shown: int
    true: bytes
    masked: bytes
    correlation: float
    chance: float


@dataclass(frozen=True)
class KindRecord:
    """Messages of one kind: Flower's type, how many questions and answers, and their content in bytes."""

    kind: str
    questions: int
    answers: int
    down: int
    up: int


@dataclass(frozen=True)
class WireRecord:
    """Bytes of message content between coordinator and sites, headers of the transport not counted.

    Attributes:
        down, up: To the sites, and from them.
        messages: Messages in both directions.
        per_round: Content of one site's answer in one training round, by task name.
        masked: Whether updates travelled under masks that only their sum takes off.
        per_parameter: Bytes of a masked update for each of its numbers, message and all, by task name.
        kinds: All messages by kind.
        seen: One update as the coordinator saw it; None in a run without masks.
    """

    down: int
    up: int
    messages: int
    per_round: Mapping[str, int] = field(default_factory=dict)
    masked: bool = False
    per_parameter: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[KindRecord, ...] = ()
    seen: SeenRecord | None = None


@dataclass(frozen=True)
class Machine:
    """Where it ran: processor cores that were used, and what the platform calls itself."""

    cores: int
    platform: str


@dataclass(frozen=True)
class RunRecord:
    """One run of ``fedward simulate``.

    Attributes:
        title: The run's name, for people.
        started: When it began, in UTC.
        seconds: Wall time of the whole run.
        seed: The seed of sites, networks and sampling. Noise for privacy is not seeded unless ``limits`` says so.
        rounds: Federated rounds of one task (the largest where tasks differ).
        versions: Version by package name.
        privacy: One entry per site that trained under differential privacy; empty where that arm was not run.
        limits: What the page cannot show, one sentence each.
        charter_sha256: Hash of the charter as run, with the tasks, rounds and seed that the command's options ask for;
            each arm pins its own, with one task and privacy on or off, which lies in the arm's folder.
        command: The command that makes this run again; empty if unknown.
    """

    title: str
    started: datetime
    seconds: float
    seed: int
    rounds: int
    machine: Machine
    versions: Mapping[str, str]
    sites: tuple[SiteRecord, ...]
    tasks: tuple[TaskRecord, ...]
    privacy: tuple[PrivacyRecord, ...]
    deid: DeidRecord
    logs: tuple[LogRecord, ...]
    wire: WireRecord
    limits: tuple[str, ...]
    charter_sha256: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        if self.started.utcoffset() is None:
            raise ValueError("the start of a run needs its time zone: a naive datetime says nothing in a record")

    @property
    def members(self) -> tuple[SiteRecord, ...]:
        """The sites that trained."""
        return tuple(site for site in self.sites if site.member)

    @property
    def unseen(self) -> tuple[SiteRecord, ...]:
        """The sites that no model was trained on."""
        return tuple(site for site in self.sites if not site.member)

    @property
    def entries(self) -> int:
        """Audit entries of all logs together."""
        return sum(log.entries for log in self.logs)

    @property
    def witnesses(self) -> int:
        """Hospitals that others could rely on: so many cosigned each hospital's log, at least."""
        counts = [log.witnesses for log in self.logs if log.witnesses]
        return min(counts, default=0)

    @property
    def verified(self) -> bool:
        """Whether there is a record and every log of it verified."""
        return bool(self.logs) and all(log.verified for log in self.logs)
