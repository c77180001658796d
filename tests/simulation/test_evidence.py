"""What a simulation says of itself in the evidence report."""

from pathlib import Path

from client.node import Node
from compliance.evidence import gather
from compliance.matrix import matrix
from compliance.party import Kind, Topic
from simulation.evidence import party
from tests.federation import toy


def test_a_simulation_is_its_models_and_its_virtual_hospitals(tmp_path: Path) -> None:
    assert party(tmp_path) is None
    run = tmp_path / "federation" / "denoise-federated"
    run.mkdir(parents=True)
    (run / "charter.toml").write_text(toy.charter().to_toml())
    for site in ("H1", "H2"):
        Node.create(tmp_path / "nodes" / site, site=site, purpose="research", seed=7)
    (tmp_path / "nodes" / "notes").mkdir()
    found = party(tmp_path)
    assert found is not None
    assert found.kind is Kind.SIMULATION
    assert [one.name for one in found.parts] == ["H1", "H2"]
    other = tmp_path / "federation" / "denoise-private"
    other.mkdir()
    (other / "charter.toml").write_text(toy.charter(members=(), masking=None, min_sites=4).to_toml())
    for one in (found, *found.parts):
        with one.open_log():
            pass
    told = gather(found, matrix())
    assert not told.faults
    assert [one.name for one in told.shown(Topic.PROCESSING)] == ["simulation", "H1, H2"]
    said = [str(one) for one in found.facts().figures[Topic.DPIA]]
    assert len(said) == 2
    assert "denoise-federated" in said[0]
    assert "denoise-private" in said[1]
    assert "fewest hospitals in a round 4" in said[1]
