"""``fedward node statement``: a hospital says what it did in a run, signed, and nothing of a few patients."""

import json
import socket
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.charge import Charge
from client.cli import app
from client.ledger import Ledger
from client.node import Node
from client.statement import make_statement, part_of, write_statement
from client.statement_cli import lines
from client.training import accounting
from client.training.accounting import Mechanism
from client.uncovered import uncovered
from compliance.endorse import Endorsement
from compliance.log import Action, Entry, entries
from compliance.log import Outcome as Mark
from compliance.verify import Note, signed_checkpoint
from shared.errors import FedwardError, OutputError, PolicyError, ProtocolError, RecordError, UsageError
from shared.files import canonical_json
from shared.quality import Cell
from shared.statement import DOMAIN, MAX_STATEMENT, Statement, shown
from tests.federation import toy
from tests.federation.released import RUN, SITES, Ended

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return Ended.make(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """One of its own, for tests that change it."""
    return Ended.make(tmp_path / "federation")


def acts(node: Node) -> list[tuple[str, str]]:
    return [(row["action"], row["outcome"]) for row in entries(node.folder / "audit" / "log.jsonl")]


# --- what it says -----------------------------------------------------------------------------------------------------


def test_it_says_what_was_charged_by_the_accounting_of_the_ledger(standing: Ended) -> None:
    made = make_statement(standing.node("H1"), RUN)
    (part,) = made.tasks
    whole = [Mechanism(2.0, 0.25, 6)]
    epsilon, accountant = accounting.epsilon(whole, 1e-5)
    assert (part.task, part.mode, part.rounds, part.charged, part.steps) == ("toy", "patient", 3, 3, 6)
    assert isinstance(part.alone, float)
    assert epsilon <= part.alone < epsilon + 1.01e-4
    assert (part.after, part.delta, part.accountant) == (part.alone, 1e-5, accountant)
    assert (made.site, made.run, made.charter) == ("H1", RUN, standing.charter.sha256)
    assert (made.patients, made.manifest, made.checkpoint, made.uncovered) == (20, None, "", 0)


def test_what_was_spent_before_and_what_came_later_are_told_apart(ended: Ended) -> None:
    node = ended.node("H1")
    before = make_statement(node, RUN).tasks[0]
    with Ledger(node.ledger(), data_set=node.site) as ledger:
        ledger.reserve(Charge("run-2", "elsewhere", "toy", 1, "patient", 2.0, 0.25, 8, 24))
    assert make_statement(node, RUN).tasks[0] == before  # later, and not of this run
    with Ledger(node.ledger(), data_set=node.site) as ledger:
        ledger.reserve(Charge(RUN, ended.charter.id, "toy", 3, "patient", 2.0, 0.25, 2, 24))  # a repeated round
    after = make_statement(node, RUN).tasks[0]
    assert (after.rounds, after.charged, after.steps) == (3, 3, 8)
    assert isinstance(after.alone, float)
    assert isinstance(before.alone, float)
    assert before.alone < after.alone < float(after.after)


def test_without_differential_privacy_it_says_none(tmp_path: Path) -> None:
    plain = Ended.make(tmp_path, privacy={"mode": "off"})
    made = make_statement(plain.node("H1"), RUN)
    (part,) = made.tasks
    assert (part.mode, part.delta, part.alone, part.after, part.accountant) == ("off", None, "none", "none", "none")
    assert made.uncovered == 3


def test_a_round_that_was_trained_and_not_charged_leaves_no_epsilon(ended: Ended) -> None:
    node = ended.node("H1")
    with node.open_log() as log:
        log.append(Entry(Action.TRAIN, Mark.OK, run=RUN, round=4, detail={"task": "toy"}))
    assert make_statement(node, RUN).tasks[0].alone == "none"


@pytest.mark.parametrize(
    ("patients", "told"), [(3, "fewer than 10"), (9, "fewer than 10"), (10, 10), (24, 20), (129, 120)]
)
def test_the_number_of_patients_is_rounded_down_and_suppressed_where_small(
    standing: Ended, patients: int, told: int | str
) -> None:
    rows = list(entries(standing.node("H1").folder / "audit" / "log.jsonl"))
    for row in rows:
        row["detail"] |= {"patients": patients} if "patients" in row["detail"] else {}
    found = part_of(rows, RUN, standing.charter)
    assert found.patients == patients
    assert shown(patients) == told


def test_the_manifest_is_the_newest_before_the_end_of_the_run(standing: Ended) -> None:
    rows = list(entries(standing.node("H1").folder / "audit" / "log.jsonl"))

    def manifest(letter: str, outcome: str = "ok") -> Mapping[str, Any]:
        return {"action": "dataset.manifest", "outcome": outcome, "run": "", "detail": {"manifest": letter * 64}}

    assert part_of([manifest("a"), manifest("b"), *rows], RUN, standing.charter).manifest == "b" * 64
    assert part_of([manifest("a"), *rows, manifest("b")], RUN, standing.charter).manifest == "a" * 64
    assert part_of([manifest("a"), manifest("b", "failed"), *rows], RUN, standing.charter).manifest == "a" * 64
    assert part_of([*rows, manifest("a")], RUN, standing.charter).manifest is None


class Row(dict[str, Any]):
    """An entry that may be watched."""

    def __hash__(self) -> int:  # type: ignore[override]  # two entries are two
        return id(self)


def test_of_a_long_log_no_entries_are_kept(standing: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of a million entries would take gigabytes as dictionaries."""
    alive, most = weakref.WeakSet[Row](), 0
    filler = {"action": "message.in", "outcome": "ok", "run": RUN, "round": 1, "detail": {"task": "toy"}}

    def long(path: Path) -> Iterator[Row]:
        nonlocal most
        for row in entries(path):
            for one in (row, *[filler] * 500):
                watched = Row(one)
                alive.add(watched)
                yield watched
                most = max(most, len(alive))

    expected = make_statement(standing.node("H1"), RUN, now=NOW)
    monkeypatch.setattr("client.statement.entries", long)
    assert make_statement(standing.node("H1"), RUN, now=NOW) == expected
    assert 0 < most <= 3


@given(st.data())
def test_what_comes_behind_the_last_round_changes_nothing_but_the_patients(data: st.DataObject) -> None:
    """Of what is told of the moment of the last round the definition is: of the log cut off behind it."""
    kinds = [(action, mark) for action in ("train", "privacy.charge", "dataset.manifest") for mark in Mark]
    rows = [
        {"action": action, "outcome": mark, "run": run, "round": number, "detail": {"task": "toy", **more}}
        for (action, mark), run, number, more in data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from(kinds),
                    st.sampled_from([RUN, "other"]),
                    st.integers(1, 3),
                    st.sampled_from([{"manifest": "a" * 64}, {"manifest": "b" * 64, "privacy": "patient"}]),
                ),
                max_size=30,
            )
        )
    ]
    ends = [
        place
        for place, row in enumerate(rows)
        if (row["action"], row["outcome"], row["run"]) == (Action.TRAIN, Mark.OK, RUN)
    ]
    if not ends:
        with pytest.raises(UsageError):
            part_of(iter(rows), RUN, toy.charter())
        return
    found, before = part_of(iter(rows), RUN, toy.charter()), rows[: ends[-1] + 1]
    assert found.uncovered == uncovered(before)
    assert found.manifest == before[-1]["detail"]["manifest"]  # type: ignore[index]  # a dictionary
    assert found == replace(part_of(before, RUN, toy.charter()), patients=found.patients)


@pytest.mark.control("MODEL-provenance")
def test_the_manifest_that_the_last_round_itself_names_counts(standing: Ended) -> None:
    rows = list(entries(standing.node("H1").folder / "audit" / "log.jsonl"))
    newest = {"action": "dataset.manifest", "outcome": "ok", "run": "", "detail": {"manifest": "a" * 64}}
    for named, found in (("b" * 64, "b" * 64), ("", None)):
        for row in rows:
            row["detail"] |= {"manifest": named} if (row["action"], row["outcome"]) == ("train", "ok") else {}
        assert part_of([newest, *rows], RUN, standing.charter).manifest == found


def test_the_newest_checkpoint_goes_along_with_what_vouches_for_it(ended: Ended) -> None:
    ended.witnessed(*SITES)
    made = make_statement(ended.node("H1"), RUN)
    key = Endorsement.parse(canonical_json(dict(made.endorsement))).keys[0]
    note = Note.parse(made.checkpoint.encode())
    assert signed_checkpoint(note, key).size == 7
    assert len(note.signatures) == 3
    (said,) = (line for line in lines(made) if "checkpoint of the audit log" in line)
    assert "7 entries, cosigned by" in said
    assert said.count("fedward/H") == 2, "by the two others"
    (ended.node("H1").folder / "audit" / "checkpoint").write_bytes(b"damaged")
    with pytest.raises(RecordError):
        make_statement(ended.node("H1"), RUN)


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_a_run_that_it_does_not_know_is_wrong_use(standing: Ended, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has trained nothing in a run run-9"):
        write_statement(standing.node("H1"), "run-9", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_run_under_a_charter_that_is_not_pinned_any_more_is_wrong_use(ended: Ended, tmp_path: Path) -> None:
    node = ended.node("H1")
    node.pin(replace(ended.charter, seed=9))
    with pytest.raises(UsageError, match="has trained nothing"):
        write_statement(node, RUN, tmp_path / "out.json")


def test_a_virtual_hospital_states_nothing(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "node", site="H1", purpose=toy.PURPOSE, seed=1)
    with pytest.raises(PolicyError):
        write_statement(node, RUN, tmp_path / "out.json")


def test_an_identity_that_the_charter_does_not_have_signs_nothing(ended: Ended, tmp_path: Path) -> None:
    node = ended.node("H1")
    path = node.folder / "keys" / "identity.key"
    path.write_text("11" * 32)
    with pytest.raises(ProtocolError, match="not signed with the identity key"):
        write_statement(node, RUN, tmp_path / "out.json")
    path.chmod(0o644)
    with pytest.raises(PolicyError, match="others may read"):
        write_statement(node, RUN, tmp_path / "out.json")


def test_a_ledger_that_was_altered_is_named(ended: Ended, tmp_path: Path) -> None:
    path = ended.node("H1").ledger()
    path.write_bytes(path.read_bytes().replace(b'"steps":2', b'"steps":1', 1))
    with pytest.raises(RecordError):
        write_statement(ended.node("H1"), RUN, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_it_is_recorded_before_it_is_written(ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, out = ended.node("H1"), tmp_path / "out.json"
    made = write_statement(node, RUN, out)
    assert acts(node)[-2:] == [("statement", "started"), ("statement", "ok")]
    last = list(entries(node.folder / "audit" / "log.jsonl"))[-1]
    assert (last["run"], last["detail"]["sha256"]) == (RUN, made.digest)
    assert str(tmp_path) not in (node.folder / "audit" / "log.jsonl").read_text()
    with pytest.raises(UsageError, match="is there already"):
        write_statement(node, RUN, out)

    def full(path: Path, *_: object, **__: object) -> None:
        assert acts(node)[-1] == ("statement", "started")
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("client.statement.write_bytes", full)
    with pytest.raises(OutputError):
        write_statement(node, RUN, tmp_path / "more.json")
    assert acts(node)[-1] == ("statement", "failed")


def test_nothing_is_sent(standing: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)
    assert write_statement(standing.node("H2"), RUN, tmp_path / "out.json").site == "H2"


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def statement(standing: Ended) -> Statement:
    return make_statement(standing.node("H3"), RUN, [Cell("toy", "sex", "F", 30, (("psnr", 31.25),))])


def test_it_reads_back_as_it_was_written(statement: Statement, standing: Ended) -> None:
    again = Statement.parse(statement.to_bytes())
    assert again == statement
    again.check(standing.charter, RUN)
    assert statement.to_bytes() == canonical_json(json.loads(statement.to_bytes()))
    assert statement.signed_bytes().startswith(DOMAIN)


def test_a_flip_of_any_byte_is_found(statement: Statement, standing: Ended) -> None:
    raw = statement.to_bytes()
    for place in range(0, len(raw), 3):
        with pytest.raises(ProtocolError):
            Statement.parse(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]).check(standing.charter, RUN)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 5000,
        b"x" * (MAX_STATEMENT + 1),
    ],
)
def test_what_is_no_statement_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(ProtocolError) as met:
        Statement.parse(raw)
    assert met.value.hint


def test_there_is_one_form_only(statement: Statement) -> None:
    raw = statement.to_bytes()
    for other in (
        raw + b"\n",
        json.dumps(json.loads(raw), indent=1).encode(),
        raw[:-1] + b',"v":1}',
        raw.replace(b'"v":1', b'"v":1.0'),
        raw.replace(b'"rounds":3', b'"rounds":"3"'),
        raw.replace(b'"unit":"patient"', b'"unit":"slice"'),
    ):
        with pytest.raises(ProtocolError):
            Statement.parse(other)


@pytest.mark.control("MODEL-bias")
def test_a_small_group_cannot_stand_in_a_statement(statement: Statement) -> None:
    facts = json.loads(statement.to_bytes())
    facts["quality"][0]["n"] = 9
    with pytest.raises(ProtocolError, match="fewer than 10"):
        Statement.parse(canonical_json(facts))


def test_whose_key_it_is_matters(statement: Statement, standing: Ended) -> None:
    for forged in (
        statement.sign(Ed25519PrivateKey.generate()),
        replace(statement, site="H1"),
        replace(statement, site="H1").sign(standing.node("H3").identity),
    ):
        with pytest.raises(ProtocolError, match="is not signed"):
            forged.check(standing.charter, RUN)
    with pytest.raises(ProtocolError, match="about the run"):
        statement.check(standing.charter, "run-2")
    with pytest.raises(ProtocolError, match="another charter"):
        statement.check(replace(standing.charter, seed=8), RUN)
    with pytest.raises(ProtocolError, match="no member"):
        replace(statement, site="H9").check(standing.charter, RUN)


def test_a_signature_for_another_use_is_none_for_a_statement(statement: Statement, standing: Ended) -> None:
    bare = statement.signed_bytes().removeprefix(DOMAIN)
    other = replace(statement, signature=standing.node("H3").identity.sign(bare))
    with pytest.raises(ProtocolError, match="is not signed"):
        other.check(standing.charter, RUN)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_it_and_says_that_nothing_was_sent(standing: Ended, tmp_path: Path) -> None:
    quality = tmp_path / "quality.json"
    quality.write_text(
        json.dumps(
            {"cells": [{"task": "toy", "grouping": "sex", "group": name, "n": n} for name, n in (("F", 4), ("M", 30))]}
        )
    )
    words = ["statement", str(standing.root / "H2"), RUN, "--quality", str(quality), "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert "epsilon" in done.output
    assert "nothing was sent" in done.output
    assert "0 shown, 2 suppressed" in done.output
    told = json.loads(CliRunner().invoke(app, [*words, str(tmp_path / "b.json"), "--json"]).output)
    assert [cell["n"] for cell in told["quality"]] == ["fewer than 10", "suppressed"]
    assert told["sha256"] == Statement.read(tmp_path / "b.json").digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no file of quality"),
        ('{"cells": [{"task": "none", "grouping": "a", "group": "b", "n": 20}]}', "has no task"),
        ('{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": "fewer than 10"}]}', "number of patients"),
        ('{"cells": [{"task": "toy", "grouping": "a\\u202e", "group": "b", "n": 20}]}', "printable"),
        ('{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": 20, "metrics": {"psnr": NaN}}]}', "finite"),
        ('{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": true}]}', "no file of quality"),
        (
            '{"cells": [{"task": "toy", "grouping": "a", "group": "b", "n": 20, "baseline": "x"}]}',
            "has a name and figures",
        ),
        (None, "cannot read"),
    ],
)
def test_a_file_of_figures_that_is_none_is_refused(
    standing: Ended, tmp_path: Path, text: str | None, said: str
) -> None:
    quality = tmp_path / "quality.json"
    if text is not None:
        quality.write_text(text)
    words = ["statement", str(standing.root / "H2"), RUN, "--quality", str(quality), "--out", str(tmp_path / "out")]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, FedwardError), error
    assert (error.exit_code, said in error.message) == (2, True), error.message
    assert not (tmp_path / "out").exists()
