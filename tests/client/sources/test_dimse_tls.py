"""DIMSE over TLS with a real archive: who is trusted, who is not, and what is said of it in one line."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from typer.testing import CliRunner

from client.cli import app
from client.deid import Profile
from client.ingest import Ingested, ingest
from client.node import Node
from client.sources import tls as tls_module
from client.sources.dimse import Address, Dimse
from client.sources.intake import Intake, Spool, header_of
from client.sources.retry import Patience
from client.sources.selection import Selection
from client.sources.source import UnreachableError
from client.sources.tls import Tls
from shared.errors import PolicyError, ProtocolError, UsageError
from tests.client.sources.certificates import Authority, Certified
from tests.client.sources.orthanc import CALLED, CALLING, Orthanc, running
from tests.ports import free_port

HASTY = Patience(attempts=2, deadline=5, pause=0.05)


@dataclass(frozen=True)
class House:
    """The authority of a house with what it certified, and one that nobody there knows."""

    authority: Authority
    other: Authority
    archive: Certified
    node: Certified
    expired: Certified
    elsewhere: Certified
    stranger: Certified

    def tls(self, ours: Certified | None = None, *, authority: Authority | None = None, bare: bool = False) -> Tls:
        mine = ours or self.node
        path = (authority or self.authority).path
        return Tls(path) if bare else Tls(path, mine.certificate, mine.key)

    def settings(self, own: Certified | None = None, *, trusted: Authority | None = None) -> Mapping[str, object]:
        shown = own or self.archive
        return {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(shown.certificate),
            "DicomTlsPrivateKey": str(shown.key),
            "DicomTlsTrustedCertificates": str((trusted or self.authority).path),
            "DicomTlsRemoteCertificateRequired": True,
        }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(folder, "house"), Authority(folder, "other")
    return House(
        authority,
        other,
        authority.certify("archive"),
        authority.certify("node"),
        authority.certify("expired", days=-1),
        authority.certify("elsewhere", hosts=("pacs.example",)),
        other.certify("stranger"),
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, files: list[Path], house: House) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("secured"), files, house.settings()) as archive:
        yield archive


def source_of(archive: Orthanc, tls: Tls | None, *, move: bool = False, host: str = "127.0.0.1") -> Dimse:
    listen = Address("127.0.0.1", archive.listen) if move else None
    return Dimse(Address(host, archive.dicom), called=CALLED, calling=CALLING, listen=listen, tls=tls)


def take_in(node: Node, source: Dimse) -> Ingested:
    return ingest(node, source, Selection(), profile=Profile.load("basic"), patience=HASTY)


def refusal(source: Dimse) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught, source:
        HASTY.persist(source.name, lambda: source.studies(Selection()))
    assert caught.value.exit_code == 8
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


# --- with the archive -----------------------------------------------------------------------------------------------


@pytest.mark.system("orthanc")
@pytest.mark.parametrize("move", [False, True], ids=["c-get", "c-move"])
def test_both_ways_lead_to_the_cohort(secured: Orthanc, node: Node, house: House, move: bool) -> None:
    done = take_in(node, source_of(secured, house.tls(), move=move, host="localhost"))
    assert (done.tally.studies, done.tally.released, done.tally.incomplete) == (4, 20, False)
    assert len(done.cohort.entries) == 4


@pytest.mark.system("orthanc")
@pytest.mark.parametrize(
    ("make", "words", "hint"),
    [
        (lambda house: house.tls(authority=house.other), "authority that is not trusted", "--ca"),
        (lambda house: house.tls(bare=True), "asks for a certificate", "--certificate"),
        (lambda house: house.tls(house.stranger), "does not trust our certificate", "--certificate"),
        (lambda house: house.tls(house.expired), "our certificate has expired", "renew"),
        (lambda _: None, "does not answer", "--dimse-tls"),
    ],
    ids=["wrong authority", "no certificate of ours", "foreign one", "expired one", "plain text of ours"],
)
def test_what_the_archive_and_we_do_not_accept(
    secured: Orthanc, house: House, make: Callable[[House], Tls | None], words: str, hint: str
) -> None:
    error = refusal(source_of(secured, make(house)))
    assert words in error.message
    assert hint in error.hint


@pytest.mark.system("orthanc")
@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("stranger", "not trusted"),
        pytest.param("expired", "has expired", marks=pytest.mark.live),
        pytest.param("elsewhere", "for another host", marks=pytest.mark.live),
    ],
)
def test_an_archive_with_another_certificate(tmp_path: Path, house: House, which: str, words: str) -> None:
    with running(tmp_path, [], house.settings(getattr(house, which))) as archive:
        assert words in refusal(source_of(archive, house.tls())).message


@pytest.mark.system("orthanc")
def test_an_archive_that_speaks_plain_text(archive: Orthanc, house: House) -> None:
    error = refusal(source_of(archive, house.tls()))
    assert "may not speak TLS on this port" in error.message
    assert "port" in error.hint


@pytest.mark.system("orthanc")
@pytest.mark.parametrize("case", ["plain", pytest.param("untrusting", marks=pytest.mark.live)])
def test_an_archive_that_cannot_send_to_a_receiver_with_tls(
    tmp_path: Path, files: list[Path], node: Node, house: House, case: str
) -> None:
    """It answers queries over TLS, but sends in the open, or to nobody whose authority it does not know."""
    settings = dict(house.settings())
    if case == "plain":
        target = {"AET": CALLING, "Host": "127.0.0.1", "Port": (port := free_port()), "AllowMove": True}
        settings["DicomModalities"] = {"node": {**target, "AllowFind": True, "UseDicomTls": False}}
    else:
        port = 0
    with running(tmp_path / "orthanc", files[:5], settings) as archive:
        archive.listen = port or archive.listen
        source = source_of(archive, house.tls(), move=True)
        if case == "untrusting":
            source._secured = Tls(
                house.authority.path, house.stranger.certificate, house.stranger.key
            ).server()  # what our receiver shows
        with pytest.raises(ProtocolError, match="cannot send to --listen over TLS") as caught:
            take_in(node, source)
    assert "use TLS" in caught.value.hint
    assert not list((node.folder / "spool").rglob("*.dcm"))


@pytest.mark.live
@pytest.mark.system("orthanc")
def test_from_the_command_line(secured: Orthanc, node: Node, house: House) -> None:
    where = ["--dimse", f"localhost:{secured.dicom}", "--called", CALLED, "--calling", CALLING, "--dimse-tls"]
    ours = ["--certificate", str(house.node.certificate), "--private-key", str(house.node.key)]
    program = Path(sys.executable).with_name("fedward")
    for authority, way, code in (
        (house.other, ["--get"], 8),
        (house.authority, ["--get"], 0),
        (house.authority, ["--listen", f"127.0.0.1:{secured.listen}"], 0),
    ):
        arguments = ["node", "ingest", str(node.folder), *where, "--ca", str(authority.path), *ours, *way]
        ended = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
        if code:
            assert ended.stderr.count("\n") == 1
            assert ended.stderr.startswith("fedward: ARCHIVE at localhost:")
        else:
            assert json.loads(ended.stdout)["studies"] == 4


# --- wrong use ------------------------------------------------------------------------------------------------------

DIMSE = ("--dimse", "127.0.0.1:9", "--called", "A", "--calling", "B")


def call(node: Node, *options: object) -> Exception | None:
    result = CliRunner().invoke(app, ["ingest", str(node.folder), *map(str, options)])
    return result.exception if isinstance(result.exception, Exception) else None


def test_wrong_use(node: Node, house: House, tmp_path: Path) -> None:
    ca, ours = house.authority.path, (house.node.certificate, house.node.key)
    empty = tmp_path / "empty.pem"
    empty.touch(mode=0o600)
    both = ("--certificate", ours[0], "--private-key", ours[1])
    for options in (
        (*DIMSE, "--get", "--dimse-tls"),
        (*DIMSE, "--get", "--ca", ca),
        (*DIMSE, "--get", *both),
        (*DIMSE, "--get", "--dimse-tls", "--ca", empty),
        (*DIMSE, "--get", "--dimse-tls", "--ca", tmp_path / "none.pem"),
        (*DIMSE, "--get", "--dimse-tls", "--ca", ca, "--certificate", ours[0]),
        (*DIMSE, "--get", "--dimse-tls", "--ca", ca, "--certificate", ours[0], "--private-key", house.stranger.key),
        (*DIMSE, "--get", "--dimse-tls", "--ca", ca, "--certificate", ours[0], "--private-key", tmp_path / "none"),
        (*DIMSE, "--listen", "127.0.0.1:1", "--dimse-tls", "--ca", ca),
        ("--folder", tmp_path, "--dimse-tls", "--ca", ca),
        ("--dicomweb", "https://127.0.0.1:9/", *both),
    ):
        error = call(node, *options)
        assert isinstance(error, UsageError), (options, error)
        assert error.hint
    assert not (node.folder / "spool").exists()


def test_a_key_that_others_may_read_is_refused(house: House, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(house.node.key.read_bytes())
    key.chmod(0o640)
    with pytest.raises(PolicyError, match="others may read"):
        Tls(house.authority.path, house.node.certificate, key)


# --- our receiver ---------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(house: House) -> Iterator[tuple[Dimse, int]]:
    port = free_port()
    listen = Address("127.0.0.1", port)
    with Dimse(Address("127.0.0.1", 9), called=CALLED, calling=CALLING, listen=listen, tls=house.tls()) as source:
        source.start_receiver()
        yield source, port


def push(port: int, path: Path, context: ssl.SSLContext | None) -> int | None:
    """Send an instance to our receiver; the status, or None where there is no association."""
    image = pydicom.dcmread(path)
    ae = AE(CALLED)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 3
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    tls = (context, "127.0.0.1") if context else None
    association: Association = ae.associate("127.0.0.1", port, ae_title=CALLING, tls_args=tls)
    if not association.is_established:
        return None
    status = association.send_c_store(image)
    association.release()
    return int(status.Status)


def test_only_who_is_certified_by_the_house_may_send(
    receiver: tuple[Dimse, int], house: House, files: list[Path], tmp_path: Path
) -> None:
    source, port = receiver
    header = header_of(files[0].read_bytes())
    intake = Intake(Spool(tmp_path / "s").of(header.study), header.study, [header.instance], Selection())
    with source.receiving(intake):
        for context in (None, house.tls(bare=True).client(), house.tls(house.stranger).client()):
            assert push(port, files[0], context) is None
        assert push(port, files[0], house.tls(house.expired).client()) is None
        assert intake.kept() == []
        assert push(port, files[0], house.tls(house.archive).client()) == 0x0000
    assert intake.kept() == [header.instance.uid]


def test_old_versions_and_weak_suites_are_not_spoken(receiver: tuple[Dimse, int], house: House) -> None:
    for weak in ("version", "suite"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(house.authority.path)
        context.load_cert_chain(house.archive.certificate, house.archive.key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if weak == "version":
            with pytest.warns(DeprecationWarning):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
        else:
            context.set_ciphers("AES128-SHA:ECDHE-RSA-AES128-SHA")
        with socket.create_connection(("127.0.0.1", receiver[1])) as line, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(line, server_hostname="127.0.0.1").close()


def test_a_caller_who_says_nothing_does_not_keep_others_out(
    receiver: tuple[Dimse, int], house: House, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "HANDSHAKE", 0.5)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver[1])))
        begun = time.monotonic()
        assert push(receiver[1], files[0], house.tls(house.archive).client()) == 0x0124
        assert time.monotonic() - begun < 10


def test_a_fault_of_a_stranger_is_not_told_of_the_archive(
    receiver: tuple[Dimse, int], house: House, files: list[Path]
) -> None:
    """Somebody looks at our port in the open; then the archive connects as it should."""
    source, port = receiver
    assert source._secured is not None
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            line.recv(100)
    assert source._secured.fault() is not None
    assert push(port, files[0], house.tls(house.archive).client()) == 0x0124
    assert source._secured.fault() is None


def test_a_line_that_breaks_is_worth_another_try(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            for _ in range(2):
                server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        source = Dimse(Address("127.0.0.1", port), called=CALLED, calling=CALLING, listen=None, tls=house.tls())
        with pytest.raises(UnreachableError, match="broke off"):
            source.studies(Selection())
