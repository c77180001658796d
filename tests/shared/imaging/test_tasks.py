"""What every task promises to training, privacy and the federation; then what is special to each."""

import gc
import weakref

import numpy as np
import pytest
import torch

from shared.errors import DataError, UsageError
from shared.imaging import tasks
from shared.imaging.lowres import low_resolution
from shared.imaging.memo import once_per_study
from shared.imaging.networks import AdversarialPair, DeepUNet, RelativisticPair
from shared.imaging.segment import standardised
from shared.imaging.tasks import Task, get_task, register, summarise, task_names
from shared.weights import weights_of
from tests.shared.imaging.phantoms import patient, study

SHIPPED = (
    "denoise",
    "denoise_volume",
    "denoise_self",
    "denoise_pair",
    "superres",
    "superres_gan",
    "superres4",
    "superres4_gan",
    "segment",
    "segment_pair",
    "masked",
)

CHANNELS = {"denoise_volume": 5, "denoise_pair": 2, "segment_pair": 2}


@pytest.fixture(autouse=True)
def _shipped_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests register tasks of their own, as a user of the registry may."""
    shipped = {name: get_task(name) for name in SHIPPED}
    monkeypatch.setattr(tasks, "_tasks", shipped)


@pytest.fixture(params=SHIPPED, name="task")
def _task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


def test_the_tasks_in_the_order_of_tables() -> None:
    assert task_names() == SHIPPED
    assert [get_task(name).name for name in task_names()] == list(task_names())


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        get_task("segmnet")
    assert caught.value.message == "there is no task called 'segmnet'"
    assert caught.value.hint == "did you mean segment?"
    with pytest.raises(UsageError) as caught:
        get_task("xyz")
    assert caught.value.hint == "known tasks: " + ", ".join(SHIPPED)


def test_no_two_tasks_share_a_name() -> None:
    with pytest.raises(ValueError, match="two tasks are called denoise"):
        register(type(get_task("denoise")))


def test_a_charter_may_ask_for_any_network_of_a_task_and_for_no_other(task: Task) -> None:
    default = [parameter.shape for parameter in task.network(0).parameters()]
    assert default == [parameter.shape for parameter in task.network(0, next(iter(task.networks))).parameters()]
    with pytest.raises(UsageError, match="has no network called 'unett'") as caught:
        task.network(0, "unett")
    assert any(name in caught.value.hint for name in task.networks)


def test_weights_tell_which_network_of_a_task_they_are_of(task: Task) -> None:
    networks = [weights_of(task.network(0, name)) for name in task.networks]
    layouts = [{name: array.shape for name, array in state.items()} for state in networks]
    assert all(layouts.count(layout) == 1 for layout in layouts)


def test_draws_depend_on_the_generator_alone(task: Task) -> None:
    one = patient(study(80, 72, seed=1), study(64, 64, seed=2))
    first, second, third = (task.draw(one, 4, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    assert first[0].dtype == torch.float32
    assert first[0].shape[:2] == (4, CHANNELS.get(task.name, 1))


def test_patches_have_one_size_whatever_the_size_of_the_images(task: Task) -> None:
    rng = np.random.default_rng(0)
    small, odd, large = (task.draw(patient(study(h, w)), 3, rng) for h, w in ((20, 30), (61, 73), (130, 150)))
    assert {batch[0].shape for batch in (small, odd, large)} == {large[0].shape}
    assert {batch[1].shape for batch in (small, odd, large)} == {large[1].shape}


def test_the_loss_is_the_mean_of_the_losses_of_its_rows(task: Task) -> None:
    inputs, targets = task.draw(patient(study(96, 96)), 4, np.random.default_rng(0))
    outputs = task.network(0)(inputs).detach() + torch.rand(4, 1, 1, 1)
    rows = [task.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(task.loss(outputs, targets), torch.stack(rows).mean())


def test_the_gradient_of_one_row_does_not_reach_another(task: Task) -> None:
    inputs, targets = task.draw(patient(study(96, 96)), 3, np.random.default_rng(0))
    outputs = task.network(0)(inputs).detach().requires_grad_()
    (all_rows,) = torch.autograd.grad(task.loss(outputs, targets), outputs)
    alone = outputs[:1].detach().requires_grad_()
    (one_row,) = torch.autograd.grad(task.loss(alone, targets[:1]), alone)
    torch.testing.assert_close(all_rows[:1] * 3, one_row)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 51)])
def test_predictions_have_the_shape_of_the_truth(task: Task, height: int, width: int) -> None:
    images = study(height, width, slices=9)
    network = task.network(0).train()
    predictions = task.predict(network, images)
    assert network.training
    assert predictions.shape == task.truth(images).shape == (9, height, width)
    assert np.isfinite(list(summarise(task.name, task.score(predictions, images)).values())).all()


def test_the_truth_scores_best(task: Task) -> None:
    images = study()
    figures = summarise(task.name, task.score(task.truth(images), images))
    assert figures[task.main_metric] == (100.0 if task.main_metric == "psnr" else 1.0)


def test_classical_methods_predict_like_the_network(task: Task) -> None:
    images = study(45, 52)
    for method in task.classical().values():
        predictions = method(images)
        assert predictions.shape == task.truth(images).shape
        assert predictions.dtype == task.truth(images).dtype
        assert 0 <= predictions.min() <= predictions.max() <= (3 if task.name.startswith("segment") else 1)


def test_the_first_objective_of_one_patch_does_not_know_the_others(task: Task) -> None:
    inputs, targets = task.draw(patient(study(96, 96)), 3, np.random.default_rng(0))
    network = task.network(0)
    for index in range(len(task.objectives(network, (inputs, targets)))):
        whole = task.objectives(network, (inputs, targets))[index].loss
        rows = [task.objectives(network, (inputs[i : i + 1], targets[i : i + 1]))[index].loss for i in range(3)]
        torch.testing.assert_close(whole, torch.stack(rows).mean())


def test_every_parameter_has_an_objective_and_only_one(task: Task) -> None:
    network = task.network(0)
    batch = task.draw(patient(study(96, 96)), 1, np.random.default_rng(0))
    following = [id(p) for objective in task.objectives(network, batch) for p in objective.trains.parameters()]
    assert sorted(following) == sorted(id(p) for p in network.parameters())


def test_a_few_steps_of_training_beat_the_start(task: Task) -> None:
    network = task.network(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs, targets = task.draw(patient(study(96, 96)), 3, np.random.default_rng(0))
    losses = []
    for _ in range(13):
        loss = task.loss(network(inputs), targets)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.95 * losses[0]


def test_who_is_eligible_for_what() -> None:
    magnetic, computed, unlabelled = study(), study(modality="CT"), study(labelled=False)
    alone = study(beside=False)
    eligible = {
        name: [get_task(name).eligible(images) for images in (magnetic, computed, unlabelled, alone)]
        for name in task_names()
    }
    assert eligible == {
        "denoise": [True, True, True, True],
        "denoise_volume": [True, True, True, True],
        "denoise_self": [True, True, True, True],
        "denoise_pair": [True, False, True, False],
        "superres": [True, False, True, True],
        "superres_gan": [True, False, True, True],
        "superres4": [True, False, True, True],
        "superres4_gan": [True, False, True, True],
        "segment": [True, False, False, True],
        "segment_pair": [True, False, False, False],
        "masked": [True, True, True, True],
    }


def test_a_patient_without_an_eligible_study_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(DataError, match="the task segment") as caught:
        get_task("segment").draw(patient(study(modality="CT")), 1, np.random.default_rng(0))
    assert "MR" in caught.value.hint


def test_only_eligible_studies_of_a_patient_are_drawn() -> None:
    blank = study(96, 96, modality="CT", sigma=0.0)
    marked = study(96, 96, sigma=0.0)
    marked.reference[:] = 0.75
    _, targets = get_task("superres").draw(patient(blank, marked), 8, np.random.default_rng(0))
    assert bool((targets == 0.75).all())


def test_denoising_pairs_the_same_window_of_both_series() -> None:
    inputs, targets = get_task("denoise").draw(patient(study(80, 90, sigma=0.0)), 8, np.random.default_rng(0))
    torch.testing.assert_close(inputs, targets)


@pytest.mark.parametrize(("name", "factor"), [("superres", 2), ("superres4", 4)])
def test_super_resolution_pairs_the_same_window_at_both_resolutions(name: str, factor: int) -> None:
    inputs, targets = get_task(name).draw(patient(study(40 * factor, 45 * factor)), 8, np.random.default_rng(0))
    coarse = torch.nn.functional.avg_pool2d(targets, factor)
    aligned = (coarse - inputs).abs().mean()
    assert aligned < 0.5 * (coarse.roll(1, dims=-1) - inputs).abs().mean()
    assert aligned < 0.5 * (coarse.roll(1, dims=-2) - inputs).abs().mean()


def test_the_adversaries_share_one_fake_and_neither_trains_the_other() -> None:
    task = get_task("superres_gan")
    network = task.network(0)
    assert isinstance(network, AdversarialPair)
    for parameter in network.parameters():  # wake the layer that starts at zero
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    made = []
    network.generator.register_forward_hook(lambda *_: made.append(1))
    generator, discriminator = task.objectives(network, task.draw(patient(), 2, np.random.default_rng(0)))
    assert made == [1]
    assert (generator.trains, discriminator.trains) == (network.generator, network.discriminator)
    through = torch.autograd.grad(discriminator.loss, list(network.generator.parameters()), allow_unused=True)
    assert through == (None,) * len(through)


def test_the_discriminator_learns_to_tell_and_the_generator_to_deceive() -> None:
    task = get_task("superres_gan")
    network, batch = task.network(0), task.draw(patient(study(96, 96)), 4, np.random.default_rng(0))
    assert isinstance(network, AdversarialPair)
    torch.nn.init.normal_(network.generator.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    inputs, targets = batch

    def follow(index: int, steps: int, rate: float) -> tuple[float, float]:
        """Mean scores of references and fakes after training one of the two against the other as it is."""
        optimiser = torch.optim.Adam(task.objectives(network, batch)[index].trains.parameters(), lr=rate)
        for _ in range(steps):
            loss = task.objectives(network, batch)[index].loss
            optimiser.zero_grad()
            (loss if index else loss - task.loss(network(inputs), targets)).backward()  # what the adversary adds
            optimiser.step()
        return network.discriminator(targets).mean().item(), network.discriminator(network(inputs)).mean().item()

    real, made = follow(1, 40, 3e-3)
    assert real > made + 0.2
    assert follow(0, 10, 1e-3)[1] > made + 0.05


def test_whoever_applies_the_adversarial_pair_gets_the_generator_alone() -> None:
    task, plain, images = get_task("superres_gan"), get_task("superres"), study(40, 30)
    network = task.network(0)
    assert isinstance(network, AdversarialPair)
    np.testing.assert_array_equal(task.predict(network, images), plain.predict(network.generator, images))
    with pytest.raises(TypeError, match="AdversarialPair"):
        task.objectives(network.generator, task.draw(patient(), 1, np.random.default_rng(0)))


def test_the_relativistic_pair_compares_the_two_images_of_one_row_and_no_others() -> None:
    task = get_task("superres_gan")
    pair = task.network(0, "esrgan")
    assert isinstance(pair, RelativisticPair)
    real, fake = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    fools, told_apart = pair.judged(fake, real)
    ahead = pair.discriminator(real) - pair.discriminator(fake)
    likely = torch.sigmoid(ahead)  # that the reference is the reference
    torch.testing.assert_close(told_apart, -likely.log().mean())
    torch.testing.assert_close(fools, -(1 - likely).log().mean())
    mean = pair.discriminator(real).mean() - pair.discriminator(fake).mean()
    assert not torch.isclose(told_apart, torch.nn.functional.softplus(-mean))  # ESRGAN's own, which couples the rows


def test_deep_supervision_asks_every_scale_for_the_classes_and_weighs_them_by_halves() -> None:
    task = get_task("segment")
    network, batch = task.network(0, "unet_deep"), task.draw(patient(study(96, 96)), 2, np.random.default_rng(0))
    assert isinstance(network, DeepUNet)
    full, half, quarter = network.scales(batch[0])
    assert (full.shape[-1], half.shape[-1], quarter.shape[-1]) == (96, 48, 24)
    losses = [task.loss(scores, batch[1][:, ::step, ::step]) for scores, step in ((full, 1), (half, 2), (quarter, 4))]
    (objective,) = task.objectives(network, batch)
    torch.testing.assert_close(objective.loss, (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75)


def test_whoever_applies_deep_supervision_computes_the_finest_scale_alone() -> None:
    task, images = get_task("segment"), study(40, 48)
    network = task.network(0, "unet_deep")
    assert isinstance(network, DeepUNet)
    for layer in network.score:
        layer.register_forward_hook(lambda *_: pytest.fail("a coarser scale was computed"))
    assert task.predict(network, images).shape == (2, 40, 48)


def test_segmentation_pairs_the_same_window_of_image_and_classes() -> None:
    inputs, targets = get_task("segment").draw(patient(study(120, 110, sigma=0.0)), 6, np.random.default_rng(0))
    for image, classes in zip(inputs[:, 0], targets, strict=True):
        means = [float(image[classes == tissue].mean()) for tissue in range(4) if bool((classes == tissue).any())]
        assert means == sorted(means)
        assert all(float(image[classes == tissue].std()) < 1e-4 for tissue in range(4) if (classes == tissue).sum() > 1)


def test_standardised_intensities_do_not_depend_on_the_scale_of_the_scanner() -> None:
    images = study(80, 80)
    darker = type(images)("MR", images.noisy * np.float32(0.4), images.reference, images.label, (1.0, 1.0))
    np.testing.assert_allclose(standardised(darker), standardised(images), atol=1e-3)
    assert abs(float(np.median(standardised(images)[images.label > 0]))) < 0.5


def test_a_blank_study_is_standardised_without_a_fault() -> None:
    blank = study()
    blank.noisy[:] = 0
    assert np.isfinite(standardised(blank)).all()


def test_low_resolution_images_are_the_same_in_every_run() -> None:
    first, second = study(50, 41), study(50, 41)
    assert low_resolution(first).shape == (2, 25, 21)
    np.testing.assert_array_equal(low_resolution(first), low_resolution(second))
    assert low_resolution(first, 4).shape == low_resolution(second, factor=4).shape == (2, 13, 11)


def test_what_is_remembered_of_a_study_goes_with_it() -> None:
    calls = []
    measure = once_per_study(lambda images, factor=1: calls.append(factor) or factor * len(images))
    images = study()
    assert (measure(images), measure(images), measure(images, 3), measure(images, 3)) == (2, 2, 6, 6)
    assert calls == [1, 3]
    gone = weakref.ref(images)
    del images
    gc.collect()
    assert gone() is None
