"""The public starting points: the bytes that their name stands for, and nothing else."""

import json
from importlib import resources
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from shared.charter_plans import Start
from shared.errors import CharterError, DataError, FedwardError
from shared.imaging import public
from shared.imaging.public import PUBLIC, load_public, weights_file
from shared.imaging.tasks import get_task
from shared.vector import Layout
from shared.weights import load_weights, weights_of

EVERY = [(name, task) for name, tasks in PUBLIC.items() for task in tasks]
SHIPPED = Path(str(resources.files("shared.imaging"))) / "weights"


@pytest.fixture(name="installed")
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weights that a test may damage."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, task in EVERY:
        (folder / weights_file(name, task)).write_bytes((SHIPPED / weights_file(name, task)).read_bytes())
    monkeypatch.setattr(public.resources, "files", lambda _: tmp_path)
    return folder


def test_charters_can_name_these_and_no_other() -> None:
    assert set(get_args(Start)) == {"fresh", "release", *PUBLIC}


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_they_fit_their_network_exactly_and_it_runs(name: str, task: str) -> None:
    state = load_public(name, task)
    network = get_task(task).network(0)
    Layout.of(weights_of(network)).flatten(state)  # names, shapes and types, or an error
    load_weights(network, state)
    with torch.inference_mode():
        outputs = network(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert bool(torch.isfinite(outputs).all())
    assert all(np.isfinite(array).all() and array.any() for array in state.values())


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_one_altered_bit_is_refused(installed: Path, name: str, task: str) -> None:
    assert load_public(name, task)
    path = installed / weights_file(name, task)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FedwardError, match="were changed") as caught:
        load_public(name, task)
    assert "install fedward again" in caught.value.hint


def test_a_missing_file_is_said_to_be_missing(installed: Path) -> None:
    (installed / weights_file("public-1", "denoise")).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_public("public-1", "denoise")


@pytest.mark.parametrize(("name", "task", "said"), [("public-9", "denoise", "public-1"), ("public-1", "toy", "fresh")])
def test_what_there_is_not_is_refused_with_what_there_is(name: str, task: str, said: str) -> None:
    with pytest.raises(CharterError) as caught:
        load_public(name, task)
    assert said in caught.value.hint


def test_the_recipe_is_of_these_weights_and_says_where_the_heads_come_from() -> None:
    recipe = json.loads((SHIPPED / "public-1.json").read_bytes())
    assert {task: row["sha256"] for task, row in recipe["tasks"].items()} == dict(PUBLIC["public-1"])
    assert recipe["command"].startswith("fedward pretrain")
    assert "ICBM 2009a" in recipe["origin"]
    assert "nearer to them than to real patients" in recipe["origin"]
    assert (SHIPPED / recipe["notice"]).is_file()


def test_the_notice_of_the_atlas_goes_with_the_weights() -> None:
    notice = (SHIPPED / "NOTICE.txt").read_text()
    assert "Copyright (C) 1993-2004 Louis Collins" in notice
    assert "provided that the above copyright notice appear in all copies" in " ".join(notice.split())
