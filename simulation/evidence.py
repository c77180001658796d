"""What a simulation can show of itself: its models, and its virtual hospitals one by one."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from client.evidence import party as hospital
from compliance.charter_facts import fewest, operations, privacy
from compliance.evidence import gather
from compliance.evidence_page import write_report
from compliance.log import AuditLog
from compliance.matrix import matrix
from compliance.party import Facts, Figure, Kind, Party, Topic
from server.evidence import models
from shared.charter import Charter
from shared.errors import CharterError, UsageError
from simulation.account import OWN_LOG
from simulation.record import EVIDENCE
from simulation.witnessing import vouched_among


def party(folder: Path) -> Party | None:
    """The simulation in ``folder``; None where there is none."""
    if not ((folder / "nodes").is_dir() and (folder / "federation").is_dir()):
        return None
    nodes = [path for path in sorted((folder / "nodes").iterdir()) if (path / "node.json").exists()]
    # All virtual hospitals cosigned each other's logs, those too that are in no charter, or in one without members.
    vouch = vouched_among({path.name: path for path in nodes})
    parts = tuple(replace(found, vouch=vouch, needed=None) for path in nodes if (found := hospital(path)) is not None)
    logs = (folder / OWN_LOG, *sorted((folder / "federation").glob("*/audit/log.jsonl")))
    return Party(
        folder=folder,
        kind=Kind.SIMULATION,
        name="simulation",
        logs=logs,
        open_log=lambda: AuditLog(folder / OWN_LOG, site="simulation", subject_key=b""),
        facts=lambda: _facts(folder),
        parts=parts,
    )


def _facts(folder: Path) -> Facts:
    charters = _charters(folder)
    purposes = sorted({charter.purpose for charter in charters.values()})
    return Facts(
        figures={
            Topic.PROCESSING: [
                Figure("People", "none: every patient of a simulation is synthetic", "pacs/manifest.json"),
                Figure("Purpose", "; ".join(purposes) or None, "federation/: charter.toml"),
            ],
            Topic.DPIA: _trainings(charters),
        },
        tables={Topic.LINEAGE: models(folder / "federation", "federation/")},
    )


def _charters(folder: Path) -> dict[str, Charter]:
    """The charter of each training of the simulation, by the name of its folder."""
    found = {}
    for path in sorted((folder / "federation").glob("*/charter.toml")):
        with contextlib.suppress(CharterError):  # the folder of a run that was interrupted
            found[path.parent.name] = Charter.load(path)
    return found


def _trainings(charters: Mapping[str, Charter]) -> list[Figure]:
    """The systematic description of the processing (GDPR Art. 35(7)(a)): every training has a charter of its own."""
    if not charters:
        return operations(None)
    return [
        Figure(
            f"Processing operation {name} (Art. 35(7)(a))",
            f"{', '.join(f'{plan.name}, {plan.rounds} rounds' for plan in charter.tasks)}; {privacy(charter)}; "
            f"fewest hospitals in a round {fewest(charter)[0]}; charter {charter.sha256}",
            f"federation/{name}/charter.toml",
        )
        for name, charter in charters.items()
    ]


def write_evidence(folder: Path) -> Path:
    """Write the evidence report of the simulation in ``folder`` beside its own; returns the page.

    Raises:
        RecordError: A log does not verify; the page says which, and is written.
        OutputError: It cannot be written.
    """
    found = party(folder)
    if found is None:
        raise UsageError(f"{folder} holds no simulation", hint="run one with 'fedward simulate'")
    gathered = gather(found, matrix())
    page = write_report(folder / EVIDENCE, gathered, overwrite=True)
    gathered.require_verified()
    return page
