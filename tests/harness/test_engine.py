"""The parts of the engine that need no device: strategies of tasks, and config keys by another name."""

from __future__ import annotations

import numpy as np
import pytest

from fl.messages import Parameters
from fl.proxy import ClientInfo
from fl.workload import Defaults
from harness.engine import task_strategy, with_renamed_keys
from harness.experiment import parse_experiment
from harness.fleet import load_fleet
from harness.plan import Task, make_plan
from harness.run_spec import RunSpec
from profiler.errors import UsageError

CLIENTS = [ClientInfo("fast-0", "cpu"), ClientInfo("slow-0", "cpu@0.4")]
EXPERIMENT = 'name = "x"\nworkload = "digits"\nfit_timeout_s = 50\n[sweep]\nclients = [1, 2]\n[strategy]\n'


def tasks(strategy: str) -> tuple[Task, ...]:
    fleet = load_fleet("local", cores=2)
    return make_plan(fleet, parse_experiment(EXPERIMENT + strategy, "x.toml"), Defaults(16, 0.01, 4))


def test_a_task_gets_its_strategy_with_its_cutoffs() -> None:
    text = 'name = "cutoff"\ncutoffs = { "cpu" = 0, "cpu@0.4" = 1.5 }\n'
    strategy = task_strategy(tasks(text)[1], parse_experiment(EXPERIMENT + text, "x.toml"))
    assignments = {part.device: part for part in strategy.configure_fit(1, CLIENTS)}
    assert assignments["slow-0"].config["cutoff_s"] == 1.5
    assert assignments["fast-0"].config["cutoff_s"] == 0
    assert assignments["fast-0"].config["telemetry"] == "full"
    assert assignments["fast-0"].deadline_s == 50


@pytest.mark.parametrize("text", ['name = "fedavg"\nmu = 3\n', 'name = "fedprocks"\n'])
def test_a_strategy_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"mu|fedprocks"):
        task_strategy(tasks(text)[0], parse_experiment(EXPERIMENT + text, "x.toml"))


def test_config_keys_are_renamed_for_the_devices_that_ask_for_it() -> None:
    text = 'name = "fedavg"\n'
    plain = task_strategy(tasks(text)[1], parse_experiment(EXPERIMENT + text, "x.toml"))
    renamed = with_renamed_keys(plain, {"slow-0": {"epochs": "local_epochs"}})
    fast, slow = (part.config for part in renamed.configure_fit(1, CLIENTS))
    assert (fast["epochs"], slow["local_epochs"]) == (1, 1)
    assert "epochs" not in slow
    assert [part.device for part in renamed.configure_evaluate(1, CLIENTS)] == ["fast-0", "slow-0"]
    assert renamed.aggregator(1, Parameters((np.zeros(1),))).result() is None


def test_only_devices_of_a_task_take_part() -> None:
    text = 'name = "fedavg"\n'
    spec = RunSpec(load_fleet("local", cores=2), parse_experiment(EXPERIMENT + text, "x.toml"), tasks(text))
    assert [device.id for device in spec.devices] == ["fast-0", "slow-0"]
