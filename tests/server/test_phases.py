"""Who is asked: a hospital that has declined is left alone, until a person has resumed the run and it is needed."""

import pytest
from flwr.app import RecordDict

from compliance.log import AuditLog
from server.exchange import AbsentError, Exchange
from server.phases import Phases
from shared.header import Header
from shared.wire import Refusal
from tests.federation.scripted import ScriptedGrid, honest

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
