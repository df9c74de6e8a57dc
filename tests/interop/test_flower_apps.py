"""fedmeter inside Flower's apps: the mod and the strategy, with the oldest Flower that has them and the newest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from analysis.pareto import main as pareto
from analysis.report import main as report
from profiler.records import Row
from tests.interop.apps import (
    APP,
    ENGINE_BESIDE,
    NEWEST,
    QUICKSTART,
    VERSIONS,
    Federation,
    app_python,
    environment,
    rows,
    run_to_the_end,
    running_federation,
)
from tests.interop.flower import SCRIPTS

CUTOFF_S = 0.2


def run_in_process(version: str, root: Path, cutoff_s: float, *, is_ours: bool = True) -> dict[str, Any]:
    results = root / "results" if is_ours else "-"
    command = [str(app_python(version)), str(SCRIPTS / "app_in_process.py"), str(results), str(cutoff_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(root), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_rounds_of_a_strategy_become_results(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_in_process(version, tmp_path, 0.0)
    results = load([tmp_path / "results"])
    [task] = results.tasks.to_dict("records")
    assert (task["strategy"], task["epochs"], task["batch_size"], task["lr"], task["clients"]) == (
        "fedavg",
        3,
        400,
        0.5,
        3,
    )
    assert task["finished"]
    rounds = rows(tmp_path, kind="round")
    assert [(row["n_selected"], row["n_results"]) for row in rounds] == [(3, 3), (3, 2), (3, 3)]
    assert all(row["accuracy"] > 0.6 for row in rounds)
    [failure] = rows(tmp_path, kind="failure")
    assert (failure["device"], failure["phase"], failure["round"]) == ("broken", "fit", 2)
    assert "broken on purpose" in failure["reason"]
    for number, metrics in told["train"].items():
        assert metrics.keys() == {"train_loss", "fit.energy_j", "fit.duration_s"}, "ours are in no average"
        fits = rows(tmp_path, kind="span", name="fit", round=int(number))
        assert metrics["fit.duration_s"] == max(row["duration_s"] for row in fits)
        assert metrics["fit.energy_j"] == pytest.approx(sum(row["energy_j"] for row in fits))
        assert {row["steps_done"] for row in fits} == {30}
        assert_shared(fits)
    assert not [row for row in rows(tmp_path, kind="span") if row["name"] in ("download", "upload")]
    assert pareto([str(tmp_path / "results")]) == 0
    assert "E=3, C=3, tau=none" in capsys.readouterr().out
    assert report([str(tmp_path / "results")]) == 0


def assert_shared(fits: Sequence[Row]) -> None:
    """All nodes are on this machine, so each has a part of what its sensor saw."""
    for row in fits:
        [rail] = [rail for rail in row["rails"] if rail["rail"] == row["energy_total_of"][0]]
        assert row["energy_scope"] == "process"
        assert "by CPU time" in row["energy_reason"]
        assert row["energy_j"] <= rail["energy_j"], "what the rail saw is kept as it was"


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_strategy_that_knows_nothing_of_us_gets_three_numbers(version: str, tmp_path: Path) -> None:
    told = run_in_process(version, tmp_path, 0.0, is_ours=False)
    assert len(told["train"]) == 3
    for metrics in told["train"].values():
        assert metrics.keys() == {"train_loss", "fit.duration_s", "fit.energy_j", "fit.energy_err_j"}
        assert metrics["fit.duration_s"] > 0


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_processor_keeps_its_cutoff(version: str, tmp_path: Path) -> None:
    told = run_in_process(version, tmp_path, CUTOFF_S)
    fits = rows(tmp_path, kind="span", name="fit")
    slow = [row for row in fits if row["device"] == "slow"]
    assert [row["stopped_by"] for row in slow] == ["cutoff"] * 3, "also before the server knows its processor"
    assert all(row["cutoff_s"] == CUTOFF_S and 1 <= row["steps_done"] < row["steps_planned"] == 30 for row in slow)
    assert {row["stopped_by"] for row in fits if row["device"] != "slow"} == {"completed"}
    samples = (tmp_path / "results").glob("*/samples/*/*.parquet")
    assert {path.stem for path in samples} == {"fast", "slow", "broken"}
    trained = [(name, config, ttl_s) for kind, name, config, ttl_s in told["seen"] if kind == "train"]
    first, later = trained[:3], trained[3:]
    assert all("cutoff_s" not in config and ttl_s > 40_000 for _, config, ttl_s in first)
    assert {(config["cutoff_s"], ttl_s) for name, config, ttl_s in later if name == "slow"} == {(CUTOFF_S, 600.0)}
    assert {config["cutoff_s"] for name, config, _ in later if name != "slow"} == {0.0}


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("telemetry", ["-", "full"])
def test_an_app_with_a_client_fn_tells_its_server_among_its_metrics(
    version: str, telemetry: str, tmp_path: Path
) -> None:
    command = [str(app_python(version)), str(SCRIPTS / "client_fn.py"), telemetry]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(tmp_path), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    fit, evaluate = told["train"], told["evaluate"]
    assert (fit["num_examples"], fit["loss"], fit["own"]) == (70, 0.25, 3), "its own stay as they were"
    assert (evaluate["num_examples"], evaluate["accuracy"]) == (30, 0.75)
    assert fit["fit.duration_s"] > 0.01
    assert {"evaluate.duration_s", "evaluate.energy_j", "evaluate.energy_err_j"} <= evaluate.keys()
    if telemetry == "full":
        assert (fit["fit.stopped_by"], fit["fit.steps_planned"]) == ("cutoff", 20)
        assert 1 <= fit["fit.steps_done"] < 20
        assert fit["fedmeter.record"] > 100
    else:
        assert {name for name in fit if "." in name} == {"fit.duration_s", "fit.energy_j", "fit.energy_err_j"}


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_our_app_joins_our_server_for_nodes_that_come_fail_are_replaced_and_go(version: str, tmp_path: Path) -> None:
    command = [str(app_python(version)), str(SCRIPTS / "relay.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(tmp_path), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["devices"], told["knows"]) == (["a", "b"], True)
    assert (told["fit"]["shapes"], told["fit"]["spans"]) == ([[8, 10], [10]], ["fit"])
    assert told["fit"]["scope"] == "process", "both nodes are on this machine"
    assert told["fit"]["download_s"] is None, "nobody looks at the way"
    assert told["evaluated"] == 80
    broken, asked_for_a_model = told["failures"]
    assert "broken on purpose" in broken
    assert "not asked for a model" in asked_for_a_model
    assert told["ttl"] == [33.0, 33.0]
    assert (told["replaced_by"], told["later"]) == (3, ["a", "b"])
    assert told["queries"] == 4, "each node is asked once who it is; what else is asked beside work is answered here"
    assert told["ended"], "when everybody was told to leave"
    assert "node 9 takes no part: this node is no device of the run" in done.stderr


REFUSED = """
from flwr.serverapp.strategy import FedAvg, FedProx
from fl.flower import ProfiledStrategy
from profiler.errors import UsageError

class Own(FedAvg):
    def start(self, *arguments, **named):
        return None

for strategy, options in [(Own(), {}), (FedProx(), {"cutoffs": {"arm": -1.0}}), (FedProx(), {"fit_timeout_s": 0.0}),
                          (FedProx(), {"telemetry": "all"}), (FedProx(), {"cutoffs": {"arm": 2.0}})]:
    try:
        ProfiledStrategy(strategy, **options)
    except UsageError as error:
        print(error)
    else:
        print("taken")
"""


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_any_strategy_is_taken_whose_loop_is_flowers(version: str, tmp_path: Path) -> None:
    command = [str(app_python(version)), "-c", REFUSED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(tmp_path), check=True)
    own, cutoff, timeout, level, fine = done.stdout.splitlines()
    assert own.startswith("Own has a loop of its own")
    assert (cutoff.startswith("cutoff of 'arm' = -1.0"), timeout.startswith("fit_timeout_s = 0.0")) == (True, True)
    assert level.startswith("telemetry = 'all'")
    assert fine == "taken"


# --- SuperLink and SuperNodes ----------------------------------------------------------------------------------------

CLIENT_LINE = (
    "app = ClientApp()",
    "app = ClientApp(mods=[profiling_mod()])",
    "from fl.flower import profiling_mod",
)
SERVER_LINE = (
    "strategy = FedAvg(fraction_evaluate=1.0)",
    'strategy = ProfiledFedAvg(recorder=Recording(context.run_config["results"], workload="clouds", seed=0))',
    "from fl.flower import ProfiledFedAvg\nfrom harness import Recording",
)
STEPS_LINE = ("    for x, y in loader:", "    for x, y in steps(loader):", "from fl.steps import steps")
HUNG_LINE = (
    '    [weights] = msg.content["arrays"].to_numpy_ndarrays()',
    '    time.sleep(300 if (context.node_config["partition-id"], msg.content["config"]["round"]) == (1, 2) else 0)\n'
    '    [weights] = msg.content["arrays"].to_numpy_ndarrays()',
    "import time",
)
CUTOFF_LINE = (
    SERVER_LINE[0],
    SERVER_LINE[1][:-1] + ', fraction_evaluate=0.0, fit_timeout_s=1.0, cutoffs={"arm": 0.0005})',
    SERVER_LINE[2],
)


def app_with(folder: Path, changes: Mapping[str, Sequence[tuple[str, str, str]]], app: Path = APP) -> Path:
    """An app, with lines of its files changed: what was there, what is there now, and what that imports."""
    app = Path(shutil.copytree(app, folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
    for name, lines in changes.items():
        [path] = app.glob(f"*/{name}")
        docstring, _, text = path.read_text().partition("\n")
        for old, new, imports in lines:
            assert text.count(old) == 1
            text = f"{imports}\n{text.replace(old, new)}"
        path.write_text(f"{docstring}\n{text}")
    return app


def run_on_supernodes(version: str, app: Path, home: Path) -> Path:
    """On two SuperNodes, `pi-0` and `pi-1`, of one processor; the results."""
    if os.environ.get("FEDMETER_INTEROP") != "full":
        pytest.skip("make interop")
    binaries, here = app_python(version).parent, Federation.of(version)
    here.tell(home, app)
    nodes = [f'partition-id={n} device="pi-{n}" processor="arm"' for n in range(2)]
    with running_federation(here, binaries, home, nodes) as env:
        run_to_the_end(binaries, app, env, home / "results")
    return home / "results"


@pytest.mark.serial
@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", VERSIONS)
def test_two_lines_make_an_app_on_supernodes_write_results(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_with(tmp_path, {"client_app.py": [CLIENT_LINE], "server_app.py": [SERVER_LINE]})
    results = run_on_supernodes(version, app, tmp_path)
    [task] = load([results]).tasks.to_dict("records")
    assert (task["epochs"], task["batch_size"], task["lr"], task["clients"]) == (2, 16, 0.5, 2)
    fits = rows(tmp_path, kind="span", name="fit")
    assert {(row["device"], row["round"]) for row in fits} == {(f"pi-{n}", r) for n in range(2) for r in (1, 2)}
    assert {row["energy_scope"] for row in fits} == {"process"}, "both nodes are on this machine"
    assert pareto([str(results)]) == 0
    assert "E=2, C=2, tau=none" in capsys.readouterr().out
    assert report([str(results)]) == 0


@pytest.mark.serial
@pytest.mark.timeout(400)
def test_supernodes_keep_cutoffs_and_one_that_hangs_is_given_up_by_name(tmp_path: Path) -> None:
    changes = {"client_app.py": [CLIENT_LINE, HUNG_LINE], "server_app.py": [CUTOFF_LINE], "task.py": [STEPS_LINE]}
    run_on_supernodes(NEWEST, app_with(tmp_path, changes), tmp_path)
    fits = rows(tmp_path, kind="span", name="fit")
    assert [(row["device"], row["round"]) for row in sorted(fits, key=lambda row: (row["round"], row["device"]))] == [
        ("pi-0", 1),
        ("pi-1", 1),
        ("pi-0", 2),
    ]
    assert {row["stopped_by"] for row in fits} == {"cutoff"}
    assert all(1 <= row["steps_done"] < row["steps_planned"] == 500 for row in fits)
    [failure] = rows(tmp_path, kind="failure")
    assert (failure["device"], failure["round"], failure["phase"]) == ("pi-1", 2, "fit")
    assert "TTL" in failure["reason"] or "Unavailable" in failure["reason"]
    [round_] = [row for row in rows(tmp_path, kind="round") if row["round"] == 2]
    assert (round_["n_selected"], round_["n_results"], round_["n_failures"]) == (2, 1, 1)


@pytest.mark.serial
@pytest.mark.timeout(400)
def test_flowers_simulation_writes_results(tmp_path: Path) -> None:
    if os.environ.get("FEDMETER_INTEROP") != "full":
        pytest.skip("make interop")
    binaries, here = app_python(NEWEST, ENGINE_BESIDE[NEWEST]).parent, Federation.of(NEWEST)
    app = app_with(tmp_path, {"client_app.py": [CLIENT_LINE], "server_app.py": [SERVER_LINE]})
    here.tell(tmp_path, app)
    options = ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]
    with running_federation(here, binaries, tmp_path, [], is_simulated=True) as env:
        run_to_the_end(binaries, app, env, tmp_path / "results", *options)
    fits = rows(tmp_path, kind="span", name="fit")
    assert sorted(row["round"] for row in fits) == [1, 1, 1, 2, 2, 2]
    assert len({row["device"] for row in fits}) == 3
    assert {row["energy_scope"] for row in fits} == {"process"}
    [task] = load([tmp_path / "results"]).tasks.to_dict("records")
    assert (task["clients"], task["finished"]) == (3, True)


QUICKSTART_SERVER_LINE = (
    "strategy = FedAvg(fraction_train=1.0)",
    'strategy = ProfiledFedAvg(recorder=Recording(context.run_config["results"], workload="digits", seed=0))',
    SERVER_LINE[2],
)


@pytest.mark.serial
@pytest.mark.timeout(400)
def test_two_lines_make_a_pytorch_app_write_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.environ.get("FEDMETER_INTEROP") != "full":
        pytest.skip("make interop")
    binaries, here = app_python(NEWEST, ENGINE_BESIDE[NEWEST]).parent, Federation.of(NEWEST)
    lines = {"client_app.py": [CLIENT_LINE], "server_app.py": [QUICKSTART_SERVER_LINE]}
    app = app_with(tmp_path, lines, QUICKSTART)
    here.tell(tmp_path, app)
    nodes = [f'partition-id={n} num-partitions=2 device="pi-{n}" processor="arm"' for n in range(2)]
    with running_federation(here, binaries, tmp_path, nodes) as env:
        run_to_the_end(binaries, app, env, tmp_path / "results")
    [task] = load([tmp_path / "results"]).tasks.to_dict("records")
    assert (task["epochs"], task["batch_size"], task["lr"], task["clients"]) == (2, 32, 0.1, 2)
    rounds = rows(tmp_path, kind="round")
    assert rounds[-1]["accuracy"] > 0.8, "it learns"
    fits = rows(tmp_path, kind="span", name="fit")
    assert {(row["device"], row["round"]) for row in fits} == {(f"pi-{n}", r) for n in range(2) for r in (1, 2)}
    assert pareto([str(tmp_path / "results")]) == 0
    assert "E=2, C=2, tau=none" in capsys.readouterr().out
    assert report([str(tmp_path / "results")]) == 0
