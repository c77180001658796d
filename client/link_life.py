"""What a link leaves for its next life, in its folder: its number at the coordinator, and the message under way."""

import contextlib
from pathlib import Path
from typing import Final

from shared.errors import OutputError
from shared.files import write_bytes

_LIFE: Final = "life"
_UNDERWAY: Final = "underway"
_PRIVATE: Final = 0o600


def number(folder: Path) -> int:
    """The node's number in a life that ended on this machine since it was started; else 0.

    A copy of the folder, or the folder on another machine, has had no earlier life: there the first may still go on,
    and the coordinator's refusal of a second one is what keeps two from spending one privacy budget.
    """
    with contextlib.suppress(OSError, ValueError):
        found, _, whose = (folder / _LIFE).read_text(encoding="ascii").partition(" ")
        if whose == _whose(folder):
            return int(found)
    return 0


def begin(folder: Path, node: int) -> None:
    """Keep the node's number; a disk that takes nothing costs the next life some seconds, and is no reason to end."""
    with contextlib.suppress(OutputError):
        write_bytes(folder / _LIFE, f"{node} {_whose(folder)}".encode(), mode=_PRIVATE)


def take_up(folder: Path, message: bytes) -> None:
    """Keep a message without its content until :func:`put_down`; one that the disk does not take is lost."""
    with contextlib.suppress(OutputError):
        write_bytes(folder / _UNDERWAY, message, mode=_PRIVATE)


def left_behind(folder: Path) -> bytes:
    """The message that an earlier life had taken up and not put down; empty where there is none."""
    with contextlib.suppress(OSError):
        return (folder / _UNDERWAY).read_bytes()
    return b""


def put_down(folder: Path) -> None:
    """Nobody waits for an answer to the message any more."""
    with contextlib.suppress(OSError):
        (folder / _UNDERWAY).unlink()


def _whose(folder: Path) -> str:
    """What tells this folder, on this machine since it was started, from every other: a copy is another."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    found = folder.stat()
    return f"{boot} {found.st_dev} {found.st_ino}"
