"""NIfTI-1 and -2 and MINC 1 and 2 files, read with nibabel after a look at what they claim to be.

A compressed file is expanded to the size that its own header gives and no further, so that one which expands without
bound ends as soon as it is longer than it says.
"""

import gzip
import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from client.deid.known import UNREADABLE
from client.enhance.slices import UnusableError
from client.importing.content import LARGEST, check_size, sized
from client.importing.grid import Grid, Vector, check_affine, stack

SLACK: Final = 1 << 20
"""Bytes that may follow the voxels of a NIfTI file: some writers pad."""
DISAGREE: Final = 0.1
"""Of the smallest voxel side: as far may sform and qform place a corner apart."""
MINC_LARGEST: Final = 1 << 30
_CHUNK = 1 << 20
_MOST_PARTS = 1000
_SIZES = {348: 1, 540: 2}
_HDF5, _NETCDF = b"\x89HDF\r\n\x1a\n", (b"CDF\x01", b"CDF\x02")
# What nibabel and what it builds on raise on bytes that they do not understand.
_BROKEN = (*UNREADABLE, AssertionError, MemoryError, RuntimeError, gzip.BadGzipFile)


def nifti(path: Path, *, form: str = "") -> tuple[NDArray[np.float32], Grid]:
    """The voxels of a NIfTI file, scaled as it says, as a stack of slices.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        form: ``sform`` or ``qform``: which of the two counts where they disagree.

    Raises:
        UnusableError: It is truncated, larger than it says, no volume of plain numbers, or does not tell where it lies.
    """
    import nibabel  # noqa: PLC0415  # half a second that no other command needs
    from nibabel.spatialimages import HeaderDataError, ImageDataError  # noqa: PLC0415

    data = _expanded(path)
    kind = nibabel.Nifti2Image if _version(data) == 2 else nibabel.Nifti1Image
    try:
        image = kind.from_bytes(data)
        if image.get_data_dtype().names or image.get_data_dtype().kind not in "iuf":
            raise UnusableError("its voxels are no single numbers: colours or complex values")
        affine = _placed(image, form)
        shape = tuple(int(size) for size in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        check_size(shape)
        with np.errstate(all="ignore"):  # what is too large for a float becomes infinite, and is refused as that
            values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"), np.float32).reshape(shape)
    except (*_BROKEN, HeaderDataError, ImageDataError) as error:
        raise UnusableError("it cannot be read as NIfTI") from error
    turned, grid = stack(values, affine)
    return turned, grid


def _expanded(path: Path) -> bytes:
    """The whole file, not compressed, and not a byte more than its header explains."""
    try:
        with _opened(path) as stream:
            head = stream.read(544)
            needed = _needed(head)
            parts = [head]
            there = len(head)
            while there <= needed + SLACK and (part := stream.read(_CHUNK)):
                parts.append(part)
                there += len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableError("it is truncated or damaged: it cannot be expanded") from error
    if there < needed:
        raise UnusableError(f"it is truncated: {there} of {needed} bytes are there")
    if there > needed + SLACK:
        raise UnusableError("it expands to more than its header says")
    return b"".join(parts)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]  # a binary stream in all but its class


def _version(head: bytes) -> int:
    return next((_SIZES[size] for order in "<>" if (size := struct.unpack(f"{order}i", head[:4])[0]) in _SIZES), 0)


def _needed(head: bytes) -> int:
    """Bytes of the whole file by its header (NIfTI-1.1, nifti1.h; NIfTI-2, nifti2.h)."""
    if len(head) < 352 or not _version(head):
        raise UnusableError("it is no NIfTI file")
    order = next(one for one in "<>" if struct.unpack(f"{one}i", head[:4])[0] in _SIZES)
    if _version(head) == 1:
        if head[344:348] == b"ni1\0":
            raise UnusableError("its voxels are in another file (.hdr and .img); make one .nii of them")
        dims = struct.unpack(f"{order}8h", head[40:56])
        bits, offset = struct.unpack(f"{order}h", head[72:74])[0], struct.unpack(f"{order}f", head[108:112])[0]
    else:
        dims = struct.unpack(f"{order}8q", head[16:80])
        bits, offset = struct.unpack(f"{order}h", head[14:16])[0], struct.unpack(f"{order}q", head[168:176])[0]
    if not 1 <= dims[0] <= 7 or any(size < 1 for size in dims[1 : dims[0] + 1]):
        raise UnusableError("its header gives no size")
    if not 0 <= offset < SLACK or not 0 < bits <= 256:  # NaN is no number between
        raise UnusableError("its header gives no place of the voxels")
    shape = tuple(size for size in dims[1 : dims[0] + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    check_size(shape)
    needed: int = int(offset) + math.prod(shape) * int(bits) // 8
    if needed > LARGEST:
        raise UnusableError(f"it is larger than {LARGEST >> 30} GiB")
    return needed


def _placed(image: Any, form: str) -> Vector:
    """The affine that counts, RAS and mm."""
    unit = image.header.get_xyzt_units()[0]
    scale = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}[unit]
    forms = {
        name: np.asarray(matrix, float)
        for name, (matrix, code) in (("sform", image.get_sform(coded=True)), ("qform", image.get_qform(coded=True)))
        if matrix is not None and code > 0
    }
    if not forms:
        raise UnusableError("it does not tell where it lies: its sform_code and qform_code are 0")
    if form and form not in forms:
        raise UnusableError(f"it has no {form}")
    for matrix in forms.values():
        matrix[:3] *= scale
    shape = tuple(int(size) for size in image.shape[:3])
    if not form and len(forms) == 2 and len(shape) == 3:
        grids = [Grid((shape[0], shape[1], shape[2]), matrix) for matrix in forms.values()]
        gap = grids[0].apart(grids[1])
        if gap > DISAGREE * min(grids[0].spacing):
            raise UnusableError(f"its sform and qform disagree by {gap:.3g} mm; choose one with --affine")
    chosen = forms[form] if form else next(iter(forms.values()))
    check_affine(chosen)
    return chosen


def minc(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """The voxels of a MINC 1 (NetCDF) or MINC 2 (HDF5) file in real values, as a stack of slices.

    Args:
        path: ``.mnc``, or ``.mnc.gz`` as BrainWeb gives it.

    Raises:
        UnusableError: It is damaged, expands to more than 1 GiB, or is no volume.
    """
    try:
        with _opened(path) as stream:
            data = stream.read(MINC_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableError("it is truncated or damaged: it cannot be expanded") from error
    if len(data) > MINC_LARGEST:
        raise UnusableError(f"it is, or expands to, more than {MINC_LARGEST >> 30} GiB")
    if data.startswith(_HDF5):
        return _minc2(data)
    if not data.startswith(_NETCDF):
        raise UnusableError("it is no MINC file")
    return _read_minc(data, "")


def _minc2(data: bytes) -> tuple[NDArray[np.float32], Grid]:
    """HDF5 is read from a path alone; a compressed file has none of its own."""
    with tempfile.TemporaryDirectory(prefix="fedward-import-") as folder:
        path = Path(folder) / "volume.mnc"
        path.write_bytes(data)
        path.chmod(0o600)
        _check_inside(path)
        return _read_minc(b"", str(path))


def _check_inside(path: Path) -> None:
    """Refuse an HDF5 file that takes its voxels from elsewhere: another file, which may be anybody's, or a formula."""
    import h5py  # noqa: PLC0415  # as nibabel does

    try:
        with h5py.File(path, "r") as file:
            left, seen = [file], 0
            while left:
                group = left.pop()
                for name in group:
                    seen += 1
                    if seen > _MOST_PARTS:  # also where a group is in itself
                        raise UnusableError("it has more parts than a MINC file has")
                    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                        raise UnusableError("it has links to other places or files")
                    one = group[name]
                    if isinstance(one, h5py.Group):
                        left.append(one)
                    elif isinstance(one, h5py.Dataset) and (one.external or one.is_virtual):
                        raise UnusableError("its voxels are in another file")
    except _BROKEN as error:
        raise UnusableError("it cannot be read as MINC") from error


def _read_minc(data: bytes, name: str) -> tuple[NDArray[np.float32], Grid]:
    from nibabel.fileholders import FileHolder  # noqa: PLC0415  # as above
    from nibabel.minc1 import Minc1Image, MincError  # noqa: PLC0415
    from nibabel.minc2 import Minc2Image  # noqa: PLC0415

    try:
        holder = FileHolder(filename=name) if name else FileHolder(fileobj=BytesIO(data))
        image = (Minc2Image if name else Minc1Image).from_file_map({"image": holder})
        shape = tuple(int(size) for size in image.shape)
        check_size(shape)
        with np.errstate(all="ignore"):
            values = np.asarray(image.dataobj, np.float32)
        affine = np.asarray(image.affine, float)
    except (*_BROKEN, MincError) as error:
        raise UnusableError("it cannot be read as MINC") from error
    if values.shape != shape:
        raise UnusableError(f"it holds {sized(values.shape)} voxels and says {sized(shape)}")
    return stack(values, affine)
