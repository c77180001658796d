"""Flower records as plain envelopes: one canonical JSON object and raw arrays, and nothing that needs a parser beyond.

A message is a ``RecordDict`` of at most two records: ``message``, a ``ConfigRecord`` whose only value is the structure
(RFC 8785), and ``arrays``, an ``ArrayRecord``. Flower's own arrays are ``.npy`` files; ours are raw little-endian
bytes, so that no file format of a stranger is opened and reading copies nothing.
"""

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared.errors import ProtocolError
from shared.files import canonical_json
from shared.parsing import parse_json
from shared.vector import WIRE_FLOAT, Vector

MAX_STRUCTURE = 64 * 1024  # bytes of JSON
MAX_PARAMETERS = 2**28  # 1 GiB of float32; protobuf, and so Flower, ends at 2 GiB
STYPE = "fedward.raw"


def to_records(structure: Mapping[str, object], arrays: dict[str, Array]) -> RecordDict:
    """The envelope of ``structure`` and ``arrays``."""
    records = RecordDict({"message": ConfigRecord({"json": canonical_json(dict(structure))})})
    if arrays:
        records["arrays"] = ArrayRecord(arrays)
    return records


def raw_floats(vector: Vector) -> Array:
    """A float32 vector as raw little-endian bytes."""
    return Array("float32", tuple(vector.shape), STYPE, np.ascontiguousarray(vector, WIRE_FLOAT).tobytes())


def raw_bytes(data: bytes) -> Array:
    """Bytes as an array of uint8."""
    return Array("uint8", (len(data),), STYPE, data)


def read_structure(record: RecordDict) -> dict[str, object]:
    """The JSON object of a message, which must be canonical: two readers can then never read it differently.

    Raises:
        ProtocolError: There are other records, or the text is too long, not JSON or not in its canonical form.
    """
    if not set(record) <= {"message", "arrays"}:
        raise bad_message("it has records beside 'message' and 'arrays'")
    part = record.get("message")
    if not isinstance(part, ConfigRecord) or set(part) != {"json"}:
        raise bad_message("it has no structure")
    data = part["json"]
    if not isinstance(data, bytes) or len(data) > MAX_STRUCTURE:
        raise bad_message(f"its structure is not a text of at most {MAX_STRUCTURE} bytes")
    try:
        value = parse_json(data)
        canonical = canonical_json(value) == data
    except ValueError:
        canonical = False
    if not canonical or not isinstance(value, dict):
        raise bad_message("its structure is not a canonical JSON object")
    return value


def read_arrays(record: RecordDict, names: set[str]) -> Mapping[str, Array]:
    """The arrays of a message, which must be exactly those in ``names``.

    Raises:
        ProtocolError: One is missing or extra.
    """
    part = record.get("arrays")
    if part is None and not names:
        return {}
    if not isinstance(part, ArrayRecord) or set(part) != names or not names:
        raise bad_message(f"its arrays are not {', '.join(sorted(names)) or 'none'}")
    return part


def read_vector(array: Array) -> Vector:
    """The numbers of ``array`` without a copy, read-only float32 ``[d]``.

    Raises:
        ProtocolError: It is no raw float32 vector, or its shape and its bytes contradict each other.
    """
    size = len(array.data) // WIRE_FLOAT.itemsize
    if array.dtype != "float32" or array.stype != STYPE:
        raise bad_message("an array is not raw float32")
    if size > MAX_PARAMETERS or size * WIRE_FLOAT.itemsize != len(array.data) or tuple(array.shape) != (size,):
        raise bad_message("the length, the shape and the bytes of an array contradict each other")
    return np.frombuffer(array.data, WIRE_FLOAT)


def read_bytes(array: Array) -> bytes:
    """The bytes of an array that :func:`raw_bytes` made.

    Raises:
        ProtocolError: It is something else.
    """
    if array.dtype != "uint8" or array.stype != STYPE or tuple(array.shape) != (len(array.data),):
        raise bad_message("an array is not a row of bytes")
    return array.data


def record_bytes(record: RecordDict) -> int:
    """Bytes of content in ``record``: arrays and texts, without the transport's own framing.

    Flower's ``array_records`` is left alone: what it returns refers to itself, and keeps the arrays until a garbage
    collection.
    """
    total = 0
    for part in record.values():
        for value in part.values():
            data = value.data if isinstance(value, Array) else value
            total += len(data) if isinstance(data, bytes | str) else 0
    return total


def printable(text: str) -> str:
    """A stranger's text, cut and cleaned until it fits a log line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])


def bad_message(what: str, hint: str = "both ends must have the same release") -> ProtocolError:
    """The error for a message that says ``what`` it must not say."""
    return ProtocolError(f"a message was refused: {what}", hint=hint)
