"""What becomes of labels, and how settings are refused."""

from pathlib import Path

import numpy as np
import pytest

from client.enhance.slices import UnusableError
from client.importing.labels import LabelMap
from client.importing.settings import labels_of
from shared.errors import UsageError
from tests.client.importing import made


def test_labels_of_every_layout_fit_the_classes_of_their_modality() -> None:
    lits = labels_of("lits", "CT")
    assert [lits.class_of(name) for name in ("0", "1", "2", "3")] == [0, 1, 2, None]
    brainweb = labels_of("brainweb", "MR")
    assert [brainweb.class_of(str(number)) for number in range(11)] == [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, None]
    assert labels_of("dicom", "CT").class_of(" Liver ") == 1
    assert labels_of("dicom", "CT").class_of("1") is None  # a region that is called 1 says nothing
    assert labels_of("dicom", "MR").class_of("Gray Matter") == 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0, 1, 9, 3], "make of: 3, 9"),
        ([0, 0.4], "no whole numbers"),
        ([0, -1], "no whole numbers"),
        ([0, 70000], "no whole numbers"),
        ([0, np.nan], "not finite"),
    ],
)
def test_labels_that_nobody_spoke_for_are_refused(values: list[float], reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        labels_of("lits", "CT").apply(np.array(values))


@pytest.mark.parametrize(
    "text",
    ["", "[labels]\n1 = 1\n", '1 = "liver"\n', '[labels]\n1 = "kidney"\n', "[labels", '[labels]\n[other]\na = "b"\n'],
)
def test_a_label_map_that_is_none_is_wrong_use(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"map\.toml") as found:
        LabelMap.load(path, "CT")
    assert "liver, tumour" in found.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"layout": "dbf"},
        {"dataset": "../up"},
        {"dataset": ""},
        {"form": "both"},
        {"layout": "png"},
        {"layout": "png", "window": (3.0, 3.0)},
        {"modality": ""},
    ],
)
def test_settings_that_do_not_hold_together_are_wrong_use(given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as found:
        made.settings(**({"layout": "nifti", "modality": "CT"} | given))  # type: ignore[arg-type]
    assert found.value.hint
