"""Servers that cheat, archives that push, and lines that somebody else may listen to."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pynetdicom import AE
from pynetdicom.association import Association

from client.sources import dicomweb
from client.sources.dicomweb import DicomWeb
from client.sources.dimse import Address, Dimse
from client.sources.intake import Intake, Spool, header_of
from client.sources.selection import Selection
from client.sources.source import Study, UnreachableError
from shared.errors import ProtocolError
from tests.client.sources.orthanc import CALLED, CALLING
from tests.ports import free_port

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """An HTTP server on loopback that answers everything with what it was told."""

    def __init__(self, answer: Callable[[str], Answer], context: ssl.SSLContext | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, headers, body = answer(self.path)
                self.send_response(code)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.scheme = "https" if context else "http"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.http.server_port}/dicom-web"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def ask(answer: Callable[[str], Answer]) -> list[Study]:
    with Server(answer) as server, DicomWeb(server.url) as source:
        return list(source.studies(Selection()))


JSON = {"Content-Type": "application/dicom+json"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, JSON, b"<html>"), "does not answer as a DICOMweb"),
        ((200, JSON, b"[1, 2]"), "does not answer as a DICOMweb"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "elsewhere"),
        ((404, {}, b""), "404"),
    ],
)
def test_answers_that_make_no_sense(answer: Answer, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        ask(lambda _: answer)


def test_a_server_that_is_busy_is_worth_another_try() -> None:
    with pytest.raises(UnreachableError):
        ask(lambda _: (503, {}, b""))


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "LARGEST", 1000)
    with pytest.raises(ProtocolError, match="too large"):
        ask(lambda _: (200, JSON, b" " * 2000))


def test_a_server_that_ignores_pages_and_names_nonsense_is_read_once() -> None:
    def row(uid: str) -> str:
        return f'{{"0020000D": {{"vr": "UI", "Value": ["{uid}"]}}}}'

    body = f"[{row('1.2.3')},{row('../../etc')},{row('1.2.4')}]".encode()
    with Server(lambda _: (200, JSON, body)) as server, DicomWeb(server.url) as source:
        assert [study.uid for study in source.studies(Selection())] == ["1.2.3", "1.2.4"]
        assert len(source.problems()) == 1


@pytest.mark.parametrize("sent", ["other", "cut", "plain"])
def test_only_the_instance_that_was_asked_for_is_kept(files: list[Path], tmp_path: Path, sent: str) -> None:
    data, header = files[0].read_bytes(), header_of(files[0].read_bytes())
    body = files[1].read_bytes() if sent == "other" else data
    kind = "application/dicom"
    if sent != "plain":
        kind = 'multipart/related; type="application/dicom"; boundary="b"'
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + body + (b"" if sent == "cut" else b"\r\n--b--\r\n")
    intake = Intake(Spool(tmp_path / "s").of(header.study), header.study, [header.instance], Selection())
    with Server(lambda _: (200, {"Content-Type": kind}, body)) as server, DicomWeb(server.url) as source:
        if sent == "cut":
            with pytest.raises(UnreachableError, match="cut short"):
                source.fetch(Study(header.study), [header.instance], intake)
        else:
            source.fetch(Study(header.study), [header.instance], intake)
    assert len(intake.kept()) == (sent == "plain")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pacs")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=2999))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return folder / "ca.pem", context


def test_certificates_are_checked(certified: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = certified
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))  # what is not named is not used
    with Server(lambda _: (200, JSON, b"[]"), context) as server:
        with pytest.raises(ProtocolError, match="not trusted") as caught:
            list(DicomWeb(server.url).studies(Selection()))
        assert "--ca" in caught.value.hint
        with DicomWeb(server.url, authority=authority) as source:
            assert source.studies(Selection()) == []


# --- our own receiver -----------------------------------------------------------------------------------------------


def push(port: int, path: Path, *, calling: str, called: str = CALLING) -> int | None:
    """Send an instance to our receiver; the status, or None where the association is refused."""
    image = pydicom.dcmread(path)
    ae = AE(calling)
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association: Association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    status = association.send_c_store(image)
    association.release()
    return int(status.Status)


@pytest.fixture
def receiver() -> Iterator[tuple[Dimse, int]]:
    port = free_port()
    with Dimse(Address("127.0.0.1", 9), called=CALLED, calling=CALLING, listen=Address("127.0.0.1", port)) as source:
        source.start_receiver()
        yield source, port


def test_nobody_can_push_what_was_not_asked_for(receiver: tuple[Dimse, int], files: list[Path], tmp_path: Path) -> None:
    source, port = receiver
    assert push(port, files[0], calling="STRANGER") is None
    assert push(port, files[0], calling=CALLED, called="ANYONE") is None
    assert push(port, files[0], calling=CALLED) == 0x0124
    header = header_of(files[0].read_bytes())
    intake = Intake(Spool(tmp_path / "s").of(header.study), header.study, [header.instance], Selection())
    with source.receiving(intake):
        assert push(port, files[-1], calling=CALLED) == 0xC000
        assert push(port, files[0], calling=CALLED) == 0x0000
    assert push(port, files[0], calling=CALLED) == 0x0124
    assert intake.kept() == [header.instance.uid]


def test_the_receiver_listens_on_its_address_only(receiver: tuple[Dimse, int]) -> None:
    ae = AE(CALLED)
    ae.connection_timeout = 1
    ae.add_requested_context("1.2.840.10008.1.1")
    assert not ae.associate("127.0.0.2", receiver[1], ae_title=CALLING).is_established
