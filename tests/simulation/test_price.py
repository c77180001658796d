"""What the page says that privacy cost is what the ledgers charged: every task, every step, the dearest hospital."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.charge import Charge
from client.ledger import Ledger
from client.node import Node
from client.training.accounting import Mechanism, epsilon
from simulation.arms import Hospital
from simulation.federation import Federated
from simulation.price import TOGETHER, privacy
from tests.federation.masked import Federation

PRIVACY = {"mode": "distributed", "patients": 16, "noise_multiplier": 2.0, "sample_rate": 0.5, "delta": 1e-5}


def run_of(federation: Federation, name: str, steps: dict[str, int], mode: str) -> Federated:
    """A federated arm with ``steps`` charged at each hospital."""
    charter = replace(federation.charter, privacy=replace(federation.charter.privacy, mode=mode))
    for site, count in steps.items():
        with Ledger(Node.open(federation.root / site).ledger(name)) as ledger:
            for number in range(1, count + 1):
                ledger.reserve(Charge(name, charter.id, "toy", number, mode, 2.0, 0.5, 1, 16), most=None)
    return cast(Federated, SimpleNamespace(charter=charter, run=name))


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    federation = Federation.make(tmp_path, 3, plan={"local_steps": 1}, privacy=PRIVACY)
    hospitals = [Hospital(site, tmp_path, tmp_path / site, member=True) for site in federation.sites]
    hospitals.append(Hospital("X1", tmp_path, tmp_path / "nowhere", member=False))
    even = dict.fromkeys(federation.sites, 10)
    federations = {
        ("denoise", "federated_dp"): run_of(federation, "denoise-dp", even, "patient"),
        ("segment", "federated_dp"): run_of(federation, "segment-dp", even | {"H2": 12}, "patient"),
        ("denoise", "federated_shared"): run_of(federation, "denoise-shared", even | {"H3": 13}, "distributed"),
        ("denoise", "local-1-0"): run_of(federation, "other", even, "patient"),
    }
    found = privacy(cast(Any, SimpleNamespace(private=federation.charter)), hospitals, federations)
    return {row.site: row for row in found}


def test_every_hospital_composes_all_tasks_that_it_trained(rows: dict[str, Any]) -> None:
    assert set(rows) == {"H1", "H2", "H3", TOGETHER}
    for site, steps in (("H1", 20), ("H2", 22), ("H3", 20)):
        row = rows[site]
        assert (row.steps, row.tasks, row.noise) == (steps, ("denoise", "segment"), "local")
        assert row.epsilon == epsilon([Mechanism(2.0, 0.5, steps)], 1e-5)[0]


def test_shared_noise_costs_what_it_cost_the_hospital_that_paid_most(rows: dict[str, Any]) -> None:
    row = rows[TOGETHER]
    assert (row.steps, row.noise, row.patients) == (13, "shared", 16)
    assert row.epsilon == epsilon([Mechanism(2.0, 0.5, 13)], 1e-5)[0]


def test_without_private_arms_nothing_is_said() -> None:
    assert privacy(cast(Any, SimpleNamespace(private=None)), [], {}) == ()
