"""From DICOM to the report: what de-identification left in the headers finds its study again."""

from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from client.evaluation.data import UNKNOWN, node_of
from client.evaluation.models import open_models
from client.evaluation.run import Report, evaluate
from client.node import Node
from shared.errors import UsageError
from simulation.arms import Hospital, prepare
from simulation.sites.specs import choose_sites
from simulation.sites.synthesize import synthesize
from tests.client.evaluation.hospital import PURPOSE


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> list[Node]:
    """An MR and a CT hospital with four patients each, one of them a test patient."""
    root = tmp_path_factory.mktemp("dicom")
    synthesize(root / "pacs", sites=choose_sites("H1,H7"), patients=4, size=64, slices=3, seed=5, workers=1)
    for site in ("H1", "H7"):
        prepare(Hospital(site, root / "pacs" / site, root / site, member=False), "basic", PURPOSE, 5, 0.25)
    return [Node.open(root / site) for site in ("H1", "H7")]


@pytest.fixture(scope="module")
def report(nodes: list[Node]) -> Report:
    models = open_models(["public-1"], task="denoise", charter="", quorum=None)
    return evaluate(models, nodes, everybody=True)


def test_scanners_are_those_of_the_headers_and_the_basic_profile_leaves_neither_sex_nor_age(report: Report) -> None:
    groups = report.parts[0].groups
    assert [one.cell.group for one in groups["scanner"]] == ["SIEMENS Definition kernel B30f", "SIEMENS Symphony 1.5 T"]
    assert (groups["sex"], groups["age band"]) == ((), ())
    assert {(one.grouping, one.group, one.n) for one in report.cells if one.grouping != "scanner"} == {
        ("sex", UNKNOWN, 8),
        ("age band", UNKNOWN, 8),
    }


def test_both_modalities_have_their_own_grey_window(report: Report) -> None:
    assert {one.site: one.window for one in report.pictures}.items() <= {
        "H1": "from 0 to the 99.5th percentile of the input series",
        "H7": "level 40 HU, width 400 HU",
    }.items()


def test_the_methods_keep_their_order(report: Report) -> None:
    part = report.parts[0]
    figures = {name: table["psnr"].mean for name, table in part.methods.items()}
    assert figures["noisy"] > figures["clahe"] > figures["histogram_equalisation"]
    assert part.methods["noisy"]["consistency"].mean == 0
    assert part.methods["noisy"]["detail"].mean > 1 > part.methods["mean"]["detail"].mean


def test_the_models_figure_is_the_mean_over_patients_of_the_mean_over_their_slices(
    report: Report, nodes: list[Node]
) -> None:
    (model,), found = report.models, []
    for node in nodes:
        for entry in node.cohort.entries:
            studies = node.cohort.load(entry.key).studies
            pairs = [
                (ours, truth)
                for study in studies
                for ours, truth in zip(model.task.predict(model.network, study), study.reference, strict=True)
            ]
            found.append(np.mean([peak_signal_noise_ratio(truth, ours, data_range=1.0) for ours, truth in pairs]))
    assert report.parts[0].methods["public-1"]["psnr"].mean == pytest.approx(np.mean(found), abs=1e-4)
    assert report.parts[0].patients == len(found) == 8


def test_dicom_that_is_in_no_cohort_says_what_to_do(nodes: list[Node]) -> None:
    with pytest.raises(UsageError, match="fedward node ingest"):
        node_of(Path(nodes[0].folder).parent / "pacs" / "H1")
