"""Results sent to an archive: an Orthanc that gets them by STOW-RS, and one that is not there."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from client.cli import app
from client.enhance.send import send
from client.sources.dicomweb import DicomWeb
from client.sources.retry import Patience
from compliance.log import AuditLog, entries
from shared.errors import PartialError, ProtocolError, UsageError
from tests.client.sources.orthanc import PASSWORD, USER, Orthanc, running
from tests.client.sources.test_hostile_peers import Server
from tests.ports import free_port


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("orthanc"), []) as started:
        yield started


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(str(get_testdata_file(name)), tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.touch(mode=0o600)
    path.write_text(f"basic {USER}:{PASSWORD}\n")
    return path


def run(images: Path, out: Path, *words: object) -> Any:
    return CliRunner().invoke(
        app, ["enhance", "public-1", str(images), str(out), "--task", "denoise", *map(str, words)]
    )


@pytest.mark.system("orthanc")
def test_an_archive_gets_every_result_and_may_get_it_again(
    archive: Orthanc, images: Path, credentials: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        done = run(images, tmp_path / "out", "--send", archive.url, "--credentials", credentials)
        assert done.exit_code == 0, done.output
        assert "2 results sent" in done.output
    made = {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / "out").rglob("*.dcm")}
    with requests.Session() as session:
        session.auth = (USER, PASSWORD)
        found = session.get(f"{archive.url}/instances", timeout=20).json()
    assert {row["00080018"]["Value"][0] for row in found} == made
    rows = list(entries(tmp_path / "out-reports" / "audit.jsonl"))
    sent = [row for row in rows if "sent_to" in row["detail"]]
    assert [row["outcome"] for row in sent] == ["started", "ok"] * 4  # two studies, twice


@pytest.mark.system("orthanc")
def test_wrong_credentials_are_the_other_ends_refusal(
    archive: Orthanc, images: Path, credentials: Path, tmp_path: Path
) -> None:
    credentials.write_text("basic reader:wrong\n")
    done = run(images, tmp_path / "out", "--send", archive.url, "--credentials", credentials)
    assert isinstance(done.exception, ProtocolError)
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2  # written all the same
    assert [row["outcome"] for row in entries(tmp_path / "out-reports" / "audit.jsonl")][-1] == "failed"


def test_what_the_archive_does_not_take_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DicomWeb, "store", lambda _, dataset: "too large" if dataset.Modality == "CT" else "")
    done = run(images, tmp_path / "out", "--send", "http://127.0.0.1:1/dicom-web")
    assert isinstance(done.exception, PartialError)
    (refused,) = [path for path in (tmp_path / "out").rglob("*.dcm") if pydicom.dcmread(path).Modality == "CT"]
    assert f"{refused.name}: too large" in done.output


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[49442]}}]}}', "status 0xC122"),
        (b'{"00081198":{"vr":"SQ","Value":[{}]}}', "without a reason"),
        (b"<html>", "without a reason"),
        (b"[]", "without a reason"),
    ],
)
def test_a_service_that_stored_nothing_of_a_request_has_refused_that_instance(
    images: Path, body: bytes, reason: str
) -> None:
    headers = {"Content-Type": "application/dicom+json"}
    with Server(lambda _: (409, headers, body)) as server, DicomWeb(server.url) as archive:
        assert archive.store(pydicom.dcmread(images / "MR_small.dcm")).startswith(reason)


def test_an_archive_that_is_not_there(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    results = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.dcm")]
    with (
        AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"k" * 32) as log,
        DicomWeb(f"http://127.0.0.1:{free_port()}/dicom-web") as nobody,
        pytest.raises(ProtocolError, match="does not answer"),
    ):
        send(tmp_path / "out", results, nobody, log=log, patience=Patience(attempts=1))


def test_options_of_sending_belong_to_sending(images: Path, credentials: Path, tmp_path: Path) -> None:
    done = run(images, tmp_path / "out", "--credentials", credentials)
    assert isinstance(done.exception, UsageError)
