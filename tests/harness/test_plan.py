"""Plans: stable ids, fixed shards, cutoffs that fit, and refusals that name what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl.workload import Defaults
from harness.cutoffs import read_cutoffs
from harness.experiment import ExperimentSpec, load_experiment, parse_experiment, with_cutoffs
from harness.fleet import FleetSpec, load_fleet, parse_fleet
from harness.plan import make_plan
from profiler.errors import SpecError
from profiler.records import check_row

DEFAULTS = Defaults(batch_size=16, lr=0.05, rounds=4)


@pytest.fixture
def fleet() -> FleetSpec:
    return load_fleet("local", cores=2)


def experiment(text: str) -> ExperimentSpec:
    return parse_experiment(f'name = "x"\nworkload = "digits"\n{text}', "x.toml")


def test_the_demo_sweeps_epochs(fleet: FleetSpec) -> None:
    spec, _ = load_experiment("demo")
    tasks = make_plan(fleet, spec, DEFAULTS)
    assert [task.epochs for task in tasks] == [1, 5, 10]
    assert {task.clients for task in tasks} == {3}
    assert tasks[0].processors == {"cpu": 1, "cpu@0.4": 2}
    assert spec.idle_s == 5


def test_ids_are_stable_and_differ(fleet: FleetSpec) -> None:
    spec = experiment("[sweep]\nepochs = [1, 5]\nseeds = [1, 2]\nclients = [2, 3]\n")
    first, second = make_plan(fleet, spec, DEFAULTS), make_plan(fleet, spec, DEFAULTS)
    assert [task.id for task in first] == [task.id for task in second]
    assert len({task.id for task in first}) == 8
    for task in first:
        check_row(json.loads(json.dumps(task.row())))


def test_an_id_does_not_change_with_the_version() -> None:
    """Results of years must still meet: a changed id would split replicates. Change it only with the schema."""
    fleet = load_fleet("local", cores=2)
    task = make_plan(fleet, experiment("rounds = 3\n[sweep]\nepochs = [5]\n"), DEFAULTS)[0]
    assert task.id == "5e0af0b7e67d"


def test_fewer_clients_are_the_first_shards_of_as_many(fleet: FleetSpec) -> None:
    task = make_plan(fleet, experiment("[sweep]\nclients = [2]\n"), DEFAULTS)[0]
    assert task.clients == 2
    assert task.partition["shards"] == 3
    assert task.processors == {"cpu": 1, "cpu@0.4": 1}


def test_more_clients_than_devices_are_refused(fleet: FleetSpec) -> None:
    with pytest.raises(SpecError, match="4 clients asked for, but fleet 'local' has 3 devices"):
        make_plan(fleet, experiment("[sweep]\nclients = [4]\n"), DEFAULTS)


def cutoffs_file(path: Path, entries: list[dict[str, Any]], **extra: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "cutoffs": entries, **extra}))
    return path


def entry(processor: str, epochs: int, tau_s: float, **extra: Any) -> dict[str, Any]:
    values = {"workload": "digits", "processor": processor, "epochs": epochs, "batch_size": 16}
    return {**values, "tau_s": tau_s, "kind": "parity", **extra}


def test_a_cutoffs_file_is_applied_by_processor_and_epochs(fleet: FleetSpec, tmp_path: Path) -> None:
    entries = [entry("cpu", e, 0) for e in (1, 5)] + [entry("cpu@0.4", 1, 0.5), entry("cpu@0.4", 5, 2.5)]
    spec = with_cutoffs(
        experiment("[sweep]\nepochs = [1, 5]\n"), read_cutoffs(cutoffs_file(tmp_path / "c.json", entries))
    )
    tasks = make_plan(fleet, spec, DEFAULTS)
    assert [task.tau_s for task in tasks] == [{"cpu": 0.0, "cpu@0.4": 0.5}, {"cpu": 0.0, "cpu@0.4": 2.5}]
    assert {task.strategy for task in tasks} == {"cutoff"}
    assert tasks[0].label == "E=1 C=3 tau=parity"


def test_no_fitting_cutoff_names_what_there_is(fleet: FleetSpec, tmp_path: Path) -> None:
    path = cutoffs_file(tmp_path / "c.json", [entry("cpu", 1, 0), entry("gpu", 1, 0.5)])
    with pytest.raises(
        SpecError, match=r"no cutoff for .*processor cpu@0.4.*There are: digits cpu E=1 B=16; digits gpu"
    ):
        make_plan(fleet, with_cutoffs(experiment(""), read_cutoffs(path)), DEFAULTS)


def test_contradicting_cutoffs_are_refused(fleet: FleetSpec, tmp_path: Path) -> None:
    path = cutoffs_file(tmp_path / "c.json", [entry("cpu", 1, 1), entry("cpu", 1, 2), entry("cpu@0.4", 1, 1)])
    with pytest.raises(SpecError, match="2 different cutoffs"):
        make_plan(fleet, with_cutoffs(experiment(""), read_cutoffs(path)), DEFAULTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "no list 'cutoffs'"),
        ('{"schema": 2, "cutoffs": []}', "schema 2"),
        ('{"schema": 1, "cutoffs": [3]}', "entry 1: not an object"),
        (json.dumps({"schema": 1, "cutoffs": [entry("cpu", 1, -1)]}), "tau_s must be seconds from 0"),
        (json.dumps({"schema": 1, "cutoffs": [entry("cpu", 1, float("nan"))]}), "tau_s must be"),
        (json.dumps({"schema": 1, "cutoffs": [{**entry("cpu", 1, 1), "epochs": "1"}]}), "'epochs' must be int"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_cutoffs_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(SpecError, match=message):
        read_cutoffs(path)


def test_a_missing_cutoffs_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"analysis.cutoff results/ -o"):
        read_cutoffs(tmp_path / "none.json")


def test_fixed_cutoffs_of_an_experiment(fleet: FleetSpec) -> None:
    spec = experiment('[strategy]\nname = "cutoff"\ncutoffs = { "cpu" = 0, "cpu@0.4" = 1.5 }\n')
    assert make_plan(fleet, spec, DEFAULTS)[0].tau_s == {"cpu": 0.0, "cpu@0.4": 1.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ronds = 4\n", "unknown key 'ronds'. Did you mean 'rounds'"),
        ("rounds = 0\n", "rounds must be at least 1"),
        ("[sweep]\nepochs = []\n", "at least one value"),
        ("[sweep]\nepochs = [1, 1]\n", "names a value twice"),
        ("[sweep]\nepochs = [0]\n", "whole numbers from 1"),
        ("[sweep]\nepoch = [1]\n", "Did you mean 'epochs'"),
        ('[partition]\nkind = "random"\n', "one of iid, dirichlet, domain"),
        ("lr = -1.0\n", "lr must be above 0"),
        ('[strategy]\nname = "cutoff"\ncutoffs = { cpu = "1" }\n', "must be seconds"),
    ],
)
def test_mistakes_in_experiments(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        experiment(text)
    assert message in str(caught.value)


def test_cutoffs_make_fedavg_cutoff_and_leave_other_strategies_their_name() -> None:
    for name, becomes in (("fedavg", "cutoff"), ("fedprox", "fedprox")):
        assert with_cutoffs(experiment(f'[strategy]\nname = "{name}"\n'), ()).strategy == becomes


PAIR = """name = "pair"
[[device]]
id = "gpu-{n}"
count = 2
processor = "gpu"
[[device]]
id = "cpu-{n}"
count = 3
processor = "cpu"
first_shard = 0
"""
CASES = """rounds = 1
[sweep]
seeds = [1, 2]
[[case]]
processors = ["gpu"]
[[case]]
processors = ["cpu"]
cutoffs = { "cpu" = 2.5 }
[[case]]
"""


def test_each_case_has_its_own_devices_and_cutoffs() -> None:
    pair = parse_fleet(PAIR, "pair.toml", cores=2)
    tasks = make_plan(pair, experiment(CASES), DEFAULTS)
    assert [(task.processors, task.clients, task.tau_s, task.seed) for task in tasks] == [
        ({"gpu": 2}, 2, {}, 1),
        ({"gpu": 2}, 2, {}, 2),
        ({"cpu": 3}, 3, {"cpu": 2.5}, 1),
        ({"cpu": 3}, 3, {"cpu": 2.5}, 2),
        ({"cpu": 3, "gpu": 2}, 5, {}, 1),
        ({"cpu": 3, "gpu": 2}, 5, {}, 2),
    ]
    assert {task.strategy for task in tasks} == {"fedavg", "cutoff"}
    assert tasks[2].label == "E=1 C=3 tau=2.5s"
    assert {task.partition["shards"] for task in tasks} == {3}, "the CPUs hold the data of the GPUs, and one shard more"
    members = pair.members(tasks[2].clients, tasks[2].processors)
    assert [(device.id, device.shard, device.number) for device in members] == [
        ("cpu-0", 0, 2),
        ("cpu-1", 1, 3),
        ("cpu-2", 2, 4),
    ]


def test_clients_are_the_first_of_a_cases_processors() -> None:
    pair = parse_fleet(PAIR, "pair.toml", cores=2)
    spec = experiment(CASES.replace("[sweep]", "[sweep]\nclients = [2]"))
    assert [task.processors for task in make_plan(pair, spec, DEFAULTS)[::2]] == [{"gpu": 2}, {"cpu": 2}]
    with pytest.raises(SpecError, match=r"3 clients asked for, but pair\.toml has 2 devices of processor gpu"):
        make_plan(pair, experiment(CASES.replace("[sweep]", "[sweep]\nclients = [3]")), DEFAULTS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[case]]\nprocessors = ["gpuu"]\n', "no processor 'gpuu', which a case asks for"),
        ("[[case]]\nprocessors = [1]\n", "'processors' holds labels"),
        ('[[case]]\nprocessor = ["gpu"]\n', "unknown key 'processor'"),
        ('[[case]]\ncutoffs = { "gpu" = 1 }\n', "no cutoff for"),
        ("[workload_options]\nwidth = [1]\n", "'width' must be text, a number, true or false"),
        ("[simulation]\nsteps_per_epoch = 0\n", "steps_per_epoch must be at least 1"),
    ],
)
def test_mistakes_in_cases_are_named(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_plan(parse_fleet(PAIR, "pair.toml", cores=2), experiment(text), DEFAULTS)


def test_what_came_later_changes_an_id_only_where_it_says_something(fleet: FleetSpec) -> None:
    plain = make_plan(fleet, experiment(""), DEFAULTS)[0]
    ids = {make_plan(fleet, experiment(text), DEFAULTS)[0].id for text in ("", "[simulation]\nsteps_per_epoch = 5\n")}
    assert ids == {plain.id}, "real devices are not simulated"
    assert make_plan(fleet, experiment("[workload_options]\nhidden = 5\n"), DEFAULTS)[0].id != plain.id
    assert make_plan(fleet, experiment(""), DEFAULTS, training=False)[0].id != plain.id
    assert make_plan(fleet, experiment(""), DEFAULTS, engine="flower")[0].id != plain.id, "it costs otherwise there"


@pytest.mark.parametrize("name", ["table2a", "table2b", "table3", "table2a-small", "table2b-small", "table3-small"])
def test_the_papers_experiments_name_their_fleet(name: str) -> None:
    spec, _ = load_experiment(f"paper-{name}")
    assert spec.fleet is not None
    tasks = make_plan(load_fleet(spec.fleet, cores=2), spec, DEFAULTS)
    assert {task.rounds for task in tasks} == {20 if "2b" in name else 40}
    assert len({task.seed for task in tasks}) == (3 if "small" in name else 1)
