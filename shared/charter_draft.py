"""The draft of a charter for real hospitals: privacy and masks on, the settings that were measured, no member yet."""

import secrets
from pathlib import Path
from typing import Final

import jinja2

from shared.charter import Charter, CharterMember
from shared.errors import CharterError, UsageError
from shared.files import canonical_json
from shared.imaging.public import PUBLIC
from shared.secagg.parameters import MAX_MEMBERS, MIN_MEMBERS, recommended

START: Final = "public-1"
STEPS: Final = 40
EPSILON: Final = "8"
"""Of :data:`STEPS` steps at the noise of the template; a test holds it against the accountant."""
TASKS: Final = tuple(PUBLIC[START])


def draft(*, file: str, name: str, purpose: str, members: int, tasks: tuple[str, ...]) -> str:
    """The text of a draft that becomes a charter when ``members`` hospitals have been approved.

    Args:
        file: What the comments call it.
        name: Id of the federation.
        purpose: As every node has it.
        members: How many hospitals, :data:`MIN_MEMBERS` to :data:`MAX_MEMBERS`.
        tasks: Some of :data:`TASKS`.

    Raises:
        UsageError: A task has no public weights, or is named twice.
        CharterError: So many hospitals, this name or this purpose do not make a charter.
    """
    for task in tasks:
        if task not in TASKS or tasks.count(task) > 1:
            raise UsageError(
                f"the draft has no task '{task}'" if task not in TASKS else f"the task {task} is named twice",
                hint=f"choose among {', '.join(TASKS)}; other tasks are written by hand, see docs/charter.md",
            )
    if not MIN_MEMBERS <= members <= MAX_MEMBERS:
        raise CharterError(
            f"a federation of {members} hospitals is none here",
            hint=f"give --members from {MIN_MEMBERS} to {MAX_MEMBERS}",
        )
    row = recommended(members)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # TOML; both texts come as TOML strings
        keep_trailing_newline=True,
    )
    text = environment.get_template("charter.toml").render(
        file=file,
        id=canonical_json(name).decode(),
        purpose=canonical_json(purpose).decode(),
        members=members,
        sites=max(MIN_MEMBERS, row.threshold),
        threshold=row.threshold,
        drops=members - row.threshold,
        seed=secrets.randbelow(2**31),
        steps=STEPS,
        epsilon=EPSILON,
        tasks=tasks,
    )
    _require_charter(text, members)
    return text


def _require_charter(text: str, members: int) -> None:
    """See that it is a charter once it has its members: hospitals that are made up for this."""
    people = [CharterMember(f"H{number}", f"{number:064x}") for number in range(1, members + 1)]
    rows = [f'\n[[member]]\nname = "{one.name}"\nidentity = "{one.identity}"\n' for one in people]
    Charter.parse(text + "".join(rows))
