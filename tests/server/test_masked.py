"""Masked rounds with the real ClientApp: the sum is right, and a drop-out costs no more than it must."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from client.charge import Budget
from client.ledger import Ledger
from client.node import Node
from compliance.log import verify
from server import masked
from server.phases import RoundError
from shared.errors import ProtocolError
from shared.records import record_bytes
from shared.wire import EvaluateReply, MaskedBody, PlainBody, TrainReply, TrainRequest
from shared.wire_masks import MaskReply
from tests.federation import toy
from tests.federation.masked import Federation, Wire

CONFIRM, UNMASK = "query.secagg_confirm", "query.secagg_unmask"


def losing(*lost: tuple[str, str], first: int = 0, times: int = 1) -> Wire:
    """A wire that loses ``times`` answers of these sites to messages of these types, from the first of them on."""
    return Wire(lose=lambda site, kind, count: (site, kind) in lost and first <= count < first + times)


def one_round(root: Path, sites: int = 4, **changes: object) -> Federation:
    return Federation.make(root, sites, plan={"rounds": 1, "evaluate_every": 9}, **changes)


def test_the_masked_model_is_that_of_a_plain_run(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "masked", plan={"rounds": 3})
    result = federation.run()
    plain = Federation.make(tmp_path / "plain", plan={"rounds": 3})
    consent = replace(plain.charter.privacy, scores="open")  # without masks no score leaves otherwise
    rules = replace(plain.charter, members=(), masking=None, privacy=consent)
    for site in plain.sites:
        plain.node(site).pin(rules)
    other = plain.run(charter=rules)
    np.testing.assert_allclose(result.model.vector, other.model.vector, atol=1e-6)
    assert (result.history.aggregation, other.history.aggregation) == ("masked", "plain")
    for one, two in zip(result.history.rounds, other.history.rounds, strict=True):
        assert one.weight == two.weight
        for phase, same in ((one.train, two.train), (one.evaluation, two.evaluation)):
            assert phase is None or dict(phase.sums) == pytest.approx(dict(same.sums), rel=1e-4)


@pytest.mark.control("GDPR-25-masks")
def test_no_answer_shows_a_number_of_one_hospital(tmp_path: Path) -> None:
    wire = Wire()
    one_round(tmp_path).run(wire)
    kinds = {"train": TrainReply, "evaluate": EvaluateReply}
    answers = [kinds[kind].from_record(content) for _, kind, _, content in wire.seen if kind in kinds]
    assert len(answers) == 12
    assert all(isinstance(one.body, MaskedBody) for one in answers)
    words = np.frombuffer(b"".join(one.body.upload[144:] for one in answers), np.uint8)
    assert words.size == 4 * 4 * 12
    assert words.mean() == pytest.approx(127.5, abs=32)  # six standard deviations


def test_an_upload_is_four_bytes_a_parameter(tmp_path: Path) -> None:
    wire = Wire()
    one_round(tmp_path).run(wire)
    content = next(content for _, kind, _, content in wire.seen if kind == "train")
    assert len(TrainReply.from_record(content).body.upload) == 144 + 4 * 12
    assert record_bytes(content) < 144 + 4 * 12 + 500


def test_weights_and_metrics_are_summed_under_masks_and_count_nobody_under_privacy(tmp_path: Path) -> None:
    open_ = one_round(tmp_path / "off").run().history.rounds[1]
    assert open_.train is not None
    assert open_.weight == 56
    assert set(open_.train.sums) == {"loss", "samples"}
    private = one_round(tmp_path / "dp", privacy={"mode": "patient"}).run().history.rounds[1]
    assert private.train is not None
    assert (private.weight, dict(private.train.sums)) == (4, {})


@pytest.mark.parametrize("kind", ["train", CONFIRM, UNMASK])
def test_one_of_four_may_be_lost_at_any_point_of_a_round(tmp_path: Path, kind: str) -> None:
    result = one_round(tmp_path).run(losing(("H2", kind), first=int(kind != "train")))
    phase = result.history.rounds[1].train
    assert phase is not None
    assert phase.answered == (("H1", "H3", "H4") if kind == "train" else ("H1", "H2", "H3", "H4"))
    assert phase.notes == ()
    assert "H2" in phase.dropped


def test_one_early_and_one_late_drop_of_ten(tmp_path: Path) -> None:
    result = one_round(tmp_path, 10).run(losing(("H2", "train"), ("H9", UNMASK), times=2))
    phase = result.history.rounds[1].train
    assert phase is not None
    assert "H2" not in phase.answered
    assert "H9" in phase.answered
    assert phase.notes == ()


@pytest.mark.parametrize("kind", ["train", CONFIRM, UNMASK])
def test_a_round_that_lost_too_many_is_repeated_under_other_keys(tmp_path: Path, kind: str) -> None:
    wire = losing(("H2", kind), ("H3", kind), first=int(kind != "train"))
    result = one_round(tmp_path).run(wire)
    phase = result.history.rounds[1].train
    assert phase is not None
    assert phase.answered == ("H1", "H2", "H3", "H4")
    assert [note.partition(":")[0] for note in phase.notes] == ["attempt 1"]
    assert phase.traffic["query.secagg_advertise"].questions == 4


def test_a_round_that_cannot_be_done_names_who_is_missing(tmp_path: Path) -> None:
    federation = one_round(tmp_path)
    with pytest.raises(
        RoundError, match=r"no sum after 3 attempts.*2 masked answers came, 3 are needed.*H2.*H3"
    ) as info:
        federation.run(losing(("H2", "train"), ("H3", "train"), times=99))
    assert len(info.value.record.notes) == 3
    assert federation.history.failed is info.value.record


def test_a_link_that_does_not_work_ends_the_run_and_is_no_failed_attempt(tmp_path: Path) -> None:
    def down(site: str, kind: str, content: RecordDict) -> RecordDict:
        if kind == "train":
            raise ProtocolError("the SuperLink says that the run is over", hint="resume the run")
        return content

    with pytest.raises(RoundError, match=r"toy, round 1, train: the SuperLink says.*\(resume the run\)") as info:
        one_round(tmp_path).run(Wire(change=down))
    assert info.value.record.notes == ()


def test_a_hospital_that_was_away_when_an_epoch_began_comes_in_when_it_is_back(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 4, plan={"rounds": 2, "evaluate_every": 9})
    away = {"H4"}

    def returns(site: str, kind: str, count: int) -> bool:
        if (site, kind, count) == ("H1", "train", 0):
            away.clear()
        return False

    rounds = federation.run(Wire(lose=returns, absent=away)).history.rounds
    answered = [one.train.answered for one in rounds if one.train]
    assert answered == [("H1", "H2", "H3"), ("H1", "H2", "H3", "H4")]
    evaluated = rounds[2].evaluation
    assert evaluated is not None
    assert "query.secagg_advertise" not in evaluated.traffic, "the new epoch serves the rounds after it"


def test_a_hospital_that_is_never_there_costs_the_others_nothing(tmp_path: Path) -> None:
    everything = ["train", "evaluate", "query.secagg_advertise", "query.secagg_share", CONFIRM, UNMASK]
    result = one_round(tmp_path).run(losing(*[("H4", kind) for kind in everything], times=99))
    phase = result.history.rounds[1].train
    assert phase is not None
    assert phase.answered == ("H1", "H2", "H3")
    assert phase.notes == ()


def test_a_hospital_that_lost_its_ledger_comes_back_with_new_keys(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 3, plan={"rounds": 2, "evaluate_every": 9})

    def burn(site: str, kind: str, count: int) -> bool:
        if (site, kind, count) == ("H2", "train", 1):
            shutil.rmtree(tmp_path / "H2" / "masks")
        return False

    rounds = federation.run(Wire(lose=burn)).history.rounds
    assert rounds[2].train is not None
    assert rounds[2].train.answered == ("H1", "H2", "H3")
    assert rounds[2].train.refused["H2"].startswith("masks: ")
    assert len(rounds[2].train.notes) == 1


def test_every_hospital_may_restart_before_every_message(tmp_path: Path) -> None:
    steady = Federation.make(tmp_path / "steady", 3).run().model.vector
    restarted = Federation.make(tmp_path / "restarted", 3).run(Wire(forgetful=True)).model.vector
    assert restarted.tobytes() == steady.tobytes()


def test_a_run_outlives_its_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "EPOCH_ROUNDS", 2)
    result = Federation.make(tmp_path, 3, plan={"rounds": 3}).run()
    phases = [phase for one in result.history.rounds for phase in (one.train, one.evaluation) if phase]
    assert [("query.secagg_advertise" in phase.traffic) for phase in phases] == [True, False] * 3 + [True]
    assert all(phase.notes == () for phase in phases)


@pytest.mark.parametrize("masks", [{"post_quantum": True}, {"ring_bits": 16, "clip": 1.0}])
def test_the_options_of_the_masks(tmp_path: Path, masks: dict[str, object]) -> None:
    result = one_round(tmp_path / "a", 3, masks=masks).run()
    steady = one_round(tmp_path / "b", 3).run()
    tolerance = 2e-2 if "ring_bits" in masks else 1e-6
    np.testing.assert_allclose(result.model.vector, steady.model.vector, atol=tolerance)
    phase = result.history.rounds[0].evaluation
    assert phase is not None
    assert ("query.secagg_kem" in phase.traffic) == ("post_quantum" in masks)


def test_an_answer_that_is_not_masked_is_not_read(tmp_path: Path) -> None:
    def bare(site: str, kind: str, content: RecordDict) -> RecordDict:
        if (site, kind) != ("H2", "train"):
            return content
        reply = TrainReply.from_record(content)
        return TrainReply(reply.header, site, PlainBody(np.ones(12, np.float32), 1.0)).to_record()

    phase = one_round(tmp_path).run(Wire(change=bare)).history.rounds[1].train
    assert phase is not None
    assert phase.answered == ("H1", "H3", "H4")
    assert "not masked" in phase.dropped["H2"]


def test_a_spoilt_header_is_caught_and_the_round_repeated(tmp_path: Path) -> None:
    spoilt: list[str] = []

    def spoil(site: str, kind: str, content: RecordDict) -> RecordDict:
        if (site, kind) != ("H2", "train") or spoilt:
            return content
        spoilt.append(site)
        reply = TrainReply.from_record(content)
        upload = bytearray(reply.body.upload)
        upload[80] ^= 1
        return TrainReply(reply.header, site, MaskedBody(bytes(upload))).to_record()

    phase = one_round(tmp_path).run(Wire(change=spoil)).history.rounds[1].train
    assert phase is not None
    assert len(phase.notes) == 1


@pytest.mark.control("AIACT-12-logging")
def test_everybodys_record_verifies_and_names_the_steps(tmp_path: Path) -> None:
    federation = one_round(tmp_path)
    federation.run()
    assert verify(tmp_path / "coordinator.jsonl").entries > 0
    for site in federation.sites:
        rows = toy.log_rows(tmp_path / site)
        steps = [row["detail"]["step"] for row in rows if row["action"] == "secure.aggregation"]
        assert steps[::2] == ["advertise", "share", *["confirm", "unmask"] * 3]
        verify(tmp_path / site / "audit" / "log.jsonl")


def test_the_steps_of_secure_aggregation_do_without_torch_and_dicom() -> None:
    code = (
        "import sys, client.app; print([name for name in ('torch', 'pydicom', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a coordinator that asks twice ------------------------------------------------------------------------------------


def away(*sites: str) -> Wire:
    """A wire that these hospitals are not on: they do not even hear the questions."""
    return Wire(absent=frozenset(sites))


def with_patients(federation: Federation) -> Federation:
    """The same hospitals, as if they were no virtual ones."""
    for site in federation.sites:
        about = federation.root / site / "node.json"
        about.write_text(about.read_text().replace("true", "false"))
        toy.allow_all(about.parent)
    return federation


@pytest.mark.control("GDPR-25-masks")
def test_a_round_is_not_summed_again_without_one_hospital(tmp_path: Path) -> None:
    federation = one_round(tmp_path)
    first = federation.run()
    again = federation.run(run="another-run")
    assert again.model.vector.tobytes() == first.model.vector.tobytes(), "the same sum again shows nothing new"
    with pytest.raises(RoundError, match="unmasked with other hospitals in it"):
        federation.run(away("H4"), run="a-third")


def test_a_hospital_without_known_seeds_never_sends_the_same_update_twice(tmp_path: Path) -> None:
    federation = with_patients(one_round(tmp_path))
    models = [federation.run(run=run).model.vector for run in ("one", "two")]
    assert models[0].tobytes() != models[1].tobytes()


def test_a_round_under_privacy_is_paid_for_three_times_at_most(tmp_path: Path) -> None:
    lost = losing(("H2", "train"), ("H3", "train"), times=99)
    federation = with_patients(one_round(tmp_path / "real", privacy={"mode": "patient"}))
    for site in federation.sites:
        with Ledger(Node.open(federation.root / site).ledger(), data_set=site) as ledger:
            ledger.set_budget(Budget(1e6, 1e-5, 4), who="a test", why="rounds that are repeated")
    with pytest.raises(RoundError):
        federation.run(lost)
    with pytest.raises(RoundError, match="privacy ledger does not pay"):
        federation.run()
    simulated = one_round(tmp_path / "virtual", privacy={"mode": "patient"})
    with pytest.raises(RoundError):
        simulated.run(lost)
    assert simulated.run().history.outcome == "ok", "a simulation may be interrupted and started again"


# --- what a hospital or the line may do -------------------------------------------------------------------------------


def replaced(kind: str, site: str, by: str) -> Wire:
    """A wire on which the answers of ``site`` to messages of ``kind`` come with what ``by`` said."""
    kept: list[bytes] = []

    def change(sender: str, asked: str, content: RecordDict) -> RecordDict:
        if asked != kind:
            return content
        reply = MaskReply.from_record(content)
        if sender == by:
            kept.append(reply.payload)
        if sender == site and kept:
            return replace(reply, payload=kept[-1]).to_record()
        return content

    return Wire(change=change)


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_an_answer_that_another_hospital_signed_is_not_counted(tmp_path: Path) -> None:
    phase = one_round(tmp_path).run(replaced(CONFIRM, "H3", by="H2")).history.rounds[1].train
    assert phase is not None
    assert "signed by another hospital" in phase.dropped["H3"]


def test_an_answer_to_another_step_is_not_counted(tmp_path: Path) -> None:
    def change(site: str, kind: str, content: RecordDict) -> RecordDict:
        if (site, kind) != ("H3", CONFIRM):
            return content
        return replace(MaskReply.from_record(content), step="unmask").to_record()

    phase = one_round(tmp_path).run(Wire(change=change)).history.rounds[1].train
    assert phase is not None
    assert phase.dropped["H3"] == "the answer is to another step"


def test_the_charter_may_want_more_sites_than_the_masks_need(tmp_path: Path) -> None:
    phase = one_round(tmp_path, min_sites=4).run(losing(("H2", "train"))).history.rounds[1].train
    assert phase is not None
    assert phase.answered == ("H1", "H2", "H3", "H4")
    assert "3 masked answers came, 4 are needed" in phase.notes[0]


def test_whoever_is_no_member_is_not_asked(tmp_path: Path) -> None:
    federation = one_round(tmp_path)
    stranger = toy.make_node(tmp_path / "X9", "X9", federation.charter)
    federation.nodes[199] = {"site": "X9", "node-dir": str(stranger)}
    wire = Wire()
    federation.run(wire)
    assert "X9" not in {site for site, _ in wire.counts}


def test_a_repeated_round_says_so_to_the_hospitals(tmp_path: Path) -> None:
    wire = losing(("H2", "train"), ("H3", "train"))
    one_round(tmp_path).run(wire)
    asked = [TrainRequest.from_record(asked).header.attempt for site, kind, asked, _ in wire.seen if kind == "train"]
    assert sorted(set(asked)) == [1, 2]


def test_the_record_says_what_was_clipped_capped_and_summed(tmp_path: Path) -> None:
    federation = one_round(tmp_path, masks={"w_max": 10, "clip": 1e-3})
    assert federation.run().history.rounds[1].weight == 40
    rows = toy.log_rows(tmp_path / "H1")
    trained = next(row["detail"] for row in rows if (row["action"], row["outcome"]) == ("train", "ok"))
    assert trained["masked"] is True
    assert trained["weight_capped"] is True
    assert trained["clipped"] > 0
    unmasked = [row["detail"] for row in rows if row["detail"] and row["detail"].get("step") == "unmask"]
    assert [row["included"] for row in unmasked] == ["1 2 3 4"] * 6
    assert [row["masked_round"] for row in unmasked] == [1, 1, 2, 2, 3, 3]


def test_a_lying_share_is_noted_and_the_round_completes(tmp_path: Path) -> None:
    federation = one_round(tmp_path)
    identity = federation.node("H2").identity

    def lie(site: str, kind: str, content: RecordDict) -> RecordDict:
        if (site, kind) != ("H2", UNMASK):
            return content
        reply = MaskReply.from_record(content)
        body = bytearray(reply.payload[:-64])
        body[-1] ^= 1
        return replace(reply, payload=bytes(body) + identity.sign(bytes(body))).to_record()

    phase = federation.run(Wire(change=lie)).history.rounds[1].train
    assert phase is not None
    assert phase.answered == ("H1", "H2", "H3", "H4")
    assert any("H2 revealed a share" in note for note in phase.notes)


def test_epochs_rise_also_where_the_clock_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "EPOCH_ROUNDS", 1)
    monkeypatch.setattr(masked.time, "time_ns", lambda: 5_000_000_000)
    phases = [one.train or one.evaluation for one in one_round(tmp_path).run().history.rounds]
    assert all(phase is not None and phase.notes == () for phase in phases)
