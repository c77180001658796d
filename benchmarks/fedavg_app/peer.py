"""Plain Flower: its own FedAvg, and a client that imports torch, as one that trains must, and sends the model back."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    import torch  # noqa: F401, PLC0415  # what every client that trains pays for

    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    moments: list[float] = []

    def note(_round: int, _arrays: ArrayRecord) -> MetricRecord:
        moments.append(time.time())
        return MetricRecord({})

    sites = int(config["sites"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    model = ArrayRecord([np.zeros(int(config["parameters"]), np.float32)])
    strategy.start(grid, model, num_rounds=int(config["rounds"]), evaluate_fn=note)
    Path(str(config["out"])).write_text(json.dumps(moments))
