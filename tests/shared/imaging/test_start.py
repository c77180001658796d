"""The network that a charter's task begins with."""

from dataclasses import replace

import pytest

from shared.charter_plans import TaskPlan
from shared.errors import CharterError, UsageError
from shared.imaging.networks import DnCNN, UNet
from shared.imaging.public import load_public
from shared.imaging.start import prepared, shaped
from shared.imaging.tasks import get_task
from shared.weights import weights_of


def plan(**what: object) -> TaskPlan:
    return TaskPlan("denoise", rounds=1, local_steps=1, **what)  # type: ignore[arg-type]


def test_the_charter_chooses_the_network() -> None:
    assert isinstance(prepared(get_task("denoise"), plan(), 0), UNet)
    assert isinstance(prepared(get_task("denoise"), plan(network="dncnn"), 0), DnCNN)
    with pytest.raises(UsageError, match="no network called 'resnet'"):
        prepared(get_task("denoise"), plan(network="resnet"), 0)


def test_public_weights_start_the_network_that_they_are_of_and_no_other() -> None:
    state = load_public("public-1", "denoise")
    begun = weights_of(prepared(get_task("denoise"), plan(start="public-1", network="unet"), 0))
    assert all((begun[name] == array).all() for name, array in state.items())
    with pytest.raises(CharterError, match="no weights for the network dncnn") as caught:
        prepared(get_task("denoise"), plan(start="public-1", network="dncnn"), 0)
    assert "fresh" in caught.value.hint


def from_release(task: str, network: str | None = None) -> TaskPlan:
    return TaskPlan(task, rounds=1, local_steps=1, network=network, start="release", release="a" * 64)


def test_what_a_release_shares_by_name_and_shape_is_taken_and_the_rest_begins_anew() -> None:
    source = weights_of(get_task("masked").network(9))
    begun = weights_of(prepared(get_task("segment"), from_release("segment"), 3, release=source))
    fresh = weights_of(get_task("segment").network(3))
    assert all((begun[name] == (fresh if name.startswith("head.") else source)[name]).all() for name in fresh)
    assert {name for name in fresh if fresh[name].shape != source[name].shape} == {"head.weight", "head.bias"}
    again = weights_of(prepared(get_task("segment"), from_release("segment"), 3, release=source))
    assert all(begun[name].tobytes() == array.tobytes() for name, array in again.items())


def test_a_release_that_shares_nothing_or_is_not_there_is_refused_in_one_line() -> None:
    other = weights_of(get_task("superres").network(0))
    with pytest.raises(CharterError, match="shares no layer") as caught:
        prepared(get_task("segment"), from_release("segment"), 0, release=other)
    assert "\n" not in caught.value.message
    with pytest.raises(CharterError, match="not at hand"):
        prepared(get_task("segment"), from_release("segment"), 0)


def test_the_shapes_are_known_without_the_release() -> None:
    plan = replace(from_release("segment"), trained="head")
    source = weights_of(get_task("masked").network(9))
    known, begun = shaped(get_task("segment"), plan, 0), prepared(get_task("segment"), plan, 0, release=source)
    assert [(name, one.shape, one.requires_grad) for name, one in known.named_parameters()] == [
        (name, one.shape, one.requires_grad) for name, one in begun.named_parameters()
    ]
