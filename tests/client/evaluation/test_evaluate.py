"""Who is looked at, what is recorded before, and what the report says."""

import hashlib
import json
import stat
import tomllib
from pathlib import Path

import pytest
import safetensors.numpy
from typer import Typer
from typer.testing import CliRunner

from client.consenting import withdraw
from client.evaluate_cli import evaluate as command
from client.evaluation.data import UNKNOWN, age_band, node_of
from client.evaluation.models import Model, open_models
from client.evaluation.page import render, write_report
from client.evaluation.run import Report, evaluate
from client.lineage import Lineage
from client.node import Node
from client.rights import restrict
from compliance.log import Action, AuditLog, Entry, Outcome
from shared.errors import DataError, FedwardError, PolicyError, RecordError, UsageError
from shared.imaging.tasks import get_task
from shared.quality import read_quality
from tests.browser import Browser, check_page, chromium
from tests.client.evaluation.hospital import image_files, log_rows, make
from tests.client.opened import opened

app = Typer()
app.command()(command)


@pytest.fixture(scope="module")
def public() -> tuple[Model, ...]:
    return open_models(["public-1"], task="denoise", charter="", quorum=None)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, public: tuple[Model, ...]) -> Report:
    root = tmp_path_factory.mktemp("report")
    return evaluate(public, [make(root / "H1", held_out=6, headers=True)])


@pytest.mark.parametrize("name", ["denoise_volume", "denoise_self", "masked"])
def test_tasks_of_neighbours_of_noise_alone_and_of_hidden_parts_have_a_report(tmp_path: Path, name: str) -> None:
    task, node = get_task(name), make(tmp_path / "H1", held_out=2)
    lone = node.cohort.entries[0]
    index = json.loads((node.folder / "cohort" / "index.json").read_bytes())
    index["patients"][0]["studies"][0]["paired"] = False
    path = node.folder / "cohort" / "images" / lone.studies[0].file
    arrays = safetensors.numpy.load(path.read_bytes())
    path.write_bytes(safetensors.numpy.save({"noisy": arrays["noisy"]}))
    index["patients"][0]["studies"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (node.folder / "cohort" / "index.json").write_text(json.dumps(index))
    model = Model(name, task, task.network(0).eval(), "0" * 64, "public", frozenset(), "a test")
    found = evaluate((model,), [node])
    assert found.parts[0].patients == (2 if name == "masked" else 1)  # who has no reference is not judged by one
    assert {name, *task.classical()} <= set(found.parts[0].methods)
    assert found.pictures
    assert task.title in render(found)


@pytest.mark.parametrize("name", ["denoise_pair", "segment_pair"])
def test_tasks_of_two_contrasts_have_a_report_of_studies_that_have_them(tmp_path: Path, name: str) -> None:
    task = get_task(name)
    model = Model(name, task, task.network(0).eval(), "0" * 64, "public", frozenset(), "a test")
    found = evaluate((model,), [make(tmp_path / "H1", held_out=2, beside=True)])
    assert found.parts[0].patients == 2
    assert {name, *task.classical()} <= set(found.parts[0].methods)
    assert found.pictures
    assert task.title in render(found)
    with pytest.raises(DataError) as caught:
        evaluate((model,), [make(tmp_path / "H2", "H2", held_out=2)])
    assert "\n" not in caught.value.message


# --- who is looked at -------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("how", ["none", "withdrawn", "restricted", "objected"])
def test_only_test_patients_who_may_take_part_are_read(tmp_path: Path, public: tuple[Model, ...], how: str) -> None:
    node, out = make(tmp_path / "H1", virtual=False), "PSEUDONYMH11"
    if how == "withdrawn":
        withdraw(node, out)
    elif how != "none":
        restrict(node, out, who="Ada", objection=how == "objected")
    with opened() as seen:
        found = evaluate(public, [node])
    expected = {"PSEUDONYMH10", "PSEUDONYMH11", "PSEUDONYMH12"} - ({out} if how != "none" else set())
    assert image_files(seen) == expected
    assert found.parts[0].patients == len(expected)
    assert sum(found.sites[0].left_out.values()) == (how != "none")


def test_a_real_hospital_without_a_lawful_basis_shows_nobody(tmp_path: Path, public: tuple[Model, ...]) -> None:
    node = make(tmp_path / "H1", virtual=False, basis=False)
    with opened() as seen, pytest.raises(DataError, match="nobody to evaluate on: no basis") as error:
        evaluate(public, [node])
    assert not image_files(seen)
    assert error.value.hint
    assert not log_rows(node)


def test_all_patients_of_a_hospital_that_never_trained_are_read_when_asked(
    tmp_path: Path, public: tuple[Model, ...]
) -> None:
    assert evaluate(public, [make(tmp_path / "H1")], everybody=True).parts[0].patients == 5


def test_where_there_was_training_all_patients_are_refused(tmp_path: Path, public: tuple[Model, ...]) -> None:
    node = make(tmp_path / "H1")
    with node.open_log() as log:
        log.append(Entry(Action.TRAIN, Outcome.STARTED, run="r", round=1, detail={"task": "denoise"}))
    with opened() as seen, pytest.raises(UsageError, match="has trained on its patients"):
        evaluate(public, [node], everybody=True)
    assert not image_files(seen)
    assert evaluate(public, [node]).parts[0].patients == 3


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_the_log_has_it_before_an_image_is_read_and_how_it_ended(
    tmp_path: Path, public: tuple[Model, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, seen = make(tmp_path / "H1"), list[list[dict[str, object]]]()
    load = type(node.cohort).load

    def watched(self: object, key: str) -> object:
        seen.append(log_rows(node))
        return load(self, key)  # type: ignore[arg-type]

    monkeypatch.setattr(type(node.cohort), "load", watched)
    evaluate(public, [node])
    assert [row["outcome"] for row in seen[0]] == ["started"]
    begun, ended = log_rows(node)
    assert begun["subject"] == {"kind": "model", "digest": public[0].digest}
    assert begun["detail"] | {"patients": 3, "which": "held out", "task": "denoise"} == begun["detail"]  # type: ignore[operator]
    assert (ended["outcome"], ended["detail"]["slices"]) == ("ok", 6)  # type: ignore[index]
    assert "PSEUDONYM" not in (node.folder / "audit" / "log.jsonl").read_text()


def test_without_a_record_no_image_is_read(
    tmp_path: Path, public: tuple[Model, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(tmp_path / "H1")

    def refuse(*_: object) -> None:
        raise RecordError("the disk is full")

    monkeypatch.setattr(AuditLog, "append", refuse)
    with opened() as seen, pytest.raises(RecordError):
        evaluate(public, [node])
    assert not image_files(seen)


def test_a_lineage_that_was_altered_is_not_covered_up_by_an_evaluation(
    tmp_path: Path, public: tuple[Model, ...]
) -> None:
    node = make(tmp_path / "H1")
    with node.open_log() as log:
        facts = {"task": "denoise", "lineage_bytes": 100, "lineage": "0" * 64}
        log.append(Entry(Action.EVALUATE, Outcome.STARTED, run="r", round=1, detail=facts))
    with opened() as seen, pytest.raises(RecordError, match="not what the audit log knows"):
        evaluate(public, [node])
    assert not image_files(seen)


def test_a_round_afterwards_finds_the_lineage_in_the_newest_entry(tmp_path: Path, public: tuple[Model, ...]) -> None:
    node = make(tmp_path / "H1")
    evaluate(public, [node])
    begun, _ = log_rows(node)
    assert begun["detail"] | dict(Lineage(node).head()) == begun["detail"]  # type: ignore[operator]


def test_when_it_fails_the_log_says_so(tmp_path: Path, public: tuple[Model, ...]) -> None:
    node = make(tmp_path / "H1")
    (node.folder / "cohort" / "images" / "PSEUDONYMH10.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="were changed since"):
        evaluate(public, [node])
    assert [row["outcome"] for row in log_rows(node)] == ["started", "failed"]


# --- what is named ----------------------------------------------------------------------------------------------------


def test_a_node_may_be_named_by_its_cohort_and_a_cohort_without_a_node_is_refused(tmp_path: Path) -> None:
    node = make(tmp_path / "H1")
    assert node_of(node.folder / "cohort") == node
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "index.json").write_bytes((node.folder / "cohort" / "index.json").read_bytes())
    with pytest.raises(PolicyError, match="a cohort without its node"):
        node_of(tmp_path / "copy")


@pytest.mark.parametrize(("there", "said"), [(False, "there is no folder"), (True, "neither a node nor the cohort")])
def test_what_is_no_node_is_wrong_use(tmp_path: Path, there: bool, said: str) -> None:
    folder = tmp_path / "DICOM"
    if there:
        folder.mkdir()
    with pytest.raises(UsageError, match=said) as error:
        node_of(folder)
    assert error.value.hint


def test_a_hospital_is_named_once(tmp_path: Path, public: tuple[Model, ...]) -> None:
    with pytest.raises(UsageError, match="of one hospital"):
        evaluate(public, [make(tmp_path / "a"), make(tmp_path / "b")])


# --- what the report says ---------------------------------------------------------------------------------------------


def test_every_classical_method_stands_beside_the_model_and_the_best_is_compared_patient_by_patient(
    report: Report,
) -> None:
    (part,) = report.parts
    assert list(part.methods) == ["public-1", *get_task("denoise").classical()]
    means = {name: table["psnr"].mean for name, table in part.methods.items() if name not in {"noisy", "public-1"}}
    best = max(means, key=means.__getitem__)
    assert part.best == best
    (one,) = part.differences
    gain = part.methods["public-1"]["psnr"].mean - part.methods[best]["psnr"].mean
    assert one.gain.mean == pytest.approx(gain)
    assert one.better == sum(ours > theirs for theirs, ours in part.patient_by_patient)
    assert one.gain.n == 6


def test_pictures_are_of_the_worst_the_median_and_the_best_patient(report: Report) -> None:
    ours = sorted(figure for _, figure in report.parts[0].patient_by_patient)
    assert [(one.rank, one.figure) for one in report.pictures] == [
        ("worst", ours[0]),
        ("median", ours[2]),
        ("best", ours[-1]),
    ]
    assert {one.bar for one in report.pictures} == {20.0}
    assert (report.pictures[0].width, report.pictures[0].height) == (96.0, 96.0)


def test_groups_of_few_patients_are_suppressed(report: Report) -> None:
    found = report.parts[0].groups
    hidden = {
        name: [(one.cell.group, one.cell.n, dict(one.figures)) for one in groups] for name, groups in found.items()
    }
    bands = ("30 to 39", "40 to 49", "50 to 59")
    assert hidden == {
        "scanner": [("ACME Ring 1.5 T", "fewer than 10", {})],
        "sex": [("female", "fewer than 10", {}), ("male", "fewer than 10", {})],
        "age band": [(band, "fewer than 10", {}) for band in bands],
    }


def test_groups_of_ten_and_more_have_their_figures(tmp_path: Path, public: tuple[Model, ...]) -> None:
    found = evaluate(public, [make(tmp_path / "H1", held_out=20, train=0, headers=True, size=24)])
    groups = {one.cell.group: one for one in found.parts[0].groups["sex"]}
    assert {name: one.cell.n for name, one in groups.items()} == {"female": 10, "male": 10}
    assert set(groups["female"].figures) == {"public-1", found.parts[0].best}
    assert groups["female"].figures["public-1"].n == 10


def test_without_headers_there_are_no_groups(tmp_path: Path, public: tuple[Model, ...]) -> None:
    found = evaluate(public, [make(tmp_path / "H1")])
    assert not any(found.parts[0].groups.values())
    assert "kept neither scanner nor sex nor age" in render(found)
    assert "too few for an interval" in render(found)


def test_volumes_are_in_millilitres_where_the_distance_of_slices_is_known(tmp_path: Path) -> None:
    models = open_models(["public-1"], task="segment", charter="", quorum=None)
    known = evaluate(models, [make(tmp_path / "H1", headers=True)]).parts[0].methods["gmm"]
    unknown = evaluate(models, [make(tmp_path / "H2", "H2")]).parts[0].methods["gmm"]
    assert known["volume"].mean > 0
    assert "volume" not in unknown
    assert known["volume_relative"].mean == pytest.approx(unknown["volume_relative"].mean)
    assert "ece" not in known


def test_a_segmentation_has_a_reliability_curve(tmp_path: Path) -> None:
    models = open_models(["public-1"], task="segment", charter="", quorum=None)
    found = evaluate(models, [make(tmp_path / "H1")])
    assert 0 < found.parts[0].methods["public-1"]["ece"].mean < 1
    assert any(found.parts[0].curve["public-1"])
    assert "how often it is right" in render(found)


@pytest.mark.parametrize(
    ("age", "band"),
    [("045Y", "40 to 49"), ("006M", "0 to 9"), ("089Y", "80 to 89"), ("090Y", "90 and older"), ("400D", "0 to 9"),
     ("", UNKNOWN), ("45", UNKNOWN), ("0x5Y", UNKNOWN), ("045X", UNKNOWN)],
)  # fmt: skip
def test_ages_are_shown_in_bands_of_ten_years(age: str, band: str) -> None:
    assert age_band(age) == band


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_and_its_figures_are_for_their_owner_alone_and_name_nobody(report: Report, tmp_path: Path) -> None:
    beside = write_report(report, tmp_path / "page.html")
    for path in (tmp_path / "page.html", beside):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PSEUDONYM" not in path.read_text()
    assert "It stays in this hospital" in (tmp_path / "page.html").read_text()
    assert "base64" not in beside.read_text()
    told = json.loads(beside.read_bytes())
    assert told["parts"][0]["methods"]["public-1"]["psnr"]["patients"] == 6


@pytest.fixture(scope="module")
def browser() -> "Browser":
    with chromium() as tab:
        yield tab  # type: ignore[misc]


@pytest.mark.system("chromium")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_fits_and_can_be_read_in_light_and_dark_and_asks_nobody(
    report: Report, browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    write_report(report, tmp_path / "page.html")
    check_page(browser, tmp_path / "page.html", width=width, dark=dark)
    assert browser.evaluate("document.querySelectorAll('.panel image').length") == 3 * 7
    heights = browser.evaluate(
        "[...document.querySelectorAll('.panel svg')].map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) > 40


# --- the command ------------------------------------------------------------------------------------------------------


def ran(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, FedwardError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_the_command_prints_a_table_and_writes_page_figures_and_cells(tmp_path: Path) -> None:
    make(tmp_path / "H1", held_out=5, headers=True)
    page, cells = tmp_path / "q.html", tmp_path / "cells.json"
    code, said = ran("public-1", tmp_path / "H1", "--task", "denoise", "--page", page, "--quality", cells)
    assert code == 0, said
    assert f"'fedward node statement --quality': {cells}" in said
    assert "PSNR, dB" in said
    assert "5 patients" in said
    assert page.exists()
    assert page.with_suffix(".json").exists()
    found = {(one.grouping, one.group): one.n for one in read_quality(cells.read_bytes(), "cells")}
    assert found["scanner", "ACME Ring 1.5 T"] == 5
    assert stat.S_IMODE(cells.stat().st_mode) == 0o600


def test_the_command_is_mounted_as_evaluate() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["fedward.commands"]["evaluate"] == "client.evaluate_cli:evaluate"


def test_the_command_prints_the_same_figures_as_json(tmp_path: Path) -> None:
    make(tmp_path / "H1")
    code, said = ran("public-1", tmp_path / "H1", "--task", "denoise", "--page", tmp_path / "q.html", "--json")
    assert code == 0
    assert json.loads(said) == json.loads((tmp_path / "q.json").read_bytes())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["public-1", "{node}"], 2),
        (["public-1", "{node}", "--task", "superres_gan"], 2),
        (["public-2", "{node}", "--task", "denoise"], 2),
        (["{node}", "{node}"], 2),
        (["public-1", "{missing}", "--task", "denoise"], 2),
        (["public-1", "{node}", "--task", "denoise", "--page", "page.pdf"], 2),
        (["public-1", "{node}", "--task", "denoise", "--charter", "12"], 2),
        (["public-1", "{node}", "--task", "denoise", "--against", "public-1"], 2),
        (["public-1", "{ct}", "--task", "superres"], 4),
    ],
)
def test_wrong_use_is_one_line_with_what_to_do(tmp_path: Path, words: list[str], code: int) -> None:
    make(tmp_path / "H1")
    ct: Node = make(tmp_path / "H2", "H2")
    index = ct.folder / "cohort" / "index.json"
    index.write_text(index.read_text().replace('"MR"', '"CT"'))
    places = {"node": tmp_path / "H1", "missing": tmp_path / "no", "ct": ct.folder}
    done = CliRunner().invoke(app, [word.format(**places) for word in words])
    assert isinstance(done.exception, FedwardError), done.output
    assert done.exception.exit_code == code
    assert done.exception.hint
    assert not list(tmp_path.glob("*.html"))
