"""The record of a run as the stable content of ``summary.json``."""

import math
from typing import Any

from simulation.record import Metrics, PrivacyRecord, RunRecord, TaskRecord


def to_summary(record: RunRecord) -> dict[str, Any]:
    """The run as the stable content of ``summary.json``: keys are only ever added.

    A value that is not finite becomes ``null``, since JSON has no infinity. ``sites`` counts the members.
    ``local`` and ``pooled`` hold the mean over all member sites, and under ``own_site`` and ``unseen`` the other two
    numbers where they exist; ``federated`` and ``federated_dp`` hold the mean alone. An arm that was not run is absent.
    """
    return {
        "seconds": _finite(record.seconds),
        "sites": len(record.members),
        "rounds": record.rounds,
        "tasks": {task.name: _task(task) for task in record.tasks},
        "privacy": {row.site: _privacy(row) for row in record.privacy if row.noise == "local"},
        "privacy_shared": {row.site: _privacy(row) for row in record.privacy if row.noise == "shared"},
        "deid": {
            "files": record.deid.files,
            "released": record.deid.released,
            "quarantined": record.deid.quarantined,
            "refused": record.deid.refused,
        },
        "audit": {"entries": record.entries, "verified": record.verified, "witnesses": record.witnesses},
        "wire": {
            "masked": record.wire.masked,
            "bytes_down": record.wire.down,
            "bytes_up": record.wire.up,
            "messages": record.wire.messages,
            "kinds": {
                one.kind: {"questions": one.questions, "answers": one.answers, "down": one.down, "up": one.up}
                for one in record.wire.kinds
            },
        },
    }


def _privacy(row: PrivacyRecord) -> dict[str, Any]:
    return {
        "unit": row.unit,
        "epsilon": _finite(row.epsilon),
        "delta": row.delta,
        "accountant": row.accountant,
        "steps": row.steps,
    }


def _task(task: TaskRecord) -> dict[str, Any]:
    summary: dict[str, Any] = {"classical": {name: _metrics(values) for name, values in task.classical.items()}}
    for name, arm in task.arms.items():
        values: dict[str, Any] = dict(_metrics(arm.all_sites))
        if not name.startswith("federated"):
            for key, part in (("own_site", arm.own_site), ("unseen", arm.unseen)):
                if part is not None:
                    values[key] = _metrics(part)
        if arm.cpu_seconds is not None:
            values["cpu_seconds"] = arm.cpu_seconds
        summary[name] = values
    if task.sweep:
        summary["sweep"] = [
            {"kind": one.kind, "epsilon": one.epsilon, "repeat": one.repeat, **_metrics(one.all_sites)}
            | ({"unseen": _metrics(one.unseen)} if one.unseen else {})
            for one in task.sweep
        ]
    summary["per_site"] = {
        site: {method: _metrics(values) for method, values in methods.items()}
        for site, methods in task.per_site.items()
    }
    return summary


def _metrics(values: Metrics) -> dict[str, Any]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
