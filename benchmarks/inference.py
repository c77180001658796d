"""How long a slice takes: the networks in every form, beside every classical method of the survey.

    python -m benchmarks.inference [--task denoise] [--rounds 7] [--side 512] [--processor-time]

One slice of 512 by 512 pixels comes out (super-resolution by two gets 256 by 256). Everything that a task has takes
turns in one process with one thread, and another one begins each round: median, and quartiles, of all rounds. The
networks are torch's in two threads too. What a pruned network and a student compute does not depend on their weights,
so theirs are those of a pruned public model and random ones, untrained.

On a machine that others use too --processor-time counts what the processor did for this process, and leaves out two
threads, of which that says nothing.

The classical methods get the slice as they get it in the reports: estimating the noise belongs to a filter, and finding
out which class is which, from the truth, to a clustering.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from threadpoolctl import ThreadpoolController
from torch import nn

from client.evaluation.models import open_models
from client.export import fitting, speed
from client.export.graph import OnnxNetwork, deployed, parameters, to_onnx
from client.export.people import phantoms
from client.export.quantise import LIMITS, quantise
from client.export.run import deciding, figures, inputs, scale_of
from shared.imaging import classical
from shared.imaging.images import StudyImages
from shared.imaging.public import PUBLIC
from shared.imaging.tasks import Method, Task, get_task

RATIO = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(PUBLIC["public-1"]), action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=speed.SIDE)
    parser.add_argument("--processor-time", action="store_true")
    asked = parser.parse_args()
    clock = time.process_time if asked.processor_time else time.perf_counter
    what = "processor time" if asked.processor_time else "time"
    side = asked.side
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.2f}; {what} of one slice in ms, {side} x {side} out")
    for name in asked.task or list(PUBLIC["public-1"]):
        task = get_task(name)
        print(f"\n{task.title:<44}{'median':>9}{'quartiles':>20}{'parameters':>12}{'bytes':>9}")
        for line in lines(task, asked.rounds, asked.side, clock):
            print(line)


def lines(task: Task, rounds: int, side: int, clock: Callable[[], float]) -> Iterator[str]:
    people = phantoms(task, fit=4)
    networks, graphs = forms(task, people.studies(held_out=False))
    works = speed.works(networks, graphs, scale=scale_of(task), side=side)
    if clock is time.process_time:
        works = {name: work for name, work in works.items() if "1 thread" in name}
    study = enlarged(people.studies(held_out=True)[0], side)
    task.inputs(study)  # the low-resolution image and the standardised one are there before the clock starts
    pools = ThreadpoolController()
    works |= {
        f"classical/{key}/": alone(method, study, pools) for key, method in task.classical().items() if key != "noisy"
    }
    found = speed.timed(works, rounds, clock)
    for name, one in sorted(found.items(), key=lambda row: row[1].median):
        form, runtime, where = name.split("/")
        if form == "classical":
            title, size = classical.title(runtime), ""
        else:
            title = f"{form}, {runtime}, {where}"
            size = f"{parameters(networks.get(form, networks['float32'])):>12}"
            size += f"{len(graphs[form]):>9}" if runtime != "torch" else ""
        yield f"{title:<44}{one.median:9.1f}{f'{one.low:.1f} to {one.high:.1f}':>20}{size}".rstrip()


def alone(method: Method, study: StudyImages, pools: ThreadpoolController) -> Callable[[], object]:
    """A classical method with one thread, whatever the libraries under it would take."""

    def work() -> object:
        with pools.limit(limits=1):
            return method(study)

    return work


def forms(task: Task, studies: list[StudyImages]) -> tuple[dict[str, nn.Module], dict[str, bytes]]:
    (model,) = open_models(["public-1"], task=task.name, charter="", quorum=None)
    whole, key = deployed(model.network), deciding(task)
    networks = {
        "float32": whole,
        "pruned": fitting.pruned(whole, RATIO),
        "student": fitting.student_of(whole, 0).eval(),
    }
    graphs = {name: to_onnx(network) for name, network in networks.items()}
    seen = studies[:2]
    graphs["int8"] = quantise(
        graphs["float32"],
        inputs(task, studies, 8),
        lambda made: figures(task, OnnxNetwork(made), seen)[key],
        LIMITS[key],
    ).graph
    return networks, graphs


def enlarged(study: StudyImages, side: int) -> StudyImages:
    """The middle slice of a study, enlarged to ``side`` by ``side``."""
    middle = len(study) // 2

    def larger(image: Any, kernel: Image.Resampling) -> Any:
        return np.asarray(Image.fromarray(image).resize((side, side), kernel))[None]

    noisy, reference = (
        np.clip(larger(series[middle], Image.Resampling.BICUBIC), 0, 1) for series in (study.noisy, study.reference)
    )
    label = None if study.label is None else larger(study.label[middle], Image.Resampling.NEAREST)
    return StudyImages(study.modality, noisy, reference, label, study.spacing)


if __name__ == "__main__":
    main()
