"""A hospital whose cohort is written directly: small heads, with headers where a test asks for them."""

import hashlib
import json
from pathlib import Path

import pydicom
import safetensors.numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client.node import Node
from client.splits import Split
from tests.federation import toy
from tests.shared.imaging.phantoms import study

PURPOSE = "testing reports"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def make(
    folder: Path,
    site: str = "H1",
    *,
    held_out: int = 3,
    train: int = 2,
    virtual: bool = True,
    basis: bool = True,
    headers: bool = False,
    sigma: float = 0.08,
    size: int = 48,
    beside: bool = False,
) -> Node:
    """A node with ``held_out`` test patients; patient number ``i`` has noise that grows with ``i``.

    With ``beside`` every study has two contrasts.
    """
    node = Node.create(folder, site=site, purpose=PURPOSE, seed=5 if virtual else None)
    rows = []
    for number in range(held_out + train):
        key = f"PSEUDONYM{site}{number}"
        images = study(size, size, slices=2, sigma=sigma * (1 + 0.2 * number), seed=number)
        uids = [f"2.25.9{number}{index}{int.from_bytes(site.encode())}" for index in range(2)]
        source = hashlib.sha256("|".join(sorted(uids)).encode()).hexdigest()
        assert images.label is not None
        arrays = {"noisy": images.noisy, "reference": images.reference, "label": images.label}
        if beside and images.second is not None:
            arrays["second"] = images.second
        data = safetensors.numpy.save(arrays)
        path = folder / "cohort" / "images" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        row = {"file": path.name, "modality": "MR", "slices": 2, "height": size, "width": size, "spacing": [2.0, 2.0]}
        row |= {"labelled": True, "source": source, "sha256": hashlib.sha256(data).hexdigest()}
        row |= {"second": "rigid"} if beside else {}
        split = Split.HELD_OUT if number < held_out else Split.TRAIN
        rows.append({"key": key, "split": split.value, "studies": [row]})
        if headers:
            write_headers(folder / "released" / key / "2.25.1", uids, number)
    index = {"version": 1, "patients": rows, "left_out": {}}
    (folder / "cohort" / "index.json").write_text(json.dumps(index))
    if not virtual and basis:
        toy.with_basis(folder)
    return node


def write_headers(folder: Path, uids: list[str], number: int) -> None:
    """De-identified headers: sexes in turn, ages from 31 on, slices 4 mm apart."""
    for index, uid in enumerate(uids):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = MR_STORAGE, uid
        header.SOPClassUID, header.SOPInstanceUID, header.Modality = MR_STORAGE, uid, "MR"
        header.SeriesInstanceUID = f"2.25.8{number}"
        header.Manufacturer, header.ManufacturerModelName, header.MagneticFieldStrength = "ACME", "Ring", "1.5"
        header.PatientSex, header.PatientAge = ("F", "M")[number % 2], f"{31 + 5 * number:03d}Y"
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [0, 0, 4.0 * index]
        path = folder / f"{index}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, header, enforce_file_format=True)


def image_files(seen: list[str]) -> set[str]:
    """Of the files that were opened, those with images."""
    return {Path(name).stem for name in seen if name.endswith(".safetensors") and "PSEUDONYM" in name}


def log_rows(node: Node, action: str = "evaluate") -> list[dict[str, object]]:
    """The entries of an action in the node's audit log."""
    return [row for row in toy.log_rows(node.folder) if row["action"] == action]
