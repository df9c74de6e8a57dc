"""The figures of a run for Prometheus: the text exposition format, version 0.0.4.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/. Names and units follow Prometheus' own practice:
base units as suffixes (`_seconds`, `_joules`, `_bytes`, `_watts`), `_total` on what only grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.live.board import Figures
from harness.watching import STATES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, type, meaning and samples."""

    name: str
    type: Literal["counter", "gauge"]
    help: str
    samples: tuple[Sample, ...]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {_escaped(self.help)}"
        yield f"# TYPE {self.name} {self.type}"
        for labels, value in self.samples:
            yield f"{self.name}{_labels(labels)} {_number(value)}"


def exposition(figures: Figures) -> str:
    """What a scrape gets. Families without samples are left out."""
    families = (*_run(figures), *_learning(figures), *_energy(figures), *_devices(figures))
    return "".join(f"{line}\n" for family in families if family.samples for line in family.lines())


def _run(figures: Figures) -> Iterator[Family]:
    subject = figures.subject
    about = {"run": figures.run_id, "fleet": subject.fleet, "experiment": subject.experiment}
    clock = {"clock": "simulated" if subject.is_simulated else "system"}
    yield _gauge("fedmeter_run_info", "The run: always 1.", [({**about, **clock}, 1.0)])
    yield _gauge("fedmeter_run_over", "Whether the run is over.", [({}, float(figures.is_over))])
    yield _counter("fedmeter_run_seconds_total", "Time of the run's clock so far.", [({}, figures.now_s)])
    yield _gauge("fedmeter_tasks_planned", "Tasks of the run.", [({}, float(len(subject.tasks)))])
    yield _counter("fedmeter_tasks_completed_total", "Tasks that are complete.", [({}, float(figures.n_tasks_done))])
    yield _counter("fedmeter_rounds_total", "Federated rounds that are over.", [({}, float(figures.n_rounds))])
    yield _counter("fedmeter_round_seconds_total", "Time of all rounds, aggregation excluded.", [({}, figures.round_s)])
    moved = [({"direction": direction}, float(n)) for direction, n in figures.n_bytes.items()]
    yield _counter("fedmeter_transferred_bytes_total", "Moved between server and clients, framing excluded.", moved)
    failed = [({"phase": phase}, float(n)) for phase, n in figures.failures.items()]
    yield _counter("fedmeter_failures_total", "Failures of clients, rounds and tasks, by phase.", failed)


def _learning(figures: Figures) -> Iterator[Family]:
    latest = figures.latest or {}
    for name, column, help_ in (
        ("fedmeter_accuracy_ratio", "accuracy", "Accuracy of the latest global model on the test set, 0 to 1."),
        ("fedmeter_loss", "loss", "Loss of the latest global model on the test set."),
        ("fedmeter_round", "round", "Number of the latest round that is over, in its task."),
    ):
        value = latest.get(column)
        yield _gauge(name, help_, [] if value is None else [({}, float(value))])


def _energy(figures: Figures) -> Iterator[Family]:
    sums = [({"provenance": name}, sum_j) for name, (sum_j, _) in figures.joules.items()]
    errors = [({"provenance": name}, err_j) for name, (_, err_j) in figures.joules.items()]
    yield _counter("fedmeter_energy_joules_total", "Gross energy of all devices in rounds whose energy is known.", sums)
    yield _counter(
        "fedmeter_energy_error_joules_total", "Expanded uncertainty (k = 2) of fedmeter_energy_joules_total.", errors
    )
    yield _counter(
        "fedmeter_rounds_without_energy_total",
        "Rounds whose energy is missing, and not in fedmeter_energy_joules_total.",
        [({}, float(figures.n_without_energy))],
    )
    watts = [({"owner": owner}, value) for owner, value in figures.watts.items()]
    yield _gauge("fedmeter_power_watts", "Latest mean power of a device, of host, server and other.", watts)


def _devices(figures: Figures) -> Iterator[Family]:
    counted = [({"state": state}, float(n)) for state, n in figures.counts.items()]
    yield _gauge("fedmeter_devices", "Devices by what they do.", counted)
    states = [
        ({"device": id_, "state": state}, float(figures.standings[id_].state == state))
        for id_ in figures.devices
        if id_ in figures.standings
        for state in STATES
    ]
    yield _gauge("fedmeter_device_state", "1 for the state that a device is in, 0 for the others.", states)
    about = {id_: {"device": id_, "processor": device.processor} for id_, device in figures.devices.items()}
    for name, help_, value in (
        ("fedmeter_device_fits_total", "Fits that a device has told of.", "n_fits"),
        ("fedmeter_device_fit_seconds_total", "Time of a device's local training.", "fit_s"),
        ("fedmeter_device_failures_total", "Failures of a device.", "n_failures"),
    ):
        samples = [(about[id_], float(getattr(device, value))) for id_, device in figures.devices.items()]
        yield _counter(name, help_, samples)
    joules = [
        ({**about[id_], "provenance": device.provenance}, device.fit_j)
        for id_, device in figures.devices.items()
        if device.fit_j is not None
    ]
    yield _counter("fedmeter_device_fit_joules_total", "Gross energy of a device's local training.", joules)


def _gauge(name: str, help_: str, samples: Iterable[Sample]) -> Family:
    return Family(name, "gauge", help_, tuple(samples))


def _counter(name: str, help_: str, samples: Iterable[Sample]) -> Family:
    return Family(name, "counter", help_, tuple(samples))


def _labels(labels: Labels) -> str:
    told = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
