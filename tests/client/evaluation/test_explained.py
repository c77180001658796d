"""``fedward evaluate --explain``: what it adds to the report, and what it does not do."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from client.evaluate_cli import evaluate as command
from client.evaluation.explained_gallery import asked
from client.evaluation.models import PERSONAL, PUBLISHED, RELEASE, RUN, open_models
from client.evaluation.page import render, write_report
from client.evaluation.run import Report, evaluate
from server.card_evaluation import read_evaluation
from shared.errors import UsageError
from shared.imaging.explain.robustness import KINDS, SIZES
from shared.imaging.explain.shifts import SHIFTS
from shared.imaging.tasks import get_task
from tests.browser import check_page, chromium
from tests.client.evaluation.hospital import make
from tests.client.export.test_graph import stirred
from tests.client.opened import opened

app = Typer()
app.command()(command)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    models = open_models(["public-1"], task="denoise", charter="", quorum=None)
    worse = replace(models[0], label="other", network=models[0].task.network(0))  # the identity
    return evaluate(
        [*models, worse],
        [make(tmp_path_factory.mktemp("explained") / "H1", held_out=2, train=0, size=40)],
        explained=True,
    )


def test_uncertainty_is_compared_with_the_error_for_every_model_and_for_all_together(report: Report) -> None:
    assert report.explanation is not None
    (part,) = report.explanation.figures.parts
    views, other, together = part.sure
    assert (views.method, other.method) == ("public-1, 8 views", "other, 8 views")
    assert together.method == "2 models together"
    main = report.parts[0].methods["public-1"]["psnr"].mean
    assert views.alone.mean == together.alone.mean == pytest.approx(main)
    assert views.main.mean > main
    assert views.ause is not None
    assert views.ause_random is not None
    assert 0 < views.ause.mean < views.ause_random.mean
    assert views.ause.n == 2
    # The identity gives all views the same answer, so it is sure of everything and right by no more than chance.
    assert other.ause is not None
    assert other.ause_random is not None
    assert other.ause.mean == pytest.approx(other.ause_random.mean, rel=0.05)


def test_attacks_and_shifts_stand_beside_the_unchanged_figure(report: Report) -> None:
    assert report.explanation is not None
    (part,) = report.explanation.figures.parts
    assert [(one.key, one.size) for one in part.attacks] == [
        ("unchanged", None),
        *((kind, size) for kind in KINDS for size in SIZES),
    ]
    found = {(one.key, one.size): one.figures["public-1"].mean for one in part.attacks}
    largest = SIZES[-1]
    assert found["pgd", largest] < found["random", largest] < found["unchanged", None] + 0.01
    assert [one.key for one in part.shifts] == ["unchanged", *SHIFTS]
    assert {frozenset(one.figures) for one in part.shifts} == {frozenset({"public-1", "other", report.parts[0].best})}
    unchanged = part.shifts[0].figures
    assert part.shifts[2].figures["other"].mean < unchanged["other"].mean  # more noise, and nothing takes it away


def test_the_page_shows_it_and_the_json_has_the_figures(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    figures = write_report(report, path)
    told = json.loads(figures.read_text())["explained"]
    assert set(told["receptive_field"]) == {"public-1", "other"}
    assert told["receptive_field"]["other"]["most"] == 0.0  # the identity looks at the pixel alone
    assert told["parts"][0]["uncertainty"][0]["ause"]["patients"] == 2
    assert "PSEUDONYM" not in figures.read_text()
    assert stat.S_IMODE(figures.stat().st_mode) == 0o600
    assert (
        path.read_text().count("What the circle rests on") == 2 * 2 + 1
    )  # each has its name twice, once for those who hear it; and the legend
    with chromium() as browser:
        for width, dark in ((1280, False), (390, True)):
            check_page(browser, path, width=width, dark=dark)
    assert "What the answers rest on" not in render(replace(report, explanation=None))


def test_the_page_says_of_every_kind_of_model_what_it_is(report: Report) -> None:
    kinds = {value: replace(report.models[0], kind=value) for value in (RELEASE, RUN, PUBLISHED, PERSONAL)}
    pages = {kind: render(replace(report, models=(model, report.models[1]))) for kind, model in kinds.items()}
    assert "own, without differential privacy" in pages[PERSONAL]
    assert len(set(pages.values())) == 4


def test_a_release_takes_the_figures_as_they_are_written(report: Report) -> None:
    raw, digest = json.dumps(report.to_json()).encode(), report.models[0].digest
    found = read_evaluation(raw, "figures.json", task="denoise", weights=digest)
    assert (found.label, found.metric) == ("public-1", "psnr")
    assert [line.value for lines in found.parts.values() for line in lines] == ["suppressed"]  # two patients


def test_classes_are_explained_too(tmp_path: Path) -> None:
    models = open_models(["public-1"], task="segment", charter="", quorum=None)
    report = evaluate(models, [make(tmp_path / "H1", held_out=1, train=0)], explained=True)
    assert report.explanation is not None
    (sure,) = report.explanation.figures.parts[0].sure
    assert sure.method == "public-1, 2 views"
    assert sure.ause is not None
    assert sure.ause_random is not None
    assert sure.ause.mean < sure.ause_random.mean
    assert [one.title for one in report.explanation.pictures[0].panels] == [
        *("Input", "public-1", "Uncertainty", "Wrong pixels", "What the circle rests on"),
    ]


@pytest.mark.parametrize("name", ["denoise_pair", "segment_pair"])
def test_models_of_two_contrasts_are_explained_by_both(name: str, tmp_path: Path) -> None:
    (model,) = open_models(["public-1"], task="denoise", charter="", quorum=None)
    task = get_task(name)
    network = stirred(task.network(0))
    node = make(tmp_path / "H1", held_out=1, train=0, beside=True)
    report = evaluate([replace(model, task=task, network=network)], [node], explained=True)
    assert report.explanation is not None
    (part,) = report.explanation.figures.parts
    assert {one.key for one in part.attacks} == {"unchanged", *KINDS}
    assert {one.key for one in part.shifts} == {"unchanged", *SHIFTS}
    panels = {one.title: one.png for one in report.explanation.pictures[0].panels}
    assert list(panels)[:2] == ["Input", "Second contrast"]
    assert list(panels)[-2:] == [f"What the circle rests on, {one}" for one in ("input", "second contrast")]
    assert len(set(panels.values())) == len(panels)
    assert "Second contrast" in render(report)


@pytest.mark.parametrize("name", ["denoise_volume", "denoise_self", "masked"])
def test_answers_that_are_not_the_networks_own_are_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    (model,) = open_models(["public-1"], task="denoise", charter="", quorum=None)
    task, node = get_task(name), make(tmp_path / "H1")
    with opened() as seen, pytest.raises(UsageError, match="not explained yet"):
        evaluate([replace(model, task=task, network=task.network(0))], [node], explained=True)
    assert not any("PSEUDONYM" in one for one in seen)
    assert not (node.folder / "audit" / "log.jsonl").exists()


def test_what_is_asked_about_is_the_least_sure_place_within_the_body() -> None:
    uncertainty, body = np.zeros((20, 20), np.float32), np.ones((20, 20), np.bool_)
    uncertainty[4, 5], uncertainty[15, 16] = 1.0, 0.5
    assert max(abs(np.subtract(asked(uncertainty, body), (4, 5)))) <= 2
    body[:9] = False
    assert max(abs(np.subtract(asked(uncertainty, body), (15, 16)))) <= 2


def test_without_captum_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make(tmp_path / "H1")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    arguments = ["public-1", str(node.folder), "--task", "denoise", "--explain", "--page", str(tmp_path / "p.html")]
    with opened() as seen:
        result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert not any("PSEUDONYM" in name for name in seen)
    assert not (node.folder / "audit" / "log.jsonl").exists()
