"""Bundles that are not the one that is installed, some of them with code that would leave a trace if anybody ran it."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.bundle import bundle

MARKER = "FEDWARD-WAS-RUN-BY-A-STRANGER"


def trap(trace: Path) -> str:
    """Python that writes ``trace`` as soon as it is imported, and defines all that Flower would look for."""
    return (
        f"# {MARKER}\n"
        "import pathlib\n"
        f"pathlib.Path({str(trace)!r}).write_text({MARKER!r})\n"
        "from flwr.clientapp import ClientApp\n"
        "from flwr.serverapp import ServerApp\n"
        "app = ClientApp()\n"
        "server = ServerApp()\n"
    )


def contents(fab: bytes) -> dict[str, bytes]:
    """The files of a bundle."""
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Mapping[str, bytes]) -> bytes:
    """A bundle of ``files``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def forged(trace: Path) -> Iterator[tuple[str, bytes]]:
    """Bundles that differ from the installed one, by what is wrong with each."""
    honest, files, code = bundle(), contents(bundle()), trap(trace).encode()
    project = files["pyproject.toml"]
    yield "nothing at all", b""
    yield "no archive", b"this is no archive"
    yield "one byte behind the end", honest + b"\0"
    yield "the last byte is missing", honest[:-1]
    yield "the same files, packed again", packed(files)
    yield "a changed digest", packed(files | {"fedward.json": files["fedward.json"].replace(b'"', b'" ', 1)})
    yield "an extra file", packed(files | {"README.md": b"# More\n"})
    yield "code beside it", packed(files | {"client/app.py": code, "client/__init__.py": code})
    yield "a package that is installed", packed(files | {f"{one}/__init__.py": code for one in ("shared", "client")})
    yield (
        "code that Python runs at its start",
        packed(files | {"sitecustomize.py": code, "usercustomize.py": code, "evil.pth": b"import client.app\n" + code}),
    )
    yield (
        "paths that leave the folder",
        packed(files | {"../../escaped.py": code, f"{trace.parent}/absolute.py": code, "a/../../up.py": code}),
    )
    yield (
        "another component",
        packed(
            files
            | {"pyproject.toml": project.replace(b"client.app:app", b"evil.app:app"), "evil/app.py": code}
            | {"evil/__init__.py": b""}
        ),
    )
    yield (
        "an agent",
        packed(
            files
            | {
                "pyproject.toml": project.replace(
                    b"[tool.flwr.app.components]", b'[tool.flwr.app.components]\nagentapp = "evil:app"'
                )
            }
            | {"evil.py": code}
        ),
    )
    yield "only code", packed({"pyproject.toml": project, "client/app.py": code})
    depending = project.replace(b"\n\n", b'\ndependencies = ["evil @ http://127.0.0.1:9/e.whl"]\n\n', 1)
    yield "dependencies from the network", packed(files | {"pyproject.toml": depending})
    yield "a bomb of zeros", packed({"pyproject.toml": project, "zeros": bytes(64 * 1024 * 1024)})
    yield "eight megabytes", honest + bytes(8 * 1024 * 1024)
