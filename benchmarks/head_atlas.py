"""Makes ``client/deid/data/head_atlas.npz`` again from the pydeface wheel (MIT), which is no dependency.

    pip download pydeface==2.1.0 --no-deps && python -m benchmarks.head_atlas pydeface-2.1.0-py3-none-any.whl

The template is the mean of aligned T1 heads with their faces, ``pydeface/data/mean_reg2mean.nii.gz``. Here it is put on
a grid of 4 mm along the axes of a DICOM patient (+x left, +y back, +z head) and cut to 8 bits.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_from_to, smooth_image

TARGET = Path(__file__).parents[1] / "client" / "deid" / "data" / "head_atlas.npz"
MEMBER = "pydeface/data/mean_reg2mean.nii.gz"
SPACING = 4.0
SIZE = (51, 66, 71)  # x, y, z
CORNER = (100.0, 130.0, -160.0)  # of the first voxel, mm, in the template's own axes: +x left would be negative


def main(wheel: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = nibabel.load(zipfile.ZipFile(wheel).extract(MEMBER, folder))
        affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
        affine[:3, 3] = CORNER
        values = np.asarray(resample_from_to(smooth_image(image, 3.0), (SIZE, affine), order=1).dataobj, np.float32)
    np.savez_compressed(
        TARGET,
        values=np.clip(values / 2, 0, 255).round().astype(np.uint8).transpose(2, 1, 0),  # [z, y, x]
        origin=np.array([-CORNER[0], -CORNER[1], CORNER[2]]),
        spacing=np.array(SPACING),
    )
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
