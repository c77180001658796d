"""The files of an export: each whole or absent, the record of them last."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from client.evaluation.models import Model
from client.export import words
from client.export.graph import described, gpu_here
from client.export.page import render
from client.export.run import Export, Variant, deciding
from client.export.speed import SIDE
from shared.errors import UsageError
from shared.files import output_errors, write_bytes, write_json

RECORD: Final = "export.json"
PAGE: Final = "export.html"
OWNER, EVERYBODY = 0o600, 0o644
_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "torch-pruning", "numpy")


def check_folder(out: Path) -> None:
    """Refuse a folder whose content somebody may miss.

    Raises:
        UsageError: It is no folder, or holds something that no export wrote.
        OutputError: It cannot be read.
    """
    with output_errors(out):
        if not out.exists():
            return
        if not out.is_dir():
            raise UsageError(f"{out} is no folder", hint="choose another --out")
        ours = {RECORD, PAGE, *words.FILES.values()}  # also those of an export that broke off before its record
        if any(one.name not in ours for one in out.iterdir()):
            raise UsageError(f"{out} holds other files", hint="choose a folder that is empty or does not exist yet")


def write(found: Export, out: Path, *, private: bool) -> dict[str, Any]:
    """Write the files, and say what they are.

    Files of an export that lay there before are taken away first: what stands there is of one export.

    Args:
        found: What came out.
        out: The folder; made where missing.
        private: Whether figures on patients stand in the record and the page, so that their owner alone may read them.

    Returns:
        What stands in the record.

    Raises:
        OutputError: They cannot be written.
    """
    release = version_of("fedward")
    graphs = {
        one.name: described(one.graph, words.facts_of(found, one, release), note(found.model, one))
        for one in found.variants
    }
    record = describe(found, graphs)
    with output_errors(out):
        for name in (RECORD, PAGE, *words.FILES.values()):
            (out / name).unlink(missing_ok=True)
    for one in found.variants:
        if not one.refused:
            own = words.warning_of(found, one).startswith("PERSONAL")
            write_bytes(out / words.FILES[one.name], graphs[one.name], mode=OWNER if own else EVERYBODY)
    mode = OWNER if private or found.personal else EVERYBODY
    write_bytes(out / PAGE, render(found, record).encode(), mode=mode)
    write_json(out / RECORD, record, mode=mode)
    return record


def note(model: Model, variant: Variant) -> str:
    """What a viewer of the graph is shown."""
    return f"fedward {variant.name} model for {model.task.name}, from weights {model.digest}. {words.USE}."


def describe(found: Export, graphs: Mapping[str, bytes]) -> dict[str, Any]:
    """The record: what each file is, how it was tried, and how well and fast it does."""
    model, people = found.model, found.people
    return {
        "v": 1,
        "use": words.USE,
        "task": model.task.name,
        "model": {
            "label": model.label,
            "kind": model.kind,
            "weights_sha256": model.digest,
            "origin": model.origin,
            "trained_at": sorted(model.sites),
            "privacy": words.privacy_of(model),
            "not_verified": [f"{what}: {detail}" for mark, what, detail in model.checks if mark != "ok"],
        },
        "personal": found.personal,
        "input": words.input_of(model.task),
        "output": words.output_of(model.task),
        "scale": found.scale,
        "fitted_to": {"what": people.fitted_to, "patients": len(people.fit)},
        "tried_on": {"what": people.tried_on, "patients": len(people.held_out)},
        "deciding": deciding(model.task),
        "slice": f"{SIDE} x {SIDE} pixels out",
        "models": [_row(found, one, graphs[one.name]) for one in found.variants],
        "gpu": _gpu(),
        "processor": platform.processor() or platform.machine(),
        "versions": {"fedward": version_of("fedward"), "python": platform.python_version()}
        | {name: version_of(name) for name in _PACKAGES},
    }


def _row(found: Export, one: Variant, graph: bytes) -> dict[str, Any]:
    held = one.parity
    return {
        "name": one.name,
        "file": None if one.refused else words.FILES[one.name],
        "refused": one.refused,
        "sha256": hashlib.sha256(graph).hexdigest(),
        "bytes": len(graph),
        "parameters": one.parameters,
        "warning": words.warning_of(found, one),
        "parity": None
        if held is None
        else {"random": held.random, "real": held.real, "tolerance": held.tolerance, "shapes": list(held.shapes)},
        "figures": dict(one.figures),
        "loss": one.loss,
        **one.detail,
        "timings_ms": words.timings_json(one),
    }


def _gpu() -> str:
    """Which GPU was timed, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; ONNX Runtime {'too' if gpu_here() else 'not'}"
    return "none here: not run"


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def sizes(record: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each model, by name."""
    return {row["name"]: row["bytes"] for row in record["models"]}
