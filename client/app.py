"""The Flower ClientApp of a hospital: thin handlers that hand a message to the node's session and its answer back.

The node's folder comes from the node's own configuration (``node-dir``), never from a message. A handler always
answers: with what was asked for, or with a :class:`shared.wire.Refusal`.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.session import Session
from shared.errors import RecordError
from shared.wire import Refusal, RefusalCode

NODE_DIR = "node-dir"
SITE = "site"
_OPEN_NODES = 64

app = ClientApp()

# Sessions of this process by node folder, least recently used first. Under Flower's SuperNode every message has a
# process of its own and this holds one session; on one machine it saves opening each node again for every message.
_sessions: OrderedDict[str, Session] = OrderedDict()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a request for a round of training."""
    return _answer(message, context, lambda session: session.train(message.content))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer a request for an evaluation."""
    return _answer(message, context, lambda session: session.evaluate(message.content))


def close_sessions() -> None:
    """Close every node that this process has open, so that another process may write their logs."""
    while _sessions:
        _sessions.popitem()[1].close()


def _answer(message: Message, context: Context, act: Callable[[Session], RecordDict]) -> Message:
    try:
        content = act(_session(context))
    except Exception as error:  # noqa: BLE001  # the boundary of the process: no node, no charter, or no record
        site = str(context.node_config.get(SITE, "unknown"))
        code: RefusalCode = "record" if isinstance(error, RecordError) else "error"
        content = Refusal(site, code, type(error).__name__).to_record()
    return Message(content, reply_to=message)


def _session(context: Context) -> Session:
    folder = str(Path(str(context.node_config.get(NODE_DIR, ""))).absolute())
    if folder not in _sessions:
        while len(_sessions) >= _OPEN_NODES:
            _sessions.popitem(last=False)[1].close()
        _sessions[folder] = Session.open(Path(folder))
    _sessions.move_to_end(folder)
    return _sessions[folder]
