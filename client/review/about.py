"""By what a person recognises a held file: the few facts of its header that say which picture of which study it is."""

import warnings
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from client.deid.known import UNREADABLE
from client.sources.intake import day_of

_TAGS = ["Modality", "StudyDate", "StudyDescription", "SeriesDescription", "SeriesNumber", "InstanceNumber"]


def about(path: Path) -> str:
    """Modality, study date, descriptions and numbers of series and instance, as far as the file has them.

    They are for the reviewer, on the hospital's own machine. The text may hold anything and has to be made visible.

    Args:
        path: A DICOM file.

    Returns:
        Such as ``"US, 2024-02-29, Abdomen, series 3, image 12"``; empty where nothing can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            facts = [_text(dataset, name) for name in _TAGS]
        except UNREADABLE:
            return ""
    modality, day, study, described, series, number = facts
    date = day_of(day)
    parts = [modality, date.isoformat() if date else day, study, described if described != study else ""]
    parts += [f"series {series}" if series else "", f"image {number}" if number else ""]
    return ", ".join(part for part in parts if part)


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name, "")
    return "" if value is None else str(value).strip()
