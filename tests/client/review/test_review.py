"""The review page over real HTTP: who may ask, what may be decided, and what stands in the record before it happens."""

import http.client
import io
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.cli import app
from client.deid import Profile, deidentify_folder
from client.deid.quarantine import Decision, Quarantine
from client.review.decisions import Desk
from client.review.server import LOOPBACK, SECRET, TOKEN, ReviewServer
from compliance.log import AuditLog
from shared.errors import RecordError, UsageError
from tests.browser import chromium
from tests.client.deid.files import KEY, image, to_bytes

Answer = tuple[int, dict[str, str], bytes]


def written(text: str) -> bytes:
    """A secondary-capture-like CT with text in its pixels."""
    from PIL import ImageDraw

    picture = Image.linear_gradient("L").resize((256, 192))
    ImageDraw.Draw(picture).text((16, 12), text, fill=255)

    def change(dataset: pydicom.Dataset) -> None:
        dataset.Rows, dataset.Columns = 192, 256
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = picture.tobytes()
        dataset.BurnedInAnnotation = "YES"

    return to_bytes(image(change, number=2))


class Review:
    """A hospital with held files, a server in a thread, and a browser without manners."""

    def __init__(self, root: Path) -> None:
        self.source, self.out, self.reports = root / "in", root / "out", root / "reports"
        self.source.mkdir()
        (self.source / "burned.dcm").write_bytes(written("JANE ROE 31.12.1930"))
        (self.source / "report.dcm").write_bytes(to_bytes(image(sop_class="1.2.840.10008.5.1.4.1.1.88.11", number=3)))
        self.profile = Profile.load("basic")
        deidentify_folder(
            self.source, self.out, profile=self.profile, key=KEY, log=None, reports=self.reports
        )  # fmt: skip
        self.quarantine = Quarantine(self.reports)
        self.log = AuditLog(root / "log.jsonl", site="H1", subject_key=b"k" * 32)
        self.log_file = root / "log.jsonl"
        desk = Desk(self.quarantine, self.out, self.profile, KEY, self.log, "Dr. M. Grey")
        self.server = ReviewServer(desk)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.log.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.server.server_address[1], timeout=5)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=fields)
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def get(self, path: str) -> Answer:
        return self.ask("GET", path, **{SECRET: self.server.secret})

    def decide(self, name: str, decision: str, **headers: str) -> Answer:
        fields = {SECRET: self.server.secret, "Origin": self.server.origin} | headers
        return self.ask("POST", "/api/decide", json.dumps({"id": name, "decision": decision}).encode(), **fields)

    def named(self, name: str) -> str:
        return next(held.id for held in self.quarantine.all() if held.input == name)

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


@pytest.fixture
def review(tmp_path: Path) -> Iterator[Review]:
    made = Review(tmp_path)
    yield made
    made.close()


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


def test_the_command_wants_a_reviewer_and_something_to_review(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    words = ["review", str(tmp_path / "reports"), str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 2
    nothing = CliRunner().invoke(app, [*words, "--reviewer", "M. Grey"])
    assert isinstance(nothing.exception, UsageError)


class Address:
    """What the browser opens."""

    def __init__(self, address: str) -> None:
        self._address = address

    def as_uri(self) -> str:
        return self._address


@pytest.mark.system("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser(review: Review, dark: bool, tmp_path: Path) -> None:
    import dataclasses
    import time

    held = review.quarantine.get(review.named("burned.dcm"))
    record = review.reports / "quarantine" / f"{held.id}.json"
    row = json.loads(record.read_text()) | {"boxes": [[0, 10, 14, 26, 140]]}
    record.write_text(json.dumps(row))
    with chromium() as browser:
        browser.open(Address(review.server.address), dark=dark)  # type: ignore[arg-type]

        def wait(script: str) -> None:
            deadline = time.monotonic() + 10
            while not browser.evaluate(script):
                assert time.monotonic() < deadline, browser.complaints
                time.sleep(0.02)

        wait("document.querySelectorAll('#boxes rect').length === 1")
        shot = browser.screenshot()
        (tmp_path / "review.png").write_bytes(shot)
        assert len(shot) > 10_000
        assert browser.evaluate("location.hash") == ""
        assert all(url.startswith((review.server.origin, "blob:", "data:")) for url in browser.requests)
        browser.evaluate("document.getElementById('clear').click()")
        wait("document.querySelectorAll('.cleared').length === 1")
        assert not browser.complaints
    assert dataclasses.replace(held, boxes=()).reason == review.quarantine.get(held.id).reason
    assert len(list(review.out.rglob("*.dcm"))) == 1
