"""Large images in tiles: the same as at once, as far as the network lets it be."""

import numpy as np
import pytest
from numpy.typing import NDArray

from client.enhance import tiles
from client.enhance.model import Model
from shared.imaging import inference


def head(rows: int, columns: int) -> NDArray[np.float32]:
    """A texture that is alike everywhere, in [0, 1]."""
    y, x = np.mgrid[0:rows, 0:columns]
    waves = 0.4 + 0.2 * np.sin(y / 9) * np.cos(x / 7) + 0.15 * np.sin((x + y) / 23)
    return np.clip(waves + np.random.default_rng(2).normal(0, 0.03, waves.shape), 0, 1).astype(np.float32)


def at_once(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return inference.run(model.network, images, scale=model.factor)


def in_parts(model: Model, images: NDArray[np.float32], **limits: int) -> NDArray[np.float32]:
    found = list(tiles.outputs(model.network, images, scale=model.factor, **limits))
    assert [index for part, _ in found for index in range(part.start, part.stop)] == list(range(len(images)))
    return np.concatenate([made for _, made in found])


def test_slices_are_taken_a_few_at_a_time(models: dict[str, Model]) -> None:
    images = np.stack([head(40, 48) * scale for scale in (0.3, 0.6, 0.9, 1.0, 0.1)])
    found = list(tiles.outputs(models["denoise"].network, images, budget=2 * 40 * 48))
    assert [part for part, _ in found] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    together = np.concatenate([made for _, made in found])
    assert np.abs(together - at_once(models["denoise"], images)).max() < 1e-5


@pytest.mark.parametrize("size", [(330, 40), (41, 403), (270, 270)])
def test_a_network_without_group_norm_gives_the_same_in_tiles(models: dict[str, Model], size: tuple[int, int]) -> None:
    images = head(*size)[None]
    model = models["superres"]
    tiled = in_parts(model, images, budget=1, side=512)
    assert np.abs(tiled - at_once(model, images)).max() < 1e-5


def test_one_with_group_norm_gives_nearly_the_same(models: dict[str, Model]) -> None:
    """Statistics of a tile are not those of the image; at most 0.02 of the window, 0.001 on average."""
    images = head(400, 300)[None]
    model = models["denoise"]
    difference = np.abs(in_parts(model, images, budget=1, side=256) - at_once(model, images))
    assert difference.max() < 0.02
    assert difference.mean() < 0.001


def test_blended_tiles_have_no_seams(models: dict[str, Model]) -> None:
    """Along a flat image nothing tells where a tile ends."""
    images = np.full((1, 400, 112), 0.5, np.float32)
    for task in ("denoise", "superres"):
        made = in_parts(models[task], images, budget=1, side=256)[0, 0]
        inner = made[50:-50, 50:-50]
        assert np.abs(np.diff(inner, axis=0)).max() < 1e-3
        assert np.abs(np.diff(inner, axis=1)).max() < 1e-3
