"""A server that is killed between a reply and the next instruction: its clients cannot know what arrived, and send it
again to the next one. Every measurement counts once all the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from profiler.records import Row
from tests.harness.running import Bench, environment, finish, module
from tests.harness.test_private_fleet import FOREIGN, _free_port, needs_entry_point

pytestmark = [needs_entry_point]

# The command, which kills itself the first time that it comes to this function.
KILLED = """import os, signal, sys
from harness.{module} import {owner}
from harness.run import main
{owner}.{function} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("owner", "function", "fits", "evaluations"),
    [
        # the round is on disk, with its checkpoint
        (("progress", "Progress"), "round_finished", [1, 2], [1, 2]),
        # nothing: what the last reply carried comes again, and is of no round; what was confirmed before it is lost
        (("engine", "Engine"), "_record", [1, 2], [None, 1, 2]),
    ],
)
def test_whatever_was_written_every_measurement_counts_once(
    tmp_path: Path, owner: tuple[str, str], function: str, fits: list[int], evaluations: list[int | None]
) -> None:
    bench, port = Bench(tmp_path), _free_port()
    bench.write(rounds=2, idle_s=0.0)
    fleet = f'name = "one"\n[server]\naddress = "127.0.0.1:{port}"\n{FOREIGN}'
    (tmp_path / "fleet.toml").write_text(fleet)
    experiment = (tmp_path / "experiment.toml").read_text().replace("clients = [2]", "clients = [1]")
    (tmp_path / "experiment.toml").write_text(experiment)
    (tmp_path / "killed.py").write_text(KILLED.format(module=owner[0], owner=owner[1], function=function))
    options = ("--workload", "digits", "--shards", 6, "--meter", "none", "--max-wait", 60)
    client = subprocess.Popen(
        module("fl.client", "--server", f"127.0.0.1:{port}", *options), env=environment(), stderr=subprocess.DEVNULL
    )
    try:
        killed = finish([sys.executable, "killed.py", *bench.command()[3:], "--quiet"], tmp_path)
        assert killed.returncode == -9, killed.stderr
        done = bench.run("--resume", bench.run_folders()[0], "--quiet")
        assert done.returncode == 0, done.stderr
        assert client.wait(20) == 0
    finally:
        client.kill()
        client.wait()
    spans = [span for span in bench.records("span") if span["clock"] == "device"]
    assert {span_id: n for span_id, n in Counter(span["span_id"] for span in spans).items() if n > 1} == {}
    assert {name: rounds_of(spans, name) for name in ("fit", "evaluate")} == {"fit": fits, "evaluate": evaluations}


def rounds_of(spans: list[Row], name: str) -> list[int | None]:
    """In the order of the client's own clock."""
    return [span.get("round") for span in sorted(spans, key=lambda span: int(span["start_ns"])) if span["name"] == name]
