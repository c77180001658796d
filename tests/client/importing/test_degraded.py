"""The noisy series that is made: the same in every run, another in every study, at the level that was asked for."""

import numpy as np
import pytest

from client.importing.degraded import LEVELS, Degradation


@pytest.mark.parametrize(("modality", "unit"), [("CT", 1.0), ("MR", 400.0)])
def test_the_noise_is_repeatable_and_each_studys_own(modality: str, unit: float) -> None:
    images = np.full((3, 64, 64), 400.0, np.float32)
    made = Degradation(1).apply(modality, images, "a")
    assert np.array_equal(made, Degradation(1).apply(modality, images, "a"))
    for other in (Degradation(2).apply(modality, images, "a"), Degradation(1).apply(modality, images, "b")):
        assert abs(np.corrcoef((made - images).ravel(), (other - images).ravel())[0, 1]) < 0.05
    assert not np.array_equal(made[0], made[1])
    assert (made - images).std() == pytest.approx(LEVELS[modality] * unit, rel=0.05)
    assert (Degradation(1, 0.02 * unit if modality == "CT" else 0.02).apply(modality, images, "a") - images).std() == (
        pytest.approx(0.02 * unit, rel=0.05)
    )
    assert str(LEVELS[modality]).rstrip("0").rstrip(".") in Degradation(1).told(modality)
