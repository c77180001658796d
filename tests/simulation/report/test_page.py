"""The page holds every figure of the record, asks for nothing from outside, and lets no text become markup."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from shared.errors import OutputError
from simulation.record import Metrics, RunRecord, WireRecord
from simulation.report import render, words, write_report
from tests.simulation.report.example import DENOISE, SUPERRES, example

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = '"><img src=http://evil.example/x onerror=alert(1)><script>alert(1)</script>{{ 7*7 }}'


class Page(HTMLParser):
    """A strict reading: every element is closed, in order; texts and attributes are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts).replace("\N{NARROW NO-BREAK SPACE}", ""))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render(example())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def figures(metrics: Metrics) -> Iterator[str]:
    """Metrics as the page must print them, worked out apart from the page's own words."""
    for name, value in metrics.items():
        yield {"psnr": f"{value:.2f}", "mse": f"{value * 1000:.3f}"}.get(name, f"{value:.3f}")


def every_number(run: RunRecord) -> Iterator[str]:
    yield from (str(run.seed), str(run.rounds), str(run.machine.cores))
    for site in run.sites:
        yield from map(str, (site.train_patients, site.held_out_patients, site.studies, site.slices))
    for task in run.tasks:
        yield from (str(task.rounds), str(task.parameters))
        for values in task.classical.values():
            yield from figures(values)
        for arm in task.arms.values():
            for part in (arm.all_sites, *(point.metrics for point in arm.curve)):
                yield from figures(part)
            for part in (arm.own_site or {}, arm.unseen or {}):
                yield from figures({key: value for key, value in part.items() if key == task.main_metric})
            yield from (str(value) for value in (arm.gradients, arm.steps) if value is not None)
        for methods in task.per_site.values():
            for values in methods.values():
                yield from figures(values)
        for row in task.local_matrix.values():
            for values in row.values():
                yield f"{values[task.main_metric]:.2f}"
    for cost in run.privacy:
        yield from map(str, (cost.steps, cost.sample_rate, cost.noise_multiplier, cost.patients))
        yield f"{cost.epsilon + 0.003:.2f}"
    deid = run.deid
    yield from map(str, (deid.files, deid.released, deid.quarantined, deid.refused))
    yield from map(str, (*deid.reasons.values(), *deid.rules.values()))
    yield from map(str, (run.entries, *(log.entries for log in run.logs)))
    yield from map(str, (run.wire.up, run.wire.down, run.wire.messages))
    yield from ("441.1", "253.6")


def test_every_number_of_the_record_is_on_the_page(page: Page) -> None:
    words = set(re.findall(r"[\d.]*\d", page.text))
    missing = [number for number in every_number(example()) if number not in words]
    assert missing == []


def test_every_hash_version_and_limit_is_on_the_page(page: Page) -> None:
    run = example()
    texts = (*run.versions.values(), *run.limits, run.charter_sha256, run.deid.profile_sha256, run.command)
    for text in (*texts, *(log.head for log in run.logs), run.title):
        assert text in page.text


def test_the_guarantee_is_stated_with_everything_it_needs(page: Page) -> None:
    for part in ("patient", "ε", "δ", "10⁻⁵", "PRV", "add or remove one patient", "0.35", "1.83", "not cover"):
        assert part in page.text
    assert "two hospitals" in page.text, "a patient seen twice composes"
    for promise in ("compliant", "anonymous", "anonymised"):
        assert promise not in page.text.lower()


def test_the_page_asks_nobody_for_anything(html: str, page: Page) -> None:
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not page.all("script")
    assert "@import" not in html
    assert "url(" not in html
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_can_be_read_aloud(html: str, page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(head.get("scope") in {"col", "row", "rowgroup"} for head in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level is skipped"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)


def test_only_the_federated_arm_is_needed() -> None:
    bare = replace(
        SUPERRES, pictures=(), per_site={}, arms={"federated": replace(SUPERRES.arms["federated"], curve=())}
    )
    run = replace(
        example(), tasks=(bare,), privacy=(), logs=(), sites=example().sites[:1], charter_sha256="", command=""
    )
    text = Page(render(run)).text
    assert "29.24" in text
    assert "No model of this run was trained under differential privacy" in text
    assert "no log was kept" in text
    assert "Pooled" not in text
    assert "Local only" not in text


def test_a_worse_result_is_called_worse() -> None:
    text = Page(render(example())).text
    assert "3.12 dB better than the best survey method: Median 3×3, 29.41" in text
    assert "0.59 dB worse than the strongest comparator: Non-local means, Rician bias corrected, 33.12" in text


def test_a_log_that_does_not_verify_is_in_the_headline() -> None:
    run = example()
    broken = replace(run.logs[2], verified=False)
    text = Page(render(replace(run, logs=(*run.logs[:2], broken)))).text
    assert "not verified: H3" in text
    assert "does not verify" in text


def test_text_from_the_data_never_becomes_markup() -> None:
    run = example()
    site = replace(run.sites[0], id=HOSTILE, contrast=HOSTILE, noise=HOSTILE)
    picture = replace(DENOISE.pictures[0], site=HOSTILE, caption=HOSTILE)
    task = replace(
        DENOISE,
        title=HOSTILE,
        setup=HOSTILE,
        pictures=(picture,),
        classes=("background", HOSTILE),
        classical={**DENOISE.classical, HOSTILE: DENOISE.classical["median"]},
        arms={**DENOISE.arms, HOSTILE: DENOISE.arms["federated"]},
        per_site={HOSTILE: DENOISE.per_site["H1"]},
    )
    hostile = replace(
        run,
        title=HOSTILE,
        sites=(site,),
        tasks=(task,),
        limits=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
        deid=replace(run.deid, profile=HOSTILE, reasons={HOSTILE: 1}, rules={HOSTILE: 1}),
        logs=(replace(run.logs[0], owner=HOSTILE, head=HOSTILE),),
        privacy=(replace(run.privacy[0], site=HOSTILE, accountant=HOSTILE),),
    )
    page = Page(render(hostile))
    assert not page.all("script")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text, "shown as it is, template braces included"


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, html: str) -> None:
    write_report(example(), tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_text() == html, "the same record makes the same page"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        write_report(example(), tmp_path / "file" / "report.html")


def test_the_page_says_what_the_coordinator_saw(page: Page) -> None:
    for text in (
        "What the hospital learnt",
        "What the coordinator got",
        "round 10",
        "correlation -0.0034",
        "\u00b10.0059",
    ):
        assert text in page.text
    kinds = [words.MESSAGES["train"], words.MESSAGES["query.secagg_unmask"]]
    assert page.text.index(kinds[0]) < page.text.index(kinds[1]), "in the order of a round"
    assert "Updates readable by the coordinator none" in " ".join(page.text.split())


def test_a_run_in_the_clear_says_so() -> None:
    run = replace(example(), wire=WireRecord(1, 2, 3))
    text = render(run)
    assert "In the clear:" in text
    assert "What the coordinator got" not in text
