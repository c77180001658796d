"""From a real archive to a cohort: by DICOMweb, by C-GET and by C-MOVE, with what can go wrong on the way."""

import json
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path

import pydicom
import pytest

from client.cohort import Split
from client.deid import Profile
from client.ingest import Ingested, ingest
from client.node import Node
from client.sources.credentials import Credentials
from client.sources.dicomweb import DicomWeb
from client.sources.dimse import Address, Dimse
from client.sources.intake import Intake
from client.sources.retry import Patience
from client.sources.selection import Instance, Selection
from client.sources.source import Source, Study
from compliance.log import verify
from shared.errors import DataError, PolicyError, ProtocolError, UsageError
from tests.client.sources.orthanc import CALLED, CALLING, PASSWORD, USER, Orthanc
from tests.ports import free_port

pytestmark = pytest.mark.system("orthanc")

HASTY = Patience(attempts=2, deadline=5, pause=0.05)
KINDS = ("dicomweb", "c-get", "c-move")


def source_of(archive: Orthanc, kind: str) -> Source:
    if kind == "dicomweb":
        return DicomWeb(archive.url, credentials=Credentials("basic", f"{USER}:{PASSWORD}"))
    listen = Address("127.0.0.1", archive.listen) if kind == "c-move" else None
    return Dimse(Address("127.0.0.1", archive.dicom), called=CALLED, calling=CALLING, listen=listen)


def take_in(node: Node, source: Source, selection: Selection | None = None) -> Ingested:
    return ingest(node, source, selection or Selection(), profile=Profile.load("basic"), patience=HASTY)


def everything_below(folder: Path) -> Iterable[bytes]:
    return (path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_leads_to_the_same_cohort(archive: Orthanc, node: Node, images: Path, kind: str) -> None:
    done = take_in(node, source_of(archive, kind))
    assert (done.tally.studies, done.tally.fetched, done.tally.released) == (4, 20, 20)
    assert not done.tally.incomplete
    assert len(done.cohort.patients(Split.TRAIN)) + len(done.cohort.patients(Split.HELD_OUT)) == 4
    assert all(study.labelled for entry in done.cohort.entries for study in entry.studies)
    assert list((node.folder / "spool").iterdir()) == []
    names = {path.name for path in images.glob("*/*")}
    for data in everything_below(node.folder / "released"):
        assert not any(name.encode() in data for name in names)


def test_the_ways_release_the_same_files(archive: Orthanc, tmp_path: Path) -> None:
    seen = set()
    for kind in KINDS:
        node = Node.create(tmp_path / kind, site="H1", purpose="tests", seed=1)
        take_in(node, source_of(archive, kind), Selection(modalities=frozenset({"MR"})))
        released = node.folder / "released"
        seen.add(frozenset((str(one.relative_to(released)), one.read_bytes()) for one in released.rglob("*.dcm")))
    assert len(seen) == 1
    assert len(seen.pop()) == 10


@pytest.mark.parametrize("kind", ["dicomweb", "c-get"])
def test_a_selection_is_asked_for_and_nothing_else_comes(
    archive: Orthanc, node: Node, files: list[Path], kind: str
) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    day = date.fromisoformat(next(str(one.StudyDate) for one in headers if one.Modality == "CT"))
    one_day = timedelta(days=1)
    cases = [
        (Selection(modalities=frozenset({"CT"})), {"CT", "SEG"}, 10),
        (Selection(modalities=frozenset({"CT"}), first=day, last=day), {"CT", "SEG"}, 5),
        (Selection(description="*ref*"), {"MR", "CT", "SEG"}, 12),
        (Selection(description="mr ROUTINE*"), {"MR", "SEG"}, 10),
        (Selection(patients=frozenset({str(headers[0].PatientID)})), {"MR", "SEG"}, 5),
    ]
    with source_of(archive, kind) as source:
        for selection, modalities, count in cases:
            named = [one.uid for study in source.studies(selection) for one in source.instances(study, selection)]
            assert len(named) == count, selection
            assert {str(one.Modality) for one in headers if one.SOPInstanceUID in named} == modalities
        nothing = Selection(modalities=frozenset({"CT"}), first=date(1990, 1, 1), last=date(1990, 1, 1) + one_day)
        assert source.studies(nothing) == []


def test_nothing_selected_is_said(archive: Orthanc, node: Node) -> None:
    with pytest.raises(DataError, match="no study of this selection"):
        take_in(node, source_of(archive, "dicomweb"), Selection(modalities=frozenset({"PT"})))


class Breaking:
    """A source that stops the archive after it has brought a few files."""

    def __init__(self, inner: Source, files: int, act: Callable[[], None]) -> None:
        self._inner, self._left, self._act = inner, files, act
        self.name, self.kind = inner.name, inner.kind
        self.asked: list[str] = []
        self.studies, self.instances, self.problems = inner.studies, inner.instances, inner.problems

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        for one in wanted:
            if self._left == 0:
                self._act()
            self._left -= 1
            self.asked.append(one.uid)
            self._inner.fetch(study, [one], intake)

    def __enter__(self) -> "Breaking":
        self._inner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.__exit__(*_)


@pytest.mark.live
@pytest.mark.parametrize("kind", ["dicomweb", "c-get"])
def test_an_archive_that_goes_away_is_named_and_the_next_run_goes_on(
    own_archive: Orthanc, node: Node, kind: str
) -> None:
    broken = Breaking(source_of(own_archive, kind), 7, own_archive.stop)
    with pytest.raises(ProtocolError) as caught:
        take_in(node, broken)
    assert "127.0.0.1" in caught.value.message
    assert "\n" not in str(caught.value)
    assert "go on" in caught.value.hint
    spooled = [path for path in (node.folder / "spool").rglob("*") if path.is_file()]
    assert len(spooled) == 2  # the first study is done, of the second two files are there
    for path in spooled:
        pydicom.dcmread(path).PixelData  # noqa: B018  # whole
        assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads((node.folder / "reports" / "ingest.json").read_text())["complete"] is False

    own_archive.start()
    again = Breaking(source_of(own_archive, kind), -1, lambda: None)
    done = take_in(node, again)
    assert len(again.asked) == 20 - 7
    assert done.tally.unchanged == 1
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 20


def test_a_kill_between_two_files_loses_neither(archive: Orthanc, node: Node) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_in(node, Breaking(source_of(archive, "dicomweb"), 8, die))
    again = Breaking(source_of(archive, "dicomweb"), -1, lambda: None)
    assert take_in(node, again).tally.released == 20 - 5
    assert len(again.asked) == 20 - 8


def test_a_second_run_fetches_nothing_and_the_record_verifies(archive: Orthanc, node: Node) -> None:
    mr = Selection(modalities=frozenset({"MR"}))
    take_in(node, source_of(archive, "dicomweb"), mr)
    again = Breaking(source_of(archive, "dicomweb"), -1, lambda: None)
    done = take_in(node, again, mr)
    assert again.asked == []
    assert (done.tally.unchanged, done.tally.fetched) == (2, 0)
    log = node.folder / "audit" / "log.jsonl"
    assert verify(log).entries
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    fetches = [row for row in rows if row["action"] == "ingest" and row["subject"]]
    assert [row["outcome"] for row in fetches] == ["started", "ok"] * 2
    with source_of(archive, "dicomweb") as source:
        uids = [study.uid for study in source.studies(Selection())]
    for record in (log, node.folder / "ingest.jsonl"):
        assert not any(uid in record.read_text() for uid in uids)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("called", "calling", "words"), [("WRONG", CALLING, "Called AE"), (CALLED, "NOBODY", "")])
def test_wrong_titles(archive: Orthanc, node: Node, called: str, calling: str, words: str) -> None:
    source = Dimse(Address("127.0.0.1", archive.dicom), called=called, calling=calling, listen=None)
    with pytest.raises(ProtocolError, match=r"rejects|stopped answering") as caught:
        take_in(node, source)
    assert words.lower() in caught.value.message.lower()
    assert "--calling" in caught.value.hint
    assert not (node.folder / "released").exists()


def test_a_destination_that_the_archive_cannot_reach_is_said(archive: Orthanc, node: Node) -> None:
    elsewhere = Address("127.0.0.1", free_port())  # the archive sends to the port that it was told
    source = Dimse(Address("127.0.0.1", archive.dicom), called=CALLED, calling=CALLING, listen=elsewhere)
    with pytest.raises(ProtocolError, match="could not send") as caught:
        take_in(node, source)
    assert "--listen" in caught.value.hint


def test_a_taken_port_is_said(archive: Orthanc, node: Node) -> None:
    taken = Address("127.0.0.1", archive.http)
    with pytest.raises(UsageError, match="cannot listen"):
        take_in(node, Dimse(Address("127.0.0.1", archive.dicom), called=CALLED, calling=CALLING, listen=taken))


@pytest.mark.parametrize("credentials", [None, Credentials("basic", "reader:wrong"), Credentials("bearer", "t0ken")])
def test_wrong_credentials(archive: Orthanc, node: Node, credentials: Credentials | None) -> None:
    with pytest.raises(ProtocolError, match="refused us") as caught:
        take_in(node, DicomWeb(archive.url, credentials=credentials))
    assert "--credentials" in caught.value.hint
    assert "wrong" not in str(caught.value)


def test_a_wrong_path_is_said(archive: Orthanc, node: Node) -> None:
    source = DicomWeb(archive.rest + "/nowhere", credentials=Credentials("basic", f"{USER}:{PASSWORD}"))
    with pytest.raises(ProtocolError, match="404"):
        take_in(node, source)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there(tmp_path: Path, node: Node, kind: str) -> None:
    with pytest.raises(ProtocolError, match="does not answer"):
        take_in(node, source_of(Orthanc(tmp_path, free_port(), free_port(), free_port()), kind))


def test_credentials_never_go_over_an_open_line() -> None:
    with pytest.raises(PolicyError, match="unencrypted"):
        DicomWeb("http://pacs.hospital.example/dicom-web", credentials=Credentials("bearer", "t0ken"))
