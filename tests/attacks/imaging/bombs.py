"""Files that are small until they are read."""

import zlib
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

_KIND = b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.4\0"
_PIXELS = b"\xe0\x7f\x10\x00OW\0\0"


def deflated(path: Path, mebibytes: int = 320) -> Path:
    """An MR image in the deflated transfer syntax (PS3.5 A.5) whose pixels are so many MiB of zeros."""
    meta = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    head.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(head, meta)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = squeezer.compress(_KIND + _PIXELS + (mebibytes << 20).to_bytes(4, "little"))
    body += b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(mebibytes)) + squeezer.flush()
    path.write_bytes(head.getvalue() + body)
    return path
