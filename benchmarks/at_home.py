"""A hospital's own model and training alone, with more steps than a run of ``fedward simulate`` gives them.

    python -m benchmarks.at_home RUN --task denoise|superres|segment [--times 2] [--out FOLDER]

RUN is the folder of a finished run: its ``nodes`` have the cohorts, its ``federation`` the models and the charter.
Both trainings take ``times`` as many steps as the charter's local training, at the same rate
(:func:`client.training.personal.rate_of`), and are scored as :mod:`benchmarks.table` scores them, hospital by hospital:
the mean of the main metric over held-out patients. What is trained is kept in FOLDER (``RUN/at-home-TIMES``).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import ONE_MODEL, TASKS, Run
from client.training.personal import rate_of
from shared.charter import Charter
from shared.imaging.tasks import get_task
from simulation import arms

ARMS = ("local", "personal")


def trained(run: Run, site: str, arm: str, *, times: float, out: Path) -> Path:
    """The file of what ``site`` trains by itself, or of what it makes of the federated model."""
    name = run.task.name
    weights = run.folder / ONE_MODEL["federated"].format(task=name)
    charter = Charter.load(weights.with_name("charter.toml"))
    plan, node, file = charter.task(name), run.folder / "nodes" / site, out / arm / name / f"{site}.safetensors"
    steps, lr, seed = round(plan.rounds * plan.local_steps * times), rate_of(name), charter.seed
    if arm == "local":
        return arms.train_alone(arms.Alone(plan, (node,), steps, lr, seed, file))
    return arms.train_at_home(arms.AtHome(plan, node, weights, steps, lr, seed, file))


def main() -> None:
    """Train, score, and print a line for each hospital and one of the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--times", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(get_task(asked.task), asked.run)
    out = asked.out or asked.run / f"at-home-{asked.times:g}"
    found = []
    for site in run.members:
        models = [trained(run, site, arm, times=asked.times, out=out) for arm in ARMS]
        found.append([float(np.mean(list(run.figures_of(model, (site,)).values()))) for model in models])
        tell(site, found[-1])
    tell("mean", [float(one) for one in np.mean(found, axis=0)])


def tell(whose: str, figures: list[float]) -> None:
    """One line."""
    told = "  ".join(f"{arm} {figure:.4f}" for arm, figure in zip(ARMS, figures, strict=True))
    sys.stdout.write(f"{whose:5} {told}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
