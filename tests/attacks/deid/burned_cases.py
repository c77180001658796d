"""The files of the attack: every kind of picture, every way to store it, every way to write on it."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.attacks.deid.burning import Case, Ink, Plane, Writing, burn, chest, clouds, fan, image, jpeg, mucosa, ramp

NAME, MIXED, DAY, PID = "MUSTERMANN ERIKA", "Mustermann, Erika", "21.03.1957", "PID-4711-0815"
SANS, MONO = "liberation/LiberationSans-Regular.ttf", "liberation/LiberationMono-Regular.ttf"
SERIF, BOLD = "liberation/LiberationSerif-Italic.ttf", "dejavu/DejaVuSans-Bold.ttf"
HAN = "wqy/wqy-zenhei.ttc"
CORNERS = (
    Writing(NAME, 18, (5, 6), font=SANS),
    Writing(DAY, 16, (5, -7), font=SANS),
    Writing(PID, 14, (-6, 6), font=MONO),
    Writing("ACC7654321", 12, (-6, -7)),
)
ONE = (Writing(NAME, 20, (8, 10), font=SANS),)
Make = Callable[[], Case]


def burned(planes: Sequence[Plane], writings: Sequence[Sequence[Writing]]) -> tuple[Plane, tuple[Ink, ...]]:
    """Frames with what is written on each."""
    done = [burn(plane, texts, number) for number, (plane, texts) in enumerate(zip(planes, writings, strict=True))]
    return np.stack([plane for plane, _ in done]), tuple(ink for _, inks in done for ink in inks)


def levels(planes: Plane, low: int, high: int) -> NDArray[np.int64]:
    return np.rint(low + planes * (high - low)).astype(np.int64)


def grey(
    kind: str, plane: Plane, *writings: Writing, bits: int = 8, low: int = 0, high: int | None = None, **extra: object
) -> Case:
    """One grey frame, its values between ``low`` and ``high``."""
    planes, inks = burned([plane], [writings])
    dataset = image(kind, levels(planes, low, (1 << bits) - 1 if high is None else high), bits=bits)
    for keyword, value in extra.items():
        setattr(dataset, keyword, value)
    return Case(dataset, inks)


def colour(kind: str, plane: Plane, *writings: Writing, planar: int = 0, photometric: str = "RGB") -> Case:
    """One frame of three samples of 8 bits; colours are those of RGB."""
    whole = plane if plane.ndim == 3 else np.repeat(plane[..., np.newaxis], 3, axis=-1)
    planes, inks = burned([whole], [writings])
    values = levels(planes, 0, 255).astype(np.uint8)
    if photometric != "RGB":
        values = np.asarray(convert_color_space(values, "RGB", photometric))
    return Case(image(kind, values, bits=8, photometric=photometric, planar=planar), inks)


def film(kind: str, planes: Sequence[Plane], writings: Sequence[Sequence[Writing]], bits: int = 8) -> Case:
    stack, inks = burned(planes, writings)
    return Case(image(kind, levels(stack, 0, (1 << bits) - 1), bits=bits), inks)


def palette(plane: Plane, writing: Writing, *, shown: bool) -> Case:
    """Text that only the palette shows (neighbouring values, other colours), or only the values (the same colour)."""
    ground = levels(plane[np.newaxis], 0, 120) * 2
    _, [ink] = burn(plane, [writing])
    values = ground + ink.mask
    dataset = image("US", values, bits=8, photometric="PALETTE COLOR")
    for name, tint in (("Red", 1.0), ("Green", 0.8), ("Blue", 0.6)):
        table = (np.arange(256) // 2 * 2 * tint * 257).astype("<u2")
        if shown:
            table[1::2] = 65535
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", table.tobytes())
    return Case(dataset, (ink,))


def loud_palette(plane: Plane, writing: Writing) -> Case:
    """Text in values far away, which the palette gives the colour of what is around them."""
    case = palette(plane, writing, shown=False)
    values = np.frombuffer(case.dataset.PixelData, np.uint8).reshape(plane.shape) & 0xFE
    values = np.where(case.inks[0].mask, 255, np.clip(values, 0, 120)).astype(np.uint8)
    case.dataset.PixelData = values.tobytes()
    for name in ("Red", "Green", "Blue"):
        keyword = f"{name}PaletteColorLookupTableData"
        table = np.frombuffer(getattr(case.dataset, keyword), "<u2").copy()
        table[255] = table[40]
        setattr(case.dataset, keyword, table.tobytes())
    return case


def packed(make: Make, syntax: str) -> Case:
    """The same in a stream that loses nothing."""
    case = make()
    case.dataset.compress(syntax, generate_instance_uid=False)
    return case


def as_jpeg(make: Make) -> Case:
    case = make()
    values = np.frombuffer(case.dataset.PixelData, np.uint8)
    shape = (case.dataset.Rows, case.dataset.Columns, case.dataset.SamplesPerPixel)
    plane = values[: np.prod(shape)].reshape(shape)
    return Case(jpeg(case.dataset, [plane if shape[2] == 3 else plane[..., 0]]), case.inks, exact=False)


def written_as(make: Make, syntax: str) -> Case:
    """The same under another uncompressed transfer syntax."""
    case = make()
    case.dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        if case.dataset.BitsAllocated == 16:
            case.dataset.PixelData = np.frombuffer(case.dataset.PixelData, "<u2").astype(">u2").tobytes()
        case.dataset["PixelData"].VR = "OW" if case.dataset.BitsAllocated == 16 else "OB"
    return case


def claims(make: Make, **values: object) -> Case:
    case = make()
    for keyword, value in values.items():
        setattr(case.dataset, keyword, value)
    return case


def regions() -> Case:
    """Ultrasound that tells where its picture is; the text is outside."""
    case = grey("US", fan(2), *CORNERS)
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 60, 60
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 260, 200
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
    case.dataset.SequenceOfUltrasoundRegions = [region]
    return case


def window_trick() -> Case:
    """Text of four steps over a picture of 4095: seen through a narrow window only."""
    plane = np.where(np.mgrid[0:256, 0:320][0] < 60, 1000, levels(clouds(4, 0, 1), 0, 4095))
    _, [ink] = burn(np.zeros(plane.shape), [Writing(NAME, 24, (14, 12), font=SANS)])
    values = np.where(ink.mask, 1004, plane)[np.newaxis]
    dataset = image("DX", values, bits=16)
    dataset.WindowCenter, dataset.WindowWidth = "1002", "6"
    return Case(dataset, (ink,))


def padded() -> Case:
    """Text in the padding, which viewers show as background: -2000 among -1990, where the picture has 0 to 2000."""
    plane = levels(ramp(0, 1), 0, 2000)
    plane[:64] = -2000
    _, [ink] = burn(np.zeros(plane.shape), [Writing(NAME, 24, (20, 12), font=SANS)])
    dataset = image("CT", np.where(ink.mask, -1900, plane)[np.newaxis], bits=16)
    dataset.BurnedInAnnotation = "YES"
    dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = -2000, -1900
    return Case(dataset, (ink,))


def _moving(count: int) -> list[tuple[Writing, ...]]:
    return [(Writing(NAME, 18, (5 + 14 * number, 8 + 9 * number), font=SANS),) for number in range(count)]


def _fans(count: int) -> list[Plane]:
    return [fan(seed) for seed in range(count)]


WRITINGS: dict[str, tuple[Plane, Writing]] = {
    "white on black": (ramp(0, 0.05), Writing(NAME, 16, (8, 10), font=MONO)),
    "black on white": (ramp(0.9, 1), Writing(MIXED, 20, (8, 10), 0, SERIF)),
    "grey on grey": (ramp(0.4, 0.55), Writing(NAME, 22, (60, 40), 0.75, SANS)),
    "darker grey on grey": (clouds(1, 0.45, 0.65), Writing(DAY, 26, (100, 60), 0.25, BOLD)),
    "outline": (clouds(2, 0.2, 0.8), Writing(MIXED, 24, (40, 30), 1, SANS, outline=0.0)),
    "outline of the ground's grey": (ramp(0.5, 0.5), Writing(NAME, 24, (40, 30), 0.5, SANS, outline=1.0)),
    "shadow": (clouds(3, 0.2, 0.7), Writing(NAME, 24, (120, 20), 0.95, SANS, shadow=0.0)),
    "plate": (chest(3), Writing(DAY, 18, (180, 30), 0.0, SANS, plate=1.0)),
    "at the border": (fan(3), Writing(NAME, 18, (-2, 0), font=SANS)),
    "cut by the border": (fan(4), Writing(NAME, 20, (-8, -9), font=BOLD)),
    "10 px": (ramp(0, 0.1), Writing(NAME, 10, (6, 8))),
    "12 px": (fan(5), Writing(PID, 12, (6, 8), font=SANS)),
    "40 px": (chest(4), Writing("MUSTERMANN", 40, (100, 20), font=BOLD)),
    "turned by 90": (fan(6), Writing(NAME, 18, (30, 6), font=SANS, turn=90)),
    "turned by 180": (ramp(0, 0.2), Writing(NAME, 18, (30, 60), font=SANS, turn=180)),
    "turned by 270": (chest(6), Writing(PID, 20, (40, -10), font=SANS, turn=270)),
    "slanted by 8": (ramp(0.1, 0.3), Writing(MIXED, 22, (80, 30), font=SANS, turn=8)),
    "slanted by -12": (chest(7), Writing(NAME, 20, (80, 40), font=SANS, turn=-12)),
    "Han": (ramp(0.1, 0.3), Writing("王小明 女 1957年3月21日", 22, (40, 20), font=HAN)),
    "Cyrillic": (ramp(0.1, 0.3), Writing("Иванова Мария", 22, (40, 20), font=SANS)),
    "a lone date": (chest(8), Writing("1957", 16, (6, 8), font=SANS)),
    "initials": (chest(9), Writing("E.M.", 20, (6, 8), font=SANS)),
}
TINTS: dict[str, tuple[Plane, Writing]] = {
    "yellow on red": (mucosa(1), Writing(NAME, 20, (8, 10), (1, 1, 0.1), SANS)),
    "green on magenta, as bright": (
        np.full((256, 320, 3), (0.75, 0.2, 0.75)),
        Writing(NAME, 24, (60, 30), (0.1, 0.55, 0.1), SANS),
    ),
    "blue on black": (np.zeros((256, 320, 3)), Writing(MIXED, 20, (60, 30), (0, 0, 0.6), SANS)),
    "red on mucosa": (mucosa(2), Writing(DAY, 26, (200, 30), (0.95, 0.05, 0.05), BOLD)),
    "white on ultrasound": (np.repeat(fan(7)[..., np.newaxis], 3, -1), Writing(PID, 16, (-8, 8), (1, 1, 1), MONO)),
}
RLE, JLS, J2K = RLELossless, JPEGLSLossless, JPEG2000Lossless
STREAMS = {"RLE": RLE, "JPEG-LS": JLS, "JPEG 2000": J2K}
CASES: dict[str, Make] = {
    **{f"DX, {name}": partial(grey, "DX", plane, writing, bits=12) for name, (plane, writing) in WRITINGS.items()},
    **{f"ES, {name}": partial(colour, "ES", plane, writing) for name, (plane, writing) in TINTS.items()},
    "US, corners": partial(grey, "US", fan(1), *CORNERS),
    "OT, corners": partial(grey, "OT", clouds(5, 0, 0.4), *CORNERS),
    "CR, corners, 10 bits": partial(grey, "CR", chest(1), *CORNERS, bits=10),
    "DX, corners, 16 bits": partial(grey, "DX", chest(2), *CORNERS, bits=16),
    "XA, corners, 12 bits": partial(grey, "XA", clouds(6, 0.3, 0.6), *CORNERS, bits=12),
    "RF, corners": partial(grey, "RF", chest(5), *CORNERS),
    "NM, corners": partial(grey, "NM", clouds(7, 0, 0.3), *CORNERS, bits=16, high=900),
    "MG, corners": partial(grey, "MG", ramp(0, 0.3), *CORNERS, bits=12),
    "CR, MONOCHROME1": partial(
        grey, "CR", 1 - chest(2), Writing(NAME, 20, ink=0, font=SANS), bits=12, PhotometricInterpretation="MONOCHROME1"
    ),
    "CT, signed": partial(grey, "CT", clouds(8, 0, 0.4), *ONE, bits=16, low=-1024, high=3071, BurnedInAnnotation="YES"),
    "CT, report in its description": partial(grey, "CT", ramp(0, 0.1), *ONE, bits=12, SeriesDescription="Dose Report"),
    "CT, size of a screen": partial(
        grey, "CT", ramp(0, 0.1, (768, 1024)), Writing(NAME, 24, (30, 40), font=SANS), bits=12
    ),
    "CT, a screen's Image Type": partial(
        grey, "CT", ramp(0, 0.1), *ONE, bits=12, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]
    ),
    "CT, 8 bits": partial(grey, "CT", ramp(0, 0.1), *ONE),
    "MR, in colour": partial(colour, "MR", ramp(0, 0.1), *ONE),
    "US, RGB by pixel": partial(colour, "US", fan(8), *CORNERS),
    "US, RGB by plane": partial(colour, "US", fan(8), *CORNERS, planar=1),
    "US, YBR_FULL": partial(
        colour, "US", fan(9), Writing(NAME, ink=(0.2, 0.9, 0.3), font=SANS), photometric="YBR_FULL"
    ),
    "US, only the palette shows it": partial(palette, fan(1), Writing(NAME, 20, (8, 10), font=SANS), shown=True),
    "US, the palette hides it": partial(loud_palette, ramp(0.1, 0.9), Writing(NAME, 24, (30, 20), font=BOLD)),
    "US, fine speckle": partial(grey, "US", fan(1, grain=1.0), *CORNERS),
    "US, outside its regions": regions,
    "DX, a window shows it": window_trick,
    "CT, in the padding": padded,
    "US, two lines": partial(
        grey, "US", fan(2), Writing(NAME, 16, (5, 6), font=SANS), Writing(DAY, 16, (20, 6), font=SANS)
    ),
    "US, it says NO": partial(claims, partial(grey, "US", fan(1), *CORNERS), BurnedInAnnotation="NO"),
    "US, it says no": partial(claims, partial(grey, "US", fan(1), *CORNERS), BurnedInAnnotation="no "),
    "US, it says NO twice": partial(claims, partial(grey, "US", fan(1), *CORNERS), BurnedInAnnotation=["NO", "NO"]),
    "OT, Implicit VR": partial(written_as, partial(grey, "OT", clouds(5, 0, 0.4), *ONE), ImplicitVRLittleEndian),
    "OT, deflated": partial(written_as, partial(grey, "OT", clouds(5, 0, 0.4), *ONE), DeflatedExplicitVRLittleEndian),
    "DX, big-endian": partial(written_as, partial(grey, "DX", chest(3), *CORNERS, bits=12), ExplicitVRBigEndian),
    "OT, big-endian": partial(written_as, partial(grey, "OT", clouds(9, 0, 0.3), *CORNERS), ExplicitVRBigEndian),
    **{
        f"DX, {name}": partial(packed, partial(grey, "DX", chest(1), *CORNERS, bits=12), it)
        for name, it in STREAMS.items()
    },
    **{
        f"US, RGB, {name}": partial(packed, partial(colour, "US", fan(1), *CORNERS), it) for name, it in STREAMS.items()
    },
    "CT, signed, RLE": partial(
        packed,
        partial(grey, "CT", clouds(8, 0, 0.4), *ONE, bits=16, low=-1024, high=3071, BurnedInAnnotation="YES"),
        RLE,
    ),
    "US, JPEG": partial(as_jpeg, partial(grey, "US", fan(1), *CORNERS)),
    "ES, JPEG": partial(as_jpeg, partial(colour, "ES", mucosa(3), Writing(NAME, 22, ink=(1, 1, 1), font=SANS))),
    "US film, in one frame": partial(film, "US film", _fans(4), [(), (), ONE, ()]),
    "US film, another name": partial(film, "US film", _fans(2), [ONE, (Writing("SAWBONES LEONARD", 20, (8, 10)),)]),
    "US film, it moves": partial(film, "US film", _fans(4), _moving(4)),
    "US film, 12 frames": partial(film, "US film", _fans(12), _moving(12)),
    "US film, RLE": partial(packed, partial(film, "US film", _fans(3), [(), ONE, ()]), RLE),
    "XA film, last frame": partial(film, "XA", [clouds(n, 0.3, 0.6) for n in range(3)], [(), (), CORNERS], 12),
}
CLEAN: dict[str, Make] = {
    "US": partial(grey, "US", fan(1)),
    "CR": partial(grey, "CR", chest(1), bits=10),
    "DX": partial(grey, "DX", chest(2), bits=16),
    "XA": partial(grey, "XA", clouds(6, 0.3, 0.6), bits=12),
    "ES": partial(colour, "ES", mucosa(1)),
    "OT": partial(grey, "OT", clouds(5, 0, 0.9)),
    "US, RLE": partial(packed, partial(colour, "US", fan(3)), RLE),
    "DX, JPEG 2000": partial(packed, partial(grey, "DX", chest(4), bits=12), J2K),
    "ES, JPEG": partial(as_jpeg, partial(colour, "ES", mucosa(3))),
    "US film": partial(film, "US film", _fans(3), [(), (), ()]),
}
