"""Several sensors that measure disjoint parts of one machine, metered as one: processor packages and GPUs, say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from profiler.errors import SensorError
from profiler.quantities import weakest
from profiler.sensor import Available, Probe, Sensor, Unavailable


def combined(probes: Sequence[Probe]) -> Probe:
    """One probe for some available ones, as `profiler.sensor.best` gives them: the sum of their totals.

    Its scope is the first one's, its provenance the weakest. Raises ValueError where there is none.
    """
    if not probes:
        raise ValueError("no sensor to meter with")
    if len(probes) == 1:
        return probes[0]
    sensor = CombinedSensor([probe.sensor for probe in probes])
    return Probe(sensor, _joined([probe.outcome for probe in probes], sensor.parts))


class CombinedSensor:
    """A Sensor over others whose rails lie side by side, in their order. A rail whose name is not unique is called
    `sensor:rail`. A part that cannot be read gives None for its rails; the others go on."""

    def __init__(self, parts: Sequence[Sensor]) -> None:
        self.parts = tuple(parts)
        self.name = "+".join(part.name for part in self.parts)
        self._n_rails: list[int] = []

    def probe(self) -> Available | Unavailable:
        return _joined([part.probe() for part in self.parts], self.parts)

    def open(self) -> None:
        """Open every part; where one cannot be, those before it are closed again and its error is raised."""
        self._n_rails = []
        opened: list[Sensor] = []
        try:
            for part in self.parts:
                outcome = part.probe()
                if isinstance(outcome, Unavailable):
                    raise SensorError(f"{part.name}: {outcome.reason}", remedy=outcome.remedy)
                part.open()
                opened.append(part)
                self._n_rails.append(len(outcome.rails))
        except BaseException:
            for part in opened:
                part.close()
            raise

    def read(self) -> list[float | None]:
        """Raises SensorError where no part can be read."""
        if not self._n_rails:
            raise SensorError(f"{self.name}: not open.", remedy="Call open() first.")
        values: list[float | None] = []
        failures: list[str] = []
        for part, n_rails in zip(self.parts, self._n_rails, strict=True):
            try:
                values += part.read()
            except (SensorError, OSError, ValueError) as error:
                values += [None] * n_rails
                failures.append(f"{part.name}: {error}")
        if len(failures) == len(self.parts):
            raise SensorError("; ".join(failures))
        return values

    def close(self) -> None:
        self._n_rails = []
        for part in self.parts:
            part.close()


def _joined(outcomes: Sequence[Available | Unavailable], parts: Sequence[Sensor]) -> Available | Unavailable:
    there = []
    for outcome in outcomes:
        if isinstance(outcome, Unavailable):
            return outcome
        there.append(outcome)
    n_named = Counter(rail.name for outcome in there for rail in outcome.rails)
    unique = [
        {rail.name: f"{part.name}:{rail.name}" if n_named[rail.name] > 1 else rail.name for rail in outcome.rails}
        for part, outcome in zip(parts, there, strict=True)
    ]
    return Available(
        rails=tuple(
            replace(rail, name=names[rail.name], parent=names.get(rail.parent or ""))
            for outcome, names in zip(there, unique, strict=True)
            for rail in outcome.rails
        ),
        total=tuple(names[name] for outcome, names in zip(there, unique, strict=True) for name in outcome.total),
        scope=there[0].scope,
        provenance=weakest(outcome.provenance for outcome in there),
        notes="; ".join(outcome.notes for outcome in there if outcome.notes),
    )
