"""What the private arms of a run cost the patients of each hospital, composed over its tasks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from client.training.accounting import PrivacyStatement, statement
from client.training.shared_accounting import shared_statement
from simulation.arms import Hospital
from simulation.federation import Federated, spent
from simulation.record import PrivacyRecord

if TYPE_CHECKING:
    from simulation.run import Plan

TOGETHER: Final = "all sites together"
Arms = Mapping[str, Federated]
"""Federated arms of one kind, by task."""


def privacy(
    plan: "Plan", hospitals: Sequence[Hospital], federations: Mapping[tuple[str, str], Federated]
) -> tuple[PrivacyRecord, ...]:
    """One row for each hospital with noise of its own, and one for the sum with shared noise.

    They are those of the tables: the first repeat at the largest epsilon.
    """
    members = [one for one in hospitals if one.member]
    local = {task: one for (task, arm), one in federations.items() if arm == "federated_dp"}
    shared = {task: one for (task, arm), one in federations.items() if arm == "federated_shared"}
    rows = [
        _row(one.site, "local", {t: run for t, run in local.items() if _took_part(one, run)}, [one]) for one in members
    ]
    rows.append(_row(TOGETHER, "shared", shared, members))
    return tuple(row for row in rows if row is not None)


def _took_part(hospital: Hospital, run: Federated) -> bool:
    return any(member.name == hospital.site for member in run.charter.members) or run.charter.masking is None


def _row(
    site: str, noise: Literal["local", "shared"], runs: Arms, hospitals: Sequence[Hospital]
) -> PrivacyRecord | None:
    if not runs:
        return None
    paid = {task: _dearest(run, hospitals) for task, run in runs.items()}
    charter = next(iter(runs.values())).charter
    delta = charter.privacy.delta
    patients = max(one.patients for one in paid.values())
    history = [mechanism for one in paid.values() for mechanism in one.history]
    local = noise == "local"
    whole = statement(history, delta, patients=patients) if local else shared_statement(charter, history)
    return PrivacyRecord(
        site=site,
        tasks=tuple(paid),
        epsilon=whole.epsilon,
        delta=whole.delta,
        steps=whole.steps,
        sample_rate=whole.sample_rate,
        noise_multiplier=whole.noise_multiplier,
        clip=charter.privacy.clip,
        patients=patients,
        accountant=whole.accountant.upper(),
        unit=whole.unit,
        neighbouring=whole.relation,
        clipping=charter.privacy.clipping,
        noise=noise,
    )


def _dearest(run: Federated, hospitals: Sequence[Hospital]) -> PrivacyStatement:
    """What ``run`` cost at that one of the hospitals where it cost most: of those that trained in every round."""
    delta = run.charter.privacy.delta
    found = [spent(one.node, run.run, delta) for one in hospitals if _took_part(one, run)]
    return max(found, key=lambda one: one.epsilon)
