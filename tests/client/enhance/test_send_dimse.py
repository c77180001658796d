"""Results sent by C-STORE: to an Orthanc, in the open and over TLS, and to archives that refuse or break off."""

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from typer.testing import CliRunner

from client.cli import app
from client.enhance.send import Sent, send
from client.sources.dimse_store import DimseStore
from client.sources.retry import Patience
from client.sources.source import UnreachableError
from client.sources.tls import Tls
from compliance.log import AuditLog, entries
from shared.errors import PartialError, ProtocolError, UsageError
from tests.client.sources.certificates import Authority
from tests.client.sources.orthanc import CALLED, CALLING, PASSWORD, USER, Orthanc, running
from tests.ports import free_port

HASTY = Patience(attempts=2, deadline=5, pause=0.05)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a model made of a CT and of an MR image."""
    root = tmp_path_factory.mktemp("results")
    (root / "in").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(str(get_testdata_file(name)), root / "in")
    done = run(root / "in", root / "out")
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("orthanc"), []) as started:
        yield started


def run(source: Path, out: Path, *words: object) -> Any:
    return CliRunner().invoke(
        app, ["enhance", "public-1", str(source), str(out), "--task", "denoise", *map(str, words)]
    )


def uids(root: Path) -> set[str]:
    return {str(pydicom.dcmread(path).SOPInstanceUID) for path in (root / "out").rglob("*.dcm")}


def held(archive: Orthanc) -> dict[str, pydicom.Dataset]:
    """What the archive has, by SOP Instance UID."""
    found = {}
    with requests.Session() as session:
        session.auth = (USER, PASSWORD)
        for one in session.get(f"{archive.rest}/instances", timeout=20).json():
            raw = session.get(f"{archive.rest}/instances/{one}/file", timeout=20).content
            dataset = pydicom.dcmread(BytesIO(raw))
            found[str(dataset.SOPInstanceUID)] = dataset
    return found


def url(port: int, title: str = CALLED, host: str = "127.0.0.1") -> str:
    return f"dicom://{title}@{host}:{port}"


def sent(root: Path, store: DimseStore, log: Path, *, patience: Patience = HASTY) -> Sent:
    names = sorted(path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*.dcm"))
    with AuditLog(log, site="H1", subject_key=b"k" * 32) as record, store:
        return send(root / "out", names, store, log=record, patience=patience)


# --- a real archive ---------------------------------------------------------------------------------------------------


@pytest.mark.system("orthanc")
def test_an_archive_gets_every_result_as_it_is_and_may_get_it_again(archive: Orthanc, results: Path) -> None:
    for _ in range(2):
        done = run(results / "in", results / "out", "--send", url(archive.dicom), "--calling", CALLING)
        assert done.exit_code == 0, done.output
        assert "2 results sent" in done.output
    there = held(archive)
    assert set(there) == uids(results)
    for path in (results / "out").rglob("*.dcm"):
        mine = pydicom.dcmread(path)
        assert there[str(mine.SOPInstanceUID)].to_json_dict() == mine.to_json_dict()
    rows = [row for row in entries(results / "out-reports" / "audit.jsonl") if "sent_to" in row["detail"]]
    assert [row["outcome"] for row in rows] == ["started", "ok"] * 4  # two studies, twice
    assert {row["detail"]["sent_to"] for row in rows} == {f"{CALLED} at 127.0.0.1:{archive.dicom}"}


@pytest.mark.system("orthanc")
def test_an_archive_that_does_not_know_us_by_that_name(archive: Orthanc, results: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="rejects the association") as caught:
        sent(results, DimseStore(url(archive.dicom, "OTHER"), calling=CALLING), tmp_path / "log.jsonl")
    assert caught.value.exit_code == 8
    assert "OTHER" in caught.value.hint


@pytest.mark.system("orthanc")
def test_over_tls_and_only_to_whom_we_trust(results: Path, tmp_path: Path) -> None:
    house, other = Authority(tmp_path, "house"), Authority(tmp_path, "other")
    shown, ours = house.certify("archive"), house.certify("node")
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(shown.certificate),
        "DicomTlsPrivateKey": str(shown.key),
        "DicomTlsTrustedCertificates": str(house.path),
        "DicomTlsRemoteCertificateRequired": True,
    }
    mine = ["--certificate", ours.certificate, "--private-key", ours.key]
    with running(tmp_path / "orthanc", [], settings) as secured:
        where = ["--send", url(secured.dicom), "--calling", CALLING, "--dimse-tls"]
        refused = run(results / "in", results / "out", *where, "--ca", other.path, *mine)
        assert isinstance(refused.exception, ProtocolError)
        assert "authority that is not trusted" in refused.exception.message
        with pytest.raises(UnreachableError, match="does not answer"):
            DimseStore(url(secured.dicom), calling=CALLING).store(any_of(results))
        anonymous = DimseStore(url(secured.dicom), calling=CALLING, tls=Tls(house.path))
        with pytest.raises(ProtocolError, match="asks for a certificate"):
            anonymous.store(any_of(results))
        assert held(secured) == {}
        done = run(results / "in", results / "out", *where, "--ca", house.path, *mine)
        assert done.exit_code == 0, done.output
        assert set(held(secured)) == uids(results)


def any_of(root: Path) -> pydicom.Dataset:
    return pydicom.dcmread(min((root / "out").rglob("*.dcm")))


@pytest.mark.system("orthanc")
def test_an_archive_whose_rights_do_not_cover_us_breaks_off(results: Path, tmp_path: Path) -> None:
    closed = {"DicomAlwaysAllowStore": False, "DicomModalities": {"node": [CALLING + "2", "127.0.0.1", 1]}}
    with running(tmp_path / "orthanc", [], closed) as shut:
        with pytest.raises(ProtocolError, match="broke off the association") as caught:
            sent(results, DimseStore(url(shut.dicom), calling=CALLING), tmp_path / "log.jsonl")
        assert caught.value.exit_code == 8
        assert held(shut) == {}


# --- archives that are difficult --------------------------------------------------------------------------------------

Answer = Callable[[Event], int]


class Difficult:
    """A storage provider of our own that answers as it is told, and remembers what it was sent."""

    def __init__(self, answer: Answer, *, classes: tuple[str, ...] = (MRImageStorage, CTImageStorage)) -> None:
        self.port, self.associations, self.tries = free_port(), 0, list[str]()
        self.syntaxes = set[str]()
        ae = AE("DIFFICULT")
        for kind in classes:
            ae.add_supported_context(kind, self.takes)

        def keep(event: Event) -> int:
            self.tries.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
            self.syntaxes.add(str(event.context.transfer_syntax))
            return answer(event)

        def count(_: Event) -> None:
            self.associations += 1

        handlers = [(evt.EVT_C_STORE, keep), (evt.EVT_ACCEPTED, count)]
        self.server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    takes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

    def __enter__(self) -> "Difficult":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()

    @property
    def store(self) -> DimseStore:
        return DimseStore(url(self.port, "DIFFICULT"), calling=CALLING)


class OldFashioned(Difficult):
    takes = (ImplicitVRLittleEndian,)


def test_what_it_does_not_take_is_named_with_its_reason(results: Path, tmp_path: Path) -> None:
    def answer(event: Event) -> int:
        return 0xA900 if event.dataset.Modality == "CT" else 0xB000

    with Difficult(answer) as archive:
        done = sent(results, archive.store, tmp_path / "log.jsonl")
        from_command = run(
            results / "in", results / "out", "--send", url(archive.port, "DIFFICULT"), "--calling", CALLING
        )
    assert done.stored == 1
    ((name, reason),) = done.refused.items()
    assert pydicom.dcmread(results / "out" / name).Modality == "CT"
    assert "0xA900" in reason
    assert archive.tries.count(Path(name).stem) == 2  # once in each run: another try would be answered alike
    assert isinstance(from_command.exception, PartialError)
    assert f"{Path(name).name}: status 0xA900" in from_command.output
    rows = list(entries(tmp_path / "log.jsonl"))
    assert sum(row["detail"].get("refused", 0) for row in rows) == 1


def test_a_class_that_it_does_not_accept_is_refused_and_the_others_go(results: Path, tmp_path: Path) -> None:
    with Difficult(lambda _: 0, classes=(MRImageStorage,)) as archive:
        done = sent(results, archive.store, tmp_path / "log.jsonl")
    assert (done.stored, list(done.refused.values())) == (1, ["it takes no CT Image Storage"])


def test_one_association_serves_until_another_class_comes(results: Path, tmp_path: Path) -> None:
    with Difficult(lambda _: 0) as archive:
        assert sent(results, archive.store, tmp_path / "log.jsonl").stored == 2
        assert archive.associations == 2
        mine = any_of(results)
        with archive.store as store:
            assert [store.store(mine) for _ in range(4)] == [""] * 4
    assert archive.associations == 3


def test_an_archive_that_knows_the_default_syntax_alone_gets_that(results: Path, tmp_path: Path) -> None:
    with OldFashioned(lambda _: 0) as archive:
        assert sent(results, archive.store, tmp_path / "log.jsonl").stored == 2
    assert archive.syntaxes == {str(ImplicitVRLittleEndian)}


@pytest.mark.parametrize("way", ["breaks off", "is full"])
def test_an_instance_is_tried_again_where_that_may_help(results: Path, tmp_path: Path, way: str) -> None:
    seen = set[str]()

    def answer(event: Event) -> int:
        uid = str(event.dataset.SOPInstanceUID)
        first = uid not in seen
        seen.add(uid)
        if first and way == "breaks off":
            event.assoc.abort()
        return 0xA700 if first else 0

    with Difficult(answer) as archive:
        done = sent(results, archive.store, tmp_path / "log.jsonl")
    assert (done.stored, done.refused) == (2, {})
    assert sorted(archive.tries) == sorted([*uids(results)] * 2)


def test_an_archive_that_goes_on_breaking_off_ends_it(results: Path, tmp_path: Path) -> None:
    def answer(event: Event) -> int:
        event.assoc.abort()
        return 0

    with Difficult(answer) as archive, pytest.raises(ProtocolError, match="broke off") as caught:
        sent(results, archive.store, tmp_path / "log.jsonl")
    assert caught.value.exit_code == 8
    assert "the results are kept" in caught.value.hint
    assert [row["outcome"] for row in entries(tmp_path / "log.jsonl")] == ["started", "failed"]


def test_who_may_not_store_is_told_so(results: Path, tmp_path: Path) -> None:
    with Difficult(lambda _: 0x0124) as archive, pytest.raises(ProtocolError, match="not authorized") as caught:
        sent(results, archive.store, tmp_path / "log.jsonl")
    assert CALLING in caught.value.hint


def test_an_archive_that_is_not_there(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="does not answer"):
        sent(results, DimseStore(url(free_port()), calling=CALLING), tmp_path / "log.jsonl", patience=Patience(1))


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--send", "dicom://PACS@127.0.0.1:9"],
        ["--send", "dicom://127.0.0.1:9", "--calling", "A"],
        ["--send", "dicom://PACS@127.0.0.1", "--calling", "A"],
        ["--send", "dicom://@127.0.0.1:9", "--calling", "A"],
        ["--send", "dicom:PACS@127.0.0.1:9", "--calling", "A"],
        ["--send", "dicom://A%5CB@127.0.0.1:9", "--calling", "A"],
        ["--send", "dicom://PACS@127.0.0.1:9", "--calling", "A", "--dimse-tls"],
        ["--send", "dicom://PACS@127.0.0.1:9", "--calling", "A", "--ca", "none.pem"],
        ["--send", "dicom://PACS@127.0.0.1:9", "--calling", "A", "--dimse-tls", "--ca", "none.pem"],
        ["--send", "dicom://PACS@127.0.0.1:9", "--calling", "A", "--certificate", "none.pem"],
        ["--send", "dicom://PACS@127.0.0.1:9", "--calling", "A", "--credentials", "none"],
        ["--send", "http://127.0.0.1:9/", "--calling", "A"],
        ["--calling", "A"],
    ],
)
def test_options_that_do_not_belong_together(results: Path, tmp_path: Path, words: list[str]) -> None:
    done = run(results / "in", tmp_path / "out", *words)
    assert isinstance(done.exception, UsageError)
    assert done.exception.hint
    assert not (tmp_path / "out").exists()
