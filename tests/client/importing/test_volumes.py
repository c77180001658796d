"""NIfTI and MINC: the values and places of the file, and one line for each file that is none."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from client.enhance.slices import UnusableError
from client.importing import volumes
from client.importing.volumes import minc, nifti
from tests.client.importing import made
from tests.client.importing.made import AXIAL, ct


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_gives_its_scaled_values(tmp_path: Path, name: str) -> None:
    values = ct()
    path = made.nifti(tmp_path / name, values)
    turned, grid = nifti(path)
    assert turned.dtype == np.float32
    assert np.array_equal(turned, values.transpose(2, 1, 0)[:, ::-1, :])
    assert grid.spacing == pytest.approx((5, 0.8, 0.8))


def test_nifti_2_and_slope_and_units_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(ct(), np.diag([1e-3, 1e-3, 1e-3, 1]) @ AXIAL)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2.0, -1000.0)
    path = tmp_path / "two.nii"
    nibabel.save(image, path)
    turned, grid = nifti(path, form="sform")
    assert np.array_equal(turned, 2 * ct().transpose(2, 1, 0)[:, ::-1, :] - 1000)
    assert grid.spacing == pytest.approx((5, 0.8, 0.8), rel=1e-4)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def bomb(path: Path) -> None:
    """The header of a small volume, and zeros without end: 64 MiB in 64 kB."""
    with gzip.open(path, "wb") as stream:
        stream.write(gzip.decompress(made.nifti(path.with_name("small.nii.gz"), ct()).read_bytes()))
        stream.write(bytes(64 << 20))


def claim(path: Path) -> None:
    """A header that claims 30000 x 30000 x 30000 voxels."""
    data = bytearray(made.nifti(path.with_name("small.nii"), ct()).read_bytes())
    data[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(data)))


def colours(path: Path) -> None:
    values = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(values, AXIAL), path)


def complexes(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.complex64), AXIAL), path)


def noise(path: Path) -> None:
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(4000)))


def pair(path: Path) -> None:
    image = nibabel.Nifti1Pair(ct(), AXIAL)
    nibabel.save(image, path.with_name("p.hdr"))
    path.write_bytes(path.with_name("p.hdr").read_bytes() + bytes(4000))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: (made.nifti(p, ct()), cut(p)), "truncated"),
        (bomb, "expands to more than its header says"),
        (claim, "more voxels than"),
        (colours, "colours"),
        (complexes, "complex"),
        (noise, "no NIfTI"),
        (pair, "hdr and .img"),
        (lambda p: p.write_bytes(b"\x1f\x8b"), "truncated or damaged"),
        (lambda p: p.write_bytes(b""), "no NIfTI"),
        (lambda p: made.nifti(p, np.zeros((4, 4, 4, 3), np.int16)), "4 axes"),
        (lambda p: made.nifti(p, ct(), sform_code=0, qform_code=0), "does not tell where it lies"),
        (lambda p: made.nifti(p, ct(), qform=np.diag([-1, -1, 5, 1.0])), "disagree by"),
        (lambda p: made.nifti(p, ct(), qform_code=0, srow_x=[0, 0, 0, 0]), "cannot be inverted"),
        (lambda p: made.nifti(p, ct(), qform_code=0, srow_x=[1, 0, 1, 0]), "right angles"),
        (lambda p: made.nifti(p, ct(), qform_code=0, srow_x=[np.inf, 0, 0, 0]), "places voxels"),
        (lambda p: made.nifti(p, ct(), vox_offset=np.nan), "no place of the voxels"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "bad.nii.gz"
    spoil(path)
    with pytest.raises(UnusableError, match=reason):
        nifti(path)


def test_one_of_two_forms_may_be_chosen(tmp_path: Path) -> None:
    path = made.nifti(tmp_path / "a.nii", ct(), qform=np.diag([-1, -1, 3, 1.0]))
    assert nifti(path, form="qform")[1].spacing == pytest.approx((3, 1, 1))
    assert nifti(path, form="sform")[1].spacing == pytest.approx((5, 0.8, 0.8))


def test_a_fourth_axis_of_one_is_none(tmp_path: Path) -> None:
    assert nifti(made.nifti(tmp_path / "a.nii", ct()[..., None]))[0].shape == (4, 24, 16)


@pytest.mark.parametrize(("write", "name"), [(made.minc1, "a.mnc"), (made.minc1, "a.mnc.gz"), (made.minc2, "a.mnc")])
def test_minc_gives_real_values_and_places(tmp_path: Path, write: Callable[..., Path], name: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (5, 6, 7))
    path = write(tmp_path / name, values, (1.0, 1.0, 1.0), (-72.0, -126.0, -90.0), 510.0)
    turned, grid = minc(path)
    # z goes up, y is turned to the back, x to the left: slices S, rows P, columns L
    assert np.allclose(turned, 2 * values[:, ::-1, ::-1])
    assert np.allclose(grid.position(0), [-(-90 + 6), -(-126 + 5), -72])


def test_minc_that_cannot_be_used_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((5, 6, 7))
    good = made.minc1(tmp_path / "a.mnc.gz", values, (1, 1, 1), (0, 0, 0), 1.0)
    broken = tmp_path / "b.mnc"
    broken.write_bytes(gzip.decompress(good.read_bytes())[:300])
    with pytest.raises(UnusableError, match="cannot be read as MINC"):
        minc(broken)
    broken.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(UnusableError, match="truncated"):
        minc(broken)
    broken.write_bytes(b"nothing")
    with pytest.raises(UnusableError, match="no MINC"):
        minc(broken)
    monkeypatch.setattr(volumes, "MINC_LARGEST", 100)
    with pytest.raises(UnusableError, match="expands to"):
        minc(good)


def test_minc_2_that_reads_another_file_is_refused(tmp_path: Path) -> None:
    """HDF5 may take the bytes of a data set from any file of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(210)))
    path = made.minc2(tmp_path / "a.mnc", np.zeros((5, 6, 7)), (1, 1, 1), (0, 0, 0), 1.0)
    with h5py.File(path, "a") as file:
        del file["minc-2.0/image/0/image"]
        group = file["minc-2.0/image/0"]
        group.create_dataset("image", (5, 6, 7), "u1", external=[(str(secret), 0, 210)])
    with pytest.raises(UnusableError, match="another file"):
        minc(path)
    with h5py.File(path, "a") as file:
        del file["minc-2.0/image/0/image"]
        file["minc-2.0/image/0/image"] = h5py.ExternalLink(str(secret), "x")
    with pytest.raises(UnusableError, match="links"):
        minc(path)
    with h5py.File(path, "a") as file:
        del file["minc-2.0/image/0/image"]
        file["minc-2.0/image/0/image"] = file["minc-2.0"]
    with pytest.raises(UnusableError, match="more parts"):
        minc(path)


@pytest.mark.parametrize("kind", ["nifti", "minc1", "minc2"])
def test_whatever_is_altered_in_a_file_it_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Bytes of the header changed at random: no other error, and no more memory than the file's size explains."""
    values, grid = np.ones((5, 6, 7)), ((1, 1, 1), (0, 0, 0), 1.0)
    path = tmp_path / "a.nii"
    good = made.nifti(path, values) if kind == "nifti" else getattr(made, kind)(tmp_path / "a.mnc", values, *grid)
    data, rng, refused = good.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        spoilt = bytearray(data)
        for place in rng.integers(0, min(len(data), 1500), rng.integers(1, 6)):
            spoilt[place] = rng.integers(0, 256)
        good.write_bytes(bytes(spoilt))
        try:
            (nifti if kind == "nifti" else minc)(good)
        except UnusableError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 3


def test_a_bomb_is_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "bad.nii.gz"
    bomb(path)
    tracemalloc.start()
    try:
        with pytest.raises(UnusableError, match="expands"):
            nifti(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # of 64 MiB
    finally:
        tracemalloc.stop()
