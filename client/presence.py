"""Whether a node has anything of a patient: an answer to him, and an erasure, begin with that.

A Patient ID with a typing error is a pseudonym that nobody has. Who is told "we have nothing of you", or that he was
erased, must be the one who asked.
"""

from datetime import date
from typing import Final

from client.forgetting import waits
from client.lineage import Lineage
from client.node import Node
from client.records import read_register, tombstone
from client.rights import side_of
from client.splits import gone

NOTHING: Final = "not in the cohort and nothing recorded of him"
COMPARE: Final = "compare the Patient ID with the archive"


def erased_on(node: Node, patient: str) -> date | None:
    """The day on which a patient was erased; None where he was not.

    Raises:
        RecordError: The register cannot be read.
    """
    return read_register(node)[0].erased.get(tombstone(node, patient))


def in_cohort(node: Node, patient: str) -> bool:
    """Whether a patient has studies in the data set.

    Raises:
        DataError: The index is damaged.
    """
    return side_of(node, patient) is not None


def has_any(node: Node, patient: str) -> bool:
    """Whether the node has, or had and knows of it, anything of a patient: studies, files that wait, records, rounds.

    Raises:
        RecordError: The register or the lineage cannot be read.
        DataError: The index is damaged.
    """
    if in_cohort(node, patient) or erased_on(node, patient) or not read_register(node)[0].of(patient).empty:
        return True
    if patient in gone(node.folder / "cohort") or (node.folder / "released" / patient).exists():
        return True
    lineage = Lineage(node)
    if any(row["patient"] == patient for row in lineage.taken()) or waits(node, patient):
        return True
    return bool(lineage.of(patient))
