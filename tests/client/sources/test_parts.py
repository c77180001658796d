"""The parts of an ingest by themselves: selection, spool, credentials, patience, ledger, and a source that cheats."""

import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.deid import Profile
from client.ingest import ingest
from client.node import Node
from client.sources.credentials import Credentials
from client.sources.intake import Intake, Problem, Spool, day_of, header_of
from client.sources.ledger import Ledger
from client.sources.retry import Patience
from client.sources.selection import Facts, Instance, Selection
from client.sources.source import Study, UnreachableError, WithheldError
from shared.errors import PolicyError, ProtocolError, RecordError, UsageError

HASTY = Patience(attempts=3, deadline=5, pause=0.01)


# --- selection ------------------------------------------------------------------------------------------------------


def facts(modality: str = "MR", day: str = "20240229", described: str = "T1 axial", patient: str = "P1") -> Facts:
    return Facts(frozenset({modality}), day_of(day), (described,), patient)


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(), True),
        (Selection(modalities=frozenset({"MR", "CT"})), True),
        (Selection(modalities=frozenset({"CT"})), False),
        (Selection(first=date(2024, 2, 29), last=date(2024, 2, 29)), True),
        (Selection(first=date(2024, 3, 1)), False),
        (Selection(last=date(2024, 2, 28)), False),
        (Selection(description="t1*"), True),
        (Selection(description="t1"), False),
        (Selection(description="?1 axial"), True),
        (Selection(description="t[12]*"), False),
        (Selection(patients=frozenset({"P2"})), False),
    ],
)
def test_a_file_meets_all_that_is_asked(selection: Selection, fits: bool) -> None:
    assert selection.admits_file(facts()) is fits


def test_labels_come_with_their_images_and_never_alone() -> None:
    selection = Selection(modalities=frozenset({"MR"}), description="T1*")
    label = facts("SEG", described="Segmentation")
    assert selection.choose([("a", facts()), ("b", facts(described="T2")), ("c", label)]) == ["a", "c"]
    assert selection.choose([("c", label)]) == []
    assert Selection(modalities=frozenset({"SEG"})).choose([("c", label)]) == ["c"]


def test_a_date_that_is_asked_for_must_be_there() -> None:
    assert not Selection(first=date(2024, 1, 1)).admits_file(facts(day=""))
    assert Selection().admits_file(facts(day=""))


@given(st.text(max_size=12))
def test_a_pattern_without_wildcards_means_itself(text: str) -> None:
    pattern = text.replace("*", "").replace("?", "").strip()
    assert Selection(description=pattern).admits_file(facts(described=pattern))


def test_selections_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="no modality"):
        Selection(modalities=frozenset({"M*"}))
    with pytest.raises(UsageError, match="is after"):
        Selection(first=date(2024, 2, 2), last=date(2024, 2, 1))


def test_a_list_of_patients(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# those who agreed\nP1\n\n P2 \n")
    assert Selection.patients_from(path) == {"P1", "P2"}
    for text in ("# nobody\n", "P*\n"):
        path.write_text(text)
        with pytest.raises(UsageError):
            Selection.patients_from(path)
    with pytest.raises(UsageError, match="cannot read"):
        Selection.patients_from(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "day"),
    [("20240229", date(2024, 2, 29)), ("2024.02.29", date(2024, 2, 29)), ("20240230", None), ("", None)],
)
def test_days(text: str, day: date | None) -> None:
    assert day_of(text) == day


# --- spool ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(files: list[Path]) -> tuple[bytes, str, Instance]:
    data = files[0].read_bytes()
    header = header_of(data)
    return data, header.study, header.instance


def intake_for(tmp_path: Path, study: str, wanted: Iterable[Instance], selection: Selection | None = None) -> Intake:
    return Intake(Spool(tmp_path / "spool").of(study), study, wanted, selection or Selection())


def test_what_was_asked_for_is_kept_whole_and_private(tmp_path: Path, one: tuple[bytes, str, Instance]) -> None:
    data, study, instance = one
    intake = intake_for(tmp_path, study, [instance])
    assert intake.missing() == [instance]
    assert intake.put(data)
    assert intake.missing() == []
    path = intake.path(instance.uid)
    assert path.read_bytes() == data
    assert instance.uid not in str(path)
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]


@pytest.mark.control("GDPR-5-1-c-minimisation")
def test_what_was_not_asked_for_is_turned_away(tmp_path: Path, one: tuple[bytes, str, Instance]) -> None:
    data, study, instance = one
    other = Instance("1.2", "1.2.3")
    assert not intake_for(tmp_path, "1.2.3.4", [instance]).put(data)
    assert not intake_for(tmp_path, study, [other]).put(data)
    swapped = intake_for(tmp_path, study, [instance, other])
    assert not swapped.put(data, asked=other.uid)
    assert swapped.turned_away.total() == 1
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


def test_what_does_not_meet_the_selection_or_cannot_be_read_is_named(
    tmp_path: Path, one: tuple[bytes, str, Instance]
) -> None:
    data, study, instance = one
    intake = intake_for(tmp_path, study, [instance], Selection(modalities=frozenset({"PT"})))
    assert not intake.put(data)
    assert "selection" in intake.problems[instance.uid]
    intake = intake_for(tmp_path, study, [instance])
    assert not intake.put(data[:500], asked=instance.uid)
    assert intake.problems
    assert intake.missing() == []


def test_a_spool_from_before_is_looked_at_again(tmp_path: Path, one: tuple[bytes, str, Instance]) -> None:
    data, study, instance = one
    before = intake_for(tmp_path, study, [instance])
    before.put(data)
    (before.folder / ".x.part").write_bytes(b"half")
    narrower = intake_for(tmp_path, study, [instance], Selection(modalities=frozenset({"PT"})))
    narrower.readmit()
    assert list(narrower.folder.iterdir()) == []


def test_a_spool_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    with pytest.raises(PolicyError, match="chmod 700"):
        Spool(tmp_path / "spool")


# --- credentials, patience, ledger ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "bearer", "digest a:b", "basic nobody", "bearer a\nb"])
def test_what_is_no_credentials(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(UsageError, match="no credentials"):
        Credentials.load(path)


def test_credentials_are_private_and_never_shown(tmp_path: Path, credentials: Path) -> None:
    assert "sesame" not in repr(Credentials.load(credentials))
    credentials.chmod(0o640)
    with pytest.raises(PolicyError, match="others may read"):
        Credentials.load(credentials)
    with pytest.raises(UsageError, match="cannot read"):
        Credentials.load(tmp_path / "none")


def test_patience_ends_with_what_to_check() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        raise UnreachableError("does not answer", "check the cable")

    with pytest.raises(ProtocolError, match="PACS does not answer") as caught:
        HASTY.persist("PACS", step)
    assert len(calls) == HASTY.attempts
    assert caught.value.hint.startswith("check the cable")


def test_progress_renews_patience_and_success_ends_it() -> None:
    calls: list[int] = []

    def step() -> str:
        calls.append(1)
        if len(calls) < 10:
            raise UnreachableError("hiccups", "")
        return "done"

    assert HASTY.persist("PACS", step, progress=lambda: len(calls)) == "done"


def test_the_deadline_holds_whatever_the_attempts() -> None:
    def step() -> None:
        raise UnreachableError("does not answer", "")

    with pytest.raises(ProtocolError):
        Patience(attempts=1000, deadline=0.1, pause=0.02).persist("PACS", step)


def test_a_ledger_remembers_by_profile_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ingest.jsonl"
    Ledger(path, "p").add("s", ["a", "b"], held=1)
    with path.open("ab") as stream:
        stream.write(b'{"profile": "p", "st')
    again = Ledger(path, "p")
    assert (again.done("s"), again.held) == ({"a", "b"}, 1)
    again.add("s", ["c"], held=0)
    assert Ledger(path, "p").done("s") == {"a", "b", "c"}
    assert Ledger(path, "other").done("s") == set()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "ingest.jsonl").write_text("{}\n")
    with pytest.raises(RecordError, match="line 1"):
        Ledger(tmp_path / "ingest.jsonl", "p")


# --- a source that does not do as it says ---------------------------------------------------------------------------


class Cheat:
    """Names two studies; sends of the first what it likes, and nothing of those that it withholds."""

    name, kind = "cheat", "folder"

    def __init__(self, files: Sequence[Path], *, omit: int = 0, withhold: Sequence[int] = ()) -> None:
        self._files = [path.read_bytes() for path in files]
        self._headers = [header_of(data) for data in self._files]
        self._omit = {header.instance.uid for header in self._headers[:omit]}
        self._uids = sorted({header.study for header in self._headers})
        self._withhold = {self._uids[number] for number in withhold}

    def studies(self, selection: Selection) -> Sequence[Study]:
        return [Study(uid) for uid in self._uids]

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:
        return [header.instance for header in self._headers if header.study == study.uid]

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        if study.uid in self._withhold:
            raise WithheldError("could not send what was asked for", "ask")
        for data, header in zip(self._files, self._headers, strict=True):
            if header.instance.uid not in self._omit:
                intake.put(data)  # all that there is, also of the other study

    def problems(self) -> Sequence[Problem]:
        return []

    def __enter__(self) -> "Cheat":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_what_was_named_and_not_sent_is_reported_and_asked_for_again(node: Node, files: list[Path]) -> None:
    profile = Profile.load("basic")
    done = ingest(node, Cheat(files[:10], omit=1), Selection(), profile=profile, patience=HASTY)
    assert (done.tally.released, done.tally.missing, done.tally.incomplete) == (9, 1, True)
    assert done.tally.turned_away
    (line,) = json.loads(done.report.read_text())["files"]
    assert line["status"] == "missing"
    assert line["instance"] == pydicom.dcmread(files[0], stop_before_pixels=True).SOPInstanceUID
    again = ingest(node, Cheat(files[:10]), Selection(), profile=profile, patience=HASTY)
    assert (again.tally.fetched, again.tally.unchanged, again.tally.incomplete) == (1, 1, False)


def test_one_study_that_cannot_be_sent_does_not_keep_the_others(node: Node, files: list[Path]) -> None:
    cheat = Cheat(files[:10], withhold=[1])
    done = ingest(node, cheat, Selection(), profile=Profile.load("basic"), patience=HASTY)
    assert (done.tally.released, done.tally.missing) == (5, 5)


def test_if_nothing_at_all_is_sent_it_is_an_error(node: Node, files: list[Path]) -> None:
    with pytest.raises(ProtocolError, match="could not send"):
        ingest(node, Cheat(files[:10], withhold=[0, 1]), Selection(), profile=Profile.load("basic"), patience=HASTY)


def test_another_profile_takes_everything_in_again(node: Node, files: list[Path]) -> None:
    first = ingest(node, Cheat(files[:5]), Selection(), profile=Profile.load("basic"))
    harbor = Profile.load("safe-harbor")
    with pytest.raises(UsageError, match="filled under another profile"):
        ingest(node, Cheat(files[:5]), Selection(), profile=harbor)
    other = ingest(node, Cheat(files[:5]), Selection(), profile=harbor, overwrite=True)
    assert first.tally.fetched == other.tally.fetched == 5
