"""The app bundle of a run: what the coordinator sends in the place of code, and every hospital compares and never runs.

Flower wants an app for a run and sends it to all nodes. Ours is a zip with no code in it: the release's version and the
SHA-256 of every file of ``shared/`` and ``compliance/``, which both ends have installed. Each end computes it from its
own installation. A hospital answers a run whose bundle is another one, byte for byte, with a refusal.
"""

import functools
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from shared.charter import Charter
from shared.errors import PolicyError, UsageError
from shared.files import canonical_json

ROOMS: Final = ("compliance", "shared")
SUFFIXES: Final = frozenset(
    {".css", ".html", ".json", ".proto", ".py", ".pyi", ".safetensors", ".toml", ".txt", ".typed"}
)
"""Of files that count. What an editor or an interpreter leaves beside them has others."""
RUN_CONFIG: Final = ("charter", "federation", "run")
"""The keys of a run's configuration, all of them texts; a hospital refuses a run with fewer or others."""
SERVER_APP: Final = "server.app:app"
CLIENT_APP: Final = "client.app:app"
_DATE: Final = (2024, 10, 1, 0, 0, 0)
_UNIX: Final = 3
_MODE: Final = 0o100644


@functools.cache
def bundle() -> bytes:
    """The bundle of this installation, the same bytes wherever the same release is installed.

    Raises:
        UsageError: fedward is not installed here as a package.
    """
    try:
        release = version("fedward")
    except PackageNotFoundError as error:
        raise UsageError("fedward is not installed here", hint="install it with pip") from error
    return build(release, dict(_sources()))


@functools.cache
def digest() -> str:
    """The SHA-256 of :func:`bundle`, 64 hexadecimal digits: what ``secure_aggregation.apps`` of a charter lists."""
    return hashlib.sha256(bundle()).hexdigest()


def require_listed(charter: Charter) -> None:
    """Refuse to follow a charter that lists releases and not the one that is installed here.

    Raises:
        PolicyError: Its ``apps`` is not empty and lacks :func:`digest`.
    """
    apps = () if charter.masking is None else charter.masking.apps
    if apps and digest() not in apps:
        raise PolicyError(
            f"the release that is installed here ({digest()[:16]}...) is not among the apps of charter {charter.id}",
            hint="install the release that the members agreed on; 'fedward charter check' prints the digest of it",
        )


def build(release: str, files: Mapping[str, bytes]) -> bytes:
    """The bundle of a release.

    Nothing is compressed, since versions of zlib differ in what they make of the same bytes.

    Args:
        release: Its version.
        files: The content of each of its files by its relative path.
    """
    project = (
        f'[project]\nname = "fedward"\nversion = "{release}"\n\n'
        '[tool.flwr.app]\npublisher = "fedward"\n\n'
        f'[tool.flwr.app.components]\nserverapp = "{SERVER_APP}"\nclientapp = "{CLIENT_APP}"\n\n'
        "[tool.flwr.app.config]\n" + "".join(f'{key} = ""\n' for key in RUN_CONFIG)
    )
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    parts = {
        "pyproject.toml": project.encode(),
        "fedward.json": canonical_json({"version": release, "files": digests}),
    }
    rows = [f"{path},{hashlib.sha256(part).hexdigest()},{len(part) * 8}" for path, part in parts.items()]
    parts[".info/CONTENT"] = "\n".join(rows).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for path, part in parts.items():
            entry = zipfile.ZipInfo(path, _DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE << 16
            archive.writestr(entry, part)
    return made.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    """The files of both rooms, by their paths as they stand in an import."""
    for room in ROOMS:
        found = importlib.util.find_spec(room)  # of a room above this one only the place is asked, nothing is imported
        for place in (found and found.submodule_search_locations) or ():
            root = Path(place)
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root)
                if path.suffix in SUFFIXES and path.is_file() and not _aside(inside):
                    yield f"{room}/{inside.as_posix()}", path.read_bytes()


def _aside(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
