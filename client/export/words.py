"""What an exported file says of itself, and the table of an export, in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from client.evaluation.models import PERSONAL, PUBLISHED, UNKNOWN, Model
from client.export.run import FLOAT, INT8, PRUNED, STUDENT, Export, Variant, deciding, scale_of
from client.export.speed import Timing
from shared.imaging.denoise import Denoise
from shared.imaging.denoise_pair import DenoisePair
from shared.imaging.denoise_self import DenoiseSelf
from shared.imaging.denoise_volume import SLICES, DenoiseVolume
from shared.imaging.inference import MULTIPLE
from shared.imaging.segment import CLASSES, LIMIT, Segment
from shared.imaging.segment_pair import SegmentPair
from shared.imaging.superres import SuperResolution
from shared.imaging.tasks import Task

TITLES: Final[Mapping[str, str]] = {
    FLOAT: "float32",
    INT8: "int8",
    PRUNED: "pruned",
    STUDENT: "student",
}
FILES: Final[Mapping[str, str]] = {
    FLOAT: "model.onnx",
    INT8: "model.int8.onnx",
    PRUNED: "model.pruned.onnx",
    STUDENT: "model.student.onnx",
}
USE: Final = "RESEARCH USE; not for diagnosis"
NOTHING: Final = "\N{EN DASH}"
FIGURES: Final[Mapping[str, tuple[str, int]]] = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "miou": ("mIoU", 3),
    "dice": ("Dice", 3),
    "accuracy": ("Accuracy", 3),
}
_GREY: Final = (
    "grey values in [0, 1]: MR divided by the 99.5th percentile of the whole series, CT from -160 to 240 Hounsfield "
    "units, both clipped"
)
_NO_PRIVACY: Final = "no differential privacy: it may tell of the patients that it was trained on"


def input_of(task: Task) -> str:
    """What a caller must put in."""
    channels, what = 1, ""
    if isinstance(task, DenoiseVolume):
        channels, what = SLICES, f"; each slice in the middle of its {SLICES - 1} neighbours"
    if isinstance(task, DenoisePair | SegmentPair):
        channels, what = 2, "; a slice, and another contrast registered onto it, each series scaled by itself"
    shape = (
        f"float32 [n, {channels}, h, w]{what}, h and w multiples of {MULTIPLE} "
        "(repeat the border, cut it off afterwards)"
    )
    if isinstance(task, Segment):
        return (
            f"{shape}; {_GREY}, then less the median of the head, over its interquartile range / 1.349, "
            f"clipped to -{LIMIT:g} to {LIMIT:g}"
        )
    if isinstance(task, Denoise | SuperResolution):
        return f"{shape}; {_GREY}"
    return f"{shape}; as the task {task.name} scales it"


def output_of(task: Task) -> str:
    """What comes out, and what is to be done with it."""
    if isinstance(task, Segment):
        return "float32 [n, classes, h, w]: scores; the class of a pixel is the one with the largest"
    if isinstance(task, SuperResolution):
        return f"float32 [n, 1, {task.factor}h, {task.factor}w]: grey values; clip to [0, 1]"
    if isinstance(task, Denoise):
        bias = (
            "; of MR the bias of the noise is still in them: the square root of x^2 - 2 sigma^2, sigma of the air"
            if isinstance(task, DenoiseSelf)
            else ""
        )
        return f"float32 [n, 1, h, w]: grey values; clip to [0, 1]{bias}"
    return "float32, as the task has it"


def privacy_of(model: Model) -> str:
    """What is known of the model's differential privacy, in a sentence."""
    if model.kind == PUBLISHED:
        return "trained on synthetic phantoms: no patient was looked at"
    if UNKNOWN in model.privacy:
        return f"nothing says under which differential privacy it was trained; take it as {_NO_PRIVACY}"
    if "off" in model.privacy:
        return _NO_PRIVACY
    return f"trained under differential privacy ({', '.join(sorted(model.privacy))}); the release says which"


def warning_of(found: Export, variant: Variant) -> str:
    """What the holder of a file must know before he gives it on; empty where there is nothing."""
    if found.model.kind == PERSONAL:
        return "PERSONAL MODEL: one hospital's own, no differential privacy. It must not leave that hospital."
    if found.people.patients and variant.name != FLOAT:
        return (
            f"PERSONAL MODEL: fitted to {found.people.fitted_to} without differential privacy. "
            "It must not leave that hospital."
        )
    return "" if found.model.privacy <= {"patient", "distributed"} else privacy_of(found.model)


def facts_of(found: Export, variant: Variant, version: str) -> dict[str, str]:
    """The metadata of a file."""
    task, model = found.model.task, found.model
    fitted = found.people.fitted_to if variant.name != FLOAT else ""
    facts = {
        "use": USE,
        "task": task.name,
        "variant": variant.name,
        "model": model.label,
        "model_sha256": model.digest,
        "origin": model.origin,
        "input": input_of(task),
        "output": output_of(task),
        "scale": str(scale_of(task)),
        "classes": json.dumps(CLASSES) if isinstance(task, Segment) else "",
        "network": json.dumps(
            {key: variant.detail[key] for key in ("network", "convolutions") if key in variant.detail}
        ),
        "fitted_to": fitted,
        "privacy": privacy_of(model),
        "warning": warning_of(found, variant),
        "version": version,
    }
    return {f"fedward.{key}": value for key, value in facts.items() if value}


def timing(found: Timing) -> str:
    """``12.3 [12.1, 12.9]``: the median, and the quartiles."""
    return f"{found.median:.1f} [{found.low:.1f}, {found.high:.1f}]"


def places(found: Export) -> list[str]:
    """All runtimes and places of the timings, in the order of tables."""
    return list(dict.fromkeys(place for one in found.variants for place in one.timings))


def figures_shown(found: Export) -> list[str]:
    """The figures that the models have, in the order of tables."""
    return [name for name in FIGURES if any(name in one.figures for one in found.variants)]


def table(found: Export, sizes: Mapping[str, int]) -> list[list[str]]:
    """The table: a heading, then a row for each model.

    Args:
        found: The export.
        sizes: Bytes of each model's file.
    """
    names, where = figures_shown(found), places(found)
    heading = ["", *(FIGURES[name][0] for name in names), "bytes", "parameters", *(f"ms, {place}" for place in where)]
    rows = [heading]
    for one in found.variants:
        known = [f"{one.figures[name]:.{FIGURES[name][1]}f}" if name in one.figures else NOTHING for name in names]
        times = [timing(one.timings[place]) if place in one.timings else NOTHING for place in where]
        title = TITLES[one.name] + (", refused" if one.refused else "")
        rows.append([title, *known, str(sizes[one.name]), str(one.parameters), *times])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def verdict(found: Export, variant: Variant) -> str:
    """What a smaller model costs and gains, in one sentence."""
    whole, key = found.variants[0], deciding(found.model.task)
    unit = " dB of PSNR" if key == "psnr" else " of Dice"
    title = TITLES[variant.name]
    told = (
        f"{title} loses {variant.loss:.3f}{unit}"
        if variant.loss > 0
        else f"{title} loses nothing{unit.replace(' dB', '')}"
    )
    place = "ONNX Runtime/1 thread"
    if place in variant.timings:
        times = whole.timings[place].median / variant.timings[place].median
        told += f" and is {times:.2f} times as fast as float32 on one thread"
        if times < 1:
            told += ", which is slower"
    return told


def timings_json(variant: Variant) -> dict[str, Any]:
    """Timings as JSON, in milliseconds."""
    return {place: vars(one) for place, one in variant.timings.items()}
