"""Tasks whose network sees a second contrast beside the slice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.errors import DataError
from shared.imaging.networks import UNet
from shared.imaging.tasks import get_task
from tests.shared.imaging.phantoms import patient, study

PAIRS = ("denoise_pair", "segment_pair")


def test_a_second_contrast_is_of_the_same_pixels_or_refused() -> None:
    images = study()
    assert images.second is not None
    with pytest.raises(ValueError, match="alike"):
        replace(images, second=images.second[:, :-1])


def test_both_contrasts_and_the_truth_are_cut_from_one_window() -> None:
    images = study(90, 80, slices=3, sigma=0.0)
    numbered = images.noisy + np.arange(images.noisy.size, dtype=np.float32).reshape(images.noisy.shape) * 1e-6
    same = replace(images, noisy=numbered, reference=numbered, second=numbered)
    inputs, targets = get_task("denoise_pair").draw(patient(same), 12, np.random.default_rng(0))
    assert torch.equal(inputs[:, :1], targets)
    assert torch.equal(inputs[:, 1:], targets)
    inputs, classes = get_task("segment_pair").draw(patient(images), 6, np.random.default_rng(0))
    for row, truth in zip(inputs, classes, strict=True):
        for channel in row:
            assert all(float(channel[truth == one].std(correction=0)) < 1e-4 for one in truth.unique())


def test_an_untrained_denoiser_gives_the_noisy_slice_back_whatever_the_second_contrast() -> None:
    task, images = get_task("denoise_pair"), study(37, 51)
    np.testing.assert_allclose(task.predict(task.network(0), images), images.noisy, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_the_second_contrast_reaches_the_result(name: str) -> None:
    task, images = get_task(name), study(40, 40)
    network = task.network(0)
    assert isinstance(network, UNet)
    torch.nn.init.normal_(network.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    assert images.second is not None
    other = replace(images, second=images.second[:, ::-1].copy())
    first, then = (torch.from_numpy(task.inputs(one)) for one in (images, other))
    assert torch.equal(first[:, 0], then[:, 0])
    with torch.inference_mode():
        assert not torch.allclose(network(first), network(then))


@pytest.mark.parametrize("name", PAIRS)
def test_a_study_of_one_contrast_is_for_the_tasks_of_one(name: str) -> None:
    task, alone = get_task(name), study(beside=False)
    assert not task.eligible(alone)
    with pytest.raises(DataError, match="can use") as caught:
        task.draw(patient(alone), 1, np.random.default_rng(0))
    assert "second contrast" in caught.value.hint
    plain = get_task(name.removesuffix("_pair"))
    assert set(task.classical()) == set(plain.classical())
    for method in task.classical().values():
        np.testing.assert_array_equal(method(study()), method(alone))
