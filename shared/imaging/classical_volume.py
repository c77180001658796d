"""Classical denoising of whole volumes: what a network that sees neighbouring slices is fairly compared with.

BM4D is left out: the published implementation's licence allows no other than academic use.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from shared.imaging.classical_denoise import background_sigma, noise_level, remove_rician_bias
from shared.imaging.images import StudyImages
from shared.imaging.tasks import Method

FACTOR = 0.4
"""Of the noise level; chosen by PSNR out of 0.2 to 0.8 on the very phantoms of docs/sequences.md, in its favour."""
TITLES: Mapping[str, str] = {
    "nlm_volume": "Non-local means of the volume",
    "nlm_volume_rician": "Non-local means of the volume, Rician bias corrected",
}


def nlm_volume(study: StudyImages) -> NDArray[np.float32]:
    """Non-local means (Buades, Coll and Morel 2005) over the volume: patches of 3 and a search of 7 voxels an edge.

    Voxels are taken as they are, however far slices are apart (Coupé et al. 2008 do so too). The noise level is the
    median of those of the slices.
    """
    from skimage.restoration import denoise_nl_means  # noqa: PLC0415  heavy, and only reports need it

    sigma = float(np.median([noise_level(image, study.modality) for image in study.noisy]))
    if sigma <= 0:
        return study.noisy
    result = denoise_nl_means(
        study.noisy, patch_size=3, patch_distance=3, h=FACTOR * sigma, sigma=sigma, fast_mode=True
    )
    return np.clip(np.asarray(result, np.float32), 0.0, 1.0).reshape(study.noisy.shape)  # it drops edges of length 1


def nlm_volume_rician(study: StudyImages) -> NDArray[np.float32]:
    """The same, corrected slice by slice for the bias of MR magnitudes."""
    result = nlm_volume(study)
    if study.modality != "MR":
        return result
    pairs = zip(result, study.noisy, strict=True)
    return np.stack([remove_rician_bias(image, background_sigma(noisy)) for image, noisy in pairs])


METHODS: Mapping[str, Method] = MappingProxyType({"nlm_volume": nlm_volume, "nlm_volume_rician": nlm_volume_rician})
