"""A model's state as one flat float32 vector, and back: the form in which models and updates travel and are summed.

Order, shapes and types are fixed by a :class:`Layout`, which both ends derive from the network that is installed at
their own end; only its digest travels. Integer buffers (counters, masks) never pass through floating point: they are
carried aside as exact bytes. Nothing here needs torch.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.files import canonical_json

Vector = NDArray[np.float32]
State = Mapping[str, NDArray[Any]]

WIRE_FLOAT = np.dtype("<f4")
_EXACT_KINDS = "biu"  # numpy kinds: bool, signed, unsigned


@dataclass(frozen=True)
class Slot:
    """One entry of a state: its name, its shape and the name of its numpy type, such as ``float32`` or ``int64``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def exact(self) -> bool:
        """Whether the entry is carried aside as exact bytes."""
        return np.dtype(self.dtype).kind in _EXACT_KINDS

    @property
    def exact_bytes(self) -> int:
        """Bytes that the entry takes aside; 0 for an entry of the vector."""
        return self.size * np.dtype(self.dtype).itemsize if self.exact else 0


@dataclass(frozen=True, eq=False)
class Flat:
    """A state in its travelling form.

    Attributes:
        vector: All float32 entries in the layout's order, each in C order, float32 ``[d]``.
        exact: All other entries in the layout's order, little-endian.
    """

    vector: Vector
    exact: bytes = b""


@dataclass(frozen=True)
class Layout:
    """Names, shapes and types of a state, in order."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, state: State) -> "Layout":
        """The layout of ``state``, in its own order.

        Raises:
            ProtocolError: An entry is neither float32 nor an integer or boolean.
        """
        slots = []
        for name, array in state.items():
            if array.dtype != np.float32 and array.dtype.kind not in _EXACT_KINDS:
                raise ProtocolError(
                    f"the model's entry '{name}' has type {array.dtype}, which cannot travel",
                    hint="convert the network to float32",
                )
            slots.append(Slot(name, tuple(array.shape), array.dtype.name))
        return cls(tuple(slots))

    @cached_property
    def size(self) -> int:
        """Elements of the vector (the d of the papers)."""
        return sum(slot.size for slot in self.slots if not slot.exact)

    @cached_property
    def exact_bytes(self) -> int:
        """Length of :attr:`Flat.exact`."""
        return sum(slot.exact_bytes for slot in self.slots)

    @cached_property
    def sha256(self) -> str:
        """Digest of names, shapes and types in order; equal at both ends or the model is not the same."""
        rows = [[slot.name, list(slot.shape), slot.dtype] for slot in self.slots]
        return hashlib.sha256(canonical_json(rows)).hexdigest()

    def flatten(self, state: State) -> Flat:
        """``state`` in its travelling form.

        Raises:
            ProtocolError: A name is missing or unknown, or a shape or type differs; the first one is named.
        """
        self._check(state)
        vector = np.empty(self.size, np.float32)
        for slot, part in self._parts(vector):
            part[...] = state[slot.name]
        exact = b"".join(
            np.ascontiguousarray(state[slot.name], _little(slot)).tobytes() for slot in self.slots if slot.exact
        )
        return Flat(vector, exact)

    def restore(self, flat: Flat) -> dict[str, NDArray[Any]]:
        """The state that ``flat`` came from; its float32 arrays are views of the vector.

        Raises:
            ProtocolError: The lengths do not fit this layout.
        """
        if flat.vector.shape != (self.size,) or flat.vector.dtype != np.float32 or len(flat.exact) != self.exact_bytes:
            raise ProtocolError(
                f"a model of {flat.vector.size} numbers and {len(flat.exact)} exact bytes does not fit a layout of "
                f"{self.size} and {self.exact_bytes}",
                hint="both ends must have the same release and the same task",
            )
        floats = {slot.name: part for slot, part in self._parts(flat.vector)}
        state: dict[str, NDArray[Any]] = {}
        place = 0
        for slot in self.slots:
            if slot.exact:
                raw = np.frombuffer(flat.exact, _little(slot), slot.size, place).reshape(slot.shape)
                state[slot.name] = raw.astype(slot.dtype)
                place += slot.exact_bytes
            else:
                state[slot.name] = floats[slot.name]
        return state

    def digest(self, flat: Flat) -> str:
        """SHA-256 over the layout's digest and every byte of ``flat``: the identity of one model."""
        seen = hashlib.sha256(bytes.fromhex(self.sha256))
        seen.update(np.ascontiguousarray(flat.vector, WIRE_FLOAT).data)
        seen.update(flat.exact)
        return seen.hexdigest()

    def _parts(self, vector: Vector) -> Iterator[tuple[Slot, Vector]]:
        place = 0
        for slot in self.slots:
            if not slot.exact:
                yield slot, vector[place : place + slot.size].reshape(slot.shape)
                place += slot.size

    def _check(self, state: State) -> None:
        names = [slot.name for slot in self.slots]
        for name in [*(name for name in names if name not in state), *(name for name in state if name not in names)]:
            raise ProtocolError(
                f"the model's entry '{name}' is {'missing' if name in names else 'unknown'}",
                hint="both ends must have the same release and the same task",
            )
        for slot in self.slots:
            array = state[slot.name]
            if tuple(array.shape) != slot.shape or array.dtype.name != slot.dtype:
                raise ProtocolError(
                    f"the model's entry '{slot.name}' is {array.dtype.name} {list(array.shape)}, "
                    f"not {slot.dtype} {list(slot.shape)}",
                    hint="both ends must have the same release and the same task",
                )


def _little(slot: Slot) -> np.dtype[Any]:
    return np.dtype(slot.dtype).newbyteorder("<")
