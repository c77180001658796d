"""JSON and TOML as every file and every message here is read: what nests too deeply is refused in words.

Python's own parsers go down one call for each level and end with a :class:`RecursionError`, at a depth that depends on
who called; and what they do take, other code goes down again. No form here is a dozen levels deep.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shared.errors import FedwardError

DEEPEST: Final = 100
"""Levels of arrays and objects, one in the other."""


class TooDeepError(ValueError):
    """The text nests deeper than :data:`DEEPEST` levels."""

    def __init__(self) -> None:
        super().__init__(f"it nests deeper than {DEEPEST} levels")


def parse_json(text: bytes | str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text (RFC 8259).

    Args:
        text: UTF-8 where it is bytes.
        pairs: Makes of the names and values of an object what stands for it; a dictionary where None.

    Raises:
        TooDeepError: It nests too deeply.
        ValueError: It is no JSON, no UTF-8, or has a number of thousands of digits.
    """
    try:
        found = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise TooDeepError from None
    array, table = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if text.count(array) + text.count(table) > DEEPEST:  # type: ignore[arg-type]  # both are of the text's kind
        _require_flat(found)
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text (https://toml.io, version 1.0).

    Raises:
        tomllib.TOMLDecodeError: It is none, or nests too deeply.
    """
    try:
        found = tomllib.loads(text)
        _require_flat(found)
    except (RecursionError, TooDeepError):
        raise tomllib.TOMLDecodeError(str(TooDeepError())) from None
    return found


def load_json(path: Path, *, error: type[FedwardError], hint: str) -> Any:
    """The value of the JSON file at ``path``.

    Raises:
        FedwardError: ``error``: it cannot be read, is no JSON or nests too deeply.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as fault:
        raise error(f"cannot read {path}: {fault.strerror}", hint=hint) from fault
    except ValueError as fault:
        raise error(f"{path} is damaged", hint=hint) from fault


def _require_flat(value: object) -> None:
    """Go through the value level by level: it may be too deep for any function that calls itself."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            below
            for one in level
            for below in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(below, dict | list)
        ]
        if not level:
            return
    raise TooDeepError
