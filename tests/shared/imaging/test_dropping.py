"""Channels are left out row by row before the last layer, within the block and nowhere else."""

import numpy as np
import pytest
import torch
from torch import nn

from shared.imaging import tasks
from shared.imaging.denoise_volume import SLICES
from shared.imaging.dropping import dropping
from shared.imaging.networks import FCN, DnCNN, UNet, seeded
from shared.imaging.tasks import get_task

torch.set_num_threads(1)


def network() -> UNet:
    made = seeded(lambda: UNet(1, (8, 16)), 0)
    nn.init.ones_(made.head.weight)
    return made


def test_whole_channels_of_a_row_are_left_out_and_the_others_made_larger() -> None:
    made, seen = network(), list[torch.Tensor]()
    before = made.decoded(torch.rand(1, 1, 16, 16))[-1]
    images = torch.rand(64, 1, 16, 16)
    whole = made.decoded(images)[-1]
    with dropping(made, 0.25, np.random.default_rng(0)):
        made.head.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
        made(images)
    kept = seen[0].abs().sum(dim=(2, 3)) > 0
    assert before.shape[1] == kept.shape[1] == 8
    alive = whole.abs().sum(dim=(2, 3)) > 0
    assert 0.68 < float(kept[alive].float().mean()) < 0.82
    torch.testing.assert_close(seen[0], whole * kept[..., None, None] / 0.75)
    assert len({tuple(row.tolist()) for row in kept}) > 20  # every row has coins of its own


def test_after_the_block_or_without_a_share_nothing_is_dropped_and_no_coin_is_thrown() -> None:
    made, images, rng = network(), torch.rand(2, 1, 16, 16), np.random.default_rng(0)
    plain, state = made(images), rng.bit_generator.state
    with dropping(made, 0.0, rng):
        assert torch.equal(made(images), plain)
    assert rng.bit_generator.state == state
    with pytest.raises(RuntimeError, match="stop"), dropping(made, 0.5, rng):
        assert not torch.equal(made(images), plain)
        raise RuntimeError("stop")
    assert torch.equal(made(images), plain)


def test_whoever_looks_at_a_network_in_training_sees_all_of_its_channels() -> None:
    made, images, rng = network(), torch.rand(2, 1, 16, 16), np.random.default_rng(0)
    plain, state = made.eval()(images), rng.bit_generator.state
    with dropping(made.train(), 0.5, rng):
        assert torch.equal(made.eval()(images), plain)
    assert rng.bit_generator.state == state


def test_the_expected_features_are_those_without_dropout() -> None:
    made = seeded(DnCNN, 0)
    nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, 1, 8, 8)
    with dropping(made, 0.5, np.random.default_rng(0)), torch.no_grad():
        mean = made(image.expand(1000, 1, 8, 8)).mean(dim=0)
    torch.testing.assert_close(mean, made(image)[0].detach(), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("task", "which"),
    [(task, which) for task in tasks._MODULES for which in get_task(task).networks],
    ids=lambda one: one,
)
def test_every_network_of_every_task_can_drop(task: str, which: str) -> None:
    made, rng = get_task(task).network(0, which), np.random.default_rng(0)
    images = torch.rand(2, {"denoise_volume": SLICES, "denoise_pair": 2, "segment_pair": 2}.get(task, 1), 8, 8)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    plain = made(images)
    with dropping(made, 0.5, rng):
        assert not torch.equal(made(images), plain)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="chance"), dropping(FCN(4), share, np.random.default_rng(0)):
        pass


def test_a_network_without_a_last_layer_of_a_known_name_is_refused() -> None:
    nameless, rng = nn.Conv2d(1, 1, 3), np.random.default_rng(0)
    with pytest.raises(ValueError, match="no layer called head or score"), dropping(nameless, 0.1, rng):
        pass
