"""Who is asked: a hospital that has declined is left alone, until a person has resumed the run and it is needed."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from compliance.log import AuditLog, entries
from server.exchange import AbsentError, Exchange
from server.journal import Journal, Journaled
from server.phases import Phases
from shared.header import Header
from shared.vector import Flat
from shared.wire import PlainBody, Refusal, TrainReply, TrainRequest
from tests.federation.scripted import Behaviour, ScriptedGrid, honest

SITES = ("H1", "H2")
HEADER = Header("toy", "0" * 64, "run-1", 1, 1, "toy", "0" * 64)


class Line(Exchange):
    """A line on which a run was resumed so many times."""

    resumed = 0

    def go_on(self) -> bool:
        self.resumed -= 1
        return self.resumed >= 0


def declining(code: str) -> list[RecordDict]:
    return [Refusal("H2", code, "not here", HEADER).to_record()]  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["policy", "budget"])
def test_who_has_declined_is_named_with_the_reason_and_asked_again_when_the_run_was_resumed(
    log: AuditLog, code: str
) -> None:
    grid = ScriptedGrid([honest("H1"), lambda *_: declining(code)])
    line = Line(grid, lambda: grid.names, poll=0.001)
    phases = Phases(line, log, 1.0)
    assert phases.wait(SITES, 2) == SITES
    phases.ask(HEADER, "train", {"H2": RecordDict()}, lambda *_: {})
    assert phases.declined == ("H2",)
    assert phases.wait(SITES, 1) == ("H1",), "where the others are enough, it is left alone"
    with pytest.raises(AbsentError, match=rf"1 of the 2 sites .* declined: H2 \({code}: not here\)") as caught:
        phases.wait(SITES, 2)
    assert "resume the run" in caught.value.hint
    line.resumed = 1
    assert phases.wait(SITES, 2) == SITES
    assert phases.declined == ()


def test_a_failure_is_no_decision(log: AuditLog) -> None:
    grid = ScriptedGrid([honest("H1"), lambda *_: declining("error")])
    phases = Phases(Line(grid, lambda: grid.names, poll=0.001), log, 1.0)
    phases.ask(HEADER, "train", {"H2": RecordDict()}, lambda *_: {})
    assert phases.declined == ()
    assert phases.wait(SITES, 2) == SITES


def with_record(site: str, record: str) -> Behaviour:
    def behave(content: RecordDict, kind: str) -> list[RecordDict]:
        body = PlainBody(np.ones(2, np.float32), 1.0)
        return [TrainReply(TrainRequest.from_record(content).header, site, body, record).to_record()]

    return behave


def checkpoint(size: str, site: str = "H1") -> str:
    """A note that has the form of one on the wire."""
    origin = f"fedward/{site}/{'0' * 16}"
    return f"{origin}\n{size}\n{'A' * 43}=\n\n\u2014 {origin} {'A' * 88}\n"


def test_an_answer_with_a_checkpoint_that_is_none_is_left_out_and_no_other(log: AuditLog, tmp_path: Path) -> None:
    """The form on the wire lets a size with leading noughts through; what it says is looked at before it counts."""
    grid = ScriptedGrid([with_record("H1", checkpoint("7")), with_record("H2", checkpoint("05", "H2"))])
    phases = Phases(Exchange(grid, lambda: grid.names, poll=0.001), log, 1.0)
    request = TrainRequest(HEADER, "0" * 64, Flat(np.zeros(2, np.float32), b"")).to_record()
    taken: list[str] = []
    record = phases.ask(HEADER, "train", dict.fromkeys(SITES, request), lambda _, site: taken.append(site) or {})
    assert (record.answered, taken) == (("H1",), ["H1"])
    assert "no checkpoint" in record.dropped["H2"]
    rows = {
        row["detail"]["site"]: row for row in entries(tmp_path / "coordinator.jsonl") if row["action"] == "message.in"
    }
    assert rows["H1"]["detail"]["log_size"] == 7
    assert (rows["H1"]["outcome"], rows["H2"]["outcome"]) == ("ok", "failed")


def test_a_resumed_round_shows_the_checkpoint_that_it_showed_before(log: AuditLog, tmp_path: Path) -> None:
    """It is part of what the masks are for: another one would be another round, and be paid for again."""
    texts = iter(["first", "second"])
    grid = ScriptedGrid([honest("H1")])

    def shown() -> str:
        line = Journaled(Exchange(grid, lambda: grid.names, poll=0.001))
        line.begin(Journal(tmp_path / "round"))
        return Phases(line, log, 1.0, publish=lambda: next(texts)).shown()

    assert (shown(), shown()) == ("first", "first")
    assert next(texts) == "second"
    assert Phases(Exchange(grid, lambda: grid.names, poll=0.001), log, 1.0).shown() == ""
