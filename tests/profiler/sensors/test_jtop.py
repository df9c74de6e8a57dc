"""jtop as a second way to a Jetson's rails: a fake in its shape, and what of the package can run without a Jetson."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from profiler import Sampler
from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Probe, Unavailable, best, distinct
from profiler.sensors.jetson import JetsonSensor
from profiler.sensors.jtop import JtopSensor, rails_w
from tests.fixtures.jetson import BOARDS, build_jetson
from tests.fixtures.jtop import FakeJtop, JtopException, build_socket, entry, power_of
from tests.profiler.sensors.asking import available, refused

NOT_ACTIVE = "The jtop.service is not active. Please run:\nsudo jtop --install-service"
NO_ACCESS = "I can't access jtop.service.\nPlease logout or reboot this board."
MISMATCH = "Mismatch version jtop service: [4.2.12] and client: [7.2.2]. Please run:\n\nsudo jtop --install-service"


def sensor(root: Path, library: FakeJtop, clock: FakeClock | None = None, **options: float) -> JtopSensor:
    if not (root / "run/jtop.sock").exists():
        build_socket(root)
    return JtopSensor(root, clock or FakeClock(), load=lambda: library, **options)


@pytest.mark.parametrize("name", BOARDS)
def test_the_total_of_every_board(tmp_path: Path, name: str) -> None:
    board = BOARDS[name]
    library = FakeJtop(power_of(board), model=board.model)
    mine = sensor(tmp_path, library)
    outcome = available(mine)
    assert set(outcome.total) == set(board.total)
    assert (outcome.scope, outcome.provenance) == (Scope.MODULE, Provenance.INTEGRATED)
    mine.open()
    values = dict(zip((rail.name for rail in outcome.rails), mine.read(), strict=True))
    assert sum(values[label] or 0.0 for label in outcome.total) == pytest.approx(board.total_w)
    mine.close()


def test_the_memory_of_an_agx_orin_is_not_counted_twice(tmp_path: Path) -> None:
    power = power_of(BOARDS["AGX Orin"])
    assert power["tot"]["power"] == 13_000  # type: ignore[index]  # what jtop shows of 12 W
    clock = FakeClock()
    library = FakeJtop(power)
    with Sampler(sensor(tmp_path, library, clock), clock, rate_hz=1) as sampler:
        window = sampler.open_window()
        for _ in range(10):
            clock.advance(1.0)
            library.tick(power_of(BOARDS["AGX Orin"]))
            sampler.sample_now()
        total = sampler.total(window.close())
    assert total.energy_j == pytest.approx(120.0, rel=1e-12)


def test_its_average_is_not_used(tmp_path: Path) -> None:
    """After five ticks of 1 W and five of 9 W jtop's `avg` says 8.75 W; the mean is 5 W."""
    library, clock = FakeJtop(), FakeClock()

    def board_of(milliwatts: int, average: int) -> dict[str, object]:
        rails = {label: entry(5000, 0, power=0) for label in ("VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")}
        rails["VDD_GPU_SOC"] = entry(5000, milliwatts // 5, avg=average)
        return {"rail": rails, "tot": {"power": milliwatts, "avg": average}}

    library.now = board_of(1000, 1000)
    with Sampler(sensor(tmp_path, library, clock), clock, rate_hz=1) as sampler:
        window = sampler.open_window()
        average = 1000
        for milliwatts in [1000] * 5 + [9000] * 5:
            average = (milliwatts + average) // 2
            clock.advance(1.0)
            library.tick(board_of(milliwatts, average))
            sampler.sample_now()
        total = sampler.total(window.close())
    assert average == 8750
    assert total.energy_j == pytest.approx(50.0 - 4.0)  # trapezoids: the step from 1 to 9 W is a slope of one second


def test_it_stands_back_for_our_own_reader(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["AGX Orin"])
    mine, own = sensor(tmp_path, FakeJtop()), JetsonSensor(tmp_path, FakeClock())
    probes = [Probe(mine, mine.probe()), Probe(own, own.probe())]
    assert best(probes) == [probes[1]]
    assert distinct(probes) == [probes[1]]


def test_the_limits_are_those_of_the_chip_and_the_age_that_of_the_service(tmp_path: Path) -> None:
    outcome = available(sensor(tmp_path, FakeJtop(interval=2.0)))
    gpu = next(rail for rail in outcome.rails if rail.name == "VDD_GPU_SOC")
    assert gpu.offset_err_w == pytest.approx(0.8)  # 80 µV across 2 mOhm at 20 V
    assert gpu.min_period_s == 2.0
    assert gpu.edge_jitter_s > 2.0
    memory = next(rail for rail in outcome.rails if rail.name == "VDDQ_VDD2_1V8AO")
    assert memory.parent == "VIN_SYS_5V0"


@pytest.mark.parametrize("notes_first", [True, False])
def test_a_read_never_waits_and_holds_for_three_intervals(tmp_path: Path, notes_first: bool) -> None:
    library, clock = FakeJtop(notes_first=notes_first), FakeClock()
    mine = sensor(tmp_path, library, clock)
    available(mine)
    mine.open()
    first = mine.read()
    clock.advance(2.9)
    assert mine.read() == first
    clock.advance(0.2)
    with pytest.raises(SensorError, match=r"no new values for 3\.1 s"):
        mine.read()
    library.tick(is_renewed=False)  # jtop gives the old ones again where the service is silent
    with pytest.raises(SensorError, match="no new values"):
        mine.read()
    library.tick()
    assert mine.read() == first


def test_a_rail_that_is_offline_or_gone_is_none(tmp_path: Path) -> None:
    library = FakeJtop()
    mine = sensor(tmp_path, library)
    labels = [rail.name for rail in available(mine).rails]
    mine.open()
    power = power_of(BOARDS["AGX Orin"])
    rails = power["rail"]
    assert isinstance(rails, dict)
    rails["VDD_CPU_CV"]["online"] = False
    del rails["VIN_SYS_5V0"]
    library.tick(power)
    values = dict(zip(labels, mine.read(), strict=True))
    assert values["VDD_CPU_CV"] is None
    assert values["VIN_SYS_5V0"] is None
    assert values["VDD_GPU_SOC"] == pytest.approx(4.0)
    library.tick({"rail": {}, "tot": {}})
    with pytest.raises(SensorError, match=r"none of .* can be read"):
        mine.read()
    library.tick(("total", "rails"))  # what is not understood is no news
    with pytest.raises(SensorError):
        mine.read()


@pytest.mark.parametrize(
    ("told", "watts"),
    [
        (entry(5000, 912), 4.56),
        ({"volt": 5000, "curr": 912, "online": True}, 4.56),  # without a power of its own
        (entry(5000, 912, power=None), 4.56),
        (entry(5000, -8), -0.04),  # the offset of the shunt at no load
        (entry(5000, 912, online=False), None),
        (entry(5000, 912, power=float("nan"), volt=None), None),
        (entry(5000, 912, power=True, volt="5000"), None),
        (entry(5000, 912, power=10**7), None),
        (entry(5000, 912, power=10**400, curr=None), None),
        ({"online": True}, None),
    ],
)
def test_milliwatts_or_millivolts_times_milliamperes(told: dict[str, object], watts: float | None) -> None:
    found = rails_w({"rail": {"VDD_SOC": told}, "tot": {"power": 1, "avg": 1}})
    assert found == {"VDD_SOC": None if watts is None else pytest.approx(watts)}


def test_what_is_no_monitor_of_the_board_is_left_out() -> None:
    supplies = {
        "VDD_IN": entry(5000, 100),
        "ucsi-source-psy-1": entry(20_000, 3000),
        "BAT0": entry(12_000, 2000, status="Discharging"),
        "NC": entry(0, 0),
        "NCORE": entry(5000, 1),
        7: entry(1, 1),
        "VDD_X": "text",
    }
    assert list(rails_w({"rail": supplies, "tot": {"power": 0}})) == ["NCORE", "VDD_IN"]


@pytest.mark.parametrize(
    "power", [(1, 2), None, {"all": {}, "power": {}}, {"rail": [1]}, {"rail": {f"{n}": {} for n in range(300)}}]
)
def test_another_layout_is_refused(tmp_path: Path, power: object) -> None:
    with pytest.raises(ValueError, match="its power has"):
        rails_w(power)
    outcome = refused(sensor(tmp_path, FakeJtop(power)))
    assert "its power has" in outcome.reason
    assert "4.2 or later" in outcome.remedy


def test_version_3_is_refused_by_its_number(tmp_path: Path) -> None:
    for version in ("3.1.4", "4.1.5"):
        library = FakeJtop(__version__=version)
        outcome = refused(sensor(tmp_path, library))
        assert version in outcome.reason
        assert "4.2 or later" in outcome.remedy
    for version in ("4.2.0", "4.10.1", "7.2.2", "main"):
        available(sensor(tmp_path, FakeJtop(__version__=version)))


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (JtopException(NOT_ACTIVE), "not active", "--install-service"),
        (JtopException(NO_ACCESS), "can't access", "usermod -aG jtop"),
        (PermissionError(13, "Permission denied"), "Permission denied", "usermod -aG jtop"),
        (JtopException(MISMATCH), "[4.2.12] and client: [7.2.2]", "one version"),
        (JtopException("Mismatch of Python versions between library and service"), "Python", "one version"),
        (JtopException("Authentication with jetson-stats server failed"), "Authentication", "one version"),
        (JtopException("Lost connection with jtop server"), "Lost connection", "systemctl status"),
        (EOFError(), "EOFError", "systemctl status"),
        (KeyError("init"), "init", "systemctl status"),
    ],
)
def test_what_the_service_refuses(tmp_path: Path, error: Exception, reason: str, remedy: str) -> None:
    outcome = refused(sensor(tmp_path, FakeJtop(error=error)))
    assert reason in outcome.reason
    assert "\n" not in outcome.reason
    assert remedy in outcome.remedy
    assert "'jetson'" in outcome.remedy
    assert not outcome.is_absent


def test_a_service_that_hangs_is_given_up(tmp_path: Path) -> None:
    release = threading.Event()
    library = FakeJtop(hangs=release)
    outcome = sensor(tmp_path, library, connect_timeout_s=0.2).probe()
    assert isinstance(outcome, Unavailable)
    assert "no answer within 0.2 s" in outcome.reason
    release.set()
    for thread in threading.enumerate():
        if thread.name == "jtop-connect":
            thread.join(10)
    assert library.clients == []  # connected too late, and closed again


def test_the_socket_is_looked_at_first(tmp_path: Path) -> None:
    library = FakeJtop()
    mine = JtopSensor(tmp_path, FakeClock(), load=lambda: library)
    outcome = refused(mine)
    assert outcome.is_absent  # no Jetson, no service
    assert "not active" in outcome.reason
    compatible = tmp_path / "proc/device-tree/compatible"
    compatible.parent.mkdir(parents=True)
    compatible.write_bytes(b"nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0")
    outcome = refused(mine)
    assert not outcome.is_absent
    assert "-v /run/jtop.sock" in outcome.remedy
    path = tmp_path / "run/jtop.sock"
    path.parent.mkdir()
    path.write_text("")
    assert "no socket" in refused(mine).reason


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_socket_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = build_socket(tmp_path)
    os.chown(path, 12345, -1)
    outcome = refused(sensor(tmp_path, FakeJtop()))
    assert "user 12345" in outcome.reason


@pytest.mark.skipif(os.getuid() == 0, reason="root may use every socket")
def test_a_socket_without_permission(tmp_path: Path) -> None:
    build_socket(tmp_path).chmod(0)
    outcome = refused(sensor(tmp_path, FakeJtop()))
    assert "no permission" in outcome.reason
    assert "usermod -aG jtop" in outcome.remedy


def test_an_unknown_board_names_its_rails(tmp_path: Path) -> None:
    library = FakeJtop({"rail": {"VDD_A": entry(1, 1), "VDD_B": entry(1, 1)}, "tot": {"power": 0}})
    assert "VDD_A, VDD_B" in refused(sensor(tmp_path, library)).reason
    assert "no power monitor" in refused(sensor(tmp_path, FakeJtop({}))).reason
    assert library.clients == []


def test_it_works_below_the_root_only_and_says_what_to_install(tmp_path: Path) -> None:
    copy = refused(JtopSensor(tmp_path, FakeClock()))
    assert copy.is_absent
    assert "not what is below" in copy.reason

    def load() -> FakeJtop:
        raise ImportError("No module named 'jtop'")

    outcome = refused(JtopSensor(tmp_path, FakeClock(), load=load))
    assert outcome.is_absent
    assert "fedmeter[jtop]" in outcome.remedy


def test_an_interval_is_positive(tmp_path: Path) -> None:
    for interval_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="interval_s"):
            JtopSensor(tmp_path, FakeClock(), interval_s=interval_s)


IMPORT = """
import logging, multiprocessing, threading
from pathlib import Path
from profiler.clock import SystemClock
from profiler.sensors.jtop import JtopSensor
from profiler.sensors.jtop_client import load_jtop
multiprocessing.set_start_method("spawn")
library = load_jtop()
assert multiprocessing.get_start_method() == "spawn"
assert logging.getLogger().handlers == []
assert library.__version__ and issubclass(library.JtopException, Exception)
assert threading.active_count() == 1
print(JtopSensor(Path("/"), SystemClock()).probe())
"""


@pytest.mark.skipif(importlib.util.find_spec("jtop") is None, reason="needs jetson-stats")
def test_the_package_itself_where_there_is_no_service() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("Unavailable(") or Path("/run/jtop.sock").exists()


def test_importing_it_leaves_multiprocessing_as_it_was(tmp_path: Path) -> None:
    package = tmp_path / "jtop"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        'import multiprocessing\nmultiprocessing.set_start_method("fork", force=True)\n__version__ = "7.2.2"\n'
    )
    code = (
        "import multiprocessing, sys; from profiler.sensors.jtop_client import load_jtop; "
        "set_first = sys.argv[1] or None; multiprocessing.set_start_method(set_first, force=True); load_jtop(); "
        "assert 'jtop' in sys.modules; print(multiprocessing.get_start_method(allow_none=True))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    for method, after in (("", "None"), ("spawn", "spawn")):
        run = subprocess.run(
            [sys.executable, "-c", code, method], env=env, capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stdout.strip() == after
