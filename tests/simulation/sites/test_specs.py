import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from simulation.sites.mri import TISSUES
from simulation.sites.names import draw_name
from simulation.sites.specs import SITES, UNSEEN, MrProtocol, choose_sites


def test_no_two_sites_scan_alike() -> None:
    assert len({site.protocol for site in SITES + UNSEEN}) == len(SITES + UNSEEN)
    assert len({site.id for site in SITES + UNSEEN}) == len(SITES + UNSEEN)


def test_every_site_has_tissue_values_and_names() -> None:
    for site in SITES + UNSEEN:
        assert "^" in draw_name(np.random.default_rng(0), site.script, "F").dicom
        if isinstance(site.protocol, MrProtocol):
            assert site.protocol.field in TISSUES


@pytest.mark.parametrize("count", range(2, 9))
def test_a_number_of_sites_always_has_both_modalities(count: int) -> None:
    chosen = choose_sites(str(count))
    assert len(chosen) == count
    assert {site.protocol.modality for site in chosen} == {"MR", "CT"}


def test_sites_by_name_keep_the_order_asked_for() -> None:
    assert [site.id for site in choose_sites("x1, h7,H2")] == ["X1", "H7", "H2"]
    assert len(choose_sites("all")) == 10


@pytest.mark.parametrize("wanted", ["0", "9", "H9", "H1,H1", "H1,,H2", ""])
def test_a_wrong_choice_says_what_there_is(wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_sites(wanted)
    assert "X2" in caught.value.hint


@given(st.integers(1, 600))
def test_matrices_suit_networks_that_halve_four_times(size: int) -> None:
    for site in SITES + UNSEEN:
        assert site.pixels(size) % 16 == 0
        assert site.pixels(size) >= 32
