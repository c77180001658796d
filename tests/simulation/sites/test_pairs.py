"""Hospitals that take two contrasts of each head: the second lies on another grid, and the patient has moved."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from simulation.sites.specs import PAIRED, SITES, UNSEEN, MrProtocol, SiteSpec, choose_sites
from simulation.sites.synthesize import second_move, synthesize


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "pacs"
    synthesize(out, sites=choose_sites("P1,P2,P3"), patients=1, size=64, slices=3, seed=3, workers=1)
    return out


def test_they_are_taken_by_name_only_and_differ_from_all_others() -> None:
    assert not set(choose_sites("all")) & set(PAIRED)
    assert not any(site.second for site in SITES + UNSEEN)
    protocols = [site.protocol for site in SITES + UNSEEN + PAIRED] + [site.second for site in PAIRED]
    assert len(set(protocols)) == len(protocols)
    assert len({site.id for site in SITES + UNSEEN + PAIRED}) == len(SITES + UNSEEN + PAIRED)


@pytest.mark.parametrize("site", PAIRED, ids=lambda site: site.id)
def test_the_third_series_is_of_the_second_protocol_in_the_same_study(pacs: Path, site: SiteSpec) -> None:
    first, reference, second = (
        [pydicom.dcmread(path) for path in sorted(next((pacs / site.id).rglob(number)).glob("*.dcm"))]
        for number in ("001", "002", "003")
    )
    assert isinstance(site.second, MrProtocol)
    image = second[0]
    assert (float(image.EchoTime), float(image.RepetitionTime)) == (site.second.te, site.second.tr)
    assert float(image.get("InversionTime") or 0) == site.second.ti
    assert float(image.SliceThickness) == site.second.thickness
    assert (image.Rows, first[0].Rows) == (site.pixels(64, second=True), site.pixels(64))
    assert float(image.PixelSpacing[0]) == pytest.approx(site.fov / image.Rows)
    for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        assert len({str(one[name].value) for one in (*first, *reference, *second)}) == 1
    assert len({str(one.SeriesInstanceUID) for one in (*first, *reference, *second)}) == 3
    assert image.pixel_array.max() > 500


def test_the_move_depends_on_the_patient_and_is_small() -> None:
    moves = [second_move(3, PAIRED[0], number) for number in range(20)]
    assert np.array_equal(moves[0].matrix, second_move(3, PAIRED[0], 0).matrix)
    assert len({float(move.shift[0]) for move in moves}) == 20
    assert all(0 < np.linalg.norm(move.shift) < 20 for move in moves)


def test_hospitals_of_one_contrast_write_two_series(tmp_path: Path) -> None:
    synthesize(tmp_path / "pacs", sites=choose_sites("H1"), patients=1, size=64, slices=2, seed=3, workers=1)
    assert not list((tmp_path / "pacs").rglob("003"))
