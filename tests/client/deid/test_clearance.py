"""A folder that is de-identified again keeps to what people decided on its files, and to nothing that they did not."""

import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from client.deid import DeidReport, Profile, Status, deidentify_folder
from client.deid.clearance import CLEARED
from client.deid.crew import Crew
from client.deid.place import TWIN
from client.deid.pseudonyms import Pseudonyms
from client.deid.quarantine import Decision, Quarantine, sha256_of
from client.deid.single import Processor
from client.deid.streams import FrameBox
from client.review.decisions import Desk
from compliance.log import AuditLog
from shared.errors import PolicyError
from tests.client.deid.files import KEY, OTHER_KEY, Change, image, to_bytes


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

    def decide(self, profile: Profile, name: str, decision: Decision, boxes: tuple[FrameBox, ...] = ()) -> None:
        desk = Desk(self.quarantine, self.out, profile, KEY, self.log, "Dr. M. Grey")
        pending = [held for held in self.quarantine.all() if held.decision is Decision.PENDING]
        desk.decide(next(held.id for held in pending if held.input == name), decision, boxes)

    def empty(self) -> dict[str, bytes]:
        """Delete what was released, and say what it was."""
        before = self.outputs()
        for path in self.out.rglob("*.dcm"):
            path.unlink()
        return before

    def picture(self, number: int) -> np.ndarray:
        """The released picture of an instance, by its Instance Number in the input."""
        uid = Pseudonyms(KEY).uid(f"1.2.3.4.{number}")
        return pydicom.dcmread(next(self.out.rglob(f"{uid}.dcm"))).pixel_array

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
    hospital.decide(harbor, "b.dcm", Decision.CLEARED)
    assert hospital.statuses(harbor)["b.dcm"][0] is Status.RELEASED
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
    before = hospital.empty()
    hospital.run(basic, workers=workers)
    assert hospital.outputs() == before
    [picture] = [
        one
        for path in hospital.out.rglob("*.dcm")
        if (one := pydicom.dcmread(path).pixel_array)[-1].max() == stored.min()
    ]
    assert np.array_equal(picture[:-1], stored[:-1])


# --- several decisions on one content ---------------------------------------------------------------------------------

TOP: FrameBox = (0, 0, 0, 1, 4)
BOTTOM: FrameBox = (-1, 3, 0, 4, 4)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "boxes", [((), (BOTTOM,)), ((BOTTOM,), ()), ((TOP,), (BOTTOM,))], ids=["later", "earlier", "both"]
)
def test_one_content_is_never_less_blanked_than_any_decision_wants(
    hospital: Hospital, basic: Profile, boxes: tuple[tuple[FrameBox, ...], ...], workers: int
) -> None:
    hospital.put("c.dcm", (hospital.source / "b.dcm").read_bytes())
    hospital.run(basic)
    stored = pydicom.dcmread(hospital.source / "b.dcm").pixel_array
    for name, drawn in zip(("b.dcm", "c.dcm"), boxes, strict=True):
        hospital.decide(basic, name, Decision.CLEARED, drawn)
    wanted = stored.copy()
    for _, top, left, bottom, right in (*boxes[0], *boxes[1]):
        wanted[top:bottom, left:right] = stored.min()
    assert np.array_equal(hospital.picture(2), wanted)
    before = hospital.outputs()
    statuses = hospital.statuses(basic, workers=workers)
    assert [statuses[name][0] for name in ("b.dcm", "c.dcm")] == [Status.RELEASED] * 2
    assert hospital.outputs() == before
    hospital.empty()
    hospital.run(basic, workers=workers)
    assert hospital.outputs() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_records_that_knew_nothing_of_each_other_are_joined(hospital: Hospital, basic: Profile, workers: int) -> None:
    """As they were written when each decision stood alone, with the picture of the laxer one in place."""
    hospital.put("c.dcm", (hospital.source / "b.dcm").read_bytes())
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED, (BOTTOM,))
    hospital.empty()
    strict = next(held for held in hospital.quarantine.all() if held.input == "b.dcm")
    record = hospital.reports / "quarantine" / f"{strict.id}.json"
    row = json.loads(record.read_text())
    record.write_text(json.dumps(row | {"blanked": []}))
    hospital.decide(basic, "c.dcm", Decision.CLEARED)
    assert hospital.picture(2)[3].any()
    record.write_text(json.dumps(row))
    hospital.quarantine = Quarantine(hospital.reports)
    assert hospital.statuses(basic, workers=workers)["c.dcm"][0] is Status.RELEASED
    picture = hospital.picture(2)
    assert (picture[3] == picture.min()).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_holds_for_the_content_wherever_it_lies(
    hospital: Hospital, basic: Profile, harbor: Profile, workers: int
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.REFUSED)
    (hospital.source / "deeper").mkdir()
    hospital.put("deeper/copy.dcm", (hospital.source / "b.dcm").read_bytes())
    os.mkfifo(hospital.source / "pipe")
    for profile in (basic, harbor):
        statuses = hospital.statuses(profile, workers=workers)
        for name in ("b.dcm", "deeper/copy.dcm"):
            assert statuses[name] == (Status.REFUSED, "a person refused it")
        assert statuses["a.dcm"][0] is Status.RELEASED
        assert statuses["pipe"][0] is Status.REFUSED


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_is_stronger_than_a_clearance(
    hospital: Hospital, basic: Profile, harbor: Profile, workers: int
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    hospital.run(harbor)
    hospital.decide(harbor, "b.dcm", Decision.REFUSED)
    hospital.empty()
    assert hospital.statuses(basic, workers=workers)["b.dcm"][0] is Status.REFUSED
    assert len(hospital.outputs()) == 1


def test_what_was_refused_elsewhere_cannot_be_cleared(hospital: Hospital, basic: Profile) -> None:
    hospital.put("c.dcm", (hospital.source / "b.dcm").read_bytes())
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.REFUSED)
    with pytest.raises(PolicyError, match=r"Dr\. M\. Grey refused a file with the same content"):
        hospital.decide(basic, "c.dcm", Decision.CLEARED)
    hospital.decide(basic, "c.dcm", Decision.REFUSED)
    assert len(hospital.outputs()) == 1


def test_inputs_are_digested_only_where_a_decision_could_be_about_them(
    hospital: Hospital, basic: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.run(basic)
    hospital.decide(basic, "b.dcm", Decision.CLEARED)
    asked = []
    real = sha256_of
    monkeypatch.setattr("client.deid.clearance.sha256_of", lambda path: asked.append(path.name) or real(path))
    hospital.run(basic)
    assert set(asked) == {"b.dcm"}


def test_another_key_clears_nothing(hospital: Hospital, basic: Profile) -> None:
    hospital.run(basic)
    held = next(held for held in hospital.quarantine.all() if held.input == "b.dcm")
    assert held.key == KEY.fingerprint != OTHER_KEY.fingerprint
    assert KEY.secret.hex() not in (hospital.reports / "quarantine" / f"{held.id}.json").read_text()
    other = Desk(hospital.quarantine, hospital.out, basic, OTHER_KEY, hospital.log, "Dr. M. Grey")
    with pytest.raises(PolicyError, match="another site key"):
        other.decide(held.id, Decision.CLEARED)
    assert len(hospital.outputs()) == 1
    other.decide(held.id, Decision.REFUSED)


# --- one instance, two contents ---------------------------------------------------------------------------------------


def other_content(number: int, change: Change = lambda _: None) -> bytes:
    dataset = image(change, number=number)
    dataset.PixelData = b"\1\0" * 16
    return to_bytes(dataset)


@pytest.mark.parametrize("workers", [1, 2])
def test_another_content_never_takes_the_place_of_what_was_released(
    hospital: Hospital, basic: Profile, workers: int
) -> None:
    """Neither in a later run over the same folder nor from another folder."""
    hospital.run(basic)
    before = hospital.outputs()
    hospital.put("a.dcm", other_content(1))
    assert hospital.statuses(basic, workers=workers)["a.dcm"] == (Status.QUARANTINED, TWIN)
    assert hospital.outputs() == before
    hospital.source = hospital.source.with_name("in2")
    hospital.source.mkdir()
    hospital.put("z.dcm", other_content(1))
    hospital.put("y.dcm", to_bytes(image()))
    statuses = hospital.statuses(basic, workers=workers)
    assert (statuses["y.dcm"][0], statuses["z.dcm"]) == (Status.RELEASED, (Status.QUARANTINED, TWIN))
    assert hospital.outputs() == before
    [held] = [held for held in hospital.quarantine.all() if held.input == "z.dcm"]
    assert not held.liftable


@pytest.mark.parametrize("workers", [1, 2])
def test_another_profile_replaces_what_was_released(
    hospital: Hospital, basic: Profile, harbor: Profile, workers: int
) -> None:
    hospital.run(basic)
    before = hospital.outputs()
    hospital.put("a.dcm", other_content(1))
    assert hospital.statuses(harbor, workers=workers)["a.dcm"][0] is Status.RELEASED
    assert hospital.outputs().keys() == before.keys()
    assert hospital.outputs() != before
    assert not hospital.picture(1).std()


def test_a_damaged_file_in_the_output_is_replaced(hospital: Hospital, basic: Profile) -> None:
    hospital.run(basic)
    [(name, content)] = hospital.outputs().items()
    (hospital.out / name).write_bytes(content[:100])
    assert hospital.statuses(basic)["a.dcm"][0] is Status.RELEASED
    assert hospital.outputs() == {name: content}


def test_a_clearance_takes_no_place_of_another_file(hospital: Hospital, basic: Profile) -> None:
    hospital.put("c.dcm", other_content(2))
    hospital.run(basic)
    before = hospital.outputs()
    with pytest.raises(PolicyError, match="SOP Instance UID and other content"):
        hospital.decide(basic, "b.dcm", Decision.CLEARED)
    hospital.put("d.dcm", other_content(3, report_picture))
    hospital.run(basic)
    hospital.decide(basic, "M\udcfcller.dcm", Decision.CLEARED)
    after = hospital.outputs()
    with pytest.raises(PolicyError, match="SOP Instance UID and other content"):
        hospital.decide(basic, "d.dcm", Decision.CLEARED, (BOTTOM,))
    assert hospital.outputs() == after
    assert before.items() < after.items()
