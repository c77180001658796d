"""From the labels of a data set to the classes that networks are trained on.

Every label that occurs must be spoken for: one that nobody mapped is refused by name, since background is a class too.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.enhance.slices import UnusableError
from shared.errors import UsageError
from shared.parsing import parse_toml

BACKGROUND: Final = "background"
NAMES: Final[Mapping[str, Mapping[str, int]]] = {
    "MR": {BACKGROUND: 0, "csf": 1, "grey-matter": 2, "white-matter": 3},
    "CT": {BACKGROUND: 0, "liver": 1, "tumour": 2},
}
"""The classes of :data:`shared.imaging.images.CLASSES` by name."""
LITS: Final[Mapping[str, str]] = {"0": BACKGROUND, "1": "liver", "2": "tumour"}
"""Bilic et al. 2023, The Liver Tumor Segmentation Benchmark (arXiv:1901.04056)."""
BRAINWEB: Final[Mapping[str, str]] = {
    "0": BACKGROUND,
    "1": "csf",
    "2": "grey-matter",
    "3": "white-matter",
    **{str(number): BACKGROUND for number in (4, 5, 6, 7, 8, 9)},  # fat, muscle, skin, skull, glial, connective
}
"""Discrete anatomical model (Collins et al. 1998; Cocosco et al. 1997). Label 10, lesions of multiple sclerosis, is for
the user to place: the four classes have none for it."""
_MOST = 4096
_WHOLE = 1e-3  # how far a value may be from a whole number: MINC keeps labels as scaled integers


@dataclass(frozen=True)
class LabelMap:
    """What each label of a data set is.

    Attributes:
        modality: Whose classes.
        classes: Name of a class by label: a number, or the name of a region of interest, in lower case.
    """

    modality: str
    classes: Mapping[str, str]

    @classmethod
    def load(cls, path: Path, modality: str) -> "LabelMap":
        """A TOML file with one table ``[labels]``: ``1 = "liver"``, ``"GTV 1" = "tumour"``, ``7 = "background"``.

        Raises:
            UsageError: It cannot be read or understood, or names a class that the modality has not.
        """
        known = ", ".join(NAMES[modality])
        hint = (
            f'one table [labels] with lines such as 1 = "{list(NAMES[modality])[1]}"; classes for {modality}: {known}'
        )
        try:
            table = parse_toml(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"cannot read the label map {path}: {error}", hint=hint) from error
        rows = table.get("labels")
        if not isinstance(rows, dict) or set(table) != {"labels"} or len(rows) > _MOST:
            raise UsageError(f"{path} is no label map", hint=hint)
        wrong = [name for name, value in rows.items() if value not in NAMES[modality]]
        if wrong:
            raise UsageError(f"{path}: {', '.join(wrong)} become no class of {modality}", hint=hint)
        return cls(modality, {name.strip().lower(): str(value) for name, value in rows.items()})

    def class_of(self, name: str) -> int | None:
        """The class of a region by its name, without regard to case; None where it is not spoken for."""
        found = self.classes.get(name.strip().lower())
        return None if found is None else NAMES[self.modality][found]

    def require(self, names: Iterable[str]) -> dict[str, str]:
        """The class, by name, of each of these labels.

        Raises:
            UnusableError: Some are not spoken for; the text lists them.
        """
        names = list(names)
        unknown = [name for name in names if self.class_of(name) is None]
        if unknown:
            shown = ", ".join(unknown[:20]) + (", ..." if len(unknown) > 20 else "")
            raise UnusableError(f"labels that nothing says what to make of: {shown}; name them in a file for --labels")
        return {name: self.classes[name.strip().lower()] for name in names}

    def apply(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[str, str]]:
        """The class of each voxel of a map of numbers, and what each number that occurs became.

        Raises:
            UnusableError: Values are no whole numbers from 0, or not spoken for.
        """
        if not np.isfinite(values).all() or not values.size:
            raise UnusableError("its labels are not finite")
        whole = np.rint(values)
        if np.abs(values - whole).max() > _WHOLE or whole.min() < 0 or whole.max() > np.iinfo(np.uint16).max:
            raise UnusableError("its labels are no whole numbers from 0 to 65535")
        numbers = whole.astype(np.uint16)
        found = [str(one) for one in np.unique(numbers)]
        became = self.require(found)
        table = np.zeros(int(numbers.max()) + 1, np.uint8)
        for name, kind in became.items():
            table[int(name)] = NAMES[self.modality][kind]
        return table[numbers], became
