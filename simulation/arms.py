"""What a run does beside the federation itself, one call per worker process: prepare a hospital, train alone, score.

Every function here takes and returns small plain values, since it runs in another process; images and weights pass
through files.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from client.cohort import Cohort, Split, build_cohort
from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.manifest import write_manifest
from client.node import Node
from client.released import network_with
from client.rounds import seed_of
from client.training.craft import Craft
from client.training.loop import train_centrally, train_round, usable
from client.training.personal import personalise
from shared.charter import Charter, TaskPlan
from shared.files import canonical_json, write_bytes
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.public import load_public
from shared.imaging.start import prepared
from shared.imaging.tasks import Task, get_task
from shared.parsing import parse_json
from shared.vector import Layout, Vector
from shared.weights import load_weights, travelling
from simulation.cpu import metered
from simulation.pictures import class_picture, intensity_picture
from simulation.record import Picture


@dataclass(frozen=True)
class Hospital:
    """One virtual hospital of a run: its images as they came, and its node."""

    site: str
    source: Path
    node: Path
    member: bool


@dataclass(frozen=True)
class Prepared:
    """What preparing a hospital came to: counts of files, of patients and of rules applied."""

    site: str
    deid: Mapping[str, int]
    reasons: Mapping[str, int]
    rules: Mapping[str, int]
    profile: tuple[str, str]
    train_patients: int
    held_out_patients: int
    studies: int
    slices: int
    modality: str


def start_worker() -> None:
    """Start of a worker process: one thread, since several trainings on few cores get in each other's way."""
    torch.set_num_threads(1)


def prepare(hospital: Hospital, profile_name: str, purpose: str, seed: int, holdout: float) -> Prepared:
    """De-identify a hospital's images and build its cohort; nothing is done twice for the same input."""
    node = Node.create(hospital.node, site=hospital.site, purpose=purpose, seed=seed)
    profile = Profile.load(profile_name)
    with node.open_log() as log:
        report = deidentify_folder(
            hospital.source,
            hospital.node / "released",
            profile=profile,
            key=SiteKey.load(hospital.node / "keys" / "pseudonym.key"),
            log=log,
            reports=hospital.node / "reports",
        )
        cohort = build_cohort(hospital.node / "released", hospital.node / "cohort", log=log, holdout=holdout)
        write_manifest(node, log)
    studies = [study for entry in cohort.entries for study in entry.studies]
    return Prepared(
        site=hospital.site,
        deid=report.counts,
        reasons=dict(Counter(one.reason for one in report.records() if one.reason)),
        rules=report.rules,
        profile=(profile.name, profile.sha256),
        train_patients=len(cohort.patients(Split.TRAIN)),
        held_out_patients=len(cohort.patients(Split.HELD_OUT)),
        studies=len(studies),
        slices=sum(study.slices for study in studies),
        modality=studies[0].modality,
    )


def update_again(node: Path, charter: Path, task_name: str, number: int, start: Vector) -> Vector:
    """A hospital's update of round ``number`` without differential privacy, float32 ``[d]``, trained once more.

    Training without privacy follows from the charter's seed, so the same round from the same model ``start`` gives the
    same update.
    """
    opened, rules, task = Node.open(node), Charter.load(charter), get_task(task_name)
    network = prepared(task, rules.task(task_name), rules.seed)
    layout = Layout.of(travelling(network))
    load_weights(network, layout.restore(replace(layout.flatten(travelling(network)), vector=start)))
    train_round(
        task,
        network,
        usable(task, opened.cohort.load_split(Split.TRAIN)),
        rules.task(task_name),
        round_number=number,
        privacy=rules.privacy,
        seed=seed_of(rules, opened.site, task_name),
    )
    return layout.flatten(travelling(network)).vector - start


# --- training without a federation, for comparison --------------------------------------------------------------------


@dataclass(frozen=True)
class Alone:
    """Ordinary training on the cohorts of ``nodes``: one node is local training, all of them pooled training."""

    plan: TaskPlan
    nodes: tuple[Path, ...]
    steps: int
    lr: float
    seed: int
    out: Path


def train_alone(job: Alone) -> Path:
    """Train one network as ``job`` says and return the file of its weights; a whole file is not made again."""
    if _whole(job.out):
        return job.out
    task = get_task(job.plan.name)
    network = prepared(task, job.plan, job.seed)
    sites = {node.name: Cohort.open(node / "cohort").load_split(Split.TRAIN) for node in job.nodes}
    craft = Craft.of(job.plan)
    with metered(job.out):
        train_centrally(
            task, network, sites, steps=job.steps, batch=job.plan.batch, lr=job.lr, seed=job.seed, craft=craft
        )
    write_bytes(job.out, safetensors.torch.save(network.state_dict()))
    return job.out


@dataclass(frozen=True)
class AtHome:
    """The model of ``weights`` personalised on the cohort of ``node`` (:mod:`client.training.personal`)."""

    plan: TaskPlan
    node: Path
    weights: Path
    steps: int
    lr: float
    seed: int
    out: Path


def train_at_home(job: AtHome) -> Path:
    """Make a hospital's own model as ``job`` says; returns the file of its weights. A whole file is not made again."""
    if _whole(job.out):
        return job.out
    task = get_task(job.plan.name)
    network = load_network(task, job.weights)
    patients = Cohort.open(job.node / "cohort").load_split(Split.TRAIN)
    craft = Craft.of(job.plan)
    with metered(job.out):
        personalise(
            task, network, patients, steps=job.steps, batch=job.plan.batch, lr=job.lr, seed=job.seed, craft=craft
        )
    write_bytes(job.out, safetensors.torch.save(network.state_dict()))
    return job.out


def write_public(name: str, task: str, path: Path) -> Path:
    """The public weights ``name`` of a task as a file like those of any other arm."""
    write_bytes(path, safetensors.numpy.save(dict(load_public(name, task))))
    return path


def _whole(path: Path) -> bool:
    """Whether the file is there and its header and length agree."""
    try:
        with safetensors.safe_open(path, framework="pt"):
            return True
    except (OSError, safetensors.SafetensorError):
        return False


# --- scores -----------------------------------------------------------------------------------------------------------


def held_out(task: Task, node: Path) -> list[PatientImages]:
    """The held-out patients of a node that ``task`` can use."""
    return usable(task, Cohort.open(node / "cohort").load_split(Split.HELD_OUT))


def load_network(task: Task, weights: Path) -> nn.Module:
    """The task's network with the weights of a file."""
    return network_with(task, safetensors.numpy.load_file(weights))


def score_model(task_name: str, weights: Path, node: Path) -> dict[str, float]:
    """Additive scores of a model on the held-out patients of one node; empty where the task does not apply there."""
    task = get_task(task_name)
    network = load_network(task, weights)
    total = Sums.zero()
    for patient in held_out(task, node):
        for study in patient.studies:
            total = total + task.score(task.predict(network, study), study)
    return dict(total.values)


def score_classical(task_name: str, node: Path) -> dict[str, dict[str, float]]:
    """Additive scores of every classical method on the held-out patients of one node, by method."""
    task = get_task(task_name)
    studies = [study for patient in held_out(task, node) for study in patient.studies]
    scores: dict[str, dict[str, float]] = {}
    for name, method in task.classical().items():
        total = Sums.zero()
        for study in studies:
            total = total + task.score(method(study), study)
        scores[name] = dict(total.values)
    return scores


def cached_scores(path: Path, task_name: str, node: Path) -> dict[str, dict[str, float]]:
    """:func:`score_classical`, kept in ``path``: classical methods do not change when a run is resumed."""
    try:
        scores: dict[str, dict[str, float]] = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):  # not there, or damaged
        scores = score_classical(task_name, node)
        write_bytes(path, canonical_json(scores))
    return scores


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(task_name: str, weights: Path, node: Path, site: str, classical: str) -> Picture | None:
    """The middle slice of the first held-out study of a site: input, a classical method, the model, the truth."""
    task = get_task(task_name)
    patients = held_out(task, node)
    if not patients:
        return None
    whole = patients[0].studies[0]
    middle = len(whole) // 2
    study = _one_slice(whole, middle)
    here = slice(middle, middle + 1)
    caption = f"A held-out patient of {site}, slice {middle + 1} of {len(whole)}"
    made = {
        classical: task.classical()[classical](whole)[here],
        "federated": task.predict(load_network(task, weights), whole)[here],
    }
    scores = {name: summarise(task_name, task.score(image, study)) for name, image in made.items()}
    classics = [(classical, made[classical][0], scores[classical])]
    ours = ("federated", made["federated"][0], scores["federated"])
    truth = task.truth(study)[0]
    if task.main_metric == "miou":
        return class_picture(site, caption, image=study.noisy[0], classical=classics, ours=ours, truth=truth)
    shown = task.shown(whole)[here]
    inputs = summarise(task_name, task.score(shown, study)) if shown.shape == study.reference.shape else {}
    return intensity_picture(site, caption, inputs=(shown[0], inputs), classical=classics, ours=ours, truth=truth)


def _one_slice(study: StudyImages, number: int) -> StudyImages:
    part = slice(number, number + 1)
    label = None if study.label is None else study.label[part]
    second = None if study.second is None else study.second[part]
    return StudyImages(study.modality, study.noisy[part], study.reference[part], label, study.spacing, second)
