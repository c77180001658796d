"""Input harmonisation: the intensities of each scanner brought to a common scale before a network sees them.

Landmarks of a site are the percentiles of the intensities within the head, over its patients; a map that is linear
between them takes each to the mean of that landmark over the sites that train (Nyul, Udupa and Zhang, IEEE Trans. Med.
Imaging 19 (2000) 143-150). Only the landmarks would have to leave a hospital. A site where nobody trains is mapped by
landmarks of its own. For segmentation alone: a denoised or a finer image has to be on its scanner's scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.imaging.images import PatientImages

PERCENTILES: Final = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
AIR: Final = 0.05
"""Intensities in [0, 1] up to this do not count as the head."""

People = Mapping[str, Sequence[PatientImages]]


def harmonised(train: People, held_out: People) -> tuple[People, People]:
    """Both with the noisy series of every study on the common scale; references and labels as they were."""
    own = {site: landmarks(train.get(site) or people) for site, people in {**held_out, **train}.items()}
    common = np.mean([own[site] for site in train], axis=0)
    both = [{site: _mapped(people, own[site], common) for site, people in side.items()} for side in (train, held_out)]
    return both[0], both[1]


def landmarks(people: Sequence[PatientImages]) -> NDArray[np.float64]:
    """The :data:`PERCENTILES` within the heads of a site's patients, strictly rising."""
    values = np.concatenate([study.noisy[study.noisy > AIR] for one in people for study in one.studies])
    return np.asarray(np.percentile(values, PERCENTILES) + 1e-6 * np.arange(len(PERCENTILES)))


def _mapped(
    people: Sequence[PatientImages], own: NDArray[np.float64], common: NDArray[np.float64]
) -> tuple[PatientImages, ...]:
    start, ends = np.concatenate([[0.0], own, [1.001]]), np.concatenate([[0.0], common, [1.001]])
    return tuple(
        replace(
            one,
            studies=tuple(
                replace(study, noisy=np.interp(study.noisy, start, ends).astype(np.float32)) for study in one.studies
            ),
        )
        for one in people
    )
