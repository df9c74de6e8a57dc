"""The ClientApp."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clouds.task import batches, load_data, test, train

app = ClientApp()


@app.train()
def fit(msg: Message, context: Context):
    x, y = load_data(context.node_config["partition-id"], 4000)
    loader = batches(x, y, context.run_config["batch-size"])
    [weights] = msg.content["arrays"].to_numpy_ndarrays()
    weights = train(weights, loader, context.run_config["local-epochs"], msg.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": test(weights, x, y)[0], "num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    x, y = load_data(100 + context.node_config["partition-id"], 500)
    loss, accuracy = test(msg.content["arrays"].to_numpy_ndarrays()[0], x, y)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(x)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
