"""Files that a coordinator reads again after a crash: whole, durable, and with their own SHA-256 at the end.

A file is a row of parts, each behind its length (8 bytes, little-endian), and behind them the SHA-256 of all that. It
is written beside its place and moved there when it is on the disk, so a process that is killed leaves the file as it
was or as it is; the digest finds what a disk or a person did to it.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import RecordError
from shared.files import atomic_file
from shared.parsing import parse_json

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
_LENGTH = struct.Struct("<Q")
_CHECK_BYTES = hashlib.sha256().digest_size
_ENVELOPE = {"message": ConfigRecord, "arrays": ArrayRecord}


class DamagedError(RecordError):
    """A file does not have the SHA-256 that stands at its end, or was made by another release."""


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write ``parts``, one after the other without a copy of them; gives the SHA-256 of the file's content, as hex.

    Raises:
        OutputError: The disk is full, or the folder may not be written.
    """
    seen = hashlib.sha256()
    with atomic_file(path, mode=PRIVATE, durable=True) as stream:
        for part in parts:
            length = _LENGTH.pack(len(part))
            seen.update(length)
            seen.update(part)
            stream.write(length)
            stream.write(part)
        stream.write(seen.digest())
    return seen.hexdigest()


def read_parts(path: Path, *, hint: str) -> tuple[list[bytes], str]:
    """The parts of a file, and its SHA-256 as :func:`write_parts` gave it.

    Args:
        path: The file.
        hint: What to do where it is damaged.

    Raises:
        DamagedError: It is damaged.
        RecordError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            parts, check = _read(stream, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="check the disk, and try again") from error
    if not check:
        raise DamagedError(f"{path} is damaged: it does not have the SHA-256 that stands at its end", hint=hint)
    return parts, check


def _read(stream: IO[bytes], size: int) -> tuple[list[bytes], str]:
    seen, parts, left = hashlib.sha256(), list[bytes](), size - _CHECK_BYTES
    while left >= _LENGTH.size:
        head = stream.read(_LENGTH.size)
        (length,) = _LENGTH.unpack(head)
        left -= _LENGTH.size + length
        if left < 0:
            return [], ""
        parts.append(stream.read(length))
        seen.update(head)
        seen.update(parts[-1])
    return (parts, seen.hexdigest()) if left == 0 and stream.read() == seen.digest() else ([], "")


# --- what the parts hold ----------------------------------------------------------------------------------------------


def arrays_to_parts(facts: object, arrays: dict[str, NDArray[Any]]) -> list[bytes | memoryview]:
    """Facts that JSON can say, and arrays by name, as parts; the arrays are not copied."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    rows = [[name, array.dtype.str, list(array.shape)] for name, array in whole.items()]
    head = json.dumps({"facts": facts, "arrays": rows}).encode()
    return [head, *(array.reshape(-1).view(np.uint8).data for array in whole.values())]


def parts_to_arrays(parts: Sequence[bytes]) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The inverse of :func:`arrays_to_parts`; the arrays may be written to.

    Raises:
        ValueError, KeyError, TypeError: The parts are something else.
    """
    head = parse_json(parts[0])
    arrays = {
        name: np.frombuffer(part, np.dtype(kind)).reshape(shape).copy()
        for (name, kind, shape), part in zip(head["arrays"], parts[1:], strict=True)
    }
    return head["facts"], arrays


def record_to_parts(record: RecordDict) -> list[bytes] | None:
    """An answer as parts, its arrays not copied; None where it is not in the envelope of :mod:`shared.records`."""
    if any(not isinstance(part, _ENVELOPE.get(name, ())) for name, part in record.items()):
        return None
    message, arrays = record.get("message", ConfigRecord()), record.get("arrays")
    structure = message.get("json")
    if set(message) != {"json"} or not isinstance(structure, bytes):
        return None
    rows = [(name, one) for name, one in arrays.items()] if isinstance(arrays, ArrayRecord) else []
    head = None if arrays is None else [[name, one.dtype, one.stype, list(one.shape)] for name, one in rows]
    return [json.dumps(head).encode(), structure, *(one.data for _, one in rows)]


def parts_to_record(parts: Sequence[bytes]) -> RecordDict:
    """The inverse of :func:`record_to_parts`.

    Raises:
        ValueError, KeyError, TypeError: The parts are something else.
    """
    head = parse_json(parts[0])
    record = RecordDict({"message": ConfigRecord({"json": parts[1]})})
    if head is not None:
        record["arrays"] = ArrayRecord(
            {
                name: Array(dtype, tuple(shape), stype, data)
                for (name, dtype, stype, shape), data in zip(head, parts[2:], strict=True)
            }
        )
    return record
