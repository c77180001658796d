from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.sites.acquisition import Acquisition
from simulation.sites.atlas import load_atlas
from simulation.sites.mri import (
    CSF,
    GREY,
    TISSUES,
    WHITE,
    Tissue,
    acquire,
    draw_head,
    signal,
    simulate_mr,
    tissue_maps,
    window,
)
from simulation.sites.specs import SITES, UNSEEN, MrProtocol, PulseSequence, SiteSpec
from simulation.sites.warp import slice_points

MR_SITES = [site for site in SITES + UNSEEN if isinstance(site.protocol, MrProtocol)]


def scan(site: SiteSpec, *, person: int = 0, visit: int = 0, noise: int = 0) -> Acquisition:
    assert isinstance(site.protocol, MrProtocol)
    head = draw_head(np.random.default_rng(person), ageing=site.ageing)
    rng = np.random.default_rng([1, noise])
    return simulate_mr(site.protocol, load_atlas(), head, rng, pixels=96, slices=3, fov=site.fov, visit=visit)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the three tissues."""
    return float(np.mean([2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in (1, 2, 3)]))


class TestSignalEquation:
    def test_a_spin_echo_without_relaxation_shows_the_density(self) -> None:
        protocol = MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=1e9, te=0)
        assert signal(protocol, Tissue(800, 80, 0.7)) == pytest.approx(0.7)

    def test_a_spin_echo_after_one_t1_and_one_t2(self) -> None:
        protocol = MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=800, te=80)
        assert signal(protocol, Tissue(800, 80, 1.0)) == pytest.approx((1 - np.exp(-1)) * np.exp(-1))

    def test_a_gradient_echo_is_brightest_at_the_ernst_angle(self) -> None:
        tissue = Tissue(800, 80, 1.0)
        ernst = float(np.rad2deg(np.arccos(np.exp(-20 / 800))))
        levels = [
            signal(MrProtocol(PulseSequence.SPOILED_GRADIENT_ECHO, 3.0, tr=20, te=4, flip=flip), tissue)
            for flip in (ernst - 3, ernst, ernst + 3)
        ]
        assert max(levels) == levels[1]

    def test_flair_nulls_fluid(self) -> None:
        site = next(s for s in SITES if s.id == "H4")
        assert isinstance(site.protocol, MrProtocol)
        tissue = TISSUES[site.protocol.field]
        assert signal(site.protocol, tissue[CSF]) < 0.02 * signal(site.protocol, tissue[GREY])

    @pytest.mark.parametrize(
        ("name", "order"),
        [
            ("H1", [WHITE, GREY, CSF]),
            ("H2", [WHITE, GREY, CSF]),
            ("H3", [CSF, GREY, WHITE]),
            ("H4", [GREY, WHITE, CSF]),
            ("H5", [CSF, GREY, WHITE]),
            ("H6", [WHITE, GREY, CSF]),
            ("X1", [WHITE, GREY, CSF]),
        ],
    )
    def test_each_sequence_orders_the_tissues_as_radiologists_know_them(self, name: str, order: list[int]) -> None:
        protocol = next(s.protocol for s in MR_SITES if s.id == name)
        assert isinstance(protocol, MrProtocol)
        levels = [signal(protocol, tissue) for tissue in TISSUES[protocol.field][:3]]
        assert list(np.argsort(levels)[::-1]) == order


class TestNoise:
    @pytest.mark.parametrize("kept", [(1.0, 1.0), (0.75, 0.9)])
    def test_air_is_rayleigh(self, kept: tuple[float, float]) -> None:
        """Mean sigma*sqrt(pi/2) and standard deviation sigma*sqrt(2 - pi/2); cutting k-space cuts the noise with it."""
        sigma = 3.0
        (picture,) = acquire(
            np.zeros((8, 80, 80), np.float32), kept=kept, sigma=sigma, averages=(1,), rng=np.random.default_rng(0)
        )
        left = sigma * np.sqrt(window(80, kept[0]).mean() * window(80, kept[1]).mean())
        assert picture.mean() == pytest.approx(left * np.sqrt(np.pi / 2), rel=0.02)
        assert picture.std() == pytest.approx(left * np.sqrt(2 - np.pi / 2), rel=0.03)

    def test_averages_calm_the_noise_by_their_square_root(self) -> None:
        flat = np.full((4, 64, 64), 100, np.float32)
        once, often = acquire(flat, kept=(1, 1), sigma=2.0, averages=(1, 16), rng=np.random.default_rng(0))
        assert once.std() == pytest.approx(2.0, rel=0.05)
        assert often.std() == pytest.approx(0.5, rel=0.05)

    @given(pixels=st.integers(8, 64).map(lambda n: 2 * n), kept=st.floats(0.3, 1))
    def test_the_window_keeps_the_centre_of_k_space(self, pixels: int, kept: float) -> None:
        lines = window(pixels, kept)
        assert lines.sum() == pytest.approx(pixels * kept, abs=1.01)
        assert lines[pixels // 2] == 1
        if kept < 0.9:
            assert lines[0] == 0


class TestStudies:
    @pytest.mark.parametrize("site", MR_SITES, ids=lambda site: site.id)
    def test_the_reference_is_the_same_picture_with_less_noise(self, site: SiteSpec) -> None:
        study = scan(site)
        air = study.reference < np.percentile(study.reference, 20)
        assert study.fast[air].std() > 3 * study.reference[air].std()
        inside = study.label > 0
        assert study.fast[inside].mean() == pytest.approx(study.reference[inside].mean(), rel=0.05)
        assert study.reference.max() <= 4095
        assert set(np.unique(study.label)) == {0, 1, 2, 3}

    def test_the_label_fits_the_picture(self) -> None:
        study = scan(SITES[2])  # T2: fluid brightest, white matter darkest
        levels = [np.median(study.reference[study.label == k]) for k in (1, 2, 3)]
        assert levels[0] > levels[1] > levels[2]

    def test_two_people_differ(self) -> None:
        assert dice(scan(SITES[0], person=0).label, scan(SITES[0], person=1).label) < 0.75

    def test_a_follow_up_is_the_same_person_a_little_moved(self) -> None:
        first, again = scan(SITES[3], visit=0), scan(SITES[3], visit=1, noise=1)
        assert 0.6 < dice(first.label, again.label) < 1
        others = [dice(first.label, scan(SITES[3], person=k).label) for k in (1, 2, 3)]
        assert dice(first.label, again.label) > max(others)

    def test_lesions_come_and_grow_within_the_white_matter(self) -> None:
        head = draw_head(np.random.default_rng(3), ageing=1.0)
        assert {lesion.onset for lesion in head.lesions} >= {0, 1}
        points = slice_points(96, 240.0, np.arange(-10.0, 40.0, 6.0))
        visits = [tissue_maps(load_atlas(), head, points, visit=visit) for visit in (0, 1, 2)]
        loads = [float(maps.lesion.sum()) for maps in visits]
        assert 0 < loads[0] < loads[1] < loads[2]
        assert (visits[2].lesion <= visits[2].tissue[WHITE]).all()
        assert (visits[0].label == visits[2].label).all()  # a lesion is still white matter

    def test_older_people_have_wider_ventricles(self) -> None:
        head = draw_head(np.random.default_rng(5), ageing=0.0)
        protocol = SITES[0].protocol
        assert isinstance(protocol, MrProtocol)
        fluid = []
        for atrophy in (0.0, 1.2):
            study = simulate_mr(
                protocol,
                load_atlas(),
                replace(head, atrophy=atrophy),
                np.random.default_rng(0),
                pixels=96,
                slices=8,
                fov=240,
            )
            fluid.append(int((study.label == 1).sum()))
        assert fluid[1] > 1.15 * fluid[0]
