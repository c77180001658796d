"""Which pixels an answer comes from."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.released import network_with
from shared.errors import UsageError
from shared.imaging.explain.saliency import REGION, attribution, captum, receptive_field
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from tests.shared.imaging.phantoms import study


class _Mean(nn.Module):
    """The mean over a square: what it rests on is known."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 1, size, padding=size // 2, bias=False)
        nn.init.constant_(self.head.weight, 1 / size**2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(x)
        return made


def test_a_mean_rests_on_its_own_square_alone() -> None:
    image = np.random.default_rng(0).random((24, 32)).astype(np.float32)
    found = attribution(_Mean(3), image, (10, 12))
    rows, columns = np.nonzero(np.abs(found) > 1e-7)
    reach = REGION + 1
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10 - reach, 10 + reach, 12 - reach, 12 + reach)


@pytest.mark.parametrize("seen", [0, 1])
def test_of_two_contrasts_the_one_that_is_looked_at_counts(seen: int) -> None:
    class One(_Mean):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, seen : seen + 1])

    images = np.random.default_rng(0).random((2, 2, 40, 48)).astype(np.float32)
    found = attribution(One(3), images[0], (10, 12))
    assert found.shape == (2, 40, 48)
    assert np.array_equal(found[seen], attribution(_Mean(3), images[0, seen], (10, 12)))
    assert not found[1 - seen].any()
    both, alone = receptive_field(One(3), images), receptive_field(_Mean(3), images[:, seen])
    assert (both.half, both.most) == (alone.half, alone.most)


@pytest.mark.parametrize("name", ["denoise", "superres", "segment"])
def test_what_an_answer_rests_on_adds_up_to_the_answer(name: str) -> None:
    task = get_task(name)
    network = network_with(task, load_public("public-1", name))
    image, scale, channel = task.inputs(study(48, 48))[0], 1 + (name == "superres"), 2 * (name == "segment")
    place = (24 * scale, 20 * scale)
    found = attribution(network, image, place, scale=scale, channel=channel)
    rows, columns = (slice(at - REGION, at + REGION + 1) for at in place)
    with torch.inference_mode():
        pair = torch.from_numpy(np.stack([image, np.full_like(image, image.min())]))[:, None]
        answers = network(pair)[:, channel, rows, columns].mean(dim=(1, 2))
    # The path is integrated in steps, and group normalisation bends it most where the image is almost black.
    assert found.sum() == pytest.approx(float(answers[0] - answers[1]), rel=0.1)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_receptive_field_of_a_mean_is_its_square() -> None:
    images = np.random.default_rng(0).random((2, 40, 48)).astype(np.float32)
    small, large = (receptive_field(_Mean(size), images) for size in (3, 9))
    assert (small.most, large.most) == (pytest.approx(2**0.5), pytest.approx(32**0.5, abs=1.0))
    assert small.half < large.half < large.most
    assert small.map[19 - 1 : 19 + 2, 19 - 1 : 19 + 2].min() == pytest.approx(1.0)
    assert small.map.sum() == pytest.approx(9.0)


def test_without_captum_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError, match="captum, which is not installed") as error:
        captum("attr")
    assert "pip install" in error.value.hint
