"""What a private step costs: one backward per patient beside plain SGD and the three ways of Opacus, in one run.

    python -m benchmarks.dp [--tasks denoise,superres,segment] [--cases plain,ours] [--patients 4] [--patches 4]
                            [--repeats 15] [--device cpu|cuda] [--memory | --no-memory] [--json]

Every step sees the same images (patients * patches) with the task's own network, patch size and loss:

plain        one backward over all images and a step of SGD; no privacy
hooks        Opacus GradSampleModule and DPOptimizer: a gradient for each image, by hooks; the unit is the image
functorch    the same by vmap over torch.func
ghost        Opacus' ghost clipping: norms first, then a second backward; the unit is the image
ours         PatientDPOptimizer: one backward per patient, clipped as a whole; the unit is the patient
ours-bf16    the same with the forward pass under bfloat16 autocast, against plain in float32

Columns: CPU milliseconds of a step on one thread (the process's own, so that other work on the machine counts little;
wall time and synchronised on a GPU), images in a second of that time, and the median over the repeats of the ratio to
plain in the same repeat, the order shuffled anew in each. Peak memory is that of three steps in a fresh process, above
what was resident when network, batches and optimiser stood (on a GPU: allocated by torch). A peer that raises is told
by the exception's name. All of the private cases draw their noise; ours from AES in counter mode, Opacus' from torch.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from client.training.gradients import gradients, trained
from client.training.patient_dp import PatientDPOptimizer
from shared.charter_plans import Precision
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, Task, get_task, task_names

ROOT = Path(__file__).parents[1]
CASES = ("plain", "hooks", "functorch", "ghost", "ours", "ours-bf16")
FAILURES = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
WARM_UP, CLIP, NOISE, RATE = 2, 1.0, 1.0, 1e-4
Step = Callable[[], object]


def batches(task: Task, patients: int, patches: int, device: str) -> list[Batch]:
    """One batch a patient, of the task's own patches; random images, since their content costs nothing."""
    found = []
    for number in range(patients):
        rng = np.random.default_rng(number)
        noisy, reference = rng.random((2, 2, 128, 128), dtype=np.float32)
        label = rng.integers(0, 3, noisy.shape).astype(np.uint8)
        study = StudyImages(max(task.modalities), noisy, reference, label, (1.0, 1.0), noisy)
        inputs, targets = task.draw(PatientImages(str(number), (study,)), patches, rng)
        found.append((inputs.to(device), targets.to(device)))
    return found


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(trained(network), lr=RATE)


def plain(task: Task, network: nn.Module, given: Sequence[Batch]) -> Step:
    optimizer, whole = sgd(network), joined(given)

    def step() -> None:
        optimizer.zero_grad()
        _, found = gradients(task, network, whole)
        for parameter, gradient in zip(trained(network), found, strict=True):
            parameter.grad = gradient
        optimizer.step()

    return step


def ours(task: Task, network: nn.Module, given: Sequence[Batch], *, precision: Precision) -> Step:
    optimizer = PatientDPOptimizer(
        sgd(network), noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=len(given)
    )

    def step() -> None:
        optimizer.zero_grad()
        for batch in given:
            optimizer.accumulate(gradients(task, network, batch, precision=precision)[1])
        optimizer.step()

    return step


def hooks(task: Task, network: nn.Module, given: Sequence[Batch], *, functorch: bool) -> Step:
    inputs, targets = joined(given)
    wrapped = GradSampleModule(network, force_functorch=functorch)
    optimizer = DPOptimizer(sgd(wrapped), noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=len(inputs))

    def step() -> None:
        optimizer.zero_grad()
        task.loss(wrapped(inputs), targets).backward()
        optimizer.step()

    return step


class Rows:
    """A task's loss as Opacus' ghost clipping wants one: of each image by itself, where it asks for no reduction."""

    reduction = "mean"

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.reduction == "mean":
            return self.task.loss(outputs, targets)
        rows = zip(outputs.split(1), targets.split(1), strict=True)
        return torch.stack([self.task.loss(output, target) for output, target in rows])


def ghost(task: Task, network: nn.Module, given: Sequence[Batch]) -> Step:
    inputs, targets = joined(given)
    wrapped = GradSampleModuleFastGradientClipping(network, max_grad_norm=CLIP, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        sgd(wrapped), noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=len(inputs)
    )
    criterion = DPLossFastGradientClipping(wrapped, optimizer, Rows(task))

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(inputs), targets).backward()
        optimizer.step()

    return step


def joined(given: Sequence[Batch]) -> Batch:
    return torch.cat([inputs for inputs, _ in given]), torch.cat([targets for _, targets in given])


BUILD: dict[str, Callable[..., Step]] = {
    "plain": plain,
    "hooks": partial(hooks, functorch=False),
    "functorch": partial(hooks, functorch=True),
    "ghost": ghost,
    "ours": partial(ours, precision="float32"),
    "ours-bf16": partial(ours, precision="bfloat16"),
}


def built(case: str, name: str, asked: argparse.Namespace) -> Step:
    """A step of a case.

    Raises:
        NotImplementedError: Opacus is asked for a task with more than one objective.
    """
    task = get_task(name)
    network = task.network(0).to(asked.device)
    given = batches(task, asked.patients, asked.patches, asked.device)
    if case in ("hooks", "functorch", "ghost") and len(task.objectives(network, given[0])) > 1:
        raise NotImplementedError("one backward of one loss, and the task has more")
    return BUILD[case](task, network, given)


def seconds(step: Step, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    step()
    return time.process_time() - began


def measure(name: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a case: times, ratios and memory, or the failure."""
    steps: dict[str, Step] = {}
    failures: dict[str, str] = {}
    for case in asked.cases:
        try:
            steps[case] = built(case, name, asked)
            for _ in range(WARM_UP):
                steps[case]()
        except FAILURES as error:
            failures[case] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
            steps.pop(case, None)
    times: dict[str, list[float]] = {case: [] for case in steps}
    for _ in range(asked.repeats):
        for case in random.sample(sorted(steps), len(steps)):
            times[case].append(seconds(steps[case], asked.device))
    images = asked.patients * asked.patches
    rows = []
    for case in asked.cases:
        row: dict[str, Any] = {"task": name, "case": case, "failure": failures.get(case)}
        if case in times:
            median = statistics.median(times[case])
            ratios = [one / other for one, other in zip(times[case], times["plain"], strict=True)]
            row |= {"ms": 1e3 * median, "images_per_s": images / median, "ratio": statistics.median(ratios)}
            row |= {"peak_bytes": peak(case, name, asked)} if asked.memory else {}
        rows.append(row)
    return rows


def peak(case: str, name: str, asked: argparse.Namespace) -> int:
    """Peak memory of a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dp", "--alone", case, "--tasks", name, "--device", asked.device]
    command += ["--patients", str(asked.patients), "--patches", str(asked.patches)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def alone(case: str, name: str, asked: argparse.Namespace) -> int:
    step = built(case, name, asked)
    if asked.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            step()
        return int(torch.cuda.max_memory_allocated() - before)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now (proc(5))
    before = high_water()
    for _ in range(3):
        step()
    return high_water() - before


def high_water() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def machine(device: str) -> dict[str, object]:
    """Processor, load, and the instructions that bfloat16 gains by."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = set(facts.get("flags", "").split())
    return {
        "processor": facts.get("model name", "unknown"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }


def show(rows: Sequence[dict[str, Any]], *, memory: bool) -> None:
    print(f"{'task':<14}{'case':<11}{'ms':>8}{'images/s':>10}{'x plain':>9}{'peak MiB':>10}")
    for row in rows:
        if row["failure"]:
            print(f"{row['task']:<14}{row['case']:<11}  {row['failure']}")
            continue
        told = f"{row['peak_bytes'] / 2**20:>10.0f}" if memory else f"{'-':>10}"
        figures = f"{row['ms']:>8.1f}{row['images_per_s']:>10.0f}{row['ratio']:>9.2f}{told}"
        print(f"{row['task']:<14}{row['case']:<11}{figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(task_names()))
    parser.add_argument("--cases", default=",".join(CASES), help="Plain is always among them.")
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--patches", type=int, default=4, help="Of each patient in a step.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Opacus on its own hooks
    names = asked.tasks.split(",")
    asked.cases = [case for case in CASES if case == "plain" or case in asked.cases.split(",")]
    if asked.alone:
        print(alone(asked.alone, names[0], asked))
        return
    rows = [row for name in names for row in measure(name, asked)]
    about = machine(asked.device)
    if asked.json:
        print(
            json.dumps({"machine": about, "patients": asked.patients, "patches": asked.patches, "rows": rows}, indent=1)
        )
        return
    bf16 = ", ".join(about["bf16"]) if about["bf16"] else "none: expect bfloat16 to be no faster, or slower"  # type: ignore[arg-type]
    print(f"{about['processor']}, {about['cores']} cores, load {about['load']}; bfloat16 instructions: {bf16}")
    print(f"{about['device']}; {asked.patients} patients with {asked.patches} patches each in every step")
    show(rows, memory=asked.memory)


if __name__ == "__main__":
    main()
