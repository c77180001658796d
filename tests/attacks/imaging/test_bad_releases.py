"""A release that is signed, witnessed and verifies, and whose weights are no numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydicom.data import get_testdata_file
from torch import nn

from shared.charter_plans import TaskPlan
from shared.errors import CharterError
from shared.imaging.start import prepared
from shared.imaging.tasks import get_task
from shared.weights import weights_of
from tests.attacks.imaging.command import fedward, files, refusal
from tests.client.evaluation.hospital import make
from tests.federation import released, toy
from tests.federation.released import SITES, Ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A federation whose training diverged, and its release."""
    plain, begin = toy.charter, released.prepared
    plan = {"name": "denoise", "start": "public-1", "trained": "biases_norms_head"}

    def diverged(*given: Any, **named: Any) -> nn.Module:
        network = begin(*given, **named)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(float("nan")) if parameter.requires_grad else None
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "charter", lambda **changes: plain(plan=plan, **changes))
        patch.setattr(released, "prepared", diverged)
        made = Ended.make(tmp_path_factory.mktemp("federation"))
        made.witnessed(*SITES)
        made.release(made.root / "release", *SITES, version="2.0")
        yield made


def test_no_command_uses_weights_that_are_no_numbers(ended: Ended, tmp_path: Path) -> None:
    """``node enhance`` wrote black images and ended with 0; ``node personalise`` kept the model as the hospital's."""
    release, told = ended.root / "release", ("--charter", ended.charter.sha256)
    node = make(tmp_path / "H7", "H7", train=4, virtual=False, size=24).folder
    image = str(get_testdata_file("MR_small.dcm"))
    before = files(tmp_path)
    for words in (
        ("node", "enhance", release, image, tmp_path / "out"),
        ("node", "personalise", release, node, "--steps", "2"),
        ("evaluate", release, node, "--page", tmp_path / "q.html"),
        ("export", release, "--out", tmp_path / "onnx"),
    ):
        assert "not finite" in refusal(fedward(*words, *told), 4), words
    assert files(tmp_path) - before <= {"H7/audit/log.jsonl"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_federation_starts_from_weights_that_are_no_numbers(value: float) -> None:
    plan = TaskPlan("segment", rounds=1, local_steps=1, start="release", release="a" * 64)
    source = dict(weights_of(get_task("masked").network(9)))
    name = next(iter(source))
    source[name] = source[name] * value
    with pytest.raises(CharterError, match="not finite"):
        prepared(get_task("segment"), plan, 3, release=source)
