"""An Orthanc of our own: on loopback, on free ports, with its storage in a temporary folder."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.ports import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "open sesame"
CALLED, CALLING = "ARCHIVE", "FEDWARD"


@dataclass
class Orthanc:
    """A running archive; it can be stopped and started again with what it holds."""

    folder: Path
    http: int
    dicom: int
    listen: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @classmethod
    def configured(cls, folder: Path, more: Mapping[str, object] | None = None) -> "Orthanc":
        archive = cls(folder, free_port(), free_port(), free_port())
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": archive.http,
            "HttpBindAddresses": ["127.0.0.1"],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomServerEnabled": True,
            "DicomAet": CALLED,
            "DicomCheckCalledAet": True,
            "DicomPort": archive.dicom,
            "DicomModalities": {
                "node": {
                    "AET": CALLING,
                    "Host": "127.0.0.1",
                    "Port": archive.listen,
                    "AllowGet": True,
                    "AllowMove": True,
                    "AllowFind": True,
                    "UseDicomTls": "DicomTlsCertificate" in (more or {}),
                }
            },
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **(more or {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "storage").mkdir(exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings))
        return archive

    def start(self) -> None:
        log = (self.folder / "log.txt").open("ab")
        command = ["Orthanc", str(self.folder / "orthanc.json")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/studies", auth=(USER, PASSWORD), timeout=5).ok:
                    return
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError("Orthanc does not start: " + (self.folder / "log.txt").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def fill(self, files: Sequence[Path]) -> None:
        with requests.Session() as session:
            session.auth = (USER, PASSWORD)
            for path in files:
                session.post(f"{self.rest}/instances", data=path.read_bytes(), timeout=20).raise_for_status()


@contextlib.contextmanager
def running(folder: Path, files: Sequence[Path], more: Mapping[str, object] | None = None) -> Iterator[Orthanc]:
    """Started with ``files``; ``more`` are settings that differ from the usual ones."""
    archive = Orthanc.configured(folder, more)
    archive.start()
    try:
        archive.fill(files)
        yield archive
    finally:
        archive.stop()
