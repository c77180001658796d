"""Public pretraining: phantoms no two of which look alike, and weights that can be made again."""

import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from rich.progress import Progress
from typer.testing import CliRunner

from shared.errors import UsageError
from shared.imaging.public import weights_file
from simulation import phantoms, pretrain
from simulation.phantoms import draw_phantom
from simulation.pretrain import COURSES, Plan, PublicModel
from simulation.pretrain_cli import pretrain as command
from simulation.sites.specs import SITES, UNSEEN

QUIET = Progress(disable=True)
APP = typer.Typer()
APP.command()(command)
TINY = Plan(("denoise", "segment"), seed=3, patients=3, steps=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms that take milliseconds."""
    monkeypatch.setattr(phantoms, "SLICES", 1)
    monkeypatch.setattr(phantoms, "MR_PIXELS", (64,))
    monkeypatch.setattr(phantoms, "CT_PIXELS", (64,))
    monkeypatch.setattr(pretrain, "HELD_OUT", 2)


def brightness(phantom: phantoms.Phantom) -> NDArray[np.float64]:
    """Mean of the reference in fluid, grey and white matter."""
    (study,) = phantom.images.studies
    assert study.label is not None
    return np.array([study.reference[study.label == tissue].mean() for tissue in (1, 2, 3)])


def files(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_two_phantoms_look_alike() -> None:
    drawn = [draw_phantom(1, index) for index in range(16)]
    heads = [phantom for phantom in drawn if phantom.kind != "CT"]
    assert len(drawn) > len(heads)
    assert len({phantom.kind for phantom in heads}) >= 4
    levels = np.stack([brightness(phantom) for phantom in heads])
    assert len({tuple(np.argsort(row)) for row in levels}) >= 3  # which tissue is brightest, and which darkest
    assert np.all(np.ptp(levels, axis=0) > 0.25)


def test_phantoms_are_as_training_sees_patients() -> None:
    for index in range(4):
        (study,) = draw_phantom(1, index).images.studies
        for series in (study.noisy, study.reference):
            assert series.dtype == np.float32
            assert series.min() >= 0.0
            assert series.max() <= 1.0
        assert study.label is not None
        assert study.label.any()


def test_a_phantom_depends_on_seed_and_number_alone() -> None:
    first, again, other, later = (draw_phantom(*key) for key in ((1, 0), (1, 0), (2, 0), (1, 1)))
    same = [np.array_equal(first.images.studies[0].noisy, p.images.studies[0].noisy) for p in (again, other, later)]
    assert same == [True, False, False]


def test_no_phantom_shares_its_randomness_with_a_patient_of_a_virtual_hospital() -> None:
    sites = {crc32(site.id.encode()) for site in SITES + UNSEEN}
    assert phantoms.STREAM not in sites
    streams = [np.random.default_rng([7, start, 0, 0, 0]).integers(2**63) for start in (phantoms.STREAM, *sites)]
    assert len(set(streams)) == len(streams)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    models = pretrain.pretrain(TINY, tmp_path / "first", QUIET)
    pretrain.pretrain(TINY, tmp_path / "again", QUIET)
    assert files(tmp_path / "first") == files(tmp_path / "again")
    other = pretrain.pretrain(Plan(("segment",), seed=4, patients=3, steps=2), tmp_path / "other", QUIET)
    assert {model.sha256 for model in models}.isdisjoint(model.sha256 for model in other)
    assert not any(model.shipped for model in (*models, *other))


def test_the_number_of_workers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # workers import what is installed, not what a test patched
    monkeypatch.setattr(pretrain, "HELD_OUT", 0)
    alone, two = (pretrain.make_phantoms(Plan((), seed=1, patients=2, workers=n), QUIET) for n in (1, 2))
    for one, other in zip(alone, two, strict=True):
        assert one.kind == other.kind
        assert np.array_equal(one.images.studies[0].noisy, other.images.studies[0].noisy)


def test_the_recipe_says_how_and_from_what(tmp_path: Path) -> None:
    pretrain.pretrain(TINY, tmp_path, QUIET)
    recipe = json.loads((tmp_path / "public-1.json").read_bytes())
    assert recipe["command"] == "fedward pretrain --task denoise --task segment --seed 3 --patients 3 --steps 2"
    assert sum(recipe["phantoms"]["trained_on"].values()) == 3
    assert sum(recipe["phantoms"]["held_out"].values()) == 2
    assert recipe["tasks"]["segment"]["steps"] == 2
    assert 0 < recipe["tasks"]["segment"]["held_out_phantoms"]["miou"] < 1
    assert {"torch", "numpy", "nilearn"} <= set(recipe["versions"])
    assert str(tmp_path) not in json.dumps(recipe)


def test_an_interrupted_run_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pretrain.train_centrally

    def interrupted(task: object, *args: object, **kwargs: object) -> object:
        if getattr(task, "name", "") == "segment":
            raise KeyboardInterrupt
        return before(task, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain, "train_centrally", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(TINY, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_an_interruption_while_writing_leaves_no_recipe_beside_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PublicModel("denoise", COURSES["denoise"], 1, b"old", {})
    (tmp_path / weights_file("public-1", model.task)).write_bytes(model.data)
    (tmp_path / "public-1.json").write_text("{}")

    def full(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "write_json", full)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(TINY, tmp_path, QUIET)
    assert not (tmp_path / "public-1.json").exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        pretrain.pretrain(TINY, tmp_path, QUIET)


def test_a_task_without_a_public_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no task called"):
        Plan(("segmnt",))


def test_the_command_says_whether_these_are_the_shipped_weights(tmp_path: Path) -> None:
    arguments = ["--task", "segment", "--patients", "3", "--steps", "1", "--seed", "3", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(APP, arguments)
    assert done.exit_code == 0, done.output
    assert "not the shipped weights' bytes" in done.output
    told = CliRunner().invoke(APP, ["--help"]).output
    assert "random contrast" in " ".join(told.split())
    assert "--patients" in told
