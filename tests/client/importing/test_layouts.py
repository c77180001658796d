"""BrainWeb's noise levels, pairs of PNG, and a real brain: what arrives in the cohort is what lay in the files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from client.importing.record import Terms
from client.node import Node
from shared.errors import UsageError
from tests.client.importing import made
from tests.client.importing.test_import import reasons, take


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="tests")


def test_brainweb_pairs_its_noise_levels_and_maps_its_tissues(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "brainweb"
    rng = np.random.default_rng(0)
    tissue = rng.integers(0, 10, (4, 12, 10))
    clean = tissue * 25
    grid = ((1.0, 1.0, 1.0), (-72.0, -126.0, -90.0))
    made.minc1(root / "t1_icbm_normal_1mm_pn0_rf0.mnc.gz", clean, *grid, 1000.0)
    made.minc1(root / "t1_icbm_normal_1mm_pn3_rf0.mnc", np.clip(clean + 3, 0, 255), *grid, 1000.0)
    made.minc2(root / "t1_icbm_normal_1mm_pn9_rf0.mnc", np.clip(clean + 9, 0, 255), *grid, 1000.0)
    made.minc1(root / "phantom_1.0mm_normal_crisp.mnc", tissue, *grid, 255.0)
    done = take(node, root, made.settings("brainweb", "MR"))
    assert not reasons(done)
    one = done.looked.ready[0]
    assert one.case.patient == "SET-normal"
    assert one.noisy == "of the data set"
    assert "t1_icbm_normal_1mm_pn3_rf0.mnc is not used" in one.notes
    assert {one.labels[str(number)] for number in (4, 5, 6, 7, 8, 9)} == {"background"}
    study = done.ingested.cohort.load(done.ingested.cohort.entries[0].key).studies[0]
    assert study.label is not None
    expected = np.where(tissue <= 3, tissue, 0)[:, ::-1, ::-1]
    assert np.array_equal(study.label, expected)
    # Both series are on one scale, the noisy one brighter by 9 steps of 255 wherever there is room
    dark = expected == 1
    assert np.allclose((study.noisy - study.reference)[dark], 9 / 25 * study.reference[dark], atol=2e-3)
    made.minc1(root / "phantom_1.0mm_msles2_crisp.mnc", tissue + 1, *grid, 255.0)
    made.minc1(root / "t1_icbm_msles2_1mm_pn0_rf0.mnc", clean // 2, *grid, 1000.0)
    again = take(node, root, made.settings("brainweb", "MR"))
    assert "make of: 10" in reasons(again)["t1_icbm_msles2_1mm_pn0_rf0.mnc"]


@pytest.mark.parametrize("bits", [8, 16])
def test_png_pairs_come_in_with_their_scale_told(node: Node, tmp_path: Path, bits: int) -> None:
    root, top = tmp_path / "png", 2**bits - 1
    rng = np.random.default_rng(bits)
    kind = np.uint8 if bits == 8 else np.uint16
    for number in (10, 9):
        clean = (rng.random((24, 16)) * top).astype(kind)
        clean[0, 0], clean[0, 1] = 0, top
        made.png(root / "clean" / f"p1_{number}.png", clean)
        made.png(root / "noisy" / f"p1_{number}.png", clean // 2)
        made.png(root / "label" / f"p1_{number}.png", (rng.integers(0, 3, (24, 16))).astype(np.uint8))
    given = made.settings("png", "CT", window=(-160.0, 240.0), spacing=(0.7, 3.0))
    done = take(node, root, given)
    assert not reasons(done)
    assert done.looked.ready[0].notes[0] == f"0 to {top} as -160 to 240 HU"
    study = done.ingested.cohort.load(done.ingested.cohort.entries[0].key).studies[0]
    from PIL import Image

    for index, number in enumerate((9, 10)):
        clean = np.asarray(Image.open(root / "clean" / f"p1_{number}.png"))
        assert np.abs(study.reference[index] - clean / top).max() <= 0.5 / 400 + 1e-6  # whole Hounsfield units
        assert study.label is not None
        assert np.array_equal(study.label[index], np.asarray(Image.open(root / "label" / f"p1_{number}.png")))
    assert study.spacing == pytest.approx((0.7, 0.7))


def test_png_that_are_no_pairs_get_a_line_each(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "png"
    grey = np.arange(24 * 16, dtype=np.uint16).reshape(24, 16)
    for name in ("ok_1", "sizes_1", "sizes_2", "bits_1", "colour_1", "gone_1", "same-1", "same_01", "broken_1"):
        made.png(root / "image" / f"{name}.png", grey + len(name) * ord(name[1]))
        if name != "gone_1":
            made.png(root / "noisy" / f"{name}.png", grey)
    made.png(root / "image" / "sizes_2.png", grey[:10])
    made.png(root / "noisy" / "bits_1.png", grey.astype(np.uint8))
    made.png(root / "image" / "colour_1.png", np.zeros((24, 16, 3), np.uint8))
    (root / "image" / "broken_1.png").write_bytes((root / "image" / "ok_1.png").read_bytes()[:60])
    (root / "image" / "x.jpg").write_bytes(b"")
    done = take(node, root, made.settings("png", "MR"))
    found = reasons(done)
    expected = {
        "image/sizes_1.png": "different sizes",
        "image/bits_1.png": "different numbers of bits",
        "image/colour_1.png": "colours",
        "image/gone_1.png": "missing in noisy",
        "image/same-1.png": "the same slice",
        "image/broken_1.png": "cannot be read as PNG",
        "image/x.jpg": "no PNG",
    }
    assert set(found) == set(expected)
    assert all(reason in found[where] for where, reason in expected.items())
    assert len(done.ingested.cohort.entries) == 1


def test_a_real_brain_comes_in_where_it_lies(node: Node, tmp_path: Path) -> None:
    """The ICBM 152 T1 average that nilearn's wheel carries, made coarser; its own grey matter as labels."""
    import nilearn.datasets

    data = Path(nilearn.datasets.__file__).parent / "data"
    root = tmp_path / "icbm"
    parts = {}
    for name, what in (("mean", "t1"), ("mean_seg", "gm")):
        image = nibabel.load(data / f"mni_icbm152_{what}_tal_nlin_sym_09a_converted.nii.gz")
        values = np.asarray(image.dataobj, np.float32)[::4, ::4, 60:100:8]
        affine = image.affine @ np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 8, 60], [0, 0, 0, 1.0]])
        parts[what] = values if what == "t1" else (values > values.max() / 2).astype(np.uint8) * 2
        made.nifti(root / f"{name}.nii.gz", parts[what], affine)
    done = take(node, root, made.settings("nifti", "MR"))
    assert not reasons(done)
    assert done.looked.ready[0].noisy.startswith("simulated: Rician noise of 0.06")
    study = done.ingested.cohort.load(done.ingested.cohort.entries[0].key).studies[0]
    assert study.label is not None
    total = int((parts["gm"] == 2).sum())
    assert int((study.label == 2).sum()) == total > 500
    # Slice by slice the same pixels, turned: bright where the average is bright
    turned = parts["t1"].transpose(2, 1, 0)[:, ::-1, ::-1]
    if affine[0, 0] < 0:
        turned = turned[:, :, ::-1]
    assert np.corrcoef(study.reference.ravel(), turned.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("given", [{"window": (-160.0, 240.0)}, {"spacing": (0.7, 3.0)}])
def test_what_only_a_png_needs_to_be_told_is_not_ignored_elsewhere(given: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(UsageError, match="are for PNG"):
        made.settings("lits", "CT", **given)


@pytest.mark.parametrize("told", [{"who": "A.\nB."}, {"url": "https://x\r"}])
def test_who_and_url_are_a_line_each(tmp_path: Path, told: dict[str, str]) -> None:
    licence = tmp_path / "LICENCE"
    licence.write_text("free")
    with pytest.raises(UsageError, match="one line each"):
        Terms.load(licence, **({"who": "A.", "url": ""} | told))
