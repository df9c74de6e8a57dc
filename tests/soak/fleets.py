"""A fleet of all kinds of clients, to which things happen round after round, by seed: does a run end, and whole?

    python -m tests.soak.fleets --rounds 30 --seed 1

The real command with real processes, a real sshd, containers, and a network of its own for one client; the last two
where this machine has them. While it runs, clients are killed, stopped and continued, containers killed and stopped,
sshd is killed and started again, the link is cut and healed, the disk of the results is full for a while, and the
command itself is killed and resumed. Checked at the end: it ended by itself, every client of every round has either its
results or a failure that names it, no span is there twice, and no process, connection, container, link or cgroup is
left. One JSON object on stdout; exit status 1, with the reasons, where a check fails.

Another kind of trouble is one more function in `ACTIONS`: it is given the scene, and a generator of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from harness.launchers.container_engine import find_engine
from harness.links import Shape
from profiler.errors import DeviceError
from profiler.records import Row
from tests.fixtures.containers import containers, usable_image
from tests.fixtures.network import left_behind, usable_link
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import Bench, environment, wait_until
from tests.harness.test_full_disk import fill

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
END_S = 300.0  # for a run that should have ended by itself, on top of what it takes
GONE_S = 20.0
LONGEST_STOP_S = 1.5
DISK_BYTES = 32 * 1024 * 1024
EXIT_PRECONDITION = 3


@dataclass(frozen=True, slots=True)
class Options:
    """`every` so many rounds something happens."""

    seed: int = 1
    rounds: int = 30
    here: int = 4
    there: int = 2
    boxed: int = 0
    distant: int = 0
    fills_disk: bool = False
    every: int = 2
    epochs: int = 80
    join_timeout_s: float = 30.0
    fit_timeout_s: float = 20.0

    def devices(self) -> list[str]:
        counts = {"here": self.here, "there": self.there, "boxed": self.boxed, "distant": self.distant}
        return [f"{name}-{n}" for name, count in counts.items() for n in range(count)]


@dataclass
class Scene:
    """What trouble can be made of: the run that goes on, and where its clients are."""

    bench: Bench
    sshd: Sshd
    process: subprocess.Popen[bytes] | None = None
    harnesses: list[int] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def clients(self) -> list[psutil.Process]:
        """All clients of this run, here and there, in a fixed order."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            is_ours = "fl.client" in words and self._is_ours(process)
            if is_ours:
                found.append((words[words.index("--device") + 1], process))
        return [process for _, process in sorted(found, key=lambda one: one[0])]

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether the harness or the server's user runs it: other runs may be going on beside."""
        with suppress(psutil.Error):
            ancestors = {parent.pid for parent in process.parents()} | {process.ppid()}
            return bool(ancestors & set(self.harnesses)) or any(process.pid == one.pid for one in self.sshd.processes())
        return False

    def begin(self, *arguments: object) -> None:
        command = self.bench.command(*arguments, "--quiet")
        with (self.bench.folder / "harness.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.bench.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=log
            )
        self.harnesses.append(self.process.pid)

    def status(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def n_rounds(self) -> int:
        """How many different ones are on disk."""
        with suppress(OSError, IndexError):
            return len({row["round"] for row in self.bench.records("round")})
        return 0


# --- trouble ---------------------------------------------------------------------------------------------------------


def kill_a_client(scene: Scene, rng: random.Random) -> None:
    _send(_some_client(scene, rng), signal.SIGKILL)


def stop_a_client(scene: Scene, rng: random.Random) -> None:
    client = _some_client(scene, rng)
    _send(client, signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, LONGEST_STOP_S))
    _send(client, signal.SIGCONT)


def kill_two_clients(scene: Scene, rng: random.Random) -> None:
    for _ in range(2):
        kill_a_client(scene, rng)


def cut_connections(scene: Scene, rng: random.Random) -> None:
    scene.sshd.cut()


def restart_sshd(scene: Scene, rng: random.Random) -> None:
    """As a board that reboots: its connections and its clients end, and it is away for a while."""
    scene.sshd.stop()
    time.sleep(rng.uniform(0.1, LONGEST_STOP_S))
    scene.sshd.start()


def kill_the_harness(scene: Scene, rng: random.Random) -> None:
    """SIGKILL, wherever it is; then --resume, as a person would do in the morning."""
    assert scene.process is not None
    scene.process.send_signal(signal.SIGKILL)
    scene.process.wait()
    scene.begin("--resume", scene.bench.run_folders()[-1])


def _some_client(scene: Scene, rng: random.Random) -> psutil.Process | None:
    clients = scene.clients()
    return rng.choice(clients) if clients else None


def _send(client: psutil.Process | None, signal_: signal.Signals) -> None:
    """It may have ended at any moment."""
    if client is not None:
        with suppress(psutil.NoSuchProcess):
            client.send_signal(signal_)


def kill_a_container(scene: Scene, rng: random.Random) -> None:
    _tell_a_container(rng, "kill", "--signal", "KILL")


def stop_a_container(scene: Scene, rng: random.Random) -> None:
    """As its owner may, by hand: SIGTERM, and SIGKILL soon."""
    _tell_a_container(rng, "stop", "--time", "1")


def _tell_a_container(rng: random.Random, *words: str) -> None:
    engine = find_engine()
    if names := sorted(containers(engine)):
        subprocess.run(engine.command(*words, rng.choice(names)), capture_output=True, check=False)


def cut_a_link(scene: Scene, rng: random.Random) -> None:
    """Here, as a cable is pulled and plugged in again."""
    if ends := sorted(Path("/sys/class/net").glob("fm[0-9]*h")):
        end = rng.choice(ends).name
        subprocess.run(["ip", "link", "set", end, "down"], capture_output=True, check=False)
        time.sleep(rng.uniform(0.5, 2 * LONGEST_STOP_S))
        subprocess.run(["ip", "link", "set", end, "up"], capture_output=True, check=False)


def fill_the_disk(scene: Scene, rng: random.Random) -> None:
    """Until the run has ended of it; then there is room again, and --resume, as a person would do in the morning."""
    assert scene.process is not None
    filler = fill(scene.bench.results)
    status = scene.process.wait(END_S)
    filler.unlink()
    if status == EXIT_PRECONDITION:
        scene.begin("--resume", scene.bench.run_folders()[-1])


Action = Callable[[Scene, random.Random], None]
ACTIONS: tuple[Action, ...] = (
    kill_a_client,
    stop_a_client,
    kill_two_clients,
    cut_connections,
    restart_sshd,
    kill_the_harness,
)


def actions(options: Options) -> tuple[Action, ...]:
    """All that can happen to a fleet of these."""
    found = ACTIONS
    found += (kill_a_container, stop_a_container) if options.boxed else ()
    found += (cut_a_link,) if options.distant else ()
    found += (fill_the_disk,) if options.fills_disk else ()
    return found


def plan(options: Options) -> list[tuple[int, Action]]:
    """After which round what happens: every action in turn, in an order by seed, and again."""
    rng = random.Random(options.seed)
    planned: list[Action] = []
    rounds = range(1, options.rounds - 1, options.every)
    while len(planned) < len(rounds):
        planned += rng.sample(actions(options), len(actions(options)))
    return list(zip(rounds, planned, strict=False))


# --- the run ---------------------------------------------------------------------------------------------------------


def write(bench: Bench, sshd: Sshd, options: Options) -> None:
    ssh = "\n".join(f"{key} = {json.dumps(value)}" for key, value in sshd.options.items())
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
        scene = Scene(Bench(Path(name)), sshd)
        write(scene.bench, sshd, options)
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
