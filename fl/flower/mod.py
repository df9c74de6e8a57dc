"""`profiling_mod`: meters a ClientApp's train and evaluate, and puts the measurement into the reply.

A Mod (flwr/clientapp/typing.py) is called with message, context and the rest of the app. Its numbers go into the
reply's one MetricRecord, since a strategy of Flower's takes no second one; text and bytes into a ConfigRecord
`fedmeter`. Both are filled as the server asks with the config key `telemetry` (`fl.instrument`). Without it the reply
gets `fit.duration_s`, `fit.energy_j` and `fit.energy_err_j` alone (`evaluate.*`), NaN where energy is not known:
Flower's strategies want the same keys of every node. An app with a `client_fn` has them among its client's metrics, as
a client of `fl.instrument` has.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, MetricRecord

from fl.flower import keys
from fl.flower.busy import counting_host_cpu
from fl.instrument import TELEMETRY_KEY, TELEMETRY_LEVELS, instrument
from fl.messages import Array, Config, Scalar
from fl.metering import best_samplers, machine_id
from profiler.clock import Clock, SystemClock
from profiler.span import Profiler

Work = Callable[[Any, Any], Any]
Mod = Callable[[Any, Any, Work], Any]

# Ours first, then Flower's own and those of its templates.
CONFIG_KEYS: Mapping[str, tuple[str, ...]] = {
    "round": ("round", "server-round"),
    "epochs": ("epochs", "local-epochs", "local_epochs"),
    "batch_size": ("batch_size", "batch-size"),
    "lr": ("lr", "learning-rate", "learning_rate"),
    "seed": ("seed",),
    "cutoff_s": ("cutoff_s",),
    TELEMETRY_KEY: (TELEMETRY_KEY,),
}
_LOSSES = {"fit": ("loss", "train_loss", "train-loss"), "evaluate": ("loss", "eval_loss", "eval-loss")}
_ACCURACIES = ("accuracy", "eval_acc", "eval-acc", "acc")
_CLIENT_METRICS = ("fitres.metrics", "evaluateres.metrics")
_ALWAYS = ("duration_s", "energy_j", "energy_err_j")


def profiling_mod(
    *,
    device: str = "",
    processor: str = "",
    meter: bool = True,
    config_keys: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    clock: Clock | None = None,
) -> Mod:
    """A Mod for `ClientApp(mods=[...])`, or for one function: `@app.train(mods=[...])`.

    Each call is a span with this machine's best sensor, as by `fl.instrument`; `meter=False` leaves energy to others.
    `fl.steps.steps` inside counts steps and obeys `cutoff_s`. What the node is called and what trains there are
    `device` and `processor`, else those of its node config, else its id and nothing. `config_keys` names what an app
    calls `epochs`, `batch_size`, `lr` or `seed` in the message's config or in the run config, where it is not one of
    `CONFIG_KEYS`. `root` is the file system root that sensors are looked for below.
    """
    own_clock = clock or SystemClock()
    spelled = {name: ((config_keys or {}).get(name, names[0]), *names) for name, names in CONFIG_KEYS.items()}

    def metered(message: Any, context: Any, rest: Work) -> Any:
        phase = keys.phase_of(message)
        if phase is None:
            return rest(message, context)
        node = context.node_config
        name = device or str(node.get(keys.DEVICE, f"node-{context.node_id}"))
        label = processor or str(node.get(keys.PROCESSOR, ""))
        identity = {keys.DEVICE: name, keys.PROCESSOR: label, keys.MACHINE: machine_id(root)}
        config = _config(message.content, context.run_config, spelled, label)
        call = _Call(phase, lambda: rest(message, context))
        samplers = best_samplers(root, own_clock) if meter else ()
        with Profiler(samplers, own_clock, id_prefix=f"{name}/{secrets.token_hex(4)}/") as profiler:
            found = call.run(profiler, config)
        if call.reply.has_content():
            _tell(call.reply.content, phase, found, identity, config)
        return call.reply

    return metered


class _Call:
    """The rest of an app as a client of ours, for one call, whose reply it keeps."""

    def __init__(self, phase: keys.Phase, work: Callable[[], Any]) -> None:
        self.reply: Any = None
        self._phase = phase
        self._work = work
        self._profiler: Profiler | None = None

    def run(self, profiler: Profiler, config: Config) -> dict[str, Scalar]:
        """Do the work; what was measured. An exception of the app's passes through."""
        self._profiler = profiler
        client = instrument(self, profiler)
        result = client.fit([], config) if self._phase == "fit" else client.evaluate([], config)
        return result[2]

    def get_parameters(self, config: Config) -> list[Array]:
        return []

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        numbers = self._answer()
        return [], _examples(numbers), _outcome("fit", numbers)

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        numbers = self._answer()
        outcome = _outcome("evaluate", numbers)
        return float(outcome.get("loss", math.nan)), _examples(numbers), outcome

    def _answer(self) -> dict[str, float]:
        with nullcontext() if self._profiler is None else counting_host_cpu(self._profiler):
            self.reply = self._work()
        return _numbers(self.reply.content) if self.reply.has_content() else {}


def _config(
    content: Any, run_config: Mapping[str, Any], spelled: Mapping[str, tuple[str, ...]], processor: str
) -> dict[str, Scalar]:
    """What `fl.instrument` wants to know, by its own names; the message's config goes before the run's."""
    sent = {name: value for record in content.config_records.values() for name, value in record.items()}
    told = {**run_config, **sent}
    found = {ours: next((told[name] for name in names if name in told), None) for ours, names in spelled.items()}
    config: dict[str, Scalar] = {
        ours: value for ours, value in found.items() if isinstance(value, (bool, int, float, str))
    }
    processors, cutoffs_s = sent.get(keys.PROCESSORS_KEY), sent.get(keys.CUTOFFS_KEY)
    if "cutoff_s" not in config and isinstance(processors, list) and isinstance(cutoffs_s, list):
        config["cutoff_s"] = dict(zip(processors, cutoffs_s, strict=False)).get(processor, 0.0)
    return config


def _numbers(content: Any) -> dict[str, float]:
    """Of a reply's one MetricRecord; of an app with a `client_fn`, whatever it has told."""
    record: dict[str, object] = dict(next(iter(content.metric_records.values()), {}))
    metrics = _metrics_of_client(content)
    if metrics is not None:
        told = [*content.metric_records.values(), metrics]
        record = {name: value for one in told for name, value in one.items()}
    numbers = {str(name): keys.number_of(value) for name, value in record.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _examples(numbers: Mapping[str, float]) -> int:
    return int(numbers.get("num-examples", numbers.get("num_examples", 0)))


def _metrics_of_client(content: Any) -> Any:
    """The `metrics` that a NumPyClient has returned: `ClientApp(client_fn=...)` puts them into a ConfigRecord.

    Its server makes a FitRes or EvaluateRes of a reply, and of all records looks at those that it knows
    (flwr/common/recorddict_compat.py). None where the app is one over messages.
    """
    return next((content.config_records[name] for name in _CLIENT_METRICS if name in content.config_records), None)


def _outcome(phase: keys.Phase, numbers: Mapping[str, float]) -> dict[str, Scalar]:
    """Loss and accuracy under our names, for the span."""
    names = {"loss": _LOSSES[phase], "accuracy": _ACCURACIES}
    known = {ours: next((numbers[name] for name in theirs if name in numbers), None) for ours, theirs in names.items()}
    return {ours: value for ours, value in known.items() if value is not None}


def _tell(
    content: Any, phase: keys.Phase, found: Mapping[str, Scalar], identity: Mapping[str, Scalar], config: Config
) -> None:
    measured = {name: value for name, value in found.items() if name not in ("loss", "accuracy")}
    wants_all = config.get(TELEMETRY_KEY) in TELEMETRY_LEVELS[1:]
    numbers = {name: value for name, value in measured.items() if isinstance(value, (int, float))}
    if not wants_all:
        numbers = {f"{phase}.{name}": numbers.get(f"{phase}.{name}", math.nan) for name in _ALWAYS}
    metrics = _metrics_of_client(content)
    if metrics is not None:
        metrics.update(measured if wants_all else numbers)
        return
    record = next(iter(content.metric_records.values()), None)
    if record is None:
        record = content[f"{keys.RECORD_NAME}.metrics"] = MetricRecord()
    record.update(numbers)
    if wants_all:
        trained_with = {name: config[name] for name in (*keys.TRAINED_WITH, keys.CUTOFF) if name in config}
        texts = {name: value for name, value in measured.items() if name not in numbers}
        told = {**identity, **trained_with, **texts}
        content[keys.RECORD_NAME] = ConfigRecord({name: value for name, value in told.items() if value != ""})
