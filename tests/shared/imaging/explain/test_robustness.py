"""Changes made to do harm, and other scanners."""

import numpy as np
import pytest

from client.released import network_with
from shared.imaging.explain.network import inputs_of, outputs
from shared.imaging.explain.robustness import KINDS, perturbed
from shared.imaging.explain.shifts import SHIFTS, shifted
from shared.imaging.explain.uncertainty import spread
from shared.imaging.metrics import summarise
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from tests.client.export.test_graph import stirred
from tests.shared.imaging.phantoms import study


@pytest.mark.parametrize("name", ["denoise", "superres", "segment"])
def test_an_attack_stays_within_its_bound_and_does_more_harm_than_chance(name: str) -> None:
    task, images, size = get_task(name), study(44, 48, slices=1), 0.02
    network = network_with(task, load_public("public-1", name))
    inputs, truth = inputs_of(task, images), task.truth(images)
    reach = float(inputs.max() - inputs.min())
    figures = {}
    for kind in KINDS:
        changed = perturbed(task, network, inputs, truth, kind=kind, size=size)
        assert np.abs(changed - inputs).max() == pytest.approx(size * reach, rel=1e-4)
        assert inputs.min() <= changed.min()
        assert changed.max() <= inputs.max()
        made = spread([outputs(network, changed, size=truth.shape[1:], classes=name == "segment")])
        figures[kind] = summarise(name, task.score(made.predictions, images))[task.main_metric]
    assert figures["pgd"] < figures["fgsm"] < figures["random"]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_attack_on_two_contrasts_changes_both() -> None:
    task, images = get_task("denoise_pair"), study(44, 48, slices=1)
    inputs = inputs_of(task, images)
    for kind in KINDS:
        changed = perturbed(task, stirred(task.network(0)), inputs, task.truth(images), kind=kind, size=0.02)
        assert changed.shape == inputs.shape == (1, 2, 44, 48)
        assert np.abs(changed - inputs).max(axis=(0, 2, 3)) == pytest.approx([0.02 * np.ptp(inputs)] * 2, rel=1e-4)


def test_a_shift_changes_the_second_contrast_where_it_has_values() -> None:
    images = study(40, 48)
    assert images.second is not None
    images.second[:, :, :9] = 0.0
    for shift in SHIFTS.values():
        measured, _ = shifted(images, shift)
        assert measured.second is not None
        assert not measured.second[:, :, :9].any()
        assert np.abs(measured.second - images.second)[images.second > 0].mean() > 0.004


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_a_shift_changes_the_images_within_the_grey_window_and_repeats(name: str, modality: str) -> None:
    images, shift = study(40, 48, modality=modality), SHIFTS[name]
    measured, judge = shifted(images, shift)
    assert np.array_equal(measured.noisy, shifted(images, shift)[0].noisy)
    for before, after in ((images.noisy, measured.noisy), (images.reference, measured.reference)):
        assert after.dtype == np.float32
        assert 0 <= after.min() <= after.max() <= 1
        assert np.abs(after - before).mean() > 0.004
    assert measured.label is images.label
    assert judge is (measured if shift.scene else images)


def test_a_shift_that_changes_the_scene_leaves_the_order_of_tissues() -> None:
    images = study(40, 40, sigma=0.0)
    for shift in (SHIFTS["contrast_low"], SHIFTS["contrast_high"]):
        changed = shifted(images, shift)[0].reference
        means = [changed[images.label == tissue].mean() for tissue in range(4)]
        assert means == sorted(means)
