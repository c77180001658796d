"""A binary segmentation written over as a fractional one of the same pixels, as other programs make them."""

from pathlib import Path

import numpy as np
import pydicom


def in_fractions(path: Path) -> None:
    seg = pydicom.dcmread(path)
    seg.PixelData = (seg.pixel_array.astype(np.uint8) * 255).tobytes()
    seg["PixelData"].VR = "OB"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
    seg.SegmentationType, seg.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    seg.MaximumFractionalValue = 255
    seg.save_as(path)
