"""The page beside the report: what it says, that nothing from outside becomes markup, and that a browser likes it."""

import html
import json
import os
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.cli import app
from client.deid import Profile
from client.deid.page import MOST_FILES, render, write_page
from client.deid.page_words import OPTIONS, RULES, rule
from client.deid.quarantine import sha256_of
from client.deid.report import DeidReport, FileRecord, Status, open_report
from client.deid.tables import Option
from shared.page import visible
from tests.browser import Browser, check_page, chromium
from tests.client.deid.files import image, to_bytes

ULTRASOUND = "an ultrasound class whose pixels nobody here looks at"
HOSTILE = (
    "</code></title></style><script>document.title='run'</script>",
    '"><img src=http://127.0.0.1:9/x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.mcd",
    "a\nb\tc\0d\x1b[2J",
    os.fsdecode(b"M\xfcller/\xff\xfe"),
    "e" + "\u0301" * 300,
    "x" * 4000,
)


def written(folder: Path, profile: Profile, records: list[FileRecord]) -> DeidReport:
    with open_report(folder, profile) as report:
        for record in records:
            report.add(record)
        return report.close()


def page(folder: Path, profile: Profile, *records: FileRecord, source: Path = Path("in")) -> str:
    return render(written(folder, profile, list(records)), profile, source=source)


class Outline(HTMLParser):
    """The elements of a page, its attributes' names, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_records_carry_what_was_done_to_pixels(tmp_path: Path, basic: Profile) -> None:
    records = [
        FileRecord("a", Status.RELEASED, frames=3, boxes=2),
        FileRecord("b", Status.RELEASED, frames=1),
        FileRecord("c", Status.QUARANTINED, "text that is not clear", frames=1, boxes=5),
        FileRecord("d", Status.RELEASED),
    ]
    report = written(tmp_path, basic, records)
    assert list(report.records()) == records
    assert report.redacted == 1
    raw = json.loads(report.path.read_text())
    assert raw["redacted"] == 1
    assert raw["files"][0]["pixels"] == {"frames": 3, "boxes": 2}
    assert "pixels" not in raw["files"][3]


def test_the_totals_and_the_profile_stand_there(tmp_path: Path, harbor: Profile) -> None:
    records = [FileRecord(f"{n}", Status.RELEASED, rules={"removed": 700}, frames=2, boxes=n % 2) for n in range(4)]
    records += [
        FileRecord("us", Status.QUARANTINED, ULTRASOUND),
        FileRecord("t", Status.REFUSED, "not a DICOM file but: empty file"),
    ]
    report = written(tmp_path, harbor, records)
    text = render(report, harbor, source=Path("/data/in"))
    seen = Outline(text).text
    for phrase in (
        "4 of 6 files released",
        "2 of them with text blanked in the pixels",
        "1 can be cleared by a person",
        harbor.sha256,
        harbor.title,
        OPTIONS[Option.RETAIN_YEARS],
        "2\N{NARROW NO-BREAK SPACE}800",
        "evidence for",
        sha256_of(report.path),
        "/data/in",
        ULTRASOUND,
    ):
        assert phrase in seen, phrase
    assert "compliant" not in seen.lower()


def test_it_says_when_no_pixel_was_looked_at(tmp_path: Path, basic: Profile) -> None:
    seen = Outline(page(tmp_path, basic, FileRecord("a", Status.RELEASED))).text
    assert "No frame of this batch was looked at" in seen
    assert "Every file of the input folder was de-identified and released." in seen
    assert "The files" not in seen


def test_an_expert_is_named(tmp_path: Path, research: Profile) -> None:
    seen = Outline(page(tmp_path, research, FileRecord("a", Status.RELEASED))).text
    assert "by E. Xpert, until 2999-12-31" in seen


def test_long_batches_name_so_many_and_say_where_the_others_are(tmp_path: Path, basic: Profile) -> None:
    records = [FileRecord(f"r{n}", Status.REFUSED, f"reason {n}") for n in range(MOST_FILES)]
    records += [FileRecord(f"q{n}", Status.QUARANTINED, ULTRASOUND) for n in range(3)]
    outline = Outline(page(tmp_path, basic, *records))
    assert outline.elements.count("li") < MOST_FILES + 40
    assert "The other 3 are in deid.json" in outline.text
    assert "q2" in outline.text  # those that wait for a person come first
    assert "r496" in outline.text
    assert f"r{MOST_FILES - 1}" not in outline.text
    assert "401 more reasons" in outline.text


def test_every_option_and_every_count_has_words() -> None:
    assert set(OPTIONS) == set(Option)
    assert all(note.title and note.meaning for note in RULES.values())
    assert rule("check_known").title == "Checker: an identifier of the input"
    assert rule("text_blanked").title == "Text blanked"
    assert rule("check_later").title == "Checker: later"


def test_every_count_of_the_engine_is_known(basic: Profile, research: Profile, harbor: Profile) -> None:
    from tests.client.deid.files import done

    for profile in (basic, research, harbor):
        assert set(done(image(), profile).counts) <= set(RULES)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("Müller 東京.dcm", "Müller 東京.dcm"),
        ("a\u202eb", "a\\u202eb"),
        ("a\\u202eb", "a\\\\u202eb"),
        ("a\u00a0\u2028b\0", "a\\u00a0\\u2028b\\u0000"),
        (os.fsdecode(b"M\xfc"), "M\\xfc"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("x" * 500, "x" * 160 + " … " + "x" * 160),
    ],
)
def test_what_cannot_be_seen_is_spelt_out(given_text: str, shown: str) -> None:
    assert visible(given_text) == shown


@given(st.text(st.characters(codec=None), max_size=60) | st.binary(max_size=60).map(os.fsdecode))
def test_spelt_out_text_can_be_written_and_moves_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert shown.isprintable()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, basic: Profile) -> Outline:
    return Outline(page(tmp_path_factory.mktemp("plain"), basic, FileRecord("a", Status.QUARANTINED, "b")))


@given(name=st.sampled_from(HOSTILE) | st.text(st.characters(codec=None, exclude_characters="\0"), min_size=1))
def test_no_path_becomes_markup(
    tmp_path_factory: pytest.TempPathFactory, basic: Profile, plain: Outline, name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    text = page(folder, basic, FileRecord(name, Status.QUARANTINED, name), source=Path(name))
    text.encode()  # a lone surrogate would not go into the file
    outline = Outline(text)
    assert outline.elements == plain.elements
    assert outline.attributes == plain.attributes
    assert visible(name) in html.unescape(text)


def test_the_command_writes_it_for_its_owner_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(to_bytes(image()))
    words = ["deidentify", str(tmp_path / "in"), str(tmp_path / "out"), "--reports", str(tmp_path / "reports")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    path = tmp_path / "reports" / "deid.html"
    assert str(path) in result.stdout.replace("\n", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "1 of 1 file released" in path.read_text("utf-8")
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (told["page"], told["redacted"]) == (str(path), 0)
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as tab:
        yield tab


@pytest.mark.system("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_has_no_complaint(browser: Browser, tmp_path: Path, harbor: Profile, width: int, dark: bool) -> None:
    records = [FileRecord(name, Status.QUARANTINED, ULTRASOUND) for name in HOSTILE]
    records += [FileRecord(name, Status.REFUSED, name) for name in HOSTILE]
    records += [FileRecord(f"{n}", Status.RELEASED, rules=dict.fromkeys(RULES, 7), frames=2, boxes=1) for n in range(9)]
    records.append(FileRecord("z", Status.QUARANTINED, "checker", {"check_known": 1}))
    path = write_page(written(tmp_path, harbor, records), harbor, source=Path("/data/</p><p>in"))
    check_page(browser, path, width=width, dark=dark)
    assert browser.evaluate("document.title").startswith("De-identification of 26 files")
    assert browser.evaluate("getComputedStyle(document.querySelector('.path')).unicodeBidi") == "isolate"
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 23, 27)" if dark else "rgb(252, 253, 253)")
