"""What a child of the link's worker does: a message, or a question about this hospital that needs torch.

The first string is a JSON object whose ``ask`` says which; the worker has imported what it takes.
"""

import json
from pathlib import Path
from typing import Final

from client.flower_messages import answer
from client.node import Node
from shared.console import complain
from shared.errors import FedwardError
from shared.parsing import parse_json

DEVICE: Final = "device"
POLICY: Final = "policy"


def work(strings: list[bytes]) -> list[bytes]:
    """Answer with the ClientApp that is installed here, or with one line of text.

    Raises:
        Exception: Whatever it is, only its name leaves the child.
    """
    facts = parse_json(strings[0])
    if facts.get("ask") == DEVICE:
        return [_device(Node.open(Path(facts["folder"]))).encode()]
    if facts.get("ask") == POLICY:
        return [_policy(Node.open(Path(facts["folder"]))).encode()]
    from client.app import app  # noqa: PLC0415  # the two questions need nothing of it

    return answer(strings, app)


def question(ask: str, folder: Path) -> list[bytes]:
    """The strings that ask about the node in ``folder``."""
    return [json.dumps({"ask": ask, "folder": str(folder.absolute())}).encode()]


def _device(node: Node) -> str:
    from client.policy_file import policy_of  # noqa: PLC0415  # as above
    from client.training.device import describe  # noqa: PLC0415  # torch: seconds

    return describe(policy_of(node).device, virtual=node.virtual)


def _policy(node: Node) -> str:
    from client.policy import allows_run  # noqa: PLC0415  # as above

    try:
        decision = allows_run(node, node.charter)
    except FedwardError as error:
        complain(error.message, error.hint)  # into the node's own log: only the error's name leaves this process
        raise
    return "" if decision.allowed else decision.reason
