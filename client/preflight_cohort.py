"""What a cohort's index says of it, without an image being read."""

from client.cohort import Cohort, Split
from client.eligible import eligible
from client.node import Node
from client.preflight import Verdict
from shared.imaging.tasks import get_task


def usable_patients(node: Node, cohort: Cohort, split: Split, task: str) -> int:
    """How many patients of one side of the split may take part and have a study for a task.

    Raises:
        UsageError: There is no such task.
    """
    wanted, found = set(eligible(cohort.patients(split), node)), get_task(task)
    return sum(
        any(found.eligible(study.blank()) for study in entry.studies) for entry in cohort.entries if entry.key in wanted
    )


def far_from_cohort(node: Node, declared: int) -> tuple[Verdict, str, str] | None:
    """A warning where less than half, or more than twice, as many patients train as were declared with the budget.

    Every private step is divided by the declared number: far too great it wastes the step under its noise, far too
    small it makes the step too long. The guarantee holds either way.
    """
    if not (node.folder / "cohort" / "index.json").exists():
        return None  # another check says so
    here = len(eligible(node.cohort.patients(Split.TRAIN), node))
    if here <= 2 * declared and declared <= 2 * here:
        return None
    return (
        Verdict.WARN,
        f"steps are divided by the {declared} patients that the budget declares, and {here} may train here",
        "declare as many as usually train: fedward node budget set NODE --patients N",
    )


def missing_images(cohort: Cohort) -> int:
    """How many studies of the index have no file in the cache."""
    return sum(
        not (cohort.folder / "images" / study.file).is_file() for entry in cohort.entries for study in entry.studies
    )
