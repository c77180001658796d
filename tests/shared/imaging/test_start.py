"""The network that a charter's task begins with."""

import pytest

from shared.charter_plans import TaskPlan
from shared.errors import CharterError, UsageError
from shared.imaging.networks import DnCNN, UNet
from shared.imaging.public import load_public
from shared.imaging.start import prepared
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
