"""A fleet of all kinds of clients, to which things happen round after round, by seed: does a run end, and whole?

    python -m tests.soak.fleets --rounds 30 --seed 1

The real command with real processes, a real sshd, containers, and a network of its own for one client; the last two
where this machine has them. While it runs, clients are killed, stopped and continued, containers killed and stopped,
sshd is killed and started again, the wall clock of devices over ssh is set, the link is cut and healed, the disk of the
results is full for a while, and the command itself is killed and resumed (`troubles`). Checked at the end: it ended by
itself, every client of every round has either its results or a failure that names it, no span is there twice, and no
process, connection, container, link or cgroup is left. One JSON object on stdout; exit status 1, with the reasons,
where a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from harness.launchers.container_engine import find_engine
from harness.links import Shape
from profiler.errors import DeviceError
from profiler.records import Row
from tests.fixtures.containers import containers, usable_image
from tests.fixtures.network import left_behind, usable_link
from tests.fixtures.set_clock import SettableClock
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import Bench, wait_until
from tests.soak.troubles import END_S, Options, Scene, plan

FLEET = """name = "chaos"
[server]
join_timeout_s = {join_timeout_s}
[relaunch]
attempts = 20
pause_s = 0.2
longest_pause_s = 1
[[device]]
id = "here-{{n}}"
count = {here}
processor = "cpu"
cpu_limit = 0.5
[[device]]
id = "there-{{n}}"
count = {there}
processor = "cpu-there"
launcher = "ssh"
reconnect_s = 20
meter = "none"
{ssh}
"""
BOXED = """[[device]]
id = "boxed-{{n}}"
count = {boxed}
processor = "cpu-boxed"
launcher = "container"
cpu_limit = 0.5
{container}
"""
DISTANT = """[[device]]
id = "distant-{{n}}"
count = {distant}
processor = "cpu-distant"
bandwidth_mbps = 50
latency_ms = 5
"""
EXPERIMENT = """name = "chaos"
workload = "linear"
rounds = {rounds}
idle_s = 0
fit_timeout_s = {fit_timeout_s}
[sweep]
epochs = [{epochs}]
"""
GONE_S = 20.0
DISK_BYTES = 32 * 1024 * 1024


def write(bench: Bench, there: Mapping[str, object], options: Options) -> None:
    ssh = "\n".join(f"{key} = {json.dumps(value)}" for key, value in there.items())
    fleet = FLEET.format(here=options.here, there=options.there, ssh=ssh, join_timeout_s=options.join_timeout_s)
    if options.boxed:
        lines = (f"{key} = {json.dumps(value)}" for key, value in usable_image().items())
        fleet += BOXED.format(boxed=options.boxed, container="\n".join(lines))
    if options.distant:
        fleet += DISTANT.format(distant=options.distant)
    (bench.folder / "fleet.toml").write_text(fleet)
    text = EXPERIMENT.format(rounds=options.rounds, epochs=options.epochs, fit_timeout_s=options.fit_timeout_s)
    (bench.folder / "experiment.toml").write_text(text)


def run_through(scene: Scene, options: Options) -> int:
    """The exit status of the last process that ran."""
    rng = random.Random(options.seed)
    scene.begin()
    for after, action in plan(options):
        wait_until(lambda n=after: scene.n_rounds() >= n or scene.status() is not None, END_S)
        if scene.status() is not None:
            break
        time.sleep(rng.uniform(0.0, 0.3))  # not always at the same place of a round
        action(scene, rng)
        scene.done.append(action.__name__)
    assert scene.process is not None
    return scene.process.wait(END_S)


def problems(scene: Scene, options: Options, status: int) -> list[str]:
    """What is not as it must be; empty where all is well."""
    failures = scene.bench.records("failure")
    expected = {1} if failures else {0}
    found = [] if status in expected else [f"exit status {status} with {len(failures)} failures"]
    if not (scene.bench.run_folders()[-1] / "end.json").exists():
        found.append("no end.json")
    found += unaccounted(scene.bench, options)
    spans = Counter(row["span_id"] for row in scene.bench.records("span"))
    if twice := [span_id for span_id, n in spans.items() if n > 1]:
        found.append(f"{len(twice)} spans are there twice, such as {twice[0]}")
    return found + leftovers(scene)


def unaccounted(bench: Bench, options: Options) -> list[str]:
    """Clients of rounds of which neither a result nor a failure is there, in the attempt that counts."""
    counting = {row["round"]: row["attempt"] for row in bench.records("round")}
    found = [f"round {n} is missing" for n in range(1, options.rounds + 1) if n not in counting]
    answered = {_place(row) for row in bench.records("span") if row["name"] == "call" and row["call"] == "fit"}
    failed = {_place(row) for row in bench.records("failure")}
    for round_, attempt in counting.items():
        silent = [one for one in options.devices() if (round_, attempt, one) not in answered | failed]
        found += [f"{device} in round {round_} is neither there nor listed as failed" for device in silent]
    return found


def _place(row: Row) -> tuple[int | None, int, str | None]:
    return row.get("round"), row["attempt"], row.get("device")


def leftovers(scene: Scene) -> list[str]:
    """Processes here and there, and cgroups, that outlive the run for more than `GONE_S`."""
    until_s = time.monotonic() + GONE_S
    while (found := _leftovers(scene)) and time.monotonic() < until_s:
        time.sleep(0.2)
    return [f"left behind: {one}" for one in found]


def _leftovers(scene: Scene) -> list[str]:
    names = [f"fedmeter-{pid}-" for pid in scene.harnesses]
    found = sorted({str(path) for path in _cgroups() if any(name in path.name for name in names)})
    found += scene.sshd.left_behind()
    found += sorted(name for name in _links_and_containers() if any(name.startswith(one) for one in names))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if str(scene.sshd.folder) in words and "sshd" not in process.name() and process.pid != os.getpid():
                found.append(words[:200])
    return found


def _links_and_containers() -> set[str]:
    found = left_behind()
    with suppress(DeviceError, subprocess.CalledProcessError):  # no engine here
        found |= containers(find_engine())
    return found


def _cgroups() -> Iterator[Path]:
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"):
        for depth in ("*", "*/*", "*/*/*"):
            yield from (path for path in Path(base).glob(f"{depth}/fedmeter-*") if path.is_dir())
        yield from (path for path in Path(base).glob("fedmeter-*") if path.is_dir())


@contextmanager
def _disk(folder: Path, options: Options) -> Iterator[None]:
    """The results have a disk of their own, where it is to be filled."""
    results = folder / "results"
    if not options.fills_disk:
        yield
        return
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(results)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)


def chaos(options: Options) -> dict[str, object]:
    """One run and its figures; `problems` is empty where all is well."""
    with running_sshd() as sshd, tempfile.TemporaryDirectory() as name, _disk(Path(name), options):
        scene = Scene(Bench(Path(name)), sshd, settable_clock(sshd) if options.there else None)
        there = sshd.options if scene.clock is None else sshd.options | {"python": str(scene.clock.python)}
        write(scene.bench, there, options)
        began_s = time.monotonic()
        try:
            status = run_through(scene, options)
            found = problems(scene, options, status)
        finally:
            if scene.process is not None and scene.process.poll() is None:
                scene.process.kill()
                scene.process.wait()
        failures = Counter(row["phase"] for row in scene.bench.records("failure"))
        return {
            "seed": options.seed,
            "rounds": scene.n_rounds(),
            "seconds": time.monotonic() - began_s,
            "trouble": dict(Counter(scene.done)),
            "exit_status": status,
            "failures": dict(failures),
            "results": sum(row["n_results"] for row in scene.bench.records("round")),
            "of": options.rounds * len(options.devices()),
            "log": (scene.bench.folder / "harness.log").read_text()[-4000:] if found else "",
            "problems": found,
        }


def settable_clock(sshd: Sshd) -> SettableClock | None:
    """None, saying so, where there can be none: nothing happens to it then."""
    try:
        return SettableClock(sshd.folder, sshd.python)
    except pytest.skip.Exception as why:
        print(f"left out: {why}", file=sys.stderr)
        return None


def _possible(count: int, attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except pytest.skip.Exception as why:
        print(f"left out: {why}", file=sys.stderr)
        return 0
    return count


def _try_a_link() -> None:
    with usable_link(Shape(bandwidth_mbps=50, latency_ms=5)):
        pass


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fleets", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--here", type=int, default=4, help="clients of this machine")
    parser.add_argument("--there", type=int, default=2, help="clients over ssh")
    parser.add_argument("--boxed", type=int, default=2, help="containers, where there is an engine")
    parser.add_argument("--distant", type=int, default=1, help="clients behind a link, where one can be made")
    parser.add_argument("--keep-disk", action="store_true", help="do not fill the disk, which takes the right to mount")
    args = parser.parse_args(argv)
    boxed, distant = _possible(args.boxed, usable_image), _possible(args.distant, _try_a_link)
    figures = chaos(
        Options(args.seed, args.rounds, args.here, args.there, boxed, distant, fills_disk=not args.keep_disk)
    )
    print(json.dumps(figures, indent=2))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
