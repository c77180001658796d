import numpy as np
import pytest

from shared.errors import DataError
from simulation.sites import atlas
from simulation.sites.atlas import load_atlas


def test_the_middle_of_a_brain_is_what_anatomy_says() -> None:
    """The lateral ventricle is fluid, the corona radiata is white, and air is far away."""
    points = np.array([[7, 29, 0, 0], [0, -35, 0, 0], [20, 23, 110, 10]], np.float32)
    fractions, distance = load_atlas().sample(points)
    assert fractions[0, 0] > 0.7
    assert fractions[2, 1] > 0.9
    assert fractions[:, 2].sum() == 0
    assert distance[2] > 10
    assert distance[3] == 0


def test_fractions_are_fractions() -> None:
    total = load_atlas().fractions.astype(int).sum(0)
    assert total.max() <= 257  # three roundings
    assert np.mean(total[total > 0] > 250) > 0.99


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "find_spec", lambda _: None)
    with pytest.raises(DataError) as caught:
        atlas.atlas_file("t1")
    assert "fedward[simulation]" in caught.value.hint


def test_a_wheel_without_the_atlas_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "FILE", "no_such_{}.nii.gz")
    with pytest.raises(DataError, match=r"no_such_gm\.nii\.gz"):
        atlas.atlas_file("gm")
