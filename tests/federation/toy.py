"""A federation small enough for a test: a task with twelve weights, and hospitals whose cohort is written directly.

Worker processes load the ClientApp from here, so that the toy task is registered there too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.app import app as app  # noqa: PLC0414  # what the worker is told to load
from client.basis import Basis, DefaultBasis
from client.cohort import Split
from client.consenting import set_basis
from client.node import Node
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.imaging import inference
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, OneLoss, Sums, register

APP = "tests.federation.toy:app"
PURPOSE = "testing the federation"
SIDE = 12


@register
class Toy(OneLoss):
    """Recover the reference from the noisy image by two small convolutions: twelve weights and a counter."""

    name = "toy"
    title = "Toy"
    modalities = frozenset({"MR"})
    main_metric = "psnr"
    sums: tuple[str, ...] = ("slices", "mse")

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        torch_state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1))
        torch.random.set_rng_state(torch_state)
        network.register_buffer("rounds", torch.tensor(2**40 + 1))
        return network

    def eligible(self, study: StudyImages) -> bool:
        return study.modality in self.modalities

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        study = patient.studies[0]
        chosen = rng.integers(len(study), size=count)
        return torch.from_numpy(study.noisy[chosen])[:, None], torch.from_numpy(study.reference[chosen])[:, None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) ** 2).mean()

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        return study.noisy

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.float32]:
        return inference.run(network, self.inputs(study))[:, 0]

    def truth(self, study: StudyImages) -> NDArray[np.float32]:
        return study.reference

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        error = float(((predictions - study.reference) ** 2).sum())
        return Sums({"slices": float(len(study)), "mse": error})

    def classical(self) -> Mapping[str, Callable[[StudyImages], NDArray[np.float32]]]:
        return {}


def charter(**changes: Any) -> Charter:
    """Three rounds of the toy task; ``plan`` and ``privacy`` take changes of those parts."""
    plan = {"name": "toy", "rounds": 3, "local_steps": 2, "batch": 4, "local_lr": 0.2, "evaluate_every": 1}
    plan |= changes.pop("plan", {})
    # In the clear, scores leave by consent only; most tests are about something else and give it.
    privacy = PrivacyPlan(**{"scores": "open"} | changes.pop("privacy", {}))
    values: dict[str, Any] = {"id": "test", "purpose": PURPOSE, "min_sites": 2, "deadline": 20.0, "seed": 3} | changes
    return Charter(tasks=(TaskPlan(**plan),), privacy=privacy, **values)


def make_node(folder: Path, site: str, rules: Charter, *, patients: int = 4, modality: str = "MR") -> Path:
    """A node that has pinned ``rules``, with ``patients`` in training and one held out, different at every site."""
    node = Node.create(folder, site=site, purpose=rules.purpose, seed=0)
    node.pin(rules)
    rng = np.random.default_rng(list(site.encode()))
    rows = []
    for number in range(patients + 1):
        reference = rng.random((3 + number % 2, SIDE, SIDE), np.float32)
        noisy = np.asarray(np.clip(0.5 * reference + 0.1, 0, 1), np.float32)
        file = f"{site}-{number}.safetensors"
        path = folder / "cohort" / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        data = safetensors.numpy.save({"noisy": noisy, "reference": reference})
        path.write_bytes(data)
        study = {"file": file, "modality": modality, "slices": len(noisy), "height": SIDE, "width": SIDE}
        study |= {"spacing": [1.0, 1.0], "labelled": False, "source": "0" * 64}
        study["sha256"] = hashlib.sha256(data).hexdigest()
        split = Split.HELD_OUT if number == patients else Split.TRAIN
        rows.append({"key": f"PATIENT-{site}-{number}", "split": split.value, "studies": [study]})
    index = {"version": 1, "patients": rows, "left_out": {}}
    (folder / "cohort" / "index.json").write_text(json.dumps(index))
    return folder


def make_nodes(root: Path, rules: Charter, sites: int = 3, **options: Any) -> dict[int, dict[str, str]]:
    """Node configurations of ``sites`` hospitals H1, H2, ... below ``root``, as the grid takes them."""
    names = [f"H{number}" for number in range(1, sites + 1)]
    return {
        100 + number: {"site": name, "node-dir": str(make_node(root / name, name, rules, **options))}
        for number, name in enumerate(names)
    }


def allow_all(folder: Path) -> Path:
    """As :func:`allow_charters`, and with a lawful basis, so that it trains."""
    return with_basis(allow_charters(folder))


def allow_charters(folder: Path) -> Path:
    """Have a real hospital allow what its pinned charter asks for, also without masks and without privacy."""
    (folder / "policy.toml").write_text("require_masks = false\nrequire_privacy = false\n")
    return folder


def with_basis(folder: Path) -> Path:
    """Give the data set of a hospital a lawful basis: a real one trains on nobody without."""
    node = Node.open(folder)
    basis = Basis.parse("GDPR 6(1)(e), 9(2)(j)")
    since = datetime(2020, 1, 1, tzinfo=UTC).date()
    set_basis(node, DefaultBasis(basis, (node.purpose,), since, None, "a law on research", "Ada", "a test"))
    return folder


def log_rows(node: Path) -> list[dict[str, Any]]:
    """The audit log of a node, parsed."""
    return [json.loads(line) for line in (node / "audit" / "log.jsonl").read_bytes().splitlines()]
