"""Where a released file goes: what already stands there is replaced only if it was made under another profile."""

import os
import stat
import warnings
from pathlib import Path

from pydicom import dcmread

from client.deid.known import UNREADABLE
from shared.files import atomic_file, output_errors

TWIN = "another file has its SOP Instance UID and other content"
"""Why a file waits whose place another one has."""
_METHOD = "DeidentificationMethod"
_CHUNK = 1 << 20


def put(place: Path, content: bytes, profile_sha256: str, *, replace: bool = False) -> bool:
    """Put a file in place, unless another one that was made under the same profile stands there.

    Args:
        place: Where it goes.
        content: The file.
        profile_sha256: The profile that it was made under.
        replace: Whatever stands there gives way.

    Returns:
        Whether it is there now.

    Raises:
        OutputError: The folder does not take it.
    """
    if not replace:
        with output_errors(place):
            same = holds(place, content)
        if same:
            return True
        if same is False and profile_sha256 in profile_of(place):
            return False
    with atomic_file(place) as stream:
        stream.write(content)
    return True


def holds(place: Path, content: bytes) -> bool | None:
    """Whether exactly this stands there; None where nothing does. It is never held in memory as a whole.

    Raises:
        OSError: It cannot be read.
    """
    try:
        # O_NONBLOCK: a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size != len(content):
            return False
        rest = memoryview(content)
        while rest:
            chunk = stream.read(_CHUNK)
            if not chunk or chunk != rest[: len(chunk)]:
                return False
            rest = rest[len(chunk) :]
    return True


def profile_of(place: Path) -> tuple[str, ...]:
    """What a file names as its De-identification Method; nothing where it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(place, stop_before_pixels=True, specific_tags=[_METHOD])
            method = dataset.get(_METHOD) or ()
        except UNREADABLE:
            return ()
    return (method,) if isinstance(method, str) else tuple(map(str, method))
