"""The abdomen from which all virtual CT patients descend: organs as soft implicit functions, in Hounsfield units.

Coordinates are DICOM's (+x left, +y back, +z head, mm) with the origin in the middle of the upper abdomen. Shapes and
Hounsfield values are chosen to look like an abdomen in the given contrast phase; no measured atlas stands behind them.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulation.sites.specs import ContrastPhase
from simulation.sites.warp import Points, RandomField, Warp

Array = NDArray[np.float32]
Triple = tuple[float, float, float]

SCANNED = (-28.0, 22.0)  # mm; tumours lie where the usual number of slices sees them

_NAMES = ("liver", "spleen", "kidney", "aorta", "cava", "muscle", "tumour", "vessel")
ORGANS: MappingProxyType[ContrastPhase, dict[str, float]] = MappingProxyType(
    {
        ContrastPhase.NATIVE: dict(zip(_NAMES, (58, 50, 34, 42, 40, 55, -22, -14), strict=True)),
        ContrastPhase.ARTERIAL: dict(zip(_NAMES, (75, 115, 160, 280, 90, 62, -25, 30), strict=True)),
        ContrastPhase.PORTAL: dict(zip(_NAMES, (112, 120, 170, 150, 145, 64, -48, 38), strict=True)),
    }
)
"""Hounsfield units by phase; tumour and vessel relative to the liver."""


class Loop(NamedTuple):
    """A piece of bowel: centre, half axes (mm), and how far up its gas reaches."""

    centre: Triple
    axes: Triple
    gas: float


class Tumour(NamedTuple):
    """A liver tumour: centre, half axes (mm), contrast relative to the phase's, dead core, first visit."""

    centre: Triple
    axes: Triple
    contrast: float
    necrotic: bool
    onset: int


@dataclass(frozen=True)
class Torso:
    """One person's abdomen; the same at every visit but for the tumours.

    Attributes:
        warp: The person's coordinates to those of the template, mm.
        lowest: z of the lowest slice, mm.
        half_axes: Half width and half depth of the body, mm.
        fat: Thickness of the subcutaneous fat, mm.
        lobes: Size of the right and the left liver lobe, as factors.
        bowel: Loops of bowel.
        tumours: Liver tumours of all visits.
        spread: The person's deviation from the tabulated value of each organ, in standard deviations.
        edge, vessels, region, marrow: Random fields: the liver's outline, its vessels and where they are, spongy bone.
    """

    warp: Warp
    lowest: float
    half_axes: tuple[float, float]
    fat: float
    lobes: tuple[float, float]
    bowel: tuple[Loop, ...]
    tumours: tuple[Tumour, ...]
    spread: dict[str, float]
    edge: RandomField
    vessels: RandomField
    region: RandomField
    marrow: RandomField

    def organs(self, phase: ContrastPhase) -> dict[str, float]:
        """The person's own Hounsfield values."""
        return {name: hu + max(3.0, 0.05 * abs(hu)) * self.spread[name] for name, hu in ORGANS[phase].items()}


def draw_torso(rng: np.random.Generator) -> Torso:
    """A new person."""
    warp = Warp.draw(rng, half=220.0, coarse=(5.0, 55.0), fine=(1.2, 22.0), scale=0.05, degrees=2.5, may_mirror=False)
    lobes = (rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.15))

    def field(width: float) -> RandomField:
        return RandomField.draw(rng, spread=1.0, width=width, half=220.0)

    return Torso(
        warp=warp,
        lowest=float(rng.uniform(-42, -30)),
        half_axes=(rng.uniform(148, 170), rng.uniform(102, 122)),
        fat=rng.uniform(10, 26),
        lobes=lobes,
        bowel=tuple(_draw_loop(rng) for _ in range(rng.integers(7, 13))),
        tumours=_draw_tumours(rng, lobes),
        spread={name: float(rng.normal()) for name in ORGANS[ContrastPhase.NATIVE]},
        edge=field(24.0),
        vessels=field(13.0),
        region=field(32.0),
        marrow=field(5.0),
    )


def _draw_loop(rng: np.random.Generator) -> Loop:
    centre = (rng.uniform(-80, 90), rng.uniform(-60, 20), rng.uniform(-95, -25))
    axes = (rng.uniform(11, 22), rng.uniform(11, 22), 1.5 * rng.uniform(11, 22))
    return Loop(centre, axes, rng.uniform(-0.3, 0.8))


def _draw_tumours(rng: np.random.Generator, lobes: tuple[float, float]) -> tuple[Tumour, ...]:
    """Most patients have some; their centres lie inside the right lobe."""
    found = []
    for _ in range(int(rng.poisson(3.4)) if rng.random() < 0.85 else 0):
        z = rng.uniform(*SCANNED)
        middle, axes = _RIGHT_LOBE
        width = 0.75 * np.sqrt(max(0.0, 1 - ((z - middle[2]) / axes[2]) ** 2) * rng.random())
        angle = rng.uniform(0, 2 * np.pi)
        x = middle[0] + lobes[0] * axes[0] * width * float(np.cos(angle))
        y = middle[1] + lobes[0] * axes[1] * width * float(np.sin(angle))
        radius = float(np.exp(rng.uniform(np.log(5), np.log(21))))
        first, second, third = radius * rng.uniform(0.75, 1.25, 3)
        onset = int(rng.choice(3, p=(0.8, 0.1, 0.1)))
        found.append(Tumour((x, y, z), (first, second, third), rng.uniform(0.8, 1.5), bool(rng.random() < 0.4), onset))
    return tuple(found)


_RIGHT_LOBE: tuple[Triple, Triple] = ((-66, -6, 18), (66, 70, 78))
_LEFT_LOBE: tuple[Triple, Triple] = ((-6, -42, 34), (64, 34, 40))


def _ellipsoid(places: Points, centre: Triple, axes: Triple) -> Array:
    """Below 1 inside."""
    total = np.zeros(places.shape[1:], np.float32)
    for values, middle, axis in zip(places, centre, axes, strict=True):
        total += ((values - np.float32(middle)) * np.float32(1 / axis)) ** 2
    return total


def _soft(implicit: Array, width: float = 0.06) -> Array:
    """1 where the implicit function is below 1, 0 above, with a soft edge."""
    mask: Array = 1 / (1 + np.exp(np.clip((implicit - 1) * np.float32(1 / width), -40, 40)))
    return mask


class _Canvas:
    """Hounsfield values that shapes are painted over, back to front."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.hu: Array = np.full(shape, -1000, np.float32)

    def put(self, mask: Array, value: float | Array) -> None:
        self.hu += mask * (value - self.hu)


def paint(torso: Torso, points: Points, phase: ContrastPhase, *, visit: int = 0) -> tuple[Array, NDArray[np.uint8]]:
    """The abdomen at ``points`` (the person's own coordinates, ``[3, n, height, width]``).

    Returns:
        Hounsfield units, and the label: 1 liver, 2 tumour, 0 elsewhere.
    """
    places = torso.warp(points)
    organs = torso.organs(phase)
    canvas = _Canvas(points.shape[1:])
    cavity = _wall(canvas, torso, places, organs)
    spine = _spine(canvas, torso, places)
    _bowel(canvas, torso, places, cavity)
    _solid_organs(canvas, torso, places, cavity, organs)
    liver = _liver(canvas, torso, places, cavity * (1 - spine), organs)
    lung = _soft(_ellipsoid(places, (-60, 5, 112), (95, 105, 62)), 0.04) * cavity * (1 - liver)
    canvas.put(lung * (places[2] > 20), -840)
    tumour = _tumours(canvas, torso, places, liver, organs, visit=visit)
    label = np.where(tumour > 0.5, 2, np.where(liver > 0.5, 1, 0)).astype(np.uint8)
    return canvas.hu, label


def _wall(canvas: _Canvas, torso: Torso, places: Points, organs: dict[str, float]) -> Array:
    """Skin, fat, muscle, abdominal cavity (returned) and ribs."""
    x, y, z = places
    wide, deep = torso.half_axes
    fat = torso.fat

    def outline(across: float, along: float, shift: float = 0.0) -> Array:
        power = np.float32(2.4)
        level: Array = np.abs(x / np.float32(across)) ** power + np.abs((y - shift) / np.float32(along)) ** power
        return level

    body = _soft(outline(wide, deep), 0.02)
    canvas.put(body, 20)
    canvas.put(_soft(outline(wide - 2.5, deep - 2.5), 0.02), -100)
    canvas.put(_soft(outline(wide - fat, deep - fat), 0.025), organs["muscle"])
    inner = (wide - fat - 14, deep - fat - 12)
    cavity = _soft(outline(*inner, -6), 0.025)
    canvas.put(cavity, -95)
    for side in (-1, 1):  # the muscles beside the spine and the psoas
        canvas.put(_soft(_ellipsoid(places, (side * 32, deep - fat - 24, 0), (28, 20, 400))), organs["muscle"])
        canvas.put(_soft(_ellipsoid(places, (side * 40, 42, -60), (17, 16, 70))), organs["muscle"])
    for rib in range(18):
        angle = np.pi * (rib + 0.5) / 18
        slope = 0.012 * z * (-1 if rib % 2 else 1)
        middle = float((rib * 37) % 30 - 15)
        at_x = np.float32(inner[0] + 6) * np.cos(np.float32(angle) + slope)
        at_y = np.float32(inner[1] + 5) * np.sin(np.float32(angle) + slope) - 6
        near = ((x - at_x) / 11) ** 2 + ((y - at_y + np.float32(0.25) * (z - middle)) / 6) ** 2
        present = np.where(np.abs(np.mod(z - middle, 30) - 15) < 9, np.float32(1), np.float32(0.4))
        canvas.put(_soft(near, 0.25) * present, 420)
    return cavity


def _spine(canvas: _Canvas, torso: Torso, places: Points) -> Array:
    """Vertebrae with discs, arches and canal; returns the vertebral bodies."""
    z = places[2]
    middle = torso.half_axes[1] - torso.fat - 44
    body = _ellipsoid(places, (0, middle, 0), (22, 17, 400))
    disc = np.abs(np.mod(z + 5, 32) - 16) < 4
    mask = _soft(body)
    sponge = 50 * torso.marrow.on_slices(places)[0]
    canvas.put(mask, np.where(disc, np.float32(95), np.float32(520)))
    canvas.put(_soft(body * np.float32(1.28)), np.where(disc, np.float32(90), 190 + sponge))
    canvas.put(_soft(_ellipsoid(places, (0, middle + 27, 0), (14, 10, 400))), 380)
    canvas.put(_soft(_ellipsoid(places, (0, middle + 25, 0), (9.5, 7.5, 400))), 22)
    canvas.put(_soft(_ellipsoid(places, (0, middle + 42, 0), (5, 13, 400))), 420)
    return mask


def _bowel(canvas: _Canvas, torso: Torso, places: Points, cavity: Array) -> None:
    """Loops of bowel and the stomach, with gas on top (patients lie on their back)."""
    y = places[1]
    strands = np.clip(1 - np.abs(torso.vessels.on_slices(places)[0]) / np.float32(0.06), 0, 1)
    canvas.put(strands * _soft(1 + 8 * torso.region.on_slices(places)[0], 1.0) * cavity, 30)  # vessels of the mesentery
    stomach = Loop((50, -38, 25), (42, 30, 40), 1 / 3)
    for loop in (*torso.bowel, stomach):
        shape = _ellipsoid(places, loop.centre, loop.axes)
        canvas.put(_soft(shape) * cavity, 45)
        gas = y < loop.centre[1] - loop.axes[1] * loop.gas
        canvas.put(_soft(shape * np.float32(1.5)) * cavity, np.where(gas, np.float32(-870), np.float32(16)))


def _solid_organs(canvas: _Canvas, torso: Torso, places: Points, cavity: Array, organs: dict[str, float]) -> None:
    """Spleen, kidneys, great vessels, pancreas."""
    middle = torso.half_axes[1] - torso.fat - 44
    canvas.put(_soft(_ellipsoid(places, (104, 28, 15), (24, 42, 46)), 0.08) * cavity, organs["spleen"])
    for side, height in ((-1, -38), (1, -28)):
        canvas.put(_soft(_ellipsoid(places, (side * 62, 34, height), (25, 23, 50))), organs["kidney"])
        canvas.put(_soft(_ellipsoid(places, (side * 55, 31, height), (10, 9, 26)), 0.2), 0.35 * organs["kidney"])
    canvas.put(_soft(_ellipsoid(places, (6, middle - 27, 0), (10.5, 10.5, 400))), organs["aorta"])
    canvas.put(_soft(_ellipsoid(places, (-16, middle - 29, 0), (12, 10, 400))), organs["cava"])
    canvas.put(_soft(_ellipsoid(places, (5, 2, -20), (42, 11, 12)), 0.1) * cavity, organs["muscle"] + 20)


def _liver(canvas: _Canvas, torso: Torso, places: Points, room: Array, organs: dict[str, float]) -> Array:
    """The liver as a smooth union of two lobes, its vessels, the gall bladder; returns the liver."""
    lobes = []
    for (centre, axes), size in zip((_RIGHT_LOBE, _LEFT_LOBE), torso.lobes, strict=True):
        first, second, third = axes
        lobes.append(_ellipsoid(places, centre, (first * size, second * size, third * size)))
    union = -np.log(np.exp(-3.5 * lobes[0]) + np.exp(-3.5 * lobes[1]) + np.float32(1e-12)) / np.float32(3.5)
    liver = _soft(union + np.float32(0.12) * torso.edge.on_slices(places)[0], 0.04) * room
    canvas.put(liver, organs["liver"])
    thin = np.clip(1 - np.abs(torso.vessels.on_slices(places)[0]) / np.float32(0.1), 0, 1)
    somewhere = _soft(1 - 8 * torso.region.on_slices(places)[0], 1.0)
    canvas.put(thin * somewhere * liver, organs["liver"] + organs["vessel"])
    bladder = _soft(_ellipsoid(places, (-48, -52, -18), (17, 15, 22)), 0.1)
    canvas.put(bladder * room, 12)
    return liver * (1 - bladder)


def _tumours(
    canvas: _Canvas, torso: Torso, places: Points, liver: Array, organs: dict[str, float], *, visit: int
) -> Array:
    """Tumours of this visit; those seen before have grown a little."""
    load = np.zeros(liver.shape, np.float32)
    rough = np.float32(0.25) * torso.vessels.on_slices(places)[0]
    for tumour in torso.tumours:
        if tumour.onset > visit:
            continue
        growth = 1 + 0.1 * (visit - tumour.onset)
        first, second, third = tumour.axes
        shape = _ellipsoid(places, tumour.centre, (first * growth, second * growth, third * growth)) + rough
        mask = _soft(shape, 0.12) * liver
        canvas.put(mask, organs["liver"] + organs["tumour"] * tumour.contrast)
        if tumour.necrotic:
            canvas.put(_soft(shape * np.float32(2.6), 0.2) * liver, organs["liver"] + organs["tumour"] * 1.8)
        np.maximum(load, mask, out=load)
    return load
