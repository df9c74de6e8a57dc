"""A client that ends before its reply is sent: its measurement is fetched from where it is, and counts once."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiler.records import Row
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import REPOSITORY, Bench, finish

pytestmark = [pytest.mark.timeout(120)]

# The client of one device kills itself when it has trained in round 2, once; its reply is never handed over.
ENDS_BEFORE_IT_REPLIES = """import os, signal, sys
from pathlib import Path
been_here = Path({been_here!r})
if "fl.client" in sys.orig_argv and {device!r} in sys.orig_argv and not been_here.exists():
    from fl.responder import Responder
    answer = Responder.answer
    def last_answer(self, data, received_ns):
        response = answer(self, data, received_ns)
        on_the_way = self._client.spool._on_the_way
        if any(one.name == "fit" and one.attributes["round"] == 2 for one in on_the_way):
            self._client.spool.save()
            been_here.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return response
    Responder.answer = last_answer
"""
EXPERIMENT = 'name = "short"\nworkload = "linear"\nrounds = 4\nidle_s = 0\n[sweep]\nepochs = [20]\n'
HERE = '[[device]]\nid = "here-{n}"\ncount = 2\nprocessor = "cpu"\n'


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


def write(bench: Bench, devices: str) -> None:
    (bench.folder / "fleet.toml").write_text(f'name = "spools"\n[relaunch]\npause_s = 0.1\n{devices}')
    (bench.folder / "experiment.toml").write_text(EXPERIMENT)


def check(bench: Bench, device: str) -> Row:
    """The span of the lost fit, after all that holds of any such run."""
    failures = [row for row in bench.records("failure") if row["phase"] == "fit"]
    assert [(row["device"], row["round"]) for row in failures] == [(device, 2)]
    spans = [row for row in bench.records("span") if row["clock"] == "device"]
    assert max(Counter(row["span_id"] for row in spans).values()) == 1
    (lost,) = (row for row in spans if (row["device"], row["name"], row.get("round")) == (device, "fit", 2))
    assert lost["steps_done"] == lost["steps_planned"] > 0
    assert lost["energy_j"] is not None
    assert not list((bench.run_folders()[-1] / "logs").glob("*.spool"))
    return lost


def test_of_a_client_here(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    write(bench, HERE)
    been_here = str(tmp_path / "been-here")
    (tmp_path / "sitecustomize.py").write_text(ENDS_BEFORE_IT_REPLIES.format(been_here=been_here, device="here-1"))
    done = finish(bench.command(), bench.folder, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 1, done.stderr
    lost = check(bench, "here-1")
    assert lost["energy_scope"] == "process", "its share of this host's joules"
    assert [row["n_results"] for row in bench.records("round")] == [2, 1, 2, 2]


def test_of_a_client_over_ssh(tmp_path: Path, sshd: Sshd) -> None:
    bench = Bench(tmp_path)
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in sshd.options.items())
    there = f'[[device]]\nid = "there"\nprocessor = "cpu-there"\nlauncher = "ssh"\n{options}\n'
    write(bench, HERE + there)
    (site,) = (sshd.folder / "env").glob("lib/python*/site-packages")
    module, hook = site / "ends_before_it_replies.py", site / "last.pth"  # a sitecustomize of the system would win
    module.write_text(ENDS_BEFORE_IT_REPLIES.format(been_here=str(sshd.home / "been-here"), device="there"))
    hook.write_text(f"import {module.stem}\n")
    try:
        done = bench.run()
    finally:
        hook.unlink()
    assert done.returncode == 1, done.stderr
    check(bench, "there")
    assert not list(sshd.home.glob("fedmeter/spools"))
