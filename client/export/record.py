"""An export at a hospital stands in its audit log before an image is read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from client.evaluation.data import site_of
from client.evaluation.models import PERSONAL, Model
from client.export.people import Chosen, choose
from client.lineage import Lineage
from client.manifest import index_digest
from client.node import Node
from client.records import read_register
from compliance.log import Action, Entry, Outcome, Scalar


@contextmanager
def recorded(model: Model, node: Node, *, own: bool) -> Iterator[tuple[Chosen, dict[str, Scalar]]]:
    """Decide who of a node is looked at, and record that the model is exported there.

    The block may add facts to the dictionary; they stand in the closing entry.

    Args:
        model: What is exported.
        node: The node.
        own: Whether training patients are fitted to.

    Raises:
        DataError: There is nobody to look at.
        RecordError: The log, the register or the lineage does not hold, or cannot be written.
    """
    with ExitStack() as stack:
        log = stack.enter_context(node.open_log())
        site = site_of(node, log, model.task, everybody=False)
        chosen = choose(log, site, model.task, own=own)
        facts: dict[str, Scalar] = {
            "task": model.task.name,
            "kind": model.kind,
            "patients": len(site.patients),
            "fitted": len(chosen.train),
            "personal": own or model.kind == PERSONAL,
            "records": read_register(node)[1],
            "dataset": index_digest(node),
            **Lineage(node).head(),
        }
        entry = Entry(Action.MODEL_EXPORT, Outcome.STARTED, subject=("model", model.digest), detail=facts)
        yield chosen, stack.enter_context(log.act(entry))
