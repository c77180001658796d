"""``fedward server release``: a model leaves the federation whole, recorded and signed, or not at all."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from compliance.bundle_check import check_bundle
from compliance.bundle_form import MANIFEST
from compliance.endorse import Endorsement
from compliance.log import entries
from compliance.place import Place
from compliance.shown import KNOWN
from server import release_folder
from server.cli import app
from server.release_bundle import Order, metrics_of, release
from server.runs import Outcome, RunFolder
from shared.errors import DataError, FedwardError, OutputError, PolicyError, ProtocolError, RecordError, UsageError
from shared.files import private_folder
from tests.federation.released import RUN, SITES, Ended


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return Ended.make(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """One of its own, for tests that break it."""
    return Ended.make(tmp_path / "federation")


def acts(ended: Ended) -> list[tuple[str, str]]:
    return [(row["action"], row["outcome"]) for row in entries(ended.coordinator.log_path)]


@pytest.mark.control("AIACT-11-documentation")
def test_it_holds_what_it_is_to_hold(made: Ended, tmp_path: Path) -> None:
    made.witnessed(*SITES)
    found = made.release(tmp_path / "out", "H1", "H2", intended_use=("Denoise head MR.",), version="2.0")
    facts = json.loads((tmp_path / "out" / MANIFEST).read_bytes())
    assert facts["files"].keys() == {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } - {MANIFEST, "SIGNATURE"}
    assert {"checkpoints/coordinator", "checkpoints/sites/H1", "statements/H2.json"} <= facts["files"].keys()
    assert (facts["run"], facts["task"], facts["charter"]) == (RUN, "toy", made.charter.sha256)
    assert facts["metrics"] == {
        "first": {"mse": 0.125, "psnr": 20.0, "ssim": 0.5},
        "last": {"mse": 0.125, "psnr": 20.0, "ssim": 0.5},
        "baselines": "not recorded",
    }
    assert [row["site"] for row in facts["sites"]] == list(SITES)
    assert facts["sites"][0]["epsilon"] > 0
    assert facts["sites"][2] == {"site": "H3", "statement": None}
    assert facts["change"] == {"version": "2.0", "replaces": None, "reason": None}
    assert facts["intended_use"] == ["Denoise head MR."]
    assert (found.silent, found.cosigned) == (("H3",), ("H1", "H2"))  # whose keys are vouched for
    assert check_bundle(tmp_path / "out").charter == found.charter


def test_it_is_recorded_before_and_after_with_its_digest(ended: Ended, tmp_path: Path) -> None:
    found = ended.release(tmp_path / "out")
    assert acts(ended)[-2:] == [("model.release", "started"), ("model.release", "ok")]
    last = list(entries(ended.coordinator.log_path))[-1]
    assert (last["run"], last["detail"]["manifest"], last["detail"]["task"]) == (RUN, found.manifest, "toy")


def test_what_cannot_be_recorded_is_not_released(ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended.witnessed()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compliance.log.write_all", full)
    with pytest.raises(RecordError):
        ended.release(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_and_says_so_in_the_record(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    (tmp_path / "place").mkdir()
    monkeypatch.setattr(release_folder, "write_bytes", full)
    with pytest.raises(OutputError):
        ended.release(tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []
    assert acts(ended)[-2:] == [("model.release", "started"), ("model.release", "failed")]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_place_that_is_taken_is_left_as_it_is(made: Ended, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    match kind:
        case "folder":
            out.mkdir()
        case "file":
            out.write_bytes(b"mine")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    before = acts(made)
    with pytest.raises(UsageError, match="is there already"):
        made.release(out)
    assert acts(made) == before


@pytest.mark.parametrize("ending", ["failed", "stopped", "interrupted", None])
def test_only_a_run_that_ended_well_is_released(ended: Ended, tmp_path: Path, ending: str | None) -> None:
    run = RunFolder.open(ended.coordinator, RUN)
    if ending is None:
        (run.path / "result.json").unlink()
    else:
        run.end(Outcome.now(ending, "why", exit_code=8))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"has not ended|ended as"):
        ended.release(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "history.json"])
def test_a_model_that_is_damaged_or_gone_is_not_released(ended: Ended, tmp_path: Path, name: str) -> None:
    path = ended.coordinator.runs_folder / RUN / "toy" / name
    raw = path.read_bytes()
    path.write_bytes(raw[:-30])
    with pytest.raises(DataError):
        ended.release(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError):
        ended.release(tmp_path / "out")


@pytest.mark.control("MODEL-change")
def test_weights_that_are_not_those_of_the_last_round_are_not_released(ended: Ended, tmp_path: Path) -> None:
    path = ended.coordinator.runs_folder / RUN / "toy" / "history.json"
    history = json.loads(path.read_bytes())
    history["rounds"][-1]["model"] = "5" * 64
    path.write_text(json.dumps(history))
    with pytest.raises(DataError, match="not the model of the last round"):
        ended.release(tmp_path / "out")


def test_names_that_are_not_there_are_wrong_use(made: Ended, tmp_path: Path) -> None:
    for changes in (
        {"run": "run-9"},
        {"task": "nothing"},
        {"statements": (tmp_path / "H1.json",)},
        {"endorsements": (tmp_path / "H1.json",)},
        {"replaces": tmp_path},
    ):
        with pytest.raises(UsageError):
            release(made.coordinator, replace(Order(RUN, tmp_path / "out"), **changes))


def test_a_charter_that_names_another_authority_is_refused(ended: Ended, tmp_path: Path) -> None:
    other = Ended.make(tmp_path / "other")
    (other.coordinator.folder / "authority.pem").write_bytes(ended.coordinator.authority_path.read_bytes())
    with pytest.raises(PolicyError, match="does not name the authority"):
        other.release(tmp_path / "out")


def test_statements_that_do_not_belong_are_refused_before_anything_is_written(
    made: Ended, ended: Ended, tmp_path: Path
) -> None:
    own, foreign = made.state("H1", name="own"), ended.state("H1", name="foreign")
    order = Order(RUN, tmp_path / "out")
    with pytest.raises(UsageError, match="second statement"):
        release(made.coordinator, replace(order, statements=(own, own)))
    with pytest.raises(ProtocolError, match="another charter"):
        release(made.coordinator, replace(order, statements=(foreign,)))
    (tmp_path / "broken").write_bytes(own.read_bytes()[:-1])
    with pytest.raises(ProtocolError, match="is no statement"):
        release(made.coordinator, replace(order, statements=(tmp_path / "broken",)))
    (tmp_path / "request").write_text('{"site": "H1", "public_key": "", "purpose": "", "created": ""}')
    with pytest.raises(ProtocolError, match="it is a request to join"):
        release(made.coordinator, replace(order, statements=(tmp_path / "request",)))
    assert not (tmp_path / "out").exists()
    own.unlink()


def test_it_takes_the_newest_checkpoint_that_reaches_the_end_and_has_witnesses(ended: Ended, tmp_path: Path) -> None:
    ended.witnessed("H1", "H2")
    trail = Place.open(ended.coordinator.folder).trail
    covered = trail.sizes()[-1]
    ended.release(tmp_path / "first", *SITES)
    trail.checkpoint()  # newer, and nobody has seen it
    ended.release(tmp_path / "second", *SITES)
    facts = json.loads((tmp_path / "second" / MANIFEST).read_bytes())["record"]
    assert facts["size"] == covered > facts["entry"]
    assert check_bundle(tmp_path / "second").holds


def test_endorsements_that_the_coordinator_has_met_are_used_unasked(ended: Ended, tmp_path: Path) -> None:
    ended.witnessed("H1", "H2")
    known = ended.coordinator.folder / "audit" / KNOWN
    private_folder(known)
    for site in ("H1", "H2"):
        one = Place.open(ended.root / site).endorsement
        one.save(known / f"{quote(one.origin, safe='')}.json")
    assert ended.release(tmp_path / "out").cosigned == ("H1", "H2")
    assert {path.name for path in (tmp_path / "out" / "endorsements").iterdir()} == {"H1.json", "H2.json"}
    assert check_bundle(tmp_path / "out").holds
    assert ended.release(tmp_path / "stated", "H1").cosigned == ("H1", "H2")
    assert {path.name for path in (tmp_path / "stated" / "endorsements").iterdir()} == {"H2.json"}  # H1's is stated
    assert check_bundle(tmp_path / "stated").holds
    for path in known.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ProtocolError):
        ended.release(tmp_path / "altered")


def test_a_met_endorsement_that_is_over_or_of_a_stranger_is_left_out(ended: Ended, tmp_path: Path) -> None:
    ended.witnessed("H1", "H2")
    node, known = ended.node("H1"), ended.coordinator.folder / "audit" / KNOWN
    private_folder(known)
    own, past = Place.open(node.folder).endorsement, datetime(2020, 1, 1, tzinfo=UTC)
    Endorsement.make(own.origin, own.log_key, node.identity, until=past, now=past).save(known / "over.json")
    stranger = Endorsement.make("fedward/X/0123456789abcdef", own.log_key, node.identity)
    stranger.save(known / "stranger.json")
    assert ended.release(tmp_path / "out").cosigned == ()
    assert not (tmp_path / "out" / "endorsements").exists()


def test_without_a_log_key_it_makes_one_and_says_that_nobody_has_witnessed(ended: Ended, tmp_path: Path) -> None:
    assert not (ended.coordinator.folder / "keys" / "log.key").exists()
    found = ended.release(tmp_path / "out")
    assert found.cosigned == ()
    assert (ended.coordinator.folder / "keys" / "log.key").stat().st_mode & 0o777 == 0o600
    assert not check_bundle(tmp_path / "out").holds
    assert check_bundle(tmp_path / "out", quorum=0).holds


@pytest.mark.control("MODEL-change")
def test_the_change_record_names_what_is_replaced(made: Ended, tmp_path: Path) -> None:
    first = made.release(tmp_path / "first", version="1.0")
    made.release(tmp_path / "second", version="1.1", replaces=tmp_path / "first", reason="A hospital more.")
    change = json.loads((tmp_path / "second" / MANIFEST).read_bytes())["change"]
    assert change == {
        "version": "1.1",
        "replaces": {"version": "1.0", "run": RUN, "manifest_sha256": first.manifest},
        "reason": "A hospital more.",
    }
    assert "It replaces: version 1.0" in (tmp_path / "second" / "MODEL_CARD.md").read_text()


def test_a_model_that_was_never_evaluated_has_no_metrics() -> None:
    history = {"task": "toy", "rounds": [{"round": 1, "evaluation": None}]}
    assert metrics_of(history) == ({}, {})


def test_the_command_takes_texts_and_files(made: Ended, tmp_path: Path) -> None:
    (tmp_path / "use.txt").write_text("First.\n\nSecond.")
    (tmp_path / "facts.toml").write_text('provider = "University Hospital, Street 1"\n')
    words = ["release", str(made.coordinator.folder), RUN, "--out", str(tmp_path / "out")]
    words += ["--intended-use", str(tmp_path / "use.txt"), "--intended-use", "Third.", "--reason", "To test."]
    done = CliRunner().invoke(app, [*words, "--facts", str(tmp_path / "facts.toml"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["without_statement"] == list(SITES)
    facts = json.loads((tmp_path / "out" / MANIFEST).read_bytes())
    assert facts["intended_use"] == ["First.\n\nSecond.", "Third."]
    assert "University Hospital, Street 1" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    words[words.index(str(tmp_path / "out"))] = str(tmp_path / "again")
    done = CliRunner().invoke(app, words)
    assert "checkpoint cosigned by" in done.output
    assert "'fedward model verify' asks for 2 hospitals" in done.output or "H1, H2" in done.output


@pytest.mark.parametrize(
    "words",
    [
        ["--intended-use", "missing.txt"],
        ["--intended-use", "  "],
        ["--reason", "x" * 9000],
        ["--version", "x" * 80],
        ["--version", "1\n2"],
        ["--facts", "missing.toml"],
        ["--task", "none"],
    ],
)
def test_the_command_refuses_what_it_cannot_use_in_words(made: Ended, tmp_path: Path, words: list[str]) -> None:
    start = ["release", str(made.coordinator.folder), RUN, "--out", str(tmp_path / "out")]
    error = CliRunner().invoke(app, [*start, *words]).exception
    assert isinstance(error, FedwardError), error
    assert error.exit_code == 2
    assert error.hint
    assert not (tmp_path / "out").exists()
