"""What an attacker may look up who has read the coordinator's database: ids of nodes, runs and messages."""

import sqlite3
from pathlib import Path


def _rows(server: Path, question: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{server / 'superlink' / 'state.db'}?mode=ro", uri=True, timeout=10) as base:
        return base.execute(question, values).fetchall()


def unsigned(number: object) -> int:
    """Flower writes 64 bits with a sign."""
    assert isinstance(number, int)
    return number % 2**64


def node_ids(server: Path) -> dict[bytes, int]:
    """Node ids by public key."""
    rows = _rows(server, "SELECT public_key, node_id FROM node WHERE status != 'unregistered'")
    return {bytes(key): unsigned(node) for key, node in rows}  # type: ignore[arg-type]


def run_ids(server: Path) -> list[int]:
    return [unsigned(row[0]) for row in _rows(server, "SELECT run_id FROM run")]


def messages(server: Path, node: int) -> list[tuple[str, int]]:
    """Messages for a node, by id and run; also those that it has fetched."""
    signed = node - 2**64 if node >= 2**63 else node
    rows = _rows(server, "SELECT message_id, run_id FROM message_ins WHERE dst_node_id = ?", signed)
    return [(str(name), unsigned(run)) for name, run in rows]


def answers(server: Path) -> dict[str, tuple[int, bool]]:
    """Who answered which message, and whether with an error."""
    rows = _rows(server, "SELECT reply_to_message_id, src_node_id, error FROM message_res")
    return {str(name): (unsigned(node), bool(error)) for name, node, error in rows}


def objects(server: Path) -> list[str]:
    """Ids of all parts of messages that are there now."""
    return [str(row[0]) for row in _rows(server, "SELECT object_id FROM objects")]
