"""What people call the classical methods of all tasks. The methods themselves are in ``classical_<task>.py``."""

from collections.abc import Mapping

from shared.imaging import (
    classical_denoise,
    classical_masked,
    classical_segment,
    classical_superres,
    classical_volume,
)

TITLES: Mapping[str, str] = {
    **classical_denoise.TITLES,
    **classical_volume.TITLES,
    **classical_superres.TITLES,
    **classical_segment.TITLES,
    **classical_masked.TITLES,
}


def title(method: str) -> str:
    """The title of a method's key; the key itself for an unknown one."""
    return TITLES.get(method, method)
