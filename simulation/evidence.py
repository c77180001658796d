"""What a simulation can show of itself: its models, and its virtual hospitals one by one."""

from pathlib import Path

from client.evidence import party as hospital
from compliance.charter_facts import operations
from compliance.log import AuditLog
from compliance.party import Facts, Figure, Kind, Party, Topic
from server.evidence import models
from shared.charter import Charter
from shared.errors import CharterError
from simulation.account import OWN_LOG


def party(folder: Path) -> Party | None:
    """The simulation in ``folder``; None where there is none."""
    if not ((folder / "nodes").is_dir() and (folder / "federation").is_dir()):
        return None
    parts = tuple(
        found
        for path in sorted((folder / "nodes").iterdir())
        if path.is_dir() and (found := hospital(path)) is not None
    )
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
    charter = _charter(folder)
    purpose = charter.purpose if charter else None
    return Facts(
        figures={
            Topic.PROCESSING: [
                Figure("People", "none: every patient of a simulation is synthetic", "pacs/manifest.json"),
                Figure("Purpose", purpose, "federation/: charter.toml"),
            ],
            Topic.DPIA: operations(charter),
        },
        tables={Topic.LINEAGE: models(folder / "federation", "federation/")},
    )


def _charter(folder: Path) -> Charter | None:
    for path in sorted((folder / "federation").glob("*/charter.toml")):
        try:
            return Charter.load(path)
        except CharterError:
            continue
    return None
