"""A task small enough to do by hand: a 3x3 filter that learns the reference from the noisy slices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.charge import Charge, Receipt
from client.training.loop import price
from shared.charter import PrivacyPlan, TaskPlan
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, Method, OneLoss, Predictions, Sums, Task

PLAN = TaskPlan("toy", rounds=4, local_steps=5, batch=6, local_lr=0.1)
PRIVACY = PrivacyPlan("patient", sample_rate=0.5, slices_per_patient=2)


class ToyTask(OneLoss):
    name = "toy"
    title = "Toy"
    modalities = frozenset({"MR"})
    main_metric = "psnr"

    def __init__(self) -> None:
        self.drawn: list[tuple[str, int]] = []

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        conv = nn.Conv2d(1, 1, 3, padding=1)
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(torch.from_numpy(rng.normal(scale=0.3, size=parameter.shape)))
        return conv

    def eligible(self, study: StudyImages) -> bool:
        return study.modality in self.modalities

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        self.drawn.append((patient.key, count))
        noisy = np.concatenate([study.noisy for study in patient.studies])
        reference = np.concatenate([study.reference for study in patient.studies])
        rows = rng.integers(len(noisy), size=count)
        return torch.from_numpy(noisy[rows])[:, None], torch.from_numpy(reference[rows])[:, None]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean()

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        return study.noisy

    def predict(self, network: nn.Module, study: StudyImages) -> Predictions:
        raise NotImplementedError

    def truth(self, study: StudyImages) -> NDArray[Any]:
        return study.reference

    def score(self, predictions: Predictions, study: StudyImages) -> Sums:
        raise NotImplementedError

    def classical(self) -> Mapping[str, Method]:
        return {}


def study(rng: np.random.Generator, slices: int, *, size: int = 8, modality: str = "MR") -> StudyImages:
    """Random slices, a reference that a 3x3 filter can make of them, and a second contrast of MR."""
    noisy = rng.random((slices, size, size), dtype=np.float32)
    reference = (0.4 * noisy + 0.1 * np.roll(noisy, 1, axis=1)).astype(np.float32)
    label = rng.integers(0, 4, noisy.shape).astype(np.uint8)
    second = np.sqrt(reference) if modality == "MR" else None
    return StudyImages(modality, noisy, reference, label, (1.0, 1.0), second)


def people(count: int, *, slices: int = 3, size: int = 8, seed: int = 0) -> list[PatientImages]:
    rng = np.random.default_rng(seed)
    return [PatientImages(f"P{index}", (study(rng, slices, size=size),)) for index in range(count)]


def paid(
    task: Task,
    patients: list[PatientImages],
    plan: TaskPlan = PLAN,
    privacy: PrivacyPlan = PRIVACY,
    *,
    round_number: int = 1,
) -> Receipt:
    """A receipt without a file."""
    charge: Charge = price(task, patients, plan, privacy, round_number=round_number)
    return Receipt(charge)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])
