"""Text burned into the picture: it does not come out, what is far from it stays bit by bit, and nobody notes it."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset

from client.deid import FileRecord, Profile, Status, deidentify_folder
from client.deid.page import write_page
from compliance.log import AuditLog
from tests.attacks.deid import burned_cases
from tests.attacks.deid.burned_cases import CASES, CLEAN, SANS
from tests.attacks.deid.burning import LEAST_GONE, SHAPE, Case, Writing, clouds, far, left, looks, stored
from tests.attacks.deid.planting import KEY, TELLING, data, found

DEEP, MATRIX = (os.environ.get(f"FEDWARD_{name}") == "1" for name in ("DEEP", "MATRIX"))
MOST_HELD = 0.1
LOSSY = 6  # how far a value may move where a picture was stored with loss before
TRACES = tuple(trace.encode() for trace in (*TELLING, "21.03.1957", "4711-0815", "SAWBONES", "1957-03-21"))
BASIC = Profile.load("basic")


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its line of the report, and the file where it was released."""

    case: Case
    record: FileRecord
    released: FileDataset | None
    told: tuple[str, ...]


def outcome_of(case: Case) -> Outcome:
    """De-identify one file, with an audit log and both reports, and look into all that was written."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        (root / "in" / "picture").write_bytes(data(case.dataset))
        with AuditLog(root / "log.jsonl", site="H1", subject_key=b"s" * 32) as log:
            report = deidentify_folder(
                root / "in", root / "out", profile=BASIC, key=KEY, log=log, reports=root / "reports"
            )
        write_page(report, BASIC, source=root / "in")
        written = [path for path in root.rglob("*") if path.is_file() and root / "in" not in path.parents]
        told = tuple(str(path.relative_to(root)) for path in written if found(path.read_bytes(), TRACES))
        assert {"deid.json", "deid.html", "log.jsonl"} <= {path.name for path in written}
        [record] = report.records()
        files = [path for path in written if root / "out" in path.parents]
        assert len(files) == report.released
        return Outcome(case, record, pydicom.dcmread(files[0]) if files else None, told)


@cache
def outcome(name: str) -> Outcome:
    return outcome_of((CASES | {f"clean {one}": make for one, make in CLEAN.items()})[name]())


def judge(done: Outcome) -> None:
    """The property: cleared and otherwise as it was, or held with a reason; and nowhere a word of it."""
    assert not done.told
    if done.record.status is Status.QUARANTINED:
        assert done.record.reason
        return
    assert done.record.status is Status.RELEASED, done.record.reason
    assert done.released is not None
    before, after = done.case.dataset, done.released
    assert after.get("BurnedInAnnotation") == "NO", "nobody looked"
    assert after.SpecificCharacterSet == "ISO_IR 192"
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsStored", "PixelRepresentation", "NumberOfFrames"):
        assert after.get(keyword) == before.get(keyword), keyword
    for old, new in zip(looks(before, exact=done.case.exact), looks(after, exact=done.case.exact), strict=True):
        for ink in done.case.inks:
            still = left(old, new, ink)
            assert still <= 1 - LEAST_GONE, f"{still:.0%} of {ink.text!r} ({ink.height} px) in frame {ink.frame}"
        moved = np.abs(new - old).max(-1)[far(done.case.inks, old.shape)]
        assert moved.max(initial=0) <= (0 if done.case.exact else LOSSY), f"{(moved > 0).mean():.1%} changed far away"


NORMAL = (
    "DX, outline",
    "DX, at the border",
    "DX, 10 px",
    "DX, turned by 270",
    "DX, slanted by 8",
    "DX, Han",
    "ES, green on magenta, as bright",
    "US, corners",
    "CR, MONOCHROME1",
    "CT, report in its description",
    "US, YBR_FULL",
    "US, only the palette shows it",
    "US, the palette hides it",
    "DX, a window shows it",
    "US, it says no",
    "DX, big-endian",
    "US, RGB, JPEG-LS",
    "ES, JPEG",
    "US film, in one frame",
    "US film, another name",
)
CHOSEN = tuple(CASES) if MATRIX else NORMAL if DEEP else NORMAL[::2]
CHOSEN_CLEAN = tuple(CLEAN) if MATRIX else ("US", "DX", "ES", "US, RLE")


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
@pytest.mark.parametrize("name", CHOSEN)
def test_burned_in_text_does_not_come_out(name: str) -> None:
    judge(outcome(name))


def test_most_of_it_needs_nobody(record_property: Callable[[str, object], None]) -> None:
    """Holding everything would be safe as well, and of no use."""
    clearable = [name for name in CHOSEN if outcome(name).case.clearable]
    held = [name for name in clearable if outcome(name).record.status is not Status.RELEASED]
    record_property("held", f"{len(held)} of {len(clearable)}: {held}")
    assert len(held) <= MOST_HELD * len(clearable), held


@pytest.mark.parametrize("name", CHOSEN_CLEAN)
def test_pictures_without_text_stay_as_they_are(name: str) -> None:
    done = outcome(f"clean {name}")
    assert done.record.status is Status.RELEASED, done.record.reason
    assert done.released is not None
    assert np.array_equal(stored(done.case.dataset), stored(done.released))
    assert done.released.get("BurnedInAnnotation") == "NO"
    assert done.record.boxes == 0


LETTERS = st.text("ABCDEFGHKLMNOPRSTUVWZabcdefghkmnoprstuz0123456789", min_size=5, max_size=14)
GREYS = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: abs(pair[0] - pair[1]) > 0.3)


@st.composite
def pictures(draw: st.DrawFn) -> Case:
    """Some text, whole, somewhere on a smooth picture from which it stands out."""
    ground, ink = draw(GREYS)
    size = draw(st.integers(12, 34))
    text = draw(LETTERS)[: max(4, int(1.2 * SHAPE[1] / size))]
    row = draw(st.integers(2, SHAPE[0] - 2 * size))
    column = draw(st.integers(2, max(2, SHAPE[1] - int(0.75 * size * len(text)) - 4)))
    writing = Writing(text, size, (row, column), ink, draw(st.sampled_from(["", SANS])))
    low, high = max(0.0, ground - 0.08), min(1.0, ground + 0.08)
    plane = clouds(draw(st.integers(0, 1000)), low, high, width=draw(st.integers(8, 30)))
    kind, bits = draw(st.sampled_from([("US", 8), ("OT", 8), ("CR", 10), ("DX", 12), ("DX", 16), ("XA", 8)]))
    return burned_cases.grey(kind, plane, writing, bits=bits)


@settings(max_examples=60 if MATRIX else 6, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=pictures())
def test_any_text_anywhere(case: Case) -> None:
    judge(outcome_of(case))
