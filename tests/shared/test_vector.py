"""A state travels as one float32 vector and some exact bytes, and comes back as it was, or not at all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.vector import Flat, Layout

State = dict[str, NDArray[Any]]

floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)
integers = hnp.arrays(
    st.sampled_from([np.dtype(np.int64), np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.bool_)]),
    hnp.array_shapes(min_dims=0, max_dims=2, max_side=3),
)
states = st.dictionaries(st.text(min_size=1, max_size=8), st.one_of(floats, integers), min_size=1, max_size=6)


def small() -> State:
    return {"w": np.ones((2, 3), np.float32), "steps": np.array(2**53 + 1, np.int64), "b": np.zeros(2, np.float32)}


@settings(deadline=None)
@given(state=states)
def test_a_state_comes_back_bit_for_bit(state: State) -> None:
    layout = Layout.of(state)
    back = layout.restore(layout.flatten(state))
    assert list(back) == list(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_the_vector_holds_the_floats_in_order_and_nothing_else() -> None:
    flat = Layout.of(small()).flatten(small())
    assert flat.vector.dtype == np.float32
    assert flat.vector.tolist() == [1.0] * 6 + [0.0] * 2


def test_an_integer_that_no_float_can_hold_is_exact() -> None:
    layout = Layout.of(small())
    assert int(layout.restore(layout.flatten(small()))["steps"]) == 2**53 + 1


def test_a_restored_state_is_a_view_so_that_nothing_is_copied() -> None:
    layout = Layout.of(small())
    flat = layout.flatten(small())
    assert np.shares_memory(layout.restore(flat)["w"], flat.vector)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.complex64])
def test_a_type_that_would_lose_digits_is_refused(dtype: type) -> None:
    with pytest.raises(ProtocolError, match="'w' has type"):
        Layout.of({"w": np.zeros(2, dtype)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("b"), "'b' is missing"),
        (lambda state: state.update(extra=np.zeros(1, np.float32)), "'extra' is unknown"),
        (lambda state: state.update(w=np.ones((3, 2), np.float32)), r"'w' is float32 \[3, 2\], not float32 \[2, 3\]"),
        (lambda state: state.update(w=np.ones((1,), np.float32)), "'w' is float32"),
        (lambda state: state.update(steps=np.zeros((), np.float32)), "'steps' is float32"),
    ],
)
def test_another_name_shape_or_type_is_named(change: Any, says: str) -> None:
    layout, other = Layout.of(small()), small()
    change(other)
    with pytest.raises(ProtocolError, match=says):
        layout.flatten(other)


@pytest.mark.parametrize("size", [0, 1, 7, 9])
def test_a_vector_of_another_length_is_never_broadcast(size: int) -> None:
    layout = Layout.of(small())
    with pytest.raises(ProtocolError, match="does not fit"):
        layout.restore(Flat(np.zeros(size, np.float32), layout.flatten(small()).exact))


def test_exact_bytes_of_another_length_are_refused() -> None:
    layout = Layout.of(small())
    with pytest.raises(ProtocolError, match="7 exact bytes"):
        layout.restore(Flat(layout.flatten(small()).vector, b"1234567"))


@pytest.mark.parametrize(
    "other",
    [
        {"v": np.ones((2, 3), np.float32)},
        {"w": np.ones((3, 2), np.float32)},
        {"w": np.ones((2, 3), np.int32)},
        {"w": np.ones((2, 3), np.float32), "b": np.ones(1, np.float32)},
    ],
)
def test_the_digest_of_a_layout_changes_with_name_shape_type_and_number(other: State) -> None:
    assert Layout.of(other).sha256 != Layout.of({"w": np.ones((2, 3), np.float32)}).sha256


def test_the_digest_of_a_layout_changes_with_order() -> None:
    one, two = np.zeros(1, np.float32), np.zeros(1, np.float32)
    assert Layout.of({"a": one, "b": two}).sha256 != Layout.of({"b": two, "a": one}).sha256


def test_the_digest_of_a_model_changes_with_every_number_and_is_else_the_same() -> None:
    layout, state = Layout.of(small()), small()
    before = layout.digest(layout.flatten(state))
    assert layout.digest(layout.flatten(small())) == before
    state["steps"] = np.array(2**53 + 2, np.int64)
    counted = layout.digest(layout.flatten(state))
    state["w"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    assert len({before, counted, layout.digest(layout.flatten(state))}) == 3
