"""What is said before a run: where its joules come from, and what would make them better."""

from __future__ import annotations

from fl.workload import Defaults
from harness.experiment import parse_experiment
from harness.fleet import parse_fleet
from harness.meter import HostMeter, choose
from harness.plan import make_plan
from harness.run_spec import RunSpec
from harness.show import preamble
from profiler.clock import FakeClock
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Probe, Unavailable
from profiler.sensors.fake import FakeSensor


def lines(*outcomes: Unavailable, provenance: Provenance = Provenance.ESTIMATED, count: int = 1) -> str:
    clock = FakeClock()
    rail = Rail("r", Scope.HOST, RailKind.COUNTER_J, provenance)
    sensors = [FakeSensor([rail], lambda t_s: [t_s], clock, name="meter")]
    sensors += [
        FakeSensor([rail], lambda t_s: [t_s], clock, name=f"other{n}", unavailable=outcome)
        for n, outcome in enumerate(outcomes)
    ]
    probes = [Probe(sensor, sensor.probe()) for sensor in sensors]
    fleet = parse_fleet(
        f'name = "x"\n[[device]]\nid = "a-{{n}}"\ncount = {count}\nprocessor = "cpu"\n', "x.toml", cores=1
    )
    experiment = parse_experiment('name = "x"\nworkload = "digits"\n', "x.toml")
    spec = RunSpec(fleet, experiment, make_plan(fleet, experiment, Defaults(16, 0.1, 1)))
    return "\n".join(preamble(spec, HostMeter(probes, choose(probes, []), clock, rate_hz=10)))


def test_an_estimate_names_what_stands_in_the_way_of_measuring() -> None:
    text = lines(Unavailable("counter is readable by root only", "Run chmod."), Unavailable("no such chip", "", True))
    assert "energy of this host: meter (estimated)" in text
    assert "note: other0 could measure it: counter is readable by root only. Run chmod." in text
    assert "other1" not in text, "hardware that is not there is nobody's fault"


def test_where_nothing_can_measure_one_line_says_so() -> None:
    text = lines(Unavailable("no such chip", "", True))
    assert "nothing here measures energy; python -m profiler list says what would" in text


def test_a_measurement_needs_no_excuse() -> None:
    assert "note" not in lines(Unavailable("locked", "chmod"), provenance=Provenance.COUNTER)


def test_clients_that_do_not_fit_the_host_are_told() -> None:
    assert "they will slow each other" in lines(count=500)
