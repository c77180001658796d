"""When a cohort's cached images go: a while after the index has dropped them, since a round may still read them."""

import contextlib
import os
import time
from collections.abc import Set
from pathlib import Path

IMAGES = "images"
"""The folder of the images in the cohort's."""
KEPT = 86400.0
"""Seconds that cached images are kept at least after the index has dropped them."""


def let_go(folder: Path, names: Set[str]) -> None:
    """Have the day of :func:`sweep` begin for images that the new index will not name, however old they are."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder / IMAGES / name)


def sweep(folder: Path, named: Set[str]) -> None:
    """Delete cached images that no index has named for a day: a round that began by an earlier one is long over."""
    before = time.time() - KEPT
    for path in (folder / IMAGES).glob("*.safetensors"):
        if path.name not in named and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
