"""Data sets of others, made here: NIfTI, MINC 1 and 2, PNG and DICOM with labels."""

import gzip
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
from nibabel.externals.netcdf import netcdf_file
from numpy.typing import NDArray
from PIL import Image

from client.importing.degraded import Degradation
from client.importing.settings import Settings, labels_of

AXIAL = np.array([[-0.8, 0, 0, 40], [0, 0.8, 0, -30], [0, 0, 5, -100], [0, 0, 0, 1]])


def settings(layout: str, modality: str = "", **given: Any) -> Settings:
    maps = {one: labels_of(layout, one) for one in ("MR", "CT")}
    maps |= given.pop("labels", {})
    return Settings(layout, given.pop("dataset", "SET"), modality, maps, Degradation(3), **given)


def ct(shape: tuple[int, int, int] = (16, 24, 4), seed: int = 0) -> NDArray[np.int16]:
    """A patient in Hounsfield units: [i, j, k]."""
    return np.random.default_rng(seed).integers(-100, 200, shape).astype(np.int16)


def liver(shape: tuple[int, int, int] = (16, 24, 4)) -> NDArray[np.uint8]:
    """Labels 0, 1 and 2 that are alike under no turn of the axes."""
    label = np.zeros(shape, np.uint8)
    label[2:9, 3:15, 1:] = 1
    label[4:6, 5:8, 2] = 2
    return label


def nifti(path: Path, values: NDArray[Any], affine: NDArray[Any] = AXIAL, **header: Any) -> Path:
    """A NIfTI-1 file, not compressed where ``header`` sets fields of its own in it."""
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, header.pop("sform_code", 1))
    image.set_qform(header.pop("qform", affine), header.pop("qform_code", 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not header:
        nibabel.save(image, path)
        return path
    data = image.to_bytes()
    raw = image.header.from_fileobj(BytesIO(data), check=False).structarr.copy()
    for name, value in header.items():
        raw[name] = value
    path.write_bytes(raw.tobytes() + data[348:])
    return path


def lits(root: Path, patients: int = 3, labelled: bool = True) -> Path:
    for number in range(patients):
        nifti(root / f"volume-{number}.nii", ct(seed=number))
        if labelled:
            nifti(root / f"segmentation-{number}.nii.gz", liver())
    return root


def minc1(path: Path, values: NDArray[Any], steps: Sequence[float], starts: Sequence[float], top: float) -> Path:
    """A MINC 1 file of bytes as BrainWeb's: ``[z, y, x]``, 0 to 255 for 0 to ``top``."""
    stream = BytesIO()
    file = netcdf_file(stream, "w")
    for name, size, step, start in zip(("zspace", "yspace", "xspace"), values.shape, steps, starts, strict=True):
        file.createDimension(name, size)
        one = file.createVariable(name, "i", ())
        one.data[()] = 0
        one.spacing, one.step, one.start = "regular__", step, start
    image = file.createVariable("image", "b", ("zspace", "yspace", "xspace"))
    image[:] = values.astype(np.uint8).view(np.int8)
    image.signtype, image.valid_range = "unsigned", np.array([0.0, 255.0])
    for name, value in (("image-min", 0.0), ("image-max", top)):
        file.createVariable(name, "d", ()).data[()] = value
    file.flush()
    data = stream.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def minc2(path: Path, values: NDArray[Any], steps: Sequence[float], starts: Sequence[float], top: float) -> Path:
    """The same as MINC 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dimensions = file.create_group("minc-2.0/dimensions")
        for name, size, step, start in zip(("zspace", "yspace", "xspace"), values.shape, steps, starts, strict=True):
            one = dimensions.create_dataset(name, data=0)
            one.attrs["length"], one.attrs["step"], one.attrs["start"] = size, step, start
            one.attrs["spacing"] = np.bytes_("regular__")
        image = file.create_dataset("minc-2.0/image/0/image", data=values.astype(np.uint8), compression="gzip")
        image.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace")
        image.attrs["valid_range"] = np.array([0.0, 255.0])
        for name, value in (("image-min", 0.0), ("image-max", top)):
            one = file.create_dataset(f"minc-2.0/image/0/{name}", data=value)
            one.attrs["dimorder"] = np.bytes_("")
    return path


def png(path: Path, values: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path
