"""The Flower ClientApp of a hospital: thin handlers that hand a message to the node's session and its answer back.

The node's folder comes from the node's own configuration (``node-dir``), never from a message. A handler always
answers: with what was asked for, or with a :class:`shared.wire.Refusal`. Where the link has checked a run, a request
that names another one is refused. Importing torch costs seconds, so only training and evaluation do.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import masks
from client.session import Session
from shared.errors import RecordError
from shared.wire import Refusal, RefusalCode
from shared.wire_masks import STEPS, action

if TYPE_CHECKING:
    from client.rounds import Rounds

NODE_DIR = "node-dir"
SITE = "site"
RUN = "run"
_OPEN_NODES = 64

app = ClientApp()


@dataclass
class _Open:
    """An open node, and what it keeps between rounds once it has trained."""

    session: Session
    _rounds: "Rounds | None" = None

    @property
    def rounds(self) -> "Rounds":
        if self._rounds is None:
            from client.rounds import Rounds  # noqa: PLC0415  # torch: seconds

            self._rounds = Rounds(self.session)
        return self._rounds


# Nodes of this process by folder, least recently used first. At a hospital every message has a child of the worker to
# itself and this holds one; in a simulation it saves opening each node again for every message.
_open: OrderedDict[str, _Open] = OrderedDict()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a request for a round of training."""
    return _answer(message, context, lambda node: node.rounds.train(message.content))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer a request for an evaluation."""
    return _answer(message, context, lambda node: node.rounds.evaluate(message.content))


def secure_aggregation(message: Message, context: Context) -> Message:
    """Answer a step of secure aggregation, ``query.secagg_*``."""
    return _answer(message, context, lambda node: masks.answer(node.session, message.content))


for _step in STEPS:
    app.query(action(_step))(secure_aggregation)


def close_sessions() -> None:
    """Close every node that this process has open, so that another process may answer for them."""
    while _open:
        _open.popitem()[1].session.close()


def _answer(message: Message, context: Context, act: Callable[[_Open], RecordDict]) -> Message:
    try:
        node = _node(context)
        node.session.run = str(context.run_config.get(RUN, ""))
        content = act(node)
    except Exception as error:  # noqa: BLE001  # the boundary of the process: no node, no charter, or no record
        site = str(context.node_config.get(SITE, "unknown"))
        code: RefusalCode = "record" if isinstance(error, RecordError) else "error"
        content = Refusal(site, code, type(error).__name__).to_record()
    return Message(content, reply_to=message)


def _node(context: Context) -> _Open:
    folder = str(Path(str(context.node_config.get(NODE_DIR, ""))).absolute())
    if folder not in _open:
        while len(_open) >= _OPEN_NODES:
            _open.popitem(last=False)[1].session.close()
        _open[folder] = _Open(Session.open(Path(folder)))
    _open.move_to_end(folder)
    return _open[folder]
