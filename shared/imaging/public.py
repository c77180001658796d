"""Public starting points: weights that were trained on synthetic phantoms before any hospital was asked.

They are part of the release at both ends, so nothing travels but a name. A charter that starts from them fixes a model:
the digests here are what "public-1" means, and other bytes are refused. How the weights were made is in
``weights/public-1.json``; ``fedward pretrain`` makes them again. Nothing here needs torch.
"""

import hashlib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

import safetensors.numpy

from shared.errors import CharterError, DataError, UsageError
from shared.vector import State

PUBLIC: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "public-1": MappingProxyType(
            {
                "denoise": "b977d68773d7baf4cb7e27265cba7fc9aa883ae594390d74250298c70eaa2a56",
                "superres": "93afdc9803d507f645938dd94c12492e8dd9454c03fbe76d778fa63eb7fd4dce",
                "segment": "87b0a80d01ed3c76f2b433bd257aaa96d12243d92879fbb07945b654b266654b",
            }
        )
    }
)
"""SHA-256 of the weights' files, by name of the starting point and by task."""


def weights_file(name: str, task_name: str) -> str:
    """What the file of one task's weights is called."""
    return f"{name}-{task_name}.safetensors"


def require_public(name: str, task_name: str | None) -> str:
    """The task for which the weights ``name`` of :data:`PUBLIC` are asked, if they have it.

    Raises:
        UsageError: None is named, or they have none for it.
    """
    has = PUBLIC[name]
    if task_name is None:
        raise UsageError(
            f"{name} has models for several tasks: {', '.join(has)}", hint=f"say which with --task {'|'.join(has)}"
        )
    if task_name not in has:
        raise UsageError(f"{name} has no model for the task {task_name}", hint=f"it has {', '.join(has)}")
    return task_name


def load_public(name: str, task_name: str) -> State:
    """The public weights ``name`` (such as ``public-1``) of a task, by the names of its network's ``state_dict``.

    Raises:
        CharterError: There are no such weights, or none for this task.
        DataError: The installed file is missing, or is not the one that the name stands for.
    """
    if name not in PUBLIC:
        raise CharterError(
            f"there are no public weights called {name!r}", hint=f"use fresh, or one of {', '.join(PUBLIC)}"
        )
    if task_name not in PUBLIC[name]:
        raise CharterError(
            f"{name} has no weights for the task {task_name}",
            hint=f'set start = "fresh"; it has {", ".join(PUBLIC[name])}',
        )
    return safetensors.numpy.load(_checked(name, task_name))


def _checked(name: str, task_name: str) -> bytes:
    """The bytes of one installed file, if they are the right ones."""
    file = weights_file(name, task_name)
    try:
        data = resources.files("shared.imaging").joinpath("weights", file).read_bytes()
    except OSError as error:
        raise DataError(f"the public weights {file} cannot be read", hint="install fedward again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != PUBLIC[name][task_name]:
        raise DataError(
            f"the public weights {file} were changed: SHA-256 {found[:16]}… instead of {PUBLIC[name][task_name][:16]}…",
            hint="install fedward again; other members would start from another model",
        )
    return data
