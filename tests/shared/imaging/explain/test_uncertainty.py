"""Several answers as one, and whether their spread points to errors."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.released import network_with
from shared.imaging.explain.calibration import agreement, judged
from shared.imaging.explain.network import inputs_of, outputs
from shared.imaging.explain.uncertainty import TURNS, back, dropped, has_dropout, spread, turned, views
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from tests.shared.imaging.phantoms import study


class _Shift(nn.Module):
    """Moves an image one pixel to the right: no symmetry of the square leaves that alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, 1, dims=3)


class _Dropping(nn.Module):
    def __init__(self, chance: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(chance)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.drop(x)
        return made


@pytest.mark.parametrize("turn", range(TURNS))
def test_every_view_is_turned_back(turn: int) -> None:
    images = np.random.default_rng(0).random((2, 3, 5)).astype(np.float32)
    assert np.array_equal(back(turned(images, turn), turn), images)


def test_the_eight_views_are_different_ones() -> None:
    image = np.arange(16.0).reshape(4, 4)
    assert len({turned(image, turn).tobytes() for turn in range(TURNS)}) == TURNS


def test_a_network_that_treats_all_views_alike_is_sure_of_everything() -> None:
    images = np.random.default_rng(0).random((2, 12, 9)).astype(np.float32)
    found = spread(views(nn.Identity(), images, size=(12, 9), classes=False))
    assert found.members == TURNS
    np.testing.assert_allclose(found.predictions, images, rtol=1e-6)
    assert found.uncertainty.max() < 1e-6


def test_a_network_that_does_not_is_unsure_where_its_answers_differ() -> None:
    images = np.zeros((1, 16, 16), np.float32)
    images[0, 8, 8] = 1.0
    found = spread(views(_Shift(), images, size=(16, 16), classes=False))
    unsure = {(int(row), int(column)) for row, column in np.argwhere(found.uncertainty[0] > 0)}
    assert unsure == {(7, 8), (9, 8), (8, 7), (8, 9)}
    # Two of eight answers have 1 there, six have 0.
    assert found.uncertainty.max() == pytest.approx(np.std([1, 1, 0, 0, 0, 0, 0, 0], ddof=1))


def test_super_resolution_of_odd_sizes_is_turned_back_at_the_size_of_the_truth() -> None:
    task = get_task("superres")
    images, network = study(21, 31), network_with(task, load_public("public-1", "superres"))
    found = spread(views(network, inputs_of(task, images), size=(21, 31), classes=False))
    assert found.predictions.shape == (2, 21, 31)
    assert np.abs(found.predictions - images.reference).mean() < 0.05


def test_classes_are_unsure_by_the_entropy_of_their_mean_probabilities() -> None:
    sure, even = np.array([1.0, 0, 0, 0]), np.full(4, 0.25)
    members = [np.stack([sure, even], axis=1)[None, :, :, None].astype(np.float32)] * 2
    found = spread(members)
    np.testing.assert_allclose(found.uncertainty[0, :, 0], [0.0, 1.0], atol=1e-6)
    assert found.predictions.dtype == np.uint8


def test_dropout_is_on_for_the_answers_repeats_and_is_off_afterwards() -> None:
    network, images = _Dropping(0.5).eval(), np.full((1, 8, 8), 0.4, np.float32)
    before = torch.random.get_rng_state()
    first = list(dropped(network, images, size=(8, 8), classes=False, passes=3))
    again = list(dropped(network, images, size=(8, 8), classes=False, passes=3))
    assert not np.array_equal(first[0], first[1])
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(outputs(network, images, size=(8, 8), classes=False)[:, 0], images)
    assert has_dropout(network)
    assert not has_dropout(_Dropping(0.0))


# --- calibration ------------------------------------------------------------------------------------------------------


def test_the_error_itself_is_the_best_order_and_noise_is_as_good_as_none() -> None:
    rng = np.random.default_rng(1)
    error, everywhere = rng.random((64, 64)) ** 3, np.ones((64, 64), np.bool_)
    best, none = agreement(error, error, everywhere), agreement(rng.random((64, 64)), error, everywhere)
    assert best is not None
    assert none is not None
    assert (best.ause, best.spearman) == (0.0, pytest.approx(1.0))
    assert none.ause == pytest.approx(none.ause_random, abs=0.02)
    assert abs(none.spearman) < 0.05
    worst = agreement(-error, error, everywhere)
    assert worst is not None
    assert worst.ause > worst.ause_random


def test_a_map_that_is_the_same_everywhere_is_worth_no_more_than_a_random_order() -> None:
    rows = np.linspace(0, 1, 64)[:, None] * np.ones((64, 64))
    found = agreement(np.zeros((64, 64)), rows, np.ones((64, 64), np.bool_))
    assert found is not None
    assert found.curve == pytest.approx([1.0] * len(found.curve))
    assert found.spearman == 0.0


def test_where_nothing_is_wrong_or_nobody_is_there_is_no_agreement() -> None:
    rng = np.random.default_rng(1)
    everywhere = np.ones((8, 8), np.bool_)
    assert agreement(rng.random((8, 8)), np.zeros((8, 8)), everywhere) is None
    assert agreement(rng.random((8, 8)), rng.random((8, 8)), ~everywhere) is None


def test_air_does_not_count() -> None:
    truth = np.zeros((8, 8), np.float32)
    truth[2:4] = 0.5
    error, where = judged(truth, np.full((8, 8), 0.25, np.float32))
    assert where.sum() == 16
    np.testing.assert_allclose(error[where], 0.25)
    classes = (truth > 0).astype(np.uint8)
    error, where = judged(classes, np.zeros((8, 8), np.uint8))
    assert (error.sum(), where.sum()) == (16, 16)
