"""One update is kept as it passed: that of the arm, the hospital and the round that were asked for."""

from pathlib import Path

import numpy as np
import pytest

from shared.header import Header
from shared.vector import Flat
from shared.wire import MaskedBody, PlainBody, Refusal, TrainReply, TrainRequest
from simulation import seen
from simulation.seen import Watch

MODEL = np.arange(4, dtype=np.float32)


def pass_by(watch: Watch, site: str = "H1", run: str = "denoise-federated", number: int = 10) -> None:
    header = Header("demo", "a" * 64, run, number, 1, "denoise", "b" * 64)
    asked = TrainRequest(header, "c" * 64, Flat(MODEL), b"task").to_record()
    watch(site, "train", asked, TrainReply(header, site, MaskedBody(b"masked")).to_record())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "denoise-federated"
    made.mkdir()
    return made


def test_the_update_and_the_model_it_started_from_are_kept(folder: Path) -> None:
    watch = Watch()
    watch.expect("H1", 10, folder)
    pass_by(watch)
    assert (folder / seen.NAME).read_bytes() == b"masked"
    assert seen.started_from(folder).tolist() == MODEL.tolist()


@pytest.mark.parametrize("other", [{"site": "H2"}, {"run": "denoise-federated_dp"}, {"number": 9}])
def test_nothing_else_is_kept_for_it(folder: Path, other: dict[str, str | int]) -> None:
    watch = Watch()
    watch.expect("H1", 10, folder)
    pass_by(watch, **other)  # type: ignore[arg-type]
    assert not list(folder.iterdir())


def test_refusals_and_readable_answers_are_passed_over(folder: Path) -> None:
    watch = Watch()
    watch.expect("H1", 10, folder)
    header = Header("demo", "a" * 64, folder.name, 10, 1, "denoise", "b" * 64)
    asked = TrainRequest(header, "c" * 64, Flat(MODEL)).to_record()
    watch("H1", "train", asked, Refusal("H1", "policy", "no", header).to_record())
    watch("H1", "train", asked, TrainReply(header, "H1", PlainBody(MODEL, 1.0)).to_record())
    assert not list(folder.iterdir())
