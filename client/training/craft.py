"""What a charter may ask of training beyond steps and rates: altered patches, chosen patches, dropout, weight decay.

All of it happens to the patches of one patient at a time, with coins that know nothing of anybody else, before a
gradient is clipped; so it costs no privacy and leaves the bound of a patient as it is. A charter without these keys
trains as if none of this were here, bit for bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.charter import TaskPlan
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Batch, Task

CANDIDATES: Final = 4
"""So many patches are drawn where the one with the most foreground is taken."""


@dataclass(frozen=True)
class Craft:
    """The keys of :class:`~shared.charter.TaskPlan` of the same names, 0 for what it leaves out.

    Attributes:
        zoom: Patches are made up to this share larger or smaller, such as 0.1.
        rotation: And turned by up to so many degrees either way.
        input_noise: Largest standard deviation of normal noise on what the network sees, in its unit; that of each
            patch is drawn up to it.
        foreground: Share of patches for which the one with the most foreground of :data:`CANDIDATES` is taken.
        dropout: Chance of each channel before the last layer to be left out (:mod:`shared.imaging.dropping`).
        weight_decay: Of the hospital's optimiser; None for the optimiser's own default.
    """

    zoom: float = 0.0
    rotation: float = 0.0
    input_noise: float = 0.0
    foreground: float = 0.0
    dropout: float = 0.0
    weight_decay: float | None = None

    @classmethod
    def of(cls, plan: TaskPlan) -> "Craft":
        """What ``plan`` asks for."""
        return cls(
            zoom=plan.zoom or 0.0,
            rotation=plan.rotation or 0.0,
            input_noise=plan.input_noise or 0.0,
            foreground=plan.foreground or 0.0,
            dropout=plan.dropout or 0.0,
            weight_decay=plan.weight_decay,
        )

    def batch(
        self,
        task: Task,
        people: Sequence[PatientImages],
        count: int,
        rng: np.random.Generator,
    ) -> Batch:
        """``count`` patches of patients drawn in proportion to their slices."""
        weights = np.array([patient.slices for patient in people], dtype=np.float64)
        counts = rng.multinomial(count, weights / weights.sum())
        parts = [self.draw(task, patient, int(n), rng) for patient, n in zip(people, counts, strict=True) if n]
        return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])

    def draw(self, task: Task, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """``count`` patches of one patient as :meth:`Task.draw` gives them, chosen and altered.

        Raises:
            DataError: As :meth:`Task.draw`.
        """
        if not self.foreground:
            return self.altered(task.draw(patient, count, rng), rng)
        inputs, targets = task.draw(patient, CANDIDATES * count, rng)
        content = _content(targets).view(CANDIDATES, count)
        fullest = torch.from_numpy(rng.random(count) < self.foreground)
        rows = torch.where(fullest, content.argmax(dim=0), 0) * count + torch.arange(count)
        return self.altered((inputs[rows], targets[rows]), rng)

    def altered(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Each patch zoomed, turned and made noisier by numbers of its own; what lies outside is mirrored in.

        Input and target move together, whatever their resolutions; classes keep being classes. Both are interpolated,
        which takes noise out of an input that the network is to learn it from: see docs/networks.md.
        """
        inputs, targets = batch
        if self.zoom or self.rotation:
            moves = self._moves(len(inputs), rng)
            inputs, targets = _moved(inputs, moves), _moved(targets, moves)
        if self.input_noise:
            spread = rng.uniform(0, self.input_noise, size=(len(inputs), *[1] * (inputs.ndim - 1)))
            noise = (rng.standard_normal(tuple(inputs.shape)) * spread).astype(np.float32)
            inputs = inputs + torch.from_numpy(noise)
        return inputs, targets

    def _moves(self, count: int, rng: np.random.Generator) -> Tensor:
        """Where the pixels of ``count`` patches come from, as affine maps ``[count, 2, 3]`` of [-1, 1] to [-1, 1]."""
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, size=count))
        limit = math.log1p(self.zoom)
        scale = np.exp(rng.uniform(-limit, limit, size=count))
        cosine, sine, zero = np.cos(angle) / scale, np.sin(angle) / scale, np.zeros(count)
        rows = np.stack([np.stack([cosine, -sine, zero], 1), np.stack([sine, cosine, zero], 1)], 1)
        return torch.from_numpy(rows.astype(np.float32))


def _content(targets: Tensor) -> Tensor:
    """How much there is to see in each patch: its share of foreground classes, or its mean intensity."""
    seen = targets if targets.is_floating_point() else targets > 0
    return seen.float().flatten(1).mean(dim=1)


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    """``[n, ..., h, w]`` under ``moves``: linear between intensities, the nearest of classes."""
    planes = images.reshape(len(images), -1, *images.shape[-2:])
    grid = F.affine_grid(moves, list(planes.shape), align_corners=False)
    mode = "bilinear" if images.is_floating_point() else "nearest"
    result = F.grid_sample(planes.float(), grid, mode=mode, padding_mode="reflection", align_corners=False)
    return result.to(images.dtype).reshape(images.shape)
