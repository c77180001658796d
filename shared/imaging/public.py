"""Public weights that a task may begin with."""

from shared.errors import UsageError
from shared.vector import State


def load_public(name: str, task_name: str) -> State:
    """The public weights ``name`` of a task.

    Raises:
        UsageError: This release has none.
    """
    raise UsageError(f"this release has no public weights {name} for {task_name}", hint="say start = 'fresh'")
