"""What a child of a link's worker does in its tests: it sends records back, waits, or dies, as the message says."""

import os
import signal
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import link_work
from client.flower_messages import answer

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    content = message.content
    what = content["do"]
    assert isinstance(what, ConfigRecord)
    if "wait" in what:
        Path(str(what["wait"])).write_text(str(os.getpid()))
        time.sleep(60)
    if "die" in what:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in what:
        raise ValueError(what["raise"])
    seen = {"node-dir": str(context.node_config["node-dir"]), "site": str(context.node_config["site"])}
    seen |= {f"run-{key}": str(value) for key, value in context.run_config.items()}
    return Message(RecordDict({**content, "seen": ConfigRecord(seen)}), reply_to=message)


def work(strings: list[bytes]) -> list[bytes]:
    return answer(strings, app) if b'"ask"' not in strings[0] else link_work.work(strings)
