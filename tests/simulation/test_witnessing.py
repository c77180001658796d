"""Virtual hospitals witness each other's logs with the real relay and the real turns."""

from pathlib import Path

import pytest

from client.node import Node
from compliance.log import Action, Entry, Outcome
from compliance.place import Place
from shared.errors import RecordError
from simulation.witnessing import witness
from tests.federation import members as fed


def write(node: Node, count: int) -> None:
    with node.open_log() as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, round=number) for number in range(count)])


def test_every_log_is_cosigned_by_all_others_and_again_when_it_grew(tmp_path: Path) -> None:
    nodes = {node.site: node for node in fed.hospitals(tmp_path, 4)}
    folders = {site: node.folder for site, node in nodes.items()}
    for round_ in (1, 2):
        for node in nodes.values():
            write(node, 3 * round_)
        assert witness(folders) == dict.fromkeys(nodes, 3)
    for folder in folders.values():
        trail = Place.open(folder).trail
        newest = trail.newest()
        assert newest is not None
        with Node.open(folder).open_log() as log:
            assert newest.size == len(log)


def test_a_log_that_was_rewritten_between_is_not_witnessed(tmp_path: Path) -> None:
    nodes = {node.site: node for node in fed.hospitals(tmp_path, 3)}
    folders = {site: node.folder for site, node in nodes.items()}
    for node in nodes.values():
        write(node, 3)
    witness(folders)
    (folders["H2"] / "audit" / "log.jsonl").unlink()
    write(nodes["H2"], 5)
    with pytest.raises(RecordError, match="rewritten"):
        witness(folders)


def test_a_hospital_alone_has_no_witness(tmp_path: Path) -> None:
    (node,) = fed.hospitals(tmp_path, 1)
    write(node, 2)
    assert witness({node.site: node.folder}) == {"H1": 0}
