"""The review page over real HTTP: who may ask, what may be decided, and what stands in the record before it happens."""

import http.client
import io
import json
import stat
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from client.cli import app
from client.deid import SiteKey, deidentify_folder
from client.deid.quarantine import Decision, Held
from client.review.about import about
from client.review.pictures import png
from client.review.server import SECRET, TOKEN, _shown
from compliance.log import AuditLog
from shared.errors import DataError, RecordError, UsageError
from tests.client.deid.files import KEY, image, to_bytes
from tests.client.review.hospital import HELD_FOR, Review, film, undecodable, written


def test_records_are_private_and_copy_nothing(review: Review) -> None:
    folder = review.reports / "quarantine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {path.suffix for path in files} == {".json"}
    assert not any(b"Roe" in path.read_bytes() or b"MRN" in path.read_bytes() for path in files)


def test_the_server_listens_on_loopback_only(review: Review) -> None:
    assert review.server.server_address[0] == "127.0.0.1"
    assert review.server.server_address[1] > 1023


@pytest.mark.parametrize("path", ["/api/held", "/api/picture/x/0/full", "/favicon.ico", "/../../etc/passwd"])
@pytest.mark.parametrize("secret", ["", "wrong", "\u00e9"])
def test_without_the_secret_there_is_nothing(review: Review, path: str, secret: str) -> None:
    headers = {SECRET: secret} if secret else {}
    status, _, body = review.ask("GET", path, **headers)
    assert status == 401
    assert b"burned" not in body


def test_the_token_is_good_once(review: Review) -> None:
    token = review.server.token
    assert token is not None
    origin = {"Origin": review.server.origin}
    assert review.ask("POST", "/api/session", **{TOKEN: "wrong"}, **origin)[0] == 403
    assert review.ask("POST", "/api/session", **origin)[0] == 403
    status, _, body = review.ask("POST", "/api/session", **{TOKEN: token}, **origin)
    assert (status, json.loads(body)["session"]) == (200, review.server.secret)
    assert review.ask("POST", "/api/session", **{TOKEN: token}, **origin)[0] == 403
    assert review.ask("GET", "/api/held", **{SECRET: token})[0] == 401


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1", "[::1]:80"])
@pytest.mark.parametrize("path", ["/", "/api/held", "/review.js"])
def test_another_host_name_is_turned_away(review: Review, host: str, path: str) -> None:
    """DNS rebinding: a foreign name that resolves to this machine."""
    assert review.ask("GET", path, Host=host, **{SECRET: review.server.secret})[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1"])
def test_another_origin_decides_nothing(review: Review, origin: str) -> None:
    name = review.named("burned.dcm")
    assert review.decide(name, "cleared", Origin=origin)[0] == 403
    assert review.quarantine.get(name).decision is Decision.PENDING
    assert review.ask("OPTIONS", "/api/decide", Origin=origin)[0] == 501


@pytest.mark.parametrize(
    "name", ["../../log", "..%2f..%2flog", "/etc/passwd", "0" * 31, "0" * 33, "", "a\0b", "G" * 32]
)
def test_a_name_is_no_path(review: Review, name: str) -> None:
    assert review.decide(name, "refused")[0] == 400
    path = f"/api/picture/{name}/0/full".replace("\0", "%00")
    assert review.get(path)[0] in {400, 404}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": 1}', b'{"id": "x", "decision": "pending"}', b"1" * 5000])
def test_what_is_no_decision(review: Review, body: bytes) -> None:
    headers = {SECRET: review.server.secret, "Origin": review.server.origin}
    assert review.ask("POST", "/api/decide", body, **headers)[0] == 400
    assert not review.entries()


def test_every_answer_forbids_what_it_does_not_need(review: Review) -> None:
    for path in ("/", "/api/held", "/review.js"):
        _, headers, _ = review.get(path)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.control("HIPAA-164.514-b2-burned-in")
def test_clearing_releases_through_engine_and_checker(review: Review) -> None:
    name = review.named("burned.dcm")
    status, _, body = review.decide(name, "cleared")
    assert status == 200, body
    [path] = review.out.rglob("*.dcm")
    out = pydicom.dcmread(path)
    assert out.BurnedInAnnotation == "NO"
    assert out.PatientName != "Roe^Jane"
    started, ended = review.entries()
    assert (started["action"], started["outcome"], ended["outcome"]) == ("review", "started", "ok")
    assert started["detail"]["reviewer"] == "Dr. M. Grey"  # type: ignore[index]
    assert started["detail"]["decision"] == "cleared"  # type: ignore[index]
    held = review.quarantine.get(name)
    assert (held.decision, held.reviewer) == (Decision.CLEARED, "Dr. M. Grey")
    assert review.decide(name, "refused")[0] == 409  # replay
    assert review.decide(name, "cleared")[0] == 409
    assert len(review.entries()) == 2


def test_refusing_releases_nothing(review: Review) -> None:
    name = review.named("burned.dcm")
    assert review.decide(name, "refused")[0] == 200
    assert review.quarantine.get(name).decision is Decision.REFUSED
    assert not list(review.out.rglob("*.dcm"))
    assert review.decide(name, "cleared")[0] == 409


def test_a_person_cannot_lift_what_no_picture_answers(review: Review) -> None:
    name = review.named("report.dcm")
    assert review.decide(name, "cleared")[0] == 403
    assert review.quarantine.get(name).decision is Decision.PENDING
    assert not review.entries()
    assert not list(review.out.rglob("*.dcm"))


def test_only_the_one_reason_is_lifted(review: Review, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker finds an identifier: it stays held, and the log has the failure."""
    name = review.named("burned.dcm")
    monkeypatch.setattr("client.deid.single.check", lambda *_: ("something",))
    monkeypatch.setattr("client.deid.single.count_of", lambda _: {})
    assert review.decide(name, "cleared")[0] == 403
    assert not list(review.out.rglob("*.dcm"))
    assert [entry["outcome"] for entry in review.entries()] == ["started", "failed"]
    assert review.quarantine.get(name).decision is Decision.PENDING


def test_a_file_that_changed_is_not_what_was_seen(review: Review) -> None:
    (review.source / "burned.dcm").write_bytes(written("SOMEBODY ELSE"))
    assert review.decide(review.named("burned.dcm"), "cleared")[0] == 404
    assert not review.entries()


def test_nothing_is_done_that_is_not_recorded(review: Review, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise RecordError("disk full", hint="free some space")

    monkeypatch.setattr(AuditLog, "append_many", full)
    assert review.decide(review.named("burned.dcm"), "cleared")[0] == 500
    assert not list(review.out.rglob("*.dcm"))


def test_the_picture_is_the_images(review: Review) -> None:
    name = review.named("burned.dcm")
    status, headers, body = review.get(f"/api/picture/{name}/0/full")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(body)).size == (256, 192)
    assert review.get(f"/api/picture/{name}/1/full")[0] == 404
    assert review.get(f"/api/picture/{name}/-1/full")[0] == 404


def test_a_second_run_keeps_a_decision(review: Review) -> None:
    name = review.named("burned.dcm")
    review.decide(name, "refused")
    deidentify_folder(review.source, review.out, profile=review.profile, key=KEY, log=None, reports=review.reports)
    assert review.quarantine.get(name).decision is Decision.REFUSED


@pytest.mark.control("HIPAA-164.312-a2i-users")
def test_the_command_wants_a_reviewer_and_something_to_review(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    words = ["review", str(tmp_path / "reports"), str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 2
    words += ["--reviewer", "M. Grey"]
    assert isinstance(CliRunner().invoke(app, words).exception, UsageError)  # there is no key
    SiteKey.create(tmp_path / "fedward-deid.key")
    assert isinstance(CliRunner().invoke(app, words).exception, DataError)


def test_what_nobody_can_see_cannot_be_cleared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    review = Review(tmp_path, broken=undecodable())
    try:
        name = review.named("broken.dcm")
        for view in ("full", "middle", "stored"):
            status, _, body = review.get(f"/api/picture/{name}/0/{view}")
            assert (status, "cannot be shown" in json.loads(body)["error"]) == (404, True)
        status, _, body = review.decide(name, "cleared")
        assert (status, "nobody has seen it" in json.loads(body)["error"]) == (403, True)
        assert review.quarantine.get(name).decision is Decision.PENDING
        assert review.decide(name, "refused")[0] == 200
    finally:
        review.close()
    assert "Traceback" not in capfd.readouterr().err  # a decoder in C says a word of its own


def test_a_frame_that_could_not_be_shown_was_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(path: Path, frame: int, *, window: str) -> bytes:
        if frame == 1 and window != "stored":
            raise DataError("the picture cannot be shown")
        return png(path, frame, window=window)

    monkeypatch.setattr("client.review.decisions.png", shown)
    review = Review(tmp_path, film=film(frames=3))
    try:
        name = review.named("film.dcm")
        assert [review.get(f"/api/picture/{name}/{frame}/full")[0] for frame in (0, 1)] == [200, 404]
        assert review.decide(name, "cleared")[0] == 403
        assert review.get(f"/api/picture/{name}/1/stored")[0] == 200
        assert review.decide(name, "cleared")[0] == 200
    finally:
        review.close()


def test_what_goes_wrong_inside_is_answered_and_not_printed(
    review: Review, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError("Roe^Jane")

    monkeypatch.setattr("client.review.decisions.png", fail)
    status, _, body = review.get(f"/api/picture/{review.named('burned.dcm')}/0/full")
    assert (status, b"Roe" in body) == (500, False)
    monkeypatch.setattr("client.review.server.urlsplit", fail)
    with pytest.raises(http.client.HTTPException):
        review.get("/")
    monkeypatch.undo()
    assert review.get("/api/held")[0] == 200
    assert capfd.readouterr().err == ""


def test_every_frame_can_be_chosen_and_those_shown_are_counted(tmp_path: Path) -> None:
    frames = 300

    def long(dataset: pydicom.Dataset) -> None:
        dataset.ImageType, dataset.NumberOfFrames = HELD_FOR, frames
        dataset.PixelData = bytes(frames * 32)

    review = Review(tmp_path, film=to_bytes(image(long, number=9)), other=to_bytes(image(long, number=10)))
    try:
        name, other = review.named("film.dcm"), review.named("other.dcm")
        for frame, view in ((0, "full"), (0, "middle"), (1, "full"), (253, "full"), (299, "stored"), (300, "full")):
            assert review.get(f"/api/picture/{name}/{frame}/{view}")[0] == (200 if frame < frames else 404)
        [row] = [row for row in json.loads(review.get("/api/held")[2]) if row["id"] == name]
        assert (row["count"], row["seen"], row["looked"]) == (frames, [0, 1, 253, 299], 0)
        assert json.loads(review.decide(name, "cleared")[2])["looked"] == 4
        assert json.loads(review.decide(other, "refused")[2])["looked"] == 0
        assert [review.quarantine.get(one).looked for one in (name, other)] == [4, 0]
        detail = [row["detail"] for row in review.entries() if row["outcome"] == "started"]
        assert [(one["frames"], one["frames_looked_at"]) for one in detail] == [(300, 4), (300, 0)]  # type: ignore[index]
    finally:
        review.close()


def test_the_list_says_what_a_person_recognises_a_file_by(review: Review) -> None:
    (told,) = (one for one in json.loads(review.get("/api/held")[2]) if one["input"] == "burned.dcm")
    assert told["about"] == about(review.source / "burned.dcm")
    assert told["about"].startswith("CT, 20")
    assert "image 2" in told["about"]


def test_a_file_of_an_ingest_is_named_by_its_header_and_not_by_a_hash(tmp_path: Path) -> None:
    path = tmp_path / f"{'ab' * 32}.dcm"

    def change(dataset: Dataset) -> None:
        dataset.Modality, dataset.StudyDate, dataset.SeriesNumber = "US", "20240229", 3
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.StudyDescription, dataset.SeriesDescription = "Abdomen\u202e", "Liver"

    path.write_bytes(to_bytes(image(change, number=12)))
    held = Held("0" * 32, str(tmp_path), path.name, "why", "0" * 64, "0" * 64, kept=True)
    told = _shown(held, ())
    assert told["input"] == "US, 2024-02-29, Abdomen\\u202e, Liver, series 3, image 12"
    assert told["about"] == f"Record {held.id}"
    path.write_bytes(b"no DICOM")
    assert _shown(held, ())["input"] == path.name


def test_a_header_that_cannot_be_read_says_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for content in (b"", b"x" * 200, to_bytes(image())[:140]):
        (tmp_path / "a.dcm").write_bytes(content)
        assert about(tmp_path / "a.dcm") == ""
    assert about(tmp_path / "none.dcm") == ""
    assert not recwarn.list
