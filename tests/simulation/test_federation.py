"""The charter that virtual hospitals run under: the one that was given, with them as its members."""

from pathlib import Path
from typing import Any

import pytest

from client.node import Node
from shared.charter import MaskingPlan
from shared.errors import CharterError
from simulation.federation import VIRTUAL_WEIGHT, masked
from tests.federation import toy
from tests.federation.members import invented


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, Path]:
    sites = [f"H{number}" for number in range(1, 8)]
    for site in sites:
        Node.create(tmp_path / site, site=site, purpose=toy.PURPOSE, seed=7)
    return {site: tmp_path / site for site in sites}


def made(nodes: dict[str, Path], count: int, **plan: Any) -> MaskingPlan:
    members = dict(list(nodes.items())[:count])
    given = toy.charter(members=invented(10), masking=MaskingPlan(**plan)) if plan else toy.charter()
    agreed = masked(given, members)
    assert [one.name for one in agreed.members] == list(members)
    assert agreed.masking is not None
    return agreed.masking


def test_a_charter_without_masks_gets_them(nodes: dict[str, Path]) -> None:
    assert made(nodes, 7) == MaskingPlan(6, w_max=VIRTUAL_WEIGHT)


def test_its_own_settings_of_masks_stay(nodes: dict[str, Path]) -> None:
    own: dict[str, Any] = {"colluding": 4, "min_included": 6, "ring_bits": 16, "clip": 2.5, "w_max": 70}
    assert made(nodes, 7, threshold=8, **own) == MaskingPlan(6, **own)
    assert made(nodes, 7, threshold=8, colluding=0).colluding == 0


def test_what_so_many_hospitals_do_not_allow_becomes_what_is_recommended(nodes: dict[str, Path]) -> None:
    for count, colluding in ((7, 4), (5, 2), (3, 1)):
        found = made(nodes, count, threshold=9, colluding=5, min_included=8)
        assert (found.colluding, found.min_included) == (colluding, 3)


def test_two_hospitals_are_too_few(nodes: dict[str, Path]) -> None:
    with pytest.raises(CharterError, match="3 to 100 hospitals, not 2"):
        made(nodes, 2)
