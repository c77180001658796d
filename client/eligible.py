"""The one place where it is decided which patients of the cohort take part in a round.

Today these are all patients that ingest accepted: the hospital's own selection of studies is the basis, and what was
quarantined or refused is not in the cohort. Consent, its withdrawal and a basis for each purpose (GDPR Art. 6, 7 and 9)
have their place here once the node keeps them; nothing of that is looked at yet.
"""

from collections.abc import Sequence

from client.node import Node


def eligible(patients: Sequence[str], node: Node) -> tuple[str, ...]:
    """Those of ``patients`` that may take part in a round of ``node``, in their order.

    Asked before their images are read.

    Args:
        patients: Pseudonyms, as the cohort has them.
        node: The hospital's node; what it keeps of each patient's consent will be read here.
    """
    del node
    return tuple(patients)
