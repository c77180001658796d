"""The model card: Annex IV's headings, every gap by name, and no word of ours where text comes from outside."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.card import FACTS, Known, Md, md, read_facts, write_card
from shared.errors import UsageError
from shared.quality import Cell
from shared.statement import Statement
from tests.federation.released import RUN, Ended

GAP = "not recorded; to be filled in by the provider"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return Ended.make(tmp_path_factory.mktemp("federation"))


def card(ended: Ended, out: Path, *sites: str, **more: object) -> str:
    ended.release(out, *sites, **more)
    return (out / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.control("AIACT-11-documentation")
def test_it_follows_the_headings_of_annex_iv(ended: Ended, tmp_path: Path) -> None:
    text = card(ended, tmp_path / "out", "H1")
    heads = re.findall(r"^## (\d)\. .*\(Annex IV, point (\d)\)$", text, flags=re.MULTILINE)
    assert heads == [(str(number), str(number)) for number in range(1, 10)]
    for word in (
        "Human oversight",
        "Predetermined changes",
        "Validation and testing",
        "Cybersecurity",
        "Intended purpose",
    ):
        assert f"### {word}\n" in text
    assert "Regulation (EU) 2024/1689" in text
    assert "an ONNX file is not part of this release" in text


@pytest.mark.control("AIACT-11-documentation")
def test_every_gap_stands_in_its_place_and_in_the_list_on_top(ended: Ended, tmp_path: Path) -> None:
    text = card(ended, tmp_path / "out")
    top, body = text.split("## 1. General description")
    listed = re.findall(rf"^- (.+): {GAP}\.$", top, flags=re.MULTILINE)
    placed = re.findall(rf"^\*(.+): {GAP}\.\*$", body, flags=re.MULTILINE)
    assert listed == placed
    assert len(listed) == len(set(listed)) >= len(FACTS)
    for what in FACTS.values():
        assert f"{what[0].upper()}{what[1:]}" in listed


def test_what_the_provider_says_closes_the_gap(ended: Ended, tmp_path: Path) -> None:
    facts = {key: f"Said about {key}." for key in FACTS}
    text = card(ended, tmp_path / "out", facts=facts, intended_use=("For tests.",), reason="The first.")
    assert all(f"Said about {md(key)}." in text for key in FACTS)
    for what in FACTS.values():
        assert f"{what[0].upper()}{what[1:]}: {GAP}" not in text


def test_the_page_names_every_key_of_the_file_of_facts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
    assert [key for key in FACTS if f"`{key}`" not in page] == []


def test_it_claims_nothing_that_software_cannot_know(ended: Ended, tmp_path: Path) -> None:
    text = card(ended, tmp_path / "out", "H1", "H2", "H3").lower()
    for word in ("anonymous", "anonymised", "anonymized", "compliant", "compliance", "safe to use"):
        assert word not in text
    assert "edpb opinion 28/2024" in text


def test_figures_of_every_hospital_stand_in_it_and_silence_is_said(ended: Ended, tmp_path: Path) -> None:
    text = card(ended, tmp_path / "out", "H1")
    own = next(line for line in text.splitlines() if line.startswith("| H1 | 3 | 6 |"))
    assert re.fullmatch(r"\| H1 \| 3 \| 6 \| [\d.]+ \| [\d.]+ \| 1e-05 \| prv \|", own)
    assert "| H1 | 20 | not stated |" in text
    assert "| H2 | not stated | not stated | not stated | not stated | not stated | not stated |" in text


def test_without_differential_privacy_it_says_none_and_no_figure(tmp_path: Path) -> None:
    plain = Ended.make(tmp_path / "plain", privacy={"mode": "off"})
    text = card(plain, tmp_path / "out", "H1")
    assert "The charter asks for no differential privacy" in text
    row = next(line for line in text.splitlines() if line.startswith("| H1 | 3 | 0 |"))
    assert "none | none" in row
    assert "which no epsilon covers: 3" in row


@pytest.mark.control("MODEL-bias")
def test_small_groups_are_shown_as_suppressed(ended: Ended, tmp_path: Path) -> None:
    (tmp_path / "quality.json").write_text(
        '{"cells": [{"task": "toy", "grouping": "sex", "group": "F", "n": 21, "metrics": {"psnr": 30.5, "ssim": 0.9},'
        ' "baseline": "bm3d", "compared": {"psnr": 29.0}},'
        '{"task": "toy", "grouping": "sex", "group": "M", "n": 12, "metrics": {"psnr": 31.5}},'
        '{"task": "toy", "grouping": "sex", "group": "X", "n": 2, "metrics": {"psnr": 99.25}}]}'
    )
    path = ended.state("H1", name="quality", quality=tmp_path / "quality.json")
    text = card(ended, tmp_path / "out", statements=(path,))
    assert "| H1 | sex | F | 21 | psnr 30.5, ssim 0.9 | bm3d: psnr 29 |" in text
    assert "| H1 | sex | M | suppressed | suppressed | suppressed |" in text
    assert "| H1 | sex | X | fewer than 10 | suppressed | suppressed |" in text
    assert "99.25" not in text
    assert "31.5" not in text
    path.unlink()


HOSTILE = (
    "# Head\n\n<script>alert(1)</script> [x](http://evil) ![i](www.evil.org) | cell | `code` \u202e *b* &amp; a@b.org"
)


def test_text_from_outside_is_shown_and_carries_nothing(ended: Ended, tmp_path: Path) -> None:
    text = card(ended, tmp_path / "out", intended_use=(HOSTILE,), facts={"provider": HOSTILE}, reason=HOSTILE)
    assert "\n# Head" not in text
    assert "<script" not in text
    assert "](http" not in text
    assert "http:" not in text
    assert "www." not in text
    assert "\u202e" not in text
    assert not re.search(r"(?<!\\)\| cell", text)


def test_a_group_with_a_hostile_name_stays_in_its_cell(ended: Ended) -> None:
    cell = Cell("toy", "a|b\\", "<img src=x>", 20, (("p|q", 1.0),))
    made = Statement.read(ended.state("H2", name="hostile"))
    statement = ended.resigned(made, quality=(cell,))
    manifest = {
        "federation": "f",
        "run": RUN,
        "task": "toy",
        "released": "2026-01-01T00:00:00Z",
        "charter": "c" * 64,
        "model": {"digest": "a" * 64, "parameters": 1, "rounds": 1},
        "code": {"version": "1", "bundle_sha256": "b" * 64},
        "sites": [],
        "metrics": {"first": {}, "last": {}, "baselines": "not recorded"},
        "change": {"version": "1", "replaces": None, "reason": None},
        "intended_use": [],
    }
    text, _ = write_card(Known(manifest, ended.charter, [statement], {"aggregation": "masked"}, title="Toy"))
    (row,) = [line for line in text.splitlines() if line.startswith("| H2 | a")]
    assert len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == 7
    assert "<img" not in row


@given(st.text(max_size=200))
def test_nothing_that_is_escaped_breaks_its_line_or_begins_a_block(text: str) -> None:
    found = md(text)
    assert "\n" not in found
    assert "\r" not in found
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|<>#]", found)
    assert not re.match(r"([-+=]|\d+[.)]\s)", found)


def test_markdown_of_ours_and_numbers_stay() -> None:
    assert md(Md("**x**")) == "**x**"
    assert (md(3), md(0.5), md(1e-5), md(True), md("1.5 T"), md("1. x")) == (
        "3",
        "0.5",
        "1e-05",
        "True",
        "1.5 T",
        "1\\. x",
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"provider",
        b"provider = 3",
        b'provider = ""',
        b'unknown = "x"',
        b"\xff",
        b'provider = "' + b"x" * 9000 + b'"',
        b"#" * 70000,
    ],
)
def test_a_file_of_facts_that_is_none_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(UsageError) as met:
        read_facts(raw, "facts.toml")
    assert met.value.hint


# --- an evaluation that the provider attaches -------------------------------------------------------------------------


def evaluation(weights: str, *, patients: int = 12, task: str = "toy") -> dict[str, object]:
    """The part of the figures of ``fedward evaluate`` that a card shows."""
    one = {"mean": 30.5, "low": 30.0, "high": 31.0, "patients": patients}
    tried = {"change": "pgd", "title": "10 steps", "size": 0.02, "figures": {"m": one}}
    sure = {"model": "m", "method": "m, 8 views", "spearman": one | {"mean": 0.4}, "ause": None, "ause_random": None}
    sites = ["X1", "`X2`"]
    part = {"hospitals": "no model was trained there", "sites": sites, "patients": patients, "best_classical": "nlm"}
    part["methods"] = {"m": {"psnr": one}, "nlm": {"psnr": one | {"mean": 29.0}}}
    why = {"sites": sites, "uncertainty": [sure], "attacks": [tried], "shifts": [tried | {"title": "Unchanged"}, tried]}
    models = [{"label": "m", "weights_sha256": weights}]
    report = {"v": 1, "made": "2026-11-23T12:00:00+00:00", "task": task, "main": "psnr", "models": models}
    return report | {"parts": [part], "explained": {"parts": [why]}}


def weights_of(ended: Ended, tmp_path: Path) -> tuple[str, str]:
    """SHA-256 of the weights that are released, and their task."""
    ended.release(tmp_path / "plain")
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    return manifest["files"]["model.safetensors"]["sha256"], manifest["task"]


def test_what_was_measured_stands_in_the_card_with_the_file_that_has_it(ended: Ended, tmp_path: Path) -> None:
    weights, task = weights_of(ended, tmp_path)
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(evaluation(weights, task=task)))
    text = card(ended, tmp_path / "out", evaluations=(path,))
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "At X1, \\`X2\\` (no model was trained there):" in text.replace("\\(", "(").replace("\\)", ")")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| 12 |" in line]
    assert [row.split("|")[3].strip() for row in rows] == [
        *(
            md("30.5 (30 to 31)"),
            md("29 (30 to 31)"),
            md("0.4 (30 to 31)"),
            md("30.5 (30 to 31)"),
            md("30.5 (30 to 31)"),
        ),
    ]


def test_few_patients_are_suppressed_in_the_card(ended: Ended, tmp_path: Path) -> None:
    weights, task = weights_of(ended, tmp_path)
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(evaluation(weights, patients=9, task=task)))
    text = card(ended, tmp_path / "out", evaluations=(path,))
    assert "| every figure | fewer than 10 | suppressed |" in text
    assert "30.5" not in text


@pytest.mark.parametrize("wrong", ["weights", "task", "form", "json", "missing"])
def test_a_file_that_is_not_of_this_model_is_refused(ended: Ended, tmp_path: Path, wrong: str) -> None:
    weights, task = weights_of(ended, tmp_path)
    made = evaluation("0" * 64 if wrong == "weights" else weights, task="other" if wrong == "task" else task)
    if wrong == "form":
        del made["parts"]
    path = tmp_path / "figures.json"
    if wrong != "missing":
        path.write_text("no" if wrong == "json" else json.dumps(made))
    with pytest.raises(UsageError) as error:
        ended.release(tmp_path / "out", evaluations=(path,))
    assert error.value.hint
    assert not (tmp_path / "out").exists()
