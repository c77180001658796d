"""What a coordinator can show of itself: the facts of its files for the evidence report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from compliance.charter_facts import operations, recipients
from compliance.checkpoint import needed_of
from compliance.log import AuditLog
from compliance.party import Facts, Figure, Kind, Party, Table, Topic
from server.coordinator import Coordinator
from server.history import HISTORY
from server.release import CARD
from server.witnessing import vouched_here
from shared.charter import Charter
from shared.errors import CharterError
from shared.parsing import parse_json

_LOG: Final = Path("audit") / "log.jsonl"


def party(folder: Path) -> Party | None:
    """The coordinator in ``folder``; None where there is none.

    Raises:
        UsageError: Its description is damaged.
    """
    if not (folder / "coordinator.json").is_file():
        return None
    coordinator = Coordinator.open(folder)
    return Party(
        folder=folder,
        kind=Kind.COORDINATOR,
        name=coordinator.name,
        logs=(folder / _LOG,),
        open_log=lambda: AuditLog(folder / _LOG, site="coordinator", subject_key=b""),
        facts=lambda: _facts(coordinator),
        vouch=lambda found: vouched_here(coordinator, found),
        needed=lambda: needed_of(len(coordinator.members())),
    )


def _facts(coordinator: Coordinator) -> Facts:
    charters = list(_charters(coordinator.folder / "runs"))
    charter = charters[-1] if charters else None
    members = coordinator.members()
    figures = [
        Figure("Processor (Art. 30(2)(a))", coordinator.name, "coordinator.json: name"),
        Figure("Contact details, data protection officer (Art. 30(2)(a))", None, "no file of fedward has them"),
        Figure("Country", coordinator.country, "coordinator.json: country"),
        Figure("Controllers (Art. 30(2)(a))", ", ".join(one.site for one in members) or None, "members/"),
        Figure("Purpose", charter.purpose if charter else None, "runs/: the newest charter.toml"),
        Figure(
            "Processing for each controller (Art. 30(2)(b))",
            "summing of updates, and the models made from the sums" if charter else None,
            "runs/: the newest charter.toml",
        ),
        *recipients(charter, coordinator.name, processor=True),
        Figure("Processing agreements (Art. 28(3))", None, "no file of fedward has them"),
    ]
    privacy = [Figure("Privacy ledgers", "every hospital keeps its own; the coordinator has none", "no file")]
    return Facts(
        figures={
            Topic.PROCESSING: figures,
            Topic.DPIA: operations(charter),
            Topic.DEIDENTIFICATION: [
                Figure(
                    "De-identification",
                    "no image and no header comes to a coordinator",
                    "no file: no message has a place for one",
                )
            ],
            Topic.PRIVACY: privacy,
        },
        tables={Topic.LINEAGE: models(coordinator.folder / "runs", "runs/")},
    )


def _charters(runs: Path) -> Iterator[Charter]:
    """The charters of runs, the oldest first; one that cannot be read is left out."""
    for path in sorted(runs.glob("*/charter.toml"), key=lambda one: one.stat().st_mtime):
        try:
            yield Charter.load(path)
        except CharterError:
            continue


def models(runs: Path, source: str) -> list[Table]:
    """The lineage of every model below ``runs``: its charter, run, rounds, hospitals, privacy and digests."""
    rows = []
    for path in sorted(runs.rglob(HISTORY)):
        card, history = _json(path.with_name(CARD)), _json(path)
        rows.append(
            (
                str(history.get("run", path.parent.name)),
                str(history.get("task", "")),
                str(card["rounds"]) if "rounds" in card else None,
                ", ".join(map(str, card["sites"])) if "sites" in card else None,
                str(card["privacy"]) if "privacy" in card else None,
                str(history.get("charter", "")) or None,
                str(card["weights_sha256"]) if "weights_sha256" in card else None,
            )
        )
    columns = ("Run", "Task", "Rounds", "Hospitals", "Privacy", "SHA-256 of the charter", "SHA-256 of the weights")
    caption = "Models and what they were made from"
    where = f"{source}: {HISTORY}, {CARD}"
    return [Table(caption, columns, tuple(rows), where, frozenset({5, 6}))] if rows else []


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
