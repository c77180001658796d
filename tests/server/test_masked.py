"""Masked rounds with the real ClientApp: the sum is right, and a drop-out costs no more than it must."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from compliance.log import verify
from server import masked
from server.phases import RoundError
from shared.records import record_bytes
from shared.wire import EvaluateReply, MaskedBody, PlainBody, TrainReply
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
    rules = replace(plain.charter, members=(), masking=None)
    for site in plain.sites:
        plain.node(site).pin(rules)
    other = plain.run(charter=rules)
    np.testing.assert_allclose(result.model.vector, other.model.vector, atol=1e-6)
    assert (result.history.aggregation, other.history.aggregation) == ("masked", "plain")
    for one, two in zip(result.history.rounds, other.history.rounds, strict=True):
        assert one.weight == two.weight
        for phase, same in ((one.train, two.train), (one.evaluation, two.evaluation)):
            assert phase is None or dict(phase.sums) == pytest.approx(dict(same.sums), rel=1e-4)


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
