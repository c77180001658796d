"""A folder that is de-identified again keeps to what people decided on its files, and to nothing that they did not."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from client.deid import DeidReport, Profile, Status, deidentify_folder
from client.deid.boxes import Box
from client.deid.clearance import CLEARED
from client.deid.crew import Crew
from client.deid.quarantine import Decision, Quarantine
from client.deid.single import Processor
from client.review.decisions import Desk
from compliance.log import AuditLog
from tests.client.deid.files import KEY, image, to_bytes


def report_picture(dataset: Dataset) -> None:
    dataset.ImageType = ["DERIVED", "SECONDARY", "REPORT"]


class Hospital:
    """A folder with an ordinary slice and two that a person must look at."""

    def __init__(self, root: Path) -> None:
        self.source, self.out, self.reports = root / "in", root / "out", root / "reports"
        self.source.mkdir()
        self.quarantine = Quarantine(self.reports)
        self.log = AuditLog(root / "log.jsonl", site="H1", subject_key=b"k" * 32)
        self.put("a.dcm", to_bytes(image()))
        for number, name in enumerate(("b.dcm", "M\udcfcller.dcm"), start=2):
            self.put(name, to_bytes(image(report_picture, number=number)))

    def put(self, name: str, content: bytes) -> None:
        (self.source / name).write_bytes(content)

    def run(self, profile: Profile, *, workers: int = 1) -> DeidReport:
        settings = {"profile": profile, "key": KEY, "log": self.log, "reports": self.reports, "workers": workers}
        return deidentify_folder(self.source, self.out, **settings)  # type: ignore[arg-type]

    def statuses(self, profile: Profile, *, workers: int = 1) -> dict[str, tuple[Status, str]]:
        return {one.path: (one.status, one.reason) for one in self.run(profile, workers=workers).records()}

    def decide(self, profile: Profile, name: str, decision: Decision, boxes: tuple[Box, ...] = ()) -> None:
        desk = Desk(self.quarantine, self.out, profile, KEY, self.log, "Dr. M. Grey")
        pending = [held for held in self.quarantine.all() if held.decision is Decision.PENDING]
        desk.decide(next(held.id for held in pending if held.input == name), decision, boxes)

    def outputs(self) -> dict[str, bytes]:
        return {str(one.relative_to(self.out)): one.read_bytes() for one in self.out.rglob("*.dcm")}


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_cleared_stays_released(hospital: Hospital, basic: Profile, workers: int) -> None:
    hospital.run(basic)
    for name in ("b.dcm", "M\udcfcller.dcm"):
        hospital.decide(basic, name, Decision.CLEARED)
    before = hospital.outputs()
    assert len(before) == 3
    for path in hospital.out.rglob("*.dcm"):
        path.unlink()
    again = hospital.run(basic, workers=workers)
    assert hospital.outputs() == before
    assert again.counts == {"files": 3, "released": 3, "quarantined": 0, "refused": 0}
    assert again.rules[CLEARED] == 2
    assert {one.path for one in again.records() if CLEARED in one.rules} == {"b.dcm", "M\udcfcller.dcm"}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_refused_stays_refused(hospital: Hospital, basic: Profile, workers: int) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.REFUSED)
    statuses = hospital.statuses(basic, workers=workers)
    assert statuses["b.dcm"] == (Status.REFUSED, "a person refused it")
    assert statuses["M\udcfcller.dcm"][0] is Status.QUARANTINED
    assert len(hospital.outputs()) == 1


def test_a_decision_is_for_one_content_one_path_and_one_profile(
    hospital: Hospital, basic: Profile, harbor: Profile
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    content = (hospital.source / "b.dcm").read_bytes()
    hospital.put("copy.dcm", content)
    statuses = hospital.statuses(basic)
    assert statuses["b.dcm"][0] is Status.RELEASED
    assert statuses["copy.dcm"][0] is Status.QUARANTINED
    assert hospital.statuses(harbor)["b.dcm"][0] is Status.QUARANTINED
    hospital.put(
        "b.dcm", to_bytes(image(lambda one: (report_picture(one), one.add_new(0x00200013, "IS", "9")), number=2))
    )
    assert hospital.statuses(basic)["b.dcm"][0] is Status.QUARANTINED


def test_the_same_file_under_another_profile_can_be_decided_on(
    hospital: Hospital, basic: Profile, harbor: Profile
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    hospital.run(harbor)
    hospital.decide(harbor, "b.dcm", Decision.REFUSED)
    assert hospital.statuses(harbor)["b.dcm"][0] is Status.REFUSED
    assert hospital.statuses(basic)["b.dcm"][0] is Status.RELEASED


def test_only_the_reason_is_lifted(hospital: Hospital, basic: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker finds an identifier in a cleared file: it waits again, for the new reason."""
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    monkeypatch.setattr("client.deid.single.check", lambda *_: ("something",))
    monkeypatch.setattr("client.deid.single.count_of", lambda _: {})
    monkeypatch.setattr("client.deid.single.reason_of", lambda _: "an identifier")
    assert hospital.statuses(basic)["b.dcm"] == (Status.QUARANTINED, "an identifier")
    about = [held for held in hospital.quarantine.all() if held.input == "b.dcm"]
    assert {(held.reason, held.decision) for held in about} > {("an identifier", Decision.PENDING)}
    assert {held.decision for held in about} == {Decision.CLEARED, Decision.PENDING}


def test_a_file_that_changes_while_it_is_read_is_not_what_was_cleared(
    hospital: Hospital, basic: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    for path in hospital.out.rglob("*.dcm"):
        path.unlink()
    release = Processor.release

    def swapped(self: Processor, path: str, *lifted: str) -> object:
        hospital.put(path, to_bytes(image(lambda one: (report_picture(one), one.add_new(0x00200013, "IS", "9")))))
        return release(self, path, *lifted)

    monkeypatch.setattr(Processor, "release", swapped)
    assert hospital.statuses(basic)["b.dcm"] == (Status.QUARANTINED, "it changed while it was read")
    assert "a.dcm" not in {held.input for held in hospital.quarantine.all()}


def test_a_cleared_file_and_a_twin_with_other_content(hospital: Hospital, basic: Profile) -> None:
    """Whichever comes second waits, and the first keeps its place with its own content."""
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    before = hospital.outputs()
    plain = image(number=2)
    plain.PixelData = b"\1\0" * 16
    hospital.put("c.dcm", to_bytes(plain))
    statuses = hospital.statuses(basic)
    assert statuses["b.dcm"][0] is Status.RELEASED
    assert statuses["c.dcm"] == (Status.QUARANTINED, "another file has its SOP Instance UID and other content")
    assert hospital.outputs() == before


def test_the_same_file_cleared_twice_is_one_release(hospital: Hospital, basic: Profile) -> None:
    hospital.put("c.dcm", (hospital.source / "b.dcm").read_bytes())
    hospital.run(basic)
    for name in ("b.dcm", "c.dcm"):
        hospital.decide(basic, name, Decision.CLEARED)
    statuses = hospital.statuses(basic)
    assert [statuses[name][0] for name in ("b.dcm", "c.dcm")] == [Status.RELEASED] * 2
    assert len(hospital.outputs()) == 2


def test_a_damaged_record_is_told_with_its_path(hospital: Hospital, basic: Profile) -> None:
    hospital.run(basic)
    record = next((hospital.reports / "quarantine").iterdir())
    record.write_text(json.dumps({"boxes": 1}))
    with pytest.raises(Exception, match="move it away") as caught:
        hospital.run(basic)
    assert str(record) in str(caught.value)


def test_one_crew_serves_folder_after_folder(hospital: Hospital, basic: Profile, tmp_path: Path) -> None:
    with Crew(2, basic, KEY) as crew:
        for number in range(3):
            out = tmp_path / f"out{number}"
            report = deidentify_folder(
                hospital.source, out, profile=basic, key=KEY, log=None, reports=tmp_path / f"r{number}", crew=crew
            )
            assert report.released == 1
            assert pydicom.dcmread(next(out.rglob("*.dcm"))).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_blanked_is_blanked_again(hospital: Hospital, basic: Profile, workers: int) -> None:
    """A decision to release with boxes must never become one to release without them."""
    hospital.run(basic)
    stored = pydicom.dcmread(hospital.source / "b.dcm").pixel_array
    assert stored[-1].min() > stored.min()
    rows, columns = stored.shape
    hospital.decide(basic, "b.dcm", Decision.CLEARED, ((-1, rows - 1, 0, rows, columns),))
    before = hospital.outputs()
    for path in hospital.out.rglob("*.dcm"):
        path.unlink()
    hospital.run(basic, workers=workers)
    assert hospital.outputs() == before
    [picture] = [
        one
        for path in hospital.out.rglob("*.dcm")
        if (one := pydicom.dcmread(path).pixel_array)[-1].max() == stored.min()
    ]
    assert np.array_equal(picture[:-1], stored[:-1])
