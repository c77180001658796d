"""The model in a release: the weights can be read, and are those that the history and the description are about."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field, TypeAdapter, ValidationError

from compliance.bundle_form import DESCRIBED, HISTORY, LAYOUT, WEIGHTS, ManifestForm
from shared.errors import FedwardError, RecordError
from shared.files import canonical_json
from shared.parsing import parse_json
from shared.vector import Layout, Slot

_Rows = Annotated[list[tuple[str, list[Annotated[int, Field(ge=0)]], str]], Field(max_length=100_000)]
_ROWS: Final = TypeAdapter(_Rows)


class Findings(Protocol):
    """Where findings go."""

    def ok(self, what: str, detail: str) -> None:
        """What holds."""

    def fail(self, what: str, detail: str) -> None:
        """What does not."""

    def leave(self, what: str, detail: str) -> None:
        """What nobody checked."""


def layout_bytes(layout: Layout) -> bytes:
    """The file of a layout: what its digest is over."""
    return canonical_json([[slot.name, list(slot.shape), slot.dtype] for slot in layout.slots])


def read_layout(raw: bytes) -> Layout:
    """The layout in a file.

    Raises:
        RecordError: It is none.
    """
    try:
        rows = _ROWS.validate_json(raw)
        made = Layout(tuple(Slot(name, tuple(shape), np.dtype(kind).name) for name, shape, kind in rows))
    except (ValidationError, TypeError, ValueError) as error:
        raise RecordError(f"{LAYOUT} is no layout of a model") from error
    if len({slot.name for slot in made.slots}) != len(made.slots) or layout_bytes(made) != raw:
        raise RecordError(f"{LAYOUT} is not in the form of a layout")
    return made


def read_weights(raw: bytes) -> dict[str, Any]:
    """The arrays of a safetensors file.

    Raises:
        RecordError: It cannot be read.
    """
    try:
        return safetensors.numpy.load(raw)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{WEIGHTS} cannot be read") from error


def check_model(manifest: ManifestForm, files: Mapping[str, bytes], report: Findings) -> None:
    """Check that the weights, their layout, their description and the history are of one model."""
    try:
        rest = _checked(manifest, files)
    except FedwardError as error:
        report.fail("model", error.message)
        return
    report.ok("model", f"the weights are the model {manifest.model.digest} of {HISTORY} and {DESCRIBED}")
    if rest:
        report.leave(
            "model",
            f"{rest} entries of {WEIGHTS} that were not trained: they have their SHA-256 as released, and whether they "
            f"are those of '{manifest.model.start}' takes an installation of fedward",
        )


def _checked(manifest: ManifestForm, files: Mapping[str, bytes]) -> int:
    """How many entries of the weights the model's digest does not cover."""
    for name in (WEIGHTS, LAYOUT, DESCRIBED, HISTORY):
        if name not in files:
            raise RecordError(f"{name} is missing")
    about = {"federation": manifest.federation, "charter": manifest.charter, "run": manifest.run, "task": manifest.task}
    model = manifest.model
    _says(
        DESCRIBED,
        _parsed(DESCRIBED, files),
        about
        | {
            "model": model.digest,
            "rounds": model.rounds,
            "parameters": model.parameters,
            "start": model.start,
            "trained": model.trained,
            "weights_sha256": manifest.files[WEIGHTS].sha256 if WEIGHTS in manifest.files else "",
            "sites": sorted(str(row.get("site")) for row in manifest.sites),
        },
    )
    history = _parsed(HISTORY, files)
    _says(
        HISTORY,
        history,
        about | {"outcome": "ok", "parameters": model.parameters, "aggregation": model.aggregation},
    )
    rounds = history.get("rounds")
    last = rounds[-1] if isinstance(rounds, list) and rounds else None
    if not isinstance(last, dict) or last.get("model") != model.digest:
        raise RecordError(f"the last round of {HISTORY} ended with another model")
    layout, weights = read_layout(files[LAYOUT]), read_weights(files[WEIGHTS])
    if (layout.sha256, layout.size) != (model.layout_sha256, model.parameters):
        raise RecordError(f"{LAYOUT} is not the layout of the model")
    names = [slot.name for slot in layout.slots]
    trained = layout.flatten({name: weights[name] for name in names if name in weights})
    if layout.digest(trained) != model.digest:
        raise RecordError(f"{WEIGHTS} holds another model than {HISTORY} ended with")
    return len(weights) - len(names)


def _parsed(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        found = parse_json(files[name])
    except ValueError as error:
        raise RecordError(f"{name} is no JSON") from error
    if not isinstance(found, dict):
        raise RecordError(f"{name} is no description")
    return found


def _says(name: str, found: Mapping[str, Any], wanted: Mapping[str, object]) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise RecordError(f"{name} and manifest.json differ in '{key}'")
