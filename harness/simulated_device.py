"""One simulated device: a workload's real client on a virtual clock, metered by a virtual meter.

Everything around it is what a real device runs: `steps` obeys the cutoff, `instrument` makes the spans, the `Responder`
answers bytes with bytes. Only the clock and the meter are told by `harness.device_model` what each thing takes.
"""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.instrument import instrument
from fl.messages import Array, Config, Scalar
from fl.responder import Responder
from fl.steps import StepControl
from fl.wire import codec
from fl.workload import NumPyClient
from harness.device_model import Costs, FitPace, fit_rng
from profiler.clock import FakeClock
from profiler.errors import UsageError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available
from profiler.span import Profiler

_BOOTED_S = 1000.0  # devices do not share a clock: each counts from another moment


@dataclass(frozen=True, slots=True)
class SimulatedSpec:
    """One device of a simulated fleet: `number` is its place in the fleet, `shard` the data it trains on."""

    device: str
    number: int
    shard: int
    scope: Scope
    costs: Costs
    facts: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device gave: its reply, and how long the call took on the server's clock, transfers included."""

    data: bytes
    elapsed_ns: int
    has_left: bool


class SimulatedMeter:
    """A sensor whose counters are a model: `idle`, what the device draws at rest, and `work`, what comes on top."""

    name = "simulated"

    def __init__(self, clock: FakeClock, costs: Costs, scope: Scope) -> None:
        self._clock = clock
        self._idle_w = costs.idle_w
        self._work_j = 0.0
        self._rails = tuple(
            Rail(name, scope, RailKind.COUNTER_J, Provenance.SIMULATED, gain_err=gain_err)
            for name, gain_err in (("idle", costs.idle_gain_err), ("work", costs.training.gain_err))
        )
        self._scope = scope

    def add(self, work_j: float) -> None:
        """Joules of work that has just been done."""
        self._work_j += work_j

    def probe(self) -> Available:
        return Available(self._rails, ("idle", "work"), self._scope, Provenance.SIMULATED, "a model of another machine")

    def open(self) -> None:
        pass

    def read(self) -> list[float | None]:
        return [self._idle_w * self._clock.monotonic_ns() / 1e9, self._work_j]

    def close(self) -> None:
        pass


class SimulatedDevice:
    """Answers instructions. Every draw follows from seed, round and the device's number alone."""

    def __init__(self, spec: SimulatedSpec, client: NumPyClient) -> None:
        self._costs = spec.costs
        self._boot_ns = round((1 + spec.number) * _BOOTED_S * 1e9)
        self._clock = FakeClock(self._boot_ns)
        self._meter = SimulatedMeter(self._clock, spec.costs, spec.scope)
        sampler = Sampler(self._meter, self._clock, rate_hz=0)
        self._profiler = Profiler([sampler], self._clock, resources=False, id_prefix=f"{spec.device}/")
        self._profiler.start()
        work = SimulatedWork(client, spec, self._clock, self._meter)
        client = instrument(work, self._profiler, facts=lambda: spec.facts, pace=work.step_done)
        self._responder = Responder(client)
        # Spans nest by context, and a device's wait is open while others of the same thread answer.
        self._context = contextvars.copy_context()

    def answer(self, data: bytes, sent_ns: int) -> Answer:
        """What the device says to an instruction that is sent at a moment of the server's clock. Raises WireError."""
        carries_work = codec.carries_work(data)
        download_ns = _ns(self._costs.download_s(len(data))) if carries_work else 0
        self._advance_to(self._boot_ns + sent_ns + download_ns)
        response = self._context.run(self._responder.answer, data, self._clock.monotonic_ns())
        upload_ns = 0
        if carries_work:  # on the device's account while it waits for what comes next
            upload_ns = _ns(self._costs.upload_s(len(response.data)))
            self._meter.add(self._costs.transfer_j(len(data) + len(response.data)))
        handed_over_ns = self._clock.monotonic_ns() - self._boot_ns
        return Answer(response.data, handed_over_ns + upload_ns - sent_ns, response.leave is not None)

    def close(self) -> None:
        self._context.run(self._responder.close)
        self._profiler.stop()

    def _advance_to(self, t_ns: int) -> None:
        self._clock.advance(max(0, t_ns - self._clock.monotonic_ns()) / 1e9)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


class SimulatedWork:
    """A workload's client whose work takes virtual time and virtual joules."""

    def __init__(self, client: NumPyClient, spec: SimulatedSpec, clock: FakeClock, meter: SimulatedMeter) -> None:
        self._client = client
        self._spec = spec
        self._clock = clock
        self._meter = meter
        self._pace: FitPace | None = None
        self._batch_size = spec.costs.training.batch_size

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return self._client.get_properties(config)

    def get_parameters(self, config: Config) -> list[Array]:
        return self._client.get_parameters(config)

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """Raises UsageError where the training loop does not go through `fl.steps`: nothing would say how far it is."""
        costs = self._spec.costs
        self._pace = FitPace(costs, fit_rng(_whole(config, "seed"), _whole(config, "round"), self._spec.number))
        self._batch_size = _whole(config, "batch_size") or costs.training.batch_size
        self._clock.advance(costs.training.start_s)
        began_ns = self._clock.monotonic_ns()
        result = self._client.fit(parameters, config)
        if self._clock.monotonic_ns() == began_ns:
            raise UsageError(
                f"{self._spec.device}: training took no step that fl.steps saw, so that its time cannot be simulated.",
                remedy="Let the training loop be `for batch in steps(loader)`.",
            )
        return result

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        result = self._client.evaluate(parameters, config)
        training = self._spec.costs.training
        n_steps = self._spec.costs.steps_per_epoch or result[1] / training.batch_size
        self._clock.advance(training.evaluate_share * training.step_s * n_steps)
        self._meter.add(training.evaluate_share * training.step_j * n_steps)
        return result

    def step_done(self, control: StepControl) -> None:
        """The `pace` of a `StepControl`. Raises UsageError where the loader does not tell its length."""
        if self._pace is None or not control.epoch_steps:
            raise UsageError(
                f"{self._spec.device}: a simulated device must know how many steps an epoch has.",
                remedy="Give `steps` a loader with a length.",
            )
        elapsed_s = (self._clock.monotonic_ns() - control.started_ns) / 1e9
        worth = self._spec.costs.worth(control.epoch_steps, self._batch_size)
        step_s, step_j = self._pace.step(elapsed_s, worth)
        self._clock.advance(step_s)
        self._meter.add(step_j)


def _whole(config: Config, key: str) -> int:
    value = config.get(key, 0)
    return value if isinstance(value, int) else 0
