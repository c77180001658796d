"""Files made to stop a batch, to take a machine, or to come through because a reader gave up on them."""

import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from client.deid import Profile, Status
from tests.attacks.deid.planting import Hospital, ct, data

META = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
START = b"\0" * 128 + b"DICM" + META
ITEM = 0xFFFEE000
UNDEFINED = 0xFFFFFFFF
MOST_SECONDS = 1.0
MOST_BYTES = 200 << 20


def element(tag: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def item(value: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


def deep(levels: int) -> bytes:
    body = element(0x00081030, b"UT", b"at the bottom of it")
    for _ in range(levels):
        body = element(0x00089215, b"SQ", item(body))
    return START + body


def deep_undefined(levels: int) -> bytes:
    return START + (element(0x00089215, b"SQ", length=UNDEFINED) + item(length=UNDEFINED)) * levels


def deep_unknown(levels: int) -> bytes:
    return (
        START
        + element(0x00089215, b"UN", length=UNDEFINED)
        + (item(length=UNDEFINED) + struct.pack("<HHI", 0x0008, 0x9215, UNDEFINED)) * levels
    )


def bomb() -> bytes:
    squeezer = zlib.compressobj(9, wbits=-15)
    body = b"".join(squeezer.compress(b"\0" * (1 << 24)) for _ in range(40)) + squeezer.flush()
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + b"1.2.840.10008.1.2.1.99"
    return b"\0" * 128 + b"DICM" + meta + body


HOSTILE = {
    "zero bytes": b"",
    "one byte": b"\0",
    "no DICOM": os.urandom(5000),
    "prefix only": b"\0" * 128 + b"DICM",
    "meta only": START,
    "zeros": START + bytes(3_000_000),
    "400 levels": deep(400),
    "400 levels without ends": deep_undefined(400),
    "20,000 levels without ends": deep_undefined(20_000),
    "400 levels in UN": deep_unknown(400),
    "a length of 4 GB": START + element(0x00081030, b"UT", b"x", 0xFFFFFFFE),
    "an item of 4 GB": START + element(0x00089215, b"SQ", item(length=0xFFFFFFFE)),
    "pixels of 4 GB": data(ct())[:-140] + element(0x7FE00010, b"OW", b"\0\0", 0xFFFFFFFE),
    "65,535 rows and columns": data(ct()).replace(b"US\x02\x00\x08\x00", b"US\x02\x00\xff\xff"),
    "frames without end": START + element(0x7FE00010, b"OB", item(b"\0" * 8) * 1000, UNDEFINED),
    "a bomb": bomb(),
    "300,000 empty items": START + element(0x00089215, b"SQ", item() * 300_000),
    "a million spaces in a code": START + element(0x00080005, b"UT", b" " * 1_000_000 + b"!"),
    "a preamble of DICM": b"DICM" * 50,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_at_once(tmp_path: Path, name: str) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("good", ct())
    hospital.add("hostile", HOSTILE[name])
    started = time.process_time()
    report = hospital.release()
    spent = time.process_time() - started
    statuses = {record.path: record for record in report.records()}
    assert statuses["good"].status is Status.RELEASED
    assert statuses["hostile"].status is Status.REFUSED
    assert statuses["hostile"].reason
    assert spent < MOST_SECONDS
    assert len(hospital.released()) == 1


def test_hostile_files_take_no_memory(tmp_path: Path) -> None:
    """All of them, in one process that is measured: it never holds 200 MB more than what it starts with."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("good", ct())
    for number, content in enumerate(HOSTILE.values()):
        hospital.add(f"hostile{number:02d}", content)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from client.deid import Profile, SiteKey, deidentify_folder\n"
        "root = Path(sys.argv[1])\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "profile, before = Profile.load('basic'), most()\n"
        "report = deidentify_folder(root / 'in', root / 'out', profile=profile, key=SiteKey(b'k' * 32), log=None,"
        " reports=root / 'reports')\n"
        "assert report.released == 1, report\n"
        "print(most() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < MOST_BYTES


def test_truncated_at_every_element(tmp_path: Path) -> None:
    """A file cut off anywhere is refused, or was whole up to there and comes out without a trace of its patient."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    whole = data(ct())
    for length in range(0, len(whole), 7):
        hospital.add(f"cut{length:05d}", whole[:length])
    hospital.add("whole", whole)
    report = hospital.release()
    assert report.refused > 0.9 * report.files
    assert not [name for name, content in hospital.released().items() if b"Mustermann" in content]


def test_a_file_that_vanishes_or_may_not_be_read_stops_nothing(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("good", ct())
    (hospital.source / "nowhere").symlink_to(hospital.source / "gone")
    os.mkfifo(hospital.source / "pipe")
    report = hospital.release()
    assert report.counts == {"files": 3, "released": 1, "quarantined": 0, "refused": 2}


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "..", "1.2.3\\..\\x", "", "/etc/x"])
@pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E])
def test_a_uid_is_no_path(tmp_path: Path, uid: str, tag: int) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("good", ct())
    bad = ct(2)
    bad[tag].value = uid
    hospital.add("bad", bad)
    report = hospital.release()
    assert (report.released, report.refused) == (1, 1)
    assert all(path.startswith("FW") for path in hospital.released())


def test_a_patient_id_is_no_path(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.PatientID = "../../outside"
    hospital.add("a", dataset)
    hospital.release()
    assert len(hospital.released()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "reports"]
