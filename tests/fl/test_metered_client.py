"""A client with a real sensor back-end over a fake powercap tree: the joules of its fit arrive at the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.messages import Array, Config, EvaluateIns, FitIns, Parameters, Scalar
from fl.metering import best_samplers
from profiler.clock import SystemClock
from profiler.quantities import Provenance
from profiler.span import Profiler
from tests.fixtures.powercap import Tree, build_tree
from tests.fl.clients import Unruly

START = Parameters((np.zeros(2, dtype=np.float32),))


class Burning(Unruly):
    """A fit draws 5 J from the package and 2 J from the memory; all else draws nothing."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        for label, drawn_uj in (("package-0", 5_000_000), ("dram-0", 2_000_000)):
            zone = self._tree.zones[label]
            self._tree.set_uj(label, zone.start_uj + drawn_uj)
        return super().fit(parameters, config)


def test_joules_of_a_fit_arrive_with_their_provenance(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    clock = SystemClock()

    async def test() -> None:
        with Profiler(best_samplers(tmp_path, clock), clock) as profiler:
            proxy = InProcessProxy("pc", instrument(Burning(tree), profiler))
            fit = await proxy.fit(FitIns(START, {"round": 1, "telemetry": "full"}), 20.0)
            evaluate = await proxy.evaluate(EvaluateIns(START, {"round": 1, "telemetry": "full"}), 20.0)
            await proxy.farewell(0, 5.0)
            proxy.close()
        assert fit.result.metrics["fit.energy_j"] == pytest.approx(7.0)
        assert float(fit.result.metrics["fit.energy_err_j"]) >= 0
        by_name = {span.name: span for span in (*fit.spans, *evaluate.spans)}
        assert set(by_name) == {"receive", "fit", "send", "wait", "evaluate"}
        drawn = {}
        for name, span in by_name.items():
            assert span.total is not None
            assert span.total.provenance is Provenance.COUNTER
            drawn[name] = span.total.energy_j
        assert drawn.pop("fit") == pytest.approx(7.0)
        assert drawn == dict.fromkeys(("receive", "send", "wait", "evaluate"), 0.0), "nothing is smeared over its edges"
        total = by_name["fit"].total
        assert total is not None
        assert len(total.total_of) == 2, "package and memory; the cores are part of the package"

    asyncio.run(test())
