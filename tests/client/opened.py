"""Which files a process opens, by CPython's own audit events (PEP 578)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_WATCHING: list[list[str]] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING and event == "open" and isinstance(arguments[0], str | bytes):
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
        for seen in _WATCHING:
            seen.append(name)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The names of all files that are opened in the block, whatever opens them."""
    if not _installed:  # a hook stays for as long as the process does
        sys.addaudithook(_hook)
        _installed.append(True)
    seen: list[str] = []
    _WATCHING.append(seen)
    try:
        yield seen
    finally:
        _WATCHING.remove(seen)
