"""The one way to line up a picture row of the run's page."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from shared.imaging.pictures import grayscale, overlay
from simulation.record import Metrics, Panel, Picture


def intensity_picture(
    site: str,
    caption: str,
    *,
    inputs: tuple[NDArray[Any], Metrics],
    classical: Sequence[tuple[str, NDArray[Any], Metrics]],
    ours: tuple[str, NDArray[Any], Metrics],
    truth: NDArray[Any],
) -> Picture:
    """A row for denoising or super-resolution.

    Args:
        site: Id of the site.
        caption: What the slice is, without naming anybody.
        inputs: The slice as the network sees it, [h, w] in [0, 1], perhaps of half the resolution, and its scores.
        classical: Name, result [H, W] and scores of one or more classical methods, best last.
        ours: Name of the arm, its result [H, W] and scores.
        truth: The reference slice [H, W].
    """
    shape = (int(truth.shape[0]), int(truth.shape[1]))
    panels = [Panel("input", grayscale(inputs[0], size=shape), metrics=inputs[1])]
    panels += [Panel("classical", grayscale(image), name, metrics) for name, image, metrics in classical]
    panels.append(Panel("ours", grayscale(ours[1]), ours[0], ours[2]))
    panels.append(Panel("truth", grayscale(truth)))
    return Picture(site, caption, tuple(panels))


def class_picture(
    site: str,
    caption: str,
    *,
    image: NDArray[Any],
    classical: Sequence[tuple[str, NDArray[Any], Metrics]],
    ours: tuple[str, NDArray[Any], Metrics],
    truth: NDArray[Any],
) -> Picture:
    """A row for segmentation: the bare slice ([h, w] in [0, 1]), then labels ([h, w], 0 for background) over it."""
    panels = [Panel("input", grayscale(image))]
    panels += [Panel("classical", overlay(image, labels), name, metrics) for name, labels, metrics in classical]
    panels.append(Panel("ours", overlay(image, ours[1]), ours[0], ours[2]))
    panels.append(Panel("truth", overlay(image, truth)))
    return Picture(site, caption, tuple(panels))
