"""ClientApps without training, for tests of the grid alone."""

import os
import sys
import time

import numpy as np
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do what the message says, and answer with who did it and in which process."""
    wish = str(message.content["ask"]["wish"])
    if wish == "raise":
        raise ValueError("the patient's name is Haldane^Ada")
    if wish == "die":
        os._exit(9)
    if wish == "sleep":
        time.sleep(60)
    if wish == "print":
        print("a library that prints")  # noqa: T201
        os.write(1, b"and one that writes to the descriptor\n")
    count = int(context.state["seen"]["count"]) + 1 if "seen" in context.state else 1
    context.state["seen"] = ConfigRecord({"count": count})
    facts = ConfigRecord({"site": str(context.node_config["site"]), "pid": os.getpid(), "count": count})
    content = RecordDict({"facts": facts})
    if "model" in message.content:
        content["model"] = message.content["model"]
    if wish == "vandal":
        message.content["ask"]["wish"] = "changed"
        message.content["model"]["w"] = Array(np.zeros(1, np.float32))
        del message.content["model"]
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with what the process has loaded."""
    loaded = ConfigRecord({"torch": "torch" in sys.modules, "threads": os.environ.get("OMP_NUM_THREADS", "")})
    return Message(RecordDict({"loaded": loaded}), reply_to=message)


not_an_app = 3
