"""What a second contrast is worth, and what registration is: the same networks, steps and patients with and without.

    python -m benchmarks.two_contrasts [--site P1] [--patients 12] [--denoise 150] [--segment 100] [--seeds 0,1]

Heads of a virtual hospital that takes two contrasts (``simulation/sites/specs.py``), the patient moving in between, as
its scanner delivers them; one study each, 12 slices. First the registration of each hospital's first heads against the
known move; then a network is trained on three quarters of the patients and scored on the others, with

- the noisy slice alone (``denoise``, ``segment``);
- the second contrast as the headers place it, without registration;
- the second contrast registered, as the cohort has it;
- the second contrast of a patient who did not move: what registration could reach at best.

Patients whose registration is uncertain, and whom the cohort would leave without a second contrast, are counted and
left out everywhere. Adam, 8 patches a step, one thread.
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from client.cohort_scale import in_window, scaled, window
from client.registration import Registered, Series, register, resampled
from client.training.loop import train_centrally
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.tasks import get_task
from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import load_atlas
from simulation.sites.contrasts import lying
from simulation.sites.mri import draw_head, simulate_mr
from simulation.sites.specs import PAIRED, MrProtocol, SiteSpec
from simulation.sites.warp import Move
from simulation.tables import ALONE_RATE

SEED, SLICES, SIZE, BATCH = 11, 12, 96, 8
OTHERS = 3
"""Heads of each hospital that nothing is trained on."""
ARMS = ("alone", "as placed", "registered", "did not move")


@dataclass(frozen=True)
class Scanned:
    """One patient: the study alone, the second contrast of each arm, and how the registration went."""

    images: StudyImages
    beside: dict[str, NDArray[np.float32]]
    before: float
    after: float
    found: Registered
    seconds: float


def scanned(site: SiteSpec, number: int) -> Scanned:
    assert isinstance(site.protocol, MrProtocol)
    assert site.second is not None
    streams = [np.random.default_rng([SEED, int(site.id[1:]), number, stream]) for stream in range(4)]
    head, move = draw_head(streams[0], ageing=site.ageing), Move.draw(streams[1])
    size, fov, atlas = site.pixels(SIZE), site.fov, load_atlas()
    one = simulate_mr(site.protocol, atlas, head, streams[2], pixels=size, slices=SLICES, fov=fov)
    again, state = site.pixels(SIZE, second=True), streams[3].bit_generator.state
    second = {}
    for name, how in (("registered", move), ("did not move", Move.none())):
        streams[3].bit_generator.state = state
        made = simulate_mr(site.second, atlas, head, streams[3], pixels=again, slices=SLICES, fov=fov, move=how)
        plain = series(made)
        second[name] = replace(plain, values=in_window(plain.values, window("MR", plain.values)))
    first, began = series(one), time.process_time()
    found = register(first, second["registered"])
    seconds = time.process_time() - began
    nothing = replace(found, matrix=np.eye(3), shift=np.zeros(3))
    index = np.argwhere(one.label > 0)[::50, ::-1].astype(float)
    points = index @ first.affine[:3, :3].T + first.affine[:3, 3]
    before, after = (
        float(np.linalg.norm(places - lying(points, move), axis=1).mean()) for places in (points, found.where(points))
    )
    beside = {
        "as placed": resampled(second["registered"], first, nothing),
        "registered": resampled(second["registered"], first, found),
        "did not move": resampled(second["did not move"], first, nothing),
    }
    noisy, reference = scaled("MR", one.fast.astype(np.float32), one.reference.astype(np.float32))
    images = StudyImages("MR", noisy, reference, one.label, (one.spacing, one.spacing))
    return Scanned(images, beside, before, after, found, seconds)


def series(acquired: Acquisition) -> Series:
    """As the scanner's DICOM headers place it."""
    count, spacing = acquired.fast.shape[1], acquired.spacing
    affine = np.diag([spacing, spacing, acquired.heights[1] - acquired.heights[0], 1.0])
    affine[:3, 3] = [-(count - 1) / 2 * spacing] * 2 + [acquired.heights[0]]
    return Series(acquired.fast.astype(np.float32), affine, "1")


def figure(task_name: str, arm: str, people: list[Scanned], steps: int, seed: int) -> tuple[float, float]:
    """The task's figure on the last quarter of the patients, and CPU seconds of training on the others."""
    task = get_task(task_name if arm == "alone" else f"{task_name}_pair")
    patients = [
        PatientImages(str(number), (replace(one.images, second=one.beside.get(arm)),))
        for number, one in enumerate(people)
    ]
    held = max(len(patients) // 4, 1)
    network, began = task.network(seed), time.process_time()
    given = {"site": patients[:-held]}
    train_centrally(task, network, given, steps=steps, batch=BATCH, lr=ALONE_RATE[task.name], seed=seed)
    seconds = time.process_time() - began
    sums = Sums.zero()
    for patient in patients[-held:]:
        sums += task.score(task.predict(network, patient.studies[0]), patient.studies[0])
    return summarise(task.name, sums)[task.main_metric], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", default="P1", choices=[site.id for site in PAIRED])
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--denoise", type=int, default=150, help="steps")
    parser.add_argument("--segment", type=int, default=100, help="steps")
    parser.add_argument("--seeds", default="0,1")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    people: list[Scanned] = []
    for site in PAIRED:
        found = [scanned(site, number) for number in range(asked.patients if site.id == asked.site else OTHERS)]
        say(
            f"registration {site.id}",
            {
                "mm before": [round(one.before, 2) for one in found],
                "mm after": [round(one.after, 2) for one in found],
                "certain": [one.found.certain for one in found],
                "CPU seconds": round(float(np.mean([one.seconds for one in found])), 2),
            },
        )
        if site.id == asked.site:
            people = [one for one in found if one.found.certain]
    for task, steps in (("denoise", asked.denoise), ("segment", asked.segment)):
        for arm in ARMS:
            rows = [figure(task, arm, people, steps, int(seed)) for seed in asked.seeds.split(",")]
            values, seconds = ([round(one[part], 3) for one in rows] for part in (0, 1))
            say(f"{task}, {arm}", {"figures": values, "CPU seconds": seconds})


def say(what: str, figures: dict[str, object]) -> None:
    print(f"{what}: {figures}", flush=True)


if __name__ == "__main__":
    main()
