"""Pictures with text burned in, and exactly where: our own test set, drawn from fonts of this machine."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy import ndimage

from tests.client.deid.files import image

US, SC = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.7"
CR, DX, MG = (f"1.2.840.10008.5.1.4.1.1.1{end}" for end in ("", ".1", ".2"))
CT, MR, XA = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "12.1"))

FONTS = Path("/usr/share/fonts/truetype")
LATIN = (
    "dejavu/DejaVuSans.ttf", "dejavu/DejaVuSansMono.ttf", "dejavu/DejaVuSerif-Bold.ttf",
    "liberation/LiberationSans-Regular.ttf",
    "liberation/LiberationSerif-Italic.ttf", "liberation/LiberationMono-Bold.ttf",
    "freefont/FreeSans.ttf", "freefont/FreeSerif.ttf",
)  # fmt: skip
CJK = ("wqy/wqy-zenhei.ttc",)
TEXTS = {
    "latin": ("Mustermann, Erika", "MRN-4711-0815", "Dr. Leonard Sawbones", "St. Elsewhere Hospital",
              "Müller Jürgen 67Y F"),
    "digits": ("1957-03-21", "21.03.1957 11:42", "0815 4711 99", "+49 30 1234567"),
    "cyrillic": ("Иванов Иван Петрович", "Городская больница 7"),
    "greek": ("Παπαδόπουλος Γιώργος", "Νοσοκομείο Αθηνών"),
    "cjk": ("王小明 男", "北京协和医院", "山田太郎 様"),
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A string in a picture: what of, and which pixels are its ink (bool, [rows, columns])."""

    script: str
    size: int
    angle: float
    ink: NDArray[np.bool_]
    room: int = 0
    """Area of the rectangle around the string as it was written, before it was turned."""

    def covered(self, changed: NDArray[np.bool_]) -> bool:
        """Whether so much of the ink is gone that no sign is left: at least 95 in 100 pixels."""
        return bool((changed & self.ink).sum() >= 0.95 * self.ink.sum())


@dataclass(frozen=True)
class Page:
    """A picture of values from 0 to 1 ([rows, columns]), and what is written in it."""

    values: NDArray[np.float64]
    written: list[Written] = field(default_factory=list)


@cache
def font(name: str, size: int) -> Any:
    """A font of this machine; Pillow's own, which knows Latin only, where it is missing and may be."""
    path = FONTS / name
    if not path.exists() and os.environ.get("FEDWARD_REQUIRE_SYSTEM") == "1":
        raise AssertionError(f"the font {path} is missing: install the Debian packages that .ci/run names")
    return ImageFont.truetype(str(path), size) if path.exists() else ImageFont.load_default(size)


def background(kind: str, rng: np.random.Generator, rows: int = 384, columns: int = 512) -> NDArray[np.float64]:
    """A phantom without text: ``us`` a sector of speckle, ``ct`` and ``mr`` bodies, ``xr`` a bright field, ``dark``."""
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns])[:, None, None] - 0.5
    grain = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), 1.2)
    smooth = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), 18) * 18
    match kind:
        case "us":
            radius, angle = np.hypot(x, y + 0.5), np.arctan2(x, y + 0.5)
            sector = (radius > 0.15) & (radius < 0.9) & (np.abs(angle) < 0.6)
            return np.where(sector, np.clip(0.35 + 0.25 * smooth + 0.5 * np.abs(grain), 0, 0.8), 0.0)
        case "ct" | "mr":
            body = (x / 0.42) ** 2 + (y / 0.4) ** 2 < 1
            organs = sum(
                level * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1)
                for cx, cy, rx, ry, level in ((-0.15, 0, 0.12, 0.16, 0.15), (0.15, 0.02, 0.11, 0.17, 0.12),
                    (0, 0.22, 0.06, 0.07, 0.35))
            )  # fmt: skip
            noise = 0.05 if kind == "ct" else 0.03
            return np.clip(0.02 + body * (0.35 + organs + 0.05 * smooth) + noise * grain, 0, 1)
        case "xr":
            return np.clip(0.55 + 0.3 * y + 0.12 * smooth + 0.04 * grain, 0, 0.9)
        case _:
            return np.clip(0.03 + 0.01 * grain, 0, 1)


def write(
    page: Page, text: str, at: tuple[int, int], *, name: str, size: int, angle: float = 0, script: str = ""
) -> bool:
    """Write a string into the page, its upper left corner at row and column ``at``; False where it does not fit."""
    left, top, right, bottom = font(name, size).getbbox(text)
    tile = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    ImageDraw.Draw(tile).text((2 - left, 2 - top), text, font=font(name, size), fill=255)
    drawn = np.asarray(tile.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC if angle % 90 else 0)) / 255.0
    rows, columns = at[0] + drawn.shape[0], at[1] + drawn.shape[1]
    if rows > page.values.shape[0] or columns > page.values.shape[1]:
        return False
    spot = (slice(at[0], rows), slice(at[1], columns))
    paper = page.values[spot]
    colour = 1.0 if paper.mean() < 0.6 else 0.0
    page.values[spot] = paper * (1 - drawn) + colour * drawn
    ink = np.zeros(page.values.shape, bool)
    ink[spot] = drawn > 0.5
    page.written.append(Written(script, size, angle, ink, int((right - left) * (bottom - top))))
    return True


def pages(
    count: int, rng: np.random.Generator, *, fonts: tuple[str, ...] = LATIN, cjk: bool = True
) -> Iterator[tuple[str, Page]]:
    """Pages with two to five strings each, of all scripts, sizes from 8 to 40 pixels and angles, by background."""
    scripts = [script for script in TEXTS if script != "cjk" or cjk]
    kinds = ("us", "ct", "mr", "xr", "dark")
    for number in range(count):
        kind = kinds[number % len(kinds)]
        rows, columns = [(384, 512), (512, 512), (600, 800), (256, 320)][number % 4]
        page = Page(background(kind, rng, rows, columns))
        taken = np.zeros((rows, columns), bool)
        wanted = int(rng.integers(2, 6))
        for _ in range(40):
            if len(page.written) == wanted:
                break
            script = scripts[int(rng.integers(len(scripts)))]
            text = TEXTS[script][int(rng.integers(len(TEXTS[script])))]
            name = (CJK if script == "cjk" else fonts)[int(rng.integers(len(CJK if script == "cjk" else fonts)))]
            size = int(rng.choice([12, 14, 16, 20, 28, 40] if script == "cjk" else [8, 10, 12, 14, 16, 20, 28, 40]))
            angle = float(rng.choice([0, 0, 0, 0, 90, 270, 5, -7]))
            at = (int(rng.integers(2, rows - 10)), int(rng.integers(2, columns - 10)))
            trial = Page(page.values.copy())
            if not write(trial, text, at, name=name, size=size, angle=angle, script=script):
                continue
            new = ndimage.binary_dilation(trial.written[0].ink, iterations=10)
            if (new & taken).any():
                continue
            taken |= new
            page.values[...] = trial.values
            page.written.append(trial.written[0])
        yield kind, page


def dicom(
    page: Page, *, sop_class: str = SC, bits: int = 8, photometric: str = "MONOCHROME2", number: int = 1
) -> FileDataset:
    """The page as a file: ``bits`` stored of 8 or 16, grey either way, or RGB."""
    dataset = image(sop_class=sop_class, number=number)
    dataset.Modality = {US: "US", SC: "OT", CR: "CR", DX: "DX", MG: "MG", CT: "CT", MR: "MR", XA: "XA"}[sop_class]
    dataset.PatientName, dataset.PatientID = "Mustermann^Erika", "MRN-4711-0815"
    dataset.Rows, dataset.Columns = page.values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    dataset.PhotometricInterpretation = photometric
    values = np.rint(page.values * ((1 << bits) - 1))
    if photometric == "MONOCHROME1":
        values = (1 << bits) - 1 - values
    if photometric == "RGB":
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        values = np.stack([values, values * 0.95, values * 0.8], axis=-1)
    dataset.PixelData = values.astype("u1" if bits == 8 else "<u2").tobytes()
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    return dataset
