"""An environment that holds a wheel and what it requires, and nothing else of what is installed here."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def install(wheel: Path, extra: str, folder: Path) -> Path:
    """Make the environment; its python is returned.

    The wheel is installed by pip. The packages that it requires with ``extra`` are linked from here, as pip would
    resolve them under the constraints that this environment was made with.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # pip would find fedward there
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True, timeout=120, env=clean)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (own,) = [Distribution.at(path) for path in place.glob("fedward-*.dist-info")]
    for other in closure(own.requires or [], {extra}):
        for top in {Path(file.parts[0]) for file in other.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(other.locate_file(str(top))))
            if target.exists() and not (place / top).exists():
                (place / top).symlink_to(target)
    return python


def closure(requirements: Iterable[str], extras: set[str]) -> Iterator[Distribution]:
    """The distributions that these requirements need, each once.

    Raises:
        PackageNotFoundError: One is not installed here.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(one), extras) for one in requirements]
    while waiting:
        wanted, chosen = waiting.pop()
        if wanted.marker and not any(wanted.marker.evaluate({"extra": one}) for one in ("", *chosen)):
            continue
        for part in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), part)
            if key in seen:
                continue
            seen.add(key)
            found = distribution(wanted.name)
            if not part:
                yield found
            waiting += [(Requirement(one), {part} if part else set()) for one in found.requires or []]
