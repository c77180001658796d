"""A hospital with held files, and a browser without manners."""

import http.client
import json
import threading
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from client.deid import Profile, deidentify_folder
from client.deid.quarantine import Quarantine
from client.review.decisions import Desk
from client.review.server import LOOPBACK, SECRET, ReviewServer
from compliance.log import AuditLog
from tests.client.deid.files import KEY, image, to_bytes

HELD_FOR = ["DERIVED", "SECONDARY", "REPORT"]  # the Image Type of what a person has to look at
WHY = "its Image Type says that it is a picture of a report"

Answer = tuple[int, dict[str, str], bytes]


def written(text: str) -> bytes:
    """A picture of a report, with text in its pixels."""
    picture = Image.linear_gradient("L").resize((256, 192))
    ImageDraw.Draw(picture).text((16, 12), text, fill=255)

    def change(dataset: pydicom.Dataset) -> None:
        dataset.Rows, dataset.Columns = 192, 256
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = picture.tobytes()
        dataset.ImageType = HELD_FOR

    return to_bytes(image(change, number=2))


def film(lines: str = "ROE, JANE 31.12.1930\nST ELSEWHERE", frames: int = 6) -> bytes:
    """An ultrasound film in colour with a banner on every frame, 480 x 640."""
    rows, columns = np.mgrid[0:480, 0:640]
    around = np.hypot(rows + 40.0, columns - 320.0)
    fan = (around > 90) & (around < 470) & (np.abs(columns - 320.0) < 0.75 * (rows + 40))
    noise = np.random.default_rng(5)
    shots = []
    for shot in range(frames):
        speckle = noise.rayleigh(38, (480, 640)) * (1.2 - around / 600)
        speckle[np.hypot(rows - 250.0, columns - 300.0 - 6 * shot) < 55] *= 0.15
        picture = Image.fromarray(np.where(fan, np.clip(speckle, 0, 255), 0).astype(np.uint8)).convert("RGB")
        pen = ImageDraw.Draw(picture)
        pen.text((14, 10), lines, fill=(255, 214, 120), font_size=18)
        pen.text((560, 452), "MI 0.9", fill=(160, 220, 255), font_size=16)
        shots.append(picture.tobytes())

    def change(dataset: pydicom.Dataset) -> None:
        dataset.Modality, dataset.ImageType = "US", HELD_FOR
        dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 480, 640, frames
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = b"".join(shots)

    return to_bytes(image(change, sop_class="1.2.840.10008.5.1.4.1.1.3.1", number=9))


def undecodable() -> bytes:
    """A picture of a report in a JPEG 2000 stream that is none."""

    def change(dataset: pydicom.Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.ImageType = HELD_FOR
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60 + b"\xff\xd9"])
        dataset["PixelData"].VR = "OB"

    return to_bytes(image(change, number=7))


class Review:
    """A hospital with held files, a server in a thread, and a browser without manners.

    Args:
        root: An empty folder.
        more: Held files beyond the two that are always there, by name.
    """

    def __init__(self, root: Path, **more: bytes) -> None:
        self.source, self.out, self.reports = root / "in", root / "out", root / "reports"
        self.source.mkdir()
        (self.source / "burned.dcm").write_bytes(written("JANE ROE 31.12.1930"))
        (self.source / "report.dcm").write_bytes(to_bytes(image(sop_class="1.2.840.10008.5.1.4.1.1.88.11", number=3)))
        for name, content in more.items():
            (self.source / f"{name}.dcm").write_bytes(content)
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
        return self.send({"id": name, "decision": decision}, **headers)

    def send(self, body: object, **headers: str) -> Answer:
        """Send what may be a decision: bytes as they are, else as JSON."""
        fields = {SECRET: self.server.secret, "Origin": self.server.origin} | headers
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", "/api/decide", raw, **fields)

    def propose(self, name: str, *boxes: tuple[int, int, int, int, int]) -> None:
        """Write boxes into a record, as if somebody had found text."""
        record = self.reports / "quarantine" / f"{self.named(name)}.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boxes": boxes}))

    def named(self, name: str) -> str:
        return next(held.id for held in self.quarantine.all() if held.input == name)

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


class Address:
    """What the browser opens."""

    def __init__(self, address: str) -> None:
        self._address = address

    def as_uri(self) -> str:
        return self._address
