"""A folder that is whole or not there."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from shared.errors import UsageError
from shared.files import output_errors, sync_folder, write_bytes


def require_free(out: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        UsageError: Something is there.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already", hint="choose another folder; a release is never changed")


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` by their relative paths into ``out``, which must not be there.

    They are written beside it and made durable, and then take its name.

    Raises:
        UsageError: It is there.
        OutputError: It cannot be written; nothing of it is left.
    """
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        for name, raw in files.items():
            write_bytes(beside / name, raw, durable=True)
        with output_errors(out):
            beside.chmod(0o755)
            sync_folder(beside)
            require_free(out)  # an empty folder would give way
            beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    with output_errors(out):
        sync_folder(out.parent)
