"""Models that need more of a series than one slice, or of its noise: neighbours, and the bias of MR magnitudes."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from torch import nn

from client.cohort_scale import in_window, window
from client.enhance.folder import Enhanced, enhance_folder
from client.enhance.model import Model
from compliance.log import AuditLog
from shared.imaging.denoise_volume import REACH, SLICES
from shared.imaging.images import StudyImages
from shared.imaging.tasks import get_task
from tests.client.enhance.enhanced import enhanced_mr, written
from tests.client.enhance.test_images import complaints


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


@pytest.mark.parametrize("network", ["unet25d", "unet25d_5", "convgru", "convgru_causal"])
def test_a_networks_reach_is_how_far_it_looks(network: str) -> None:
    torch.manual_seed(1)
    made = model_of("denoise_volume", network)
    for parameter in made.network.parameters():
        nn.init.normal_(parameter, std=0.3)
    slices = torch.rand(1, SLICES, 16, 16, requires_grad=True)
    made.network(slices).abs().sum().backward()
    assert slices.grad is not None
    seen = [index for index in range(SLICES) if slices.grad[0, index].any()]
    before, after = made.reach
    assert seen == list(range(REACH - before, REACH + after + 1))


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        ("unet25d", {1: [1, 2], 2: [2, 1, 3], 3: [3, 2]}),
        ("unet25d_5", {1: [1, 2, 3], 2: [2, 1, 3], 3: [3, 1, 2]}),
        ("convgru_causal", {1: [1], 2: [2, 1], 3: [3, 1, 2]}),
    ],
)
def test_a_result_names_all_slices_that_it_was_made_of_its_own_first(
    sites: Path, tmp_path: Path, network: str, wanted: dict[int, list[int]]
) -> None:
    folder = series(sites, "MR")
    sources = sorted((pydicom.dcmread(one) for one in folder.glob("*.dcm")), key=lambda one: one.SliceLocation)
    place = {str(one.SOPInstanceUID): number for number, one in enumerate(sources, start=1)}
    home = {int(one.InstanceNumber): place[str(one.SOPInstanceUID)] for one in sources}
    applied(model_of("denoise_volume", network), folder, tmp_path)
    named = {}
    for made in map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm")):
        items = made.SourceImageSequence
        assert {one.ReferencedSOPClassUID for one in items} == {made.SOPClassUID}
        assert {one.PurposeOfReferenceCodeSequence[0].CodeValue for one in items} == {"121322"}
        named[home[int(made.InstanceNumber)]] = [place[str(one.ReferencedSOPInstanceUID)] for one in items]
    assert named == wanted


def test_a_frame_names_all_frames_that_it_was_made_of(tmp_path: Path) -> None:
    source = enhanced_mr(frames=5, rows=16, columns=16)
    path = written(source, tmp_path / "in" / "mr.dcm")
    (result,) = applied(model_of("denoise_volume", "unet25d_5"), path, tmp_path).results()
    made = pydicom.dcmread(tmp_path / "out" / result)
    named = []
    for group in made.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        named.append(list(reference.ReferencedFrameNumber))
    assert named == [[1, 2, 3], [2, 1, 3, 4], [3, 1, 2, 4, 5], [4, 2, 3, 5], [5, 3, 4]]


@pytest.mark.system("dicom3tools")
@pytest.mark.parametrize("kind", ["MR", "CT", "enhanced"])
def test_dciodvfy_has_nothing_new_to_complain_of(sites: Path, tmp_path: Path, kind: str) -> None:
    many = written(enhanced_mr(), tmp_path / "in" / "mr.dcm")
    source = many if kind == "enhanced" else series(sites, kind)
    results = applied(model_of("denoise_volume", "unet25d_5"), source, tmp_path).results()
    assert results
    for path in results:
        assert complaints(tmp_path / "out" / path) <= (complaints(many) if kind == "enhanced" else set())


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
