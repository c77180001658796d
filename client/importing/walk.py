"""The files below a folder, and the patients that their names speak of."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from client.importing.content import Case
from client.sources.intake import Problem

Found = Case | Problem
_TEXTS: Final = frozenset({".txt", ".md", ".pdf", ".json", ".csv", ".tsv", ".html", ".toml"})
_ABOUT: Final = frozenset({"README", "LICENSE", "LICENCE", "DICOMDIR"})
_PATIENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def patient_name(dataset: str, name: str) -> str | None:
    """The Patient ID of somebody whom a file's name speaks of; None where that cannot be one."""
    return f"{dataset}-{name}" if _PATIENT.fullmatch(name) else None


def _is_text(name: Path) -> bool:
    """Whether a file is one that people read, or an index."""
    return name.suffix.lower() in _TEXTS or name.stem.upper() in _ABOUT


def walk(root: Path, problems: list[Problem]) -> Iterator[Path]:
    """Every file below ``root`` in order; links to folders are told in ``problems`` and not followed.

    Files whose names begin with a dot are passed over, those of the desktop and torn ones, and texts about the data.
    What is no plain file is told too: whoever opens a pipe waits for ever.
    """

    def failed(error: OSError) -> None:
        problems.append(Problem(os.path.relpath(error.filename, root), "the folder cannot be read"))

    for name, folders, files in os.walk(root, onerror=failed):
        folders.sort()
        links = (Path(name) / one for one in folders if (Path(name) / one).is_symlink())
        problems += [Problem(str(link.relative_to(root)), "a link to a folder is not followed") for link in links]
        for one in sorted(files):
            path = Path(name) / one
            if one.startswith(".") or _is_text(path):
                continue
            if path.is_file():
                yield path
            else:
                problems.append(Problem(str(path.relative_to(root)), "it is no plain file"))
