from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.sites.acquisition import Acquisition
from simulation.sites.ct import (
    VIEWS,
    back_project,
    count_photons,
    project,
    simulate_ct,
    to_attenuation,
    to_hounsfield,
)
from simulation.sites.specs import SITES, UNSEEN, CtProtocol, Kernel, SiteSpec
from simulation.sites.torso import SCANNED, draw_torso

CT_SITES = [site for site in SITES + UNSEEN if isinstance(site.protocol, CtProtocol)]
SIZE = 96


def disc(radius: float, hu: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    distance = np.hypot(axis[None] - centre[0], axis[:, None] - centre[1])
    inside = np.clip(radius - distance + 0.5, 0, 1)
    image: np.ndarray = (-1000 + inside * (hu + 1000)).astype(np.float32)[None]
    return image


def scan(site: SiteSpec, *, person: int = 0, visit: int = 0, noise: int = 0) -> Acquisition:
    assert isinstance(site.protocol, CtProtocol)
    torso = draw_torso(np.random.default_rng(person))
    rng = np.random.default_rng([1, noise])
    return simulate_ct(site.protocol, torso, rng, pixels=SIZE, slices=4, fov=site.fov, visit=visit)


class TestGeometry:
    @given(st.floats(-1000, 3000))
    def test_hounsfield_units_and_attenuation_are_inverse(self, hu: float) -> None:
        assert to_hounsfield(to_attenuation(np.full((1, 2, 2), hu, np.float32))) == pytest.approx(hu, abs=0.1)

    def test_the_integrals_of_a_disc_are_its_chords(self) -> None:
        radius = 30.0
        image = (disc(radius, 0.0) + 1000) / 1000
        place = np.arange(SIZE) - (SIZE - 1) / 2
        chords = 2 * np.sqrt(np.maximum(radius**2 - place**2, 0))
        inner = np.abs(place) < radius - 3
        sinogram = project(image.astype(np.float32))
        assert sinogram.shape == (VIEWS, SIZE, 1)
        for view in (0, 31, VIEWS // 2, 137):
            assert sinogram[view, inner, 0] == pytest.approx(chords[inner], rel=0.03)

    @settings(max_examples=6, deadline=None)
    @given(hu=st.floats(-200, 400), x=st.floats(-12, 12), y=st.floats(-12, 12), kernel=st.sampled_from(Kernel))
    def test_back_projection_recovers_a_disc(self, hu: float, x: float, y: float, kernel: Kernel) -> None:
        image = disc(25, hu, (x, y))
        found = to_hounsfield(back_project(project(to_attenuation(image)), kernel))
        deep = disc(18, 0.0, (x, y)) > -1
        assert found[deep].mean() == pytest.approx(hu, abs=12)
        assert found[deep].std() < 15


class TestDose:
    def test_noise_falls_with_the_root_of_the_dose(self) -> None:
        integrals = np.full((20, 50, 10), 2.0, np.float32)
        rng = np.random.default_rng(0)
        low, high = (count_photons(integrals, photons, rng).std() for photons in (1e5, 1.6e6))
        assert low / high == pytest.approx(4, rel=0.05)

    def test_behind_thick_bodies_photons_run_out_without_infinities(self) -> None:
        measured = count_photons(np.full((5, 5, 5), 30.0, np.float32), 1e4, np.random.default_rng(0))
        assert np.isfinite(measured).all()

    @pytest.mark.parametrize("site", CT_SITES, ids=lambda site: site.id)
    def test_the_reference_is_the_same_picture_with_less_noise(self, site: SiteSpec) -> None:
        study = scan(site)
        liver = study.label == 1
        fast, reference = study.fast[liver].astype(float), study.reference[liver].astype(float)
        assert 15 < (fast - reference).std() < 60
        assert fast.mean() == pytest.approx(reference.mean(), abs=8)

    def test_more_current_means_less_noise(self) -> None:
        site = CT_SITES[0]
        assert isinstance(site.protocol, CtProtocol)
        noise = []
        for current in (10.0, 90.0):
            study = simulate_ct(
                site.protocol,
                draw_torso(np.random.default_rng(0)),
                np.random.default_rng(1),
                pixels=64,
                slices=2,
                fov=site.fov,
                current=current,
            )
            difference = study.fast.astype(float) - study.reference
            noise.append(difference[study.label == 1].std())
        assert 2 < noise[0] / noise[1] < 4.5


class TestAnatomy:
    def test_organs_have_the_hounsfield_units_of_their_phase(self) -> None:
        portal, native, arterial = (scan(site) for site in CT_SITES)
        livers = [np.median(study.reference[study.label == 1]) for study in (native, arterial, portal)]
        assert livers[0] < livers[1] < livers[2]
        assert 40 < livers[0] < 75
        for study in (portal, native, arterial):
            assert study.reference[:, :3, :3].mean() < -950  # air around the patient

    def test_tumours_are_darker_than_the_liver(self) -> None:
        site = CT_SITES[0]
        seen = 0
        for person in range(12):
            study = scan(site, person=person)
            tumour = study.label == 2
            if tumour.sum() > 25:
                seen += 1
                assert np.median(study.reference[tumour]) < np.median(study.reference[study.label == 1]) - 10
        assert seen >= 2

    def test_tumours_lie_where_the_scanner_looks(self) -> None:
        for seed in range(20):
            for tumour in draw_torso(np.random.default_rng(seed)).tumours:
                assert SCANNED[0] <= tumour.centre[2] <= SCANNED[1]

    def test_two_people_differ_and_a_follow_up_does_not_much(self) -> None:
        site = CT_SITES[0]
        first, again, other = scan(site), scan(site, visit=1, noise=1), scan(site, person=1)

        def overlap(a: Acquisition, b: Acquisition) -> float:
            both = ((a.label > 0) & (b.label > 0)).sum()
            return float(2 * both / ((a.label > 0).sum() + (b.label > 0).sum()))

        assert overlap(first, other) < overlap(first, again) < 1

    def test_tumours_grow_and_new_ones_come(self) -> None:
        torso = draw_torso(np.random.default_rng(1))
        assert torso.tumours
        site = CT_SITES[0]
        assert isinstance(site.protocol, CtProtocol)
        late = replace(torso, tumours=tuple(t._replace(onset=1) for t in torso.tumours))
        counts = []
        for body, visit in ((late, 0), (torso, 0), (torso, 2)):
            study = simulate_ct(
                site.protocol, body, np.random.default_rng(0), pixels=96, slices=8, fov=site.fov, visit=visit
            )
            counts.append(int((study.label == 2).sum()))
        assert counts[0] == 0 < counts[1] < counts[2]
