"""Synthetic patients of random contrast: what the public models are trained on before any hospital is asked.

A network that saw one contrast fails on the next scanner; one that saw no two alike learns what is common to all
(Billot et al. 2023, "SynthSeg", Medical Image Analysis 86, arXiv:2107.09559). So every phantom gets a scanner of its
own: a random sequence with random timings, field, noise, coil, k-space and matrix, or a CT of random dose, kernel and
contrast phase. Unlike there, brightness follows from relaxation times: tissues of arbitrary brightness in half of the
heads made the segmentation of the virtual hospitals worse at equal training (docs/public-models.md).

The anatomy descends from the same brain atlas and the same torso family as the virtual hospitals of the benchmark
(:mod:`simulation.sites`): no patient is the same, but a model trained here starts nearer to them than to real patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from zlib import crc32

import numpy as np

from client.cohort_scale import scaled
from shared.imaging.images import PatientImages, StudyImages
from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import load_atlas
from simulation.sites.ct import simulate_ct
from simulation.sites.mri import TISSUES, draw_head, simulate_mr
from simulation.sites.specs import ContrastPhase, CtProtocol, Kernel, MrProtocol, PulseSequence
from simulation.sites.torso import draw_torso

Range = tuple[float, float]

SLICES: Final = 6
STREAM: Final = crc32(b"public phantoms")
"""Third kind of randomness beside the sites' own: no phantom shares a generator with a patient of a virtual hospital,
whose streams start with the seed and the CRC-32 of the site's id (:mod:`simulation.sites.synthesize`)."""

TIMINGS: Final[Mapping[str, tuple[PulseSequence, Mapping[str, Range]]]] = MappingProxyType(
    {
        "T1 spin echo": (PulseSequence.SPIN_ECHO, {"tr": (350, 800), "te": (8, 20)}),
        "T1 gradient echo": (PulseSequence.SPOILED_GRADIENT_ECHO, {"tr": (12, 35), "te": (3, 6), "flip": (15, 40)}),
        "PD spin echo": (PulseSequence.SPIN_ECHO, {"tr": (2200, 5000), "te": (10, 45)}),
        "T2 spin echo": (PulseSequence.SPIN_ECHO, {"tr": (2500, 6500), "te": (70, 130)}),
        "FLAIR": (PulseSequence.FLAIR, {"tr": (7000, 11000), "te": (80, 140), "ti": (1600, 2500)}),
    }
)
"""Sequences, each as often as the next, and the ranges of their timings: ms, and degrees for the flip angle."""
MR_RANGES: Final[Mapping[str, Range]] = MappingProxyType(
    {
        "noise": (0.03, 0.12),
        "kept_phase": (0.7, 1.0),
        "kept_read": (0.8, 1.0),
        "shading": (0.05, 0.45),
        "fat": (0.1, 1.0),
        "thickness": (3.0, 5.0),
        "gap": (4.0, 7.0),
        "fov": (215, 265),
        "ageing": (0.0, 1.0),
    }
)
"""Ranges of what else an MR scanner does, as :class:`~simulation.sites.specs.MrProtocol` means it; ``fov`` in mm."""
MR_PIXELS: Final = (112, 128, 144, 160)
AVERAGES: Final = (32, 64)
CT_RANGES: Final[Mapping[str, Range]] = MappingProxyType({"photons": (2e4, 1.2e5), "fov": (370, 420)})
CT_PIXELS: Final = (112, 128, 160)
CT_SHARE: Final = 0.25
"""Share of the phantoms that are abdomens."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient with one study, and how it came about.

    Attributes:
        kind: The sequence, of :data:`TIMINGS`, or ``CT``.
        images: As training sees a hospital's patients: float32 in [0, 1], scaled by the same code.
    """

    kind: str
    images: PatientImages


def draw_phantom(seed: int, index: int) -> Phantom:
    """Phantom number ``index``; it depends on these two numbers alone, both not negative.

    Raises:
        DataError: The brain atlas is not installed.
    """
    anatomy, scanner, scan = (np.random.default_rng([seed, STREAM, index, stream, 0]) for stream in range(3))
    if scanner.random() < CT_SHARE:
        kind, acquired = "CT", _abdomen(anatomy, scanner, scan)
    else:
        kind, acquired = _head(anatomy, scanner, scan)
    modality = "CT" if kind == "CT" else "MR"
    noisy, reference = scaled(modality, acquired.fast.astype(np.float32), acquired.reference.astype(np.float32))
    spacing = (acquired.spacing, acquired.spacing)
    study = StudyImages(modality, noisy, reference, acquired.label, spacing)
    return Phantom(kind, PatientImages(f"phantom-{index}", (study,)))


def ranges() -> dict[str, Any]:
    """What the phantoms' scanners were drawn from, for the recipe."""
    return {
        "slices": SLICES,
        "share_of_ct": CT_SHARE,
        "mr_sequences": {kind: dict(timings) for kind, (_, timings) in TIMINGS.items()},
        "mr_fields": sorted(TISSUES),
        "mr": {name: list(between) for name, between in MR_RANGES.items()},
        "mr_averages_of_reference": list(AVERAGES),
        "mr_pixels": list(MR_PIXELS),
        "ct": {name: list(between) for name, between in CT_RANGES.items()},
        "ct_pixels": list(CT_PIXELS),
        "ct_phases": [phase.value for phase in ContrastPhase],
        "ct_kernels": [kernel.value for kernel in Kernel],
    }


def _head(
    anatomy: np.random.Generator, scanner: np.random.Generator, scan: np.random.Generator
) -> tuple[str, Acquisition]:
    drawn: dict[str, Any] = {name: float(scanner.uniform(*between)) for name, between in MR_RANGES.items()}
    fov, ageing = drawn.pop("fov"), drawn.pop("ageing")
    kind = str(scanner.choice(list(TIMINGS)))
    sequence, timings = TIMINGS[kind]
    drawn |= {name: float(scanner.uniform(*between)) for name, between in timings.items()}
    field, averages = float(scanner.choice(list(TISSUES))), int(scanner.choice(AVERAGES))
    protocol = MrProtocol(sequence, field, averages=averages, **drawn)
    head = draw_head(anatomy, ageing=ageing)
    pixels = int(scanner.choice(MR_PIXELS))
    return kind, simulate_mr(protocol, load_atlas(), head, scan, pixels=pixels, slices=SLICES, fov=fov)


def _abdomen(anatomy: np.random.Generator, scanner: np.random.Generator, scan: np.random.Generator) -> Acquisition:
    low, high = CT_RANGES["photons"]
    protocol = CtProtocol(
        phase=ContrastPhase(scanner.choice([phase.value for phase in ContrastPhase])),
        kernel=Kernel(scanner.choice([kernel.value for kernel in Kernel])),
        photons=float(np.exp(scanner.uniform(np.log(low), np.log(high)))),
    )
    pixels, fov = int(scanner.choice(CT_PIXELS)), float(scanner.uniform(*CT_RANGES["fov"]))
    return simulate_ct(protocol, draw_torso(anatomy), scan, pixels=pixels, slices=SLICES, fov=fov)
