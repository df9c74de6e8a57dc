"""What can happen to a fleet that trains, and when it happens, by seed.

Another kind of trouble is one more function in `ACTIONS`: it is given the scene, and a generator of its own.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.launchers.container_engine import find_engine
from tests.fixtures.containers import containers
from tests.fixtures.set_clock import SettableClock
from tests.fixtures.sshd import Sshd
from tests.harness.running import Bench, environment
from tests.harness.test_full_disk import fill

END_S = 300.0  # for a run that should have ended by itself, on top of what it takes
LONGEST_STOP_S = 1.5
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
    clock: SettableClock | None = None
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


def set_the_clock(scene: Scene, rng: random.Random) -> None:
    """Of the devices over ssh: by years or by seconds, forwards or back."""
    if scene.clock is not None:
        scene.clock.set_ahead(rng.choice((-1, 1)) * 10 ** rng.uniform(0.5, 8.0))


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
    set_the_clock,
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
