"""The codes that virtual hospitals write are those that cohorts read."""

from shared.imaging.images import CLASSES
from simulation.sites.segmentation import SEGMENTS


def test_segments_carry_the_codes_of_their_classes() -> None:
    written = {
        modality: {
            (kind.scheme_designator, kind.value): number for number, (_, _, kind) in enumerate(segments, start=1)
        }
        for modality, segments in SEGMENTS.items()
    }
    assert written == CLASSES
