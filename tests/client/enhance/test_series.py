"""Models that need more of a series than one slice, or of its noise: neighbours, and the bias of MR magnitudes."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from torch import nn

from client.cohort import in_window, window
from client.enhance.folder import Enhanced, enhance_folder
from client.enhance.model import Model
from compliance.log import AuditLog
from shared.imaging.images import StudyImages
from shared.imaging.tasks import get_task


def model_of(name: str, network: str | None = None) -> Model:
    """A model whose every weight does something."""
    task = get_task(name)
    made = task.network(0, network)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return Model("test", task, made.eval(), "d" * 64)


def applied(model: Model, source: Path, root: Path) -> Enhanced:
    with AuditLog(root / "log.jsonl", site="H1", subject_key=b"k" * 32) as log:
        return enhance_folder(source, root / "out", model=model, log=log, reports=root / "reports")


def series(sites: Path, modality: str) -> Path:
    return next(one.parent for one in sorted(sites.rglob("001.dcm")) if pydicom.dcmread(one).Modality == modality)


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize(
    ("task", "network"), [("denoise_volume", "unet25d_5"), ("denoise_volume", "convgru"), ("denoise_self", "dncnn")]
)
def test_a_series_comes_out_as_the_task_itself_would_have_it(
    sites: Path, tmp_path: Path, modality: str, task: str, network: str
) -> None:
    folder, model = series(sites, modality), model_of(task, network)
    sources = sorted((pydicom.dcmread(one) for one in folder.glob("*.dcm")), key=lambda one: one.SliceLocation)
    slope, intercept = (float(sources[0].get(name, n)) for name, n in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    values = np.stack([one.pixel_array.astype(np.float32) * slope + intercept for one in sources])
    ends = window(modality, values)
    unit = in_window(values, ends)
    images = StudyImages(modality, unit, unit[:0], None, (1.0, 1.0))
    wanted = model.task.predict(model.network, images) * (ends[1] - ends[0]) + ends[0]
    assert applied(model, folder, tmp_path).counts["written"] == len(sources)
    made = {str(one.InstanceNumber): one for one in map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm"))}
    for index, source in enumerate(sources):
        found = made[str(source.InstanceNumber)].pixel_array.astype(np.float32) * slope + intercept
        seen = (values[index] > ends[0]) & (values[index] < ends[1])
        assert np.abs(found - np.rint(wanted[index]))[seen].max() <= 1.01


def test_a_ct_slice_with_other_neighbours_is_another_result(sites: Path, tmp_path: Path) -> None:
    folder, model = series(sites, "CT"), model_of("denoise_volume", "unet25d")
    part = tmp_path / "part"
    part.mkdir()
    for one in sorted(folder.glob("*.dcm"))[:2]:
        (part / one.name).write_bytes(one.read_bytes())
    homes = [tmp_path / "whole", tmp_path / "some"]
    for home in homes:
        home.mkdir()
    results = [set(applied(model, where, home).results()) for where, home in zip((folder, part), homes, strict=True)]
    assert [len(one) for one in results] == [3, 2]
    assert not results[0] & results[1]
