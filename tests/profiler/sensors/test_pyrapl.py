"""pyRAPL as a second reader of the same counters: a fake in its shape, and the package itself where it is installed."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from profiler import Sampler
from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available, Probe, best, distinct
from profiler.sensors.pyrapl import Library, PyRaplSensor, load_pyrapl
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.powercap import PACKAGE_RANGE_UJ, UNIT_UJ, Tree, build_tree
from tests.fixtures.pyrapl import PyRAPLException, fake_pyrapl, noisy_package
from tests.profiler.sensors.asking import available, refused

HAS_PYRAPL = importlib.util.find_spec("pyRAPL") is not None
Loader = Callable[[Path, int], Callable[[], Library]]


def the_fake(root: Path, sockets: int) -> Callable[[], Library]:
    return lambda: fake_pyrapl(root, list(range(sockets)))


def the_package(root: Path, sockets: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Library]:
    """The real pyRAPL, whose fixed paths are turned to the tree below `root`."""
    library = load_pyrapl()
    from pyRAPL import device_api

    cpus = root / "sys/devices/system/cpu"
    for cpu in range(2 * sockets):
        (cpus / f"cpu{cpu}/topology").mkdir(parents=True)
        (cpus / f"cpu{cpu}/topology/physical_package_id").write_text(f"{cpu % sockets}\n")
    (cpus / "present").write_text(f"0-{2 * sockets - 1}\n")

    def below(path: str) -> str:
        return f"{root}{path}" if path.startswith("/sys/") else path

    exists = os.path.exists
    here = SimpleNamespace(path=SimpleNamespace(exists=lambda path: exists(below(path))))
    monkeypatch.setattr(device_api, "os", here)
    monkeypatch.setattr(device_api, "open", lambda path, mode="r": Path(below(path)).open(mode), raising=False)  # noqa: SIM115
    return lambda: library


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.skipif(not HAS_PYRAPL, reason="needs pyRAPL"))])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Loader:
    if request.param == "fake":
        return the_fake
    return lambda root, sockets: the_package(root, sockets, monkeypatch)


def sensor(tree: Tree, loader: Loader, clock: FakeClock | None = None, *, sockets: int = 1) -> PyRaplSensor:
    return PyRaplSensor(tree.root, clock or FakeClock(), load=loader(tree.root, sockets))


def test_the_rails_and_limits_are_those_of_rapl(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, packages=2, psys=True, mmio=True)
    mine = available(sensor(tree, loader, sockets=2))
    own = RaplSensor(tmp_path, FakeClock()).probe()
    assert isinstance(own, Available)
    assert mine.total == ("package-0", "package-1", "dram-0", "dram-1")
    assert set(mine.total) == set(own.total)
    assert mine.rails == tuple(rail for name in mine.total for rail in own.rails if rail.name == name)
    assert (mine.scope, mine.provenance) == (Scope.HOST, Provenance.COUNTER)


def test_microjoules_become_joules(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, packages=2, start_uj={"package-0": 1_500_000, "package-1": 3, "dram-1": 7_000_000})
    mine = sensor(tree, loader, sockets=2)
    available(mine)
    mine.open()
    assert mine.read() == [1.5, 3e-6, 0.0, 7.0]
    tree.set_uj("dram-0", 250_000)
    assert mine.read() == [1.5, 3e-6, 0.25, 7.0]
    mine.close()


def test_a_wrap_is_a_difference_and_agrees_with_rapl(tmp_path: Path, loader: Loader) -> None:
    start_uj = PACKAGE_RANGE_UJ - 2_000_000
    tree = build_tree(tmp_path, start_uj={"package-0": start_uj, "dram-0": 10})
    clock = FakeClock()
    samplers = [Sampler(sensor(tree, loader, clock), clock), Sampler(RaplSensor(tmp_path, clock), clock)]
    totals = []
    for sampler in samplers:
        sampler.start()
    windows = [sampler.open_window() for sampler in samplers]
    clock.advance(1.0)
    tree.set_uj("package-0", 5_000_000 - UNIT_UJ[PACKAGE_RANGE_UJ])
    for sampler, window in zip(samplers, windows, strict=True):
        totals.append(sampler.total(window.close()))
        sampler.stop()
    assert [total.energy_j for total in totals] == [pytest.approx(7.0, abs=1e-9)] * 2
    assert totals[0].total_of == ("package-0", "dram-0")


def test_our_own_reader_wins_and_is_never_added(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    mine, own = sensor(tree, the_fake), RaplSensor(tmp_path, FakeClock())
    probes = [Probe(mine, mine.probe()), Probe(own, own.probe())]
    assert best(probes) == [probes[1]]
    assert distinct(probes) == [probes[1]]


def test_no_memory_zone_is_no_type_error(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, dram=False)
    mine = sensor(tree, loader)
    outcome = available(mine)
    assert outcome.total == ("package-0",)
    assert "no dram zone" in outcome.notes
    mine.open()
    assert mine.read() == [pytest.approx(123.456789)]
    mine.close()


def test_memory_of_one_package_alone_is_said_to_be_left_out(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, packages=2)
    (tree.zones["dram-1"].path / "name").write_text("uncore\n")
    outcome = available(sensor(tree, loader, sockets=2))
    assert outcome.total == ("package-0", "package-1")
    assert "dram-0: not known to pyRAPL" in outcome.notes


def test_a_machine_without_rapl_and_one_without_permission_are_told_apart(
    tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sys").mkdir()
    nothing = refused(PyRaplSensor(tmp_path, FakeClock(), load=the_fake(tmp_path, 1)))
    assert nothing.is_absent
    assert "no powercap tree" in nothing.reason
    tree = build_tree(tmp_path / "locked")
    mine = sensor(tree, loader)
    path = tree.zones["package-0"].energy_path
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    locked = refused(mine)
    assert not locked.is_absent
    assert "readable by root only" in locked.reason
    assert "chmod a+r" in locked.remedy


def test_what_pyrapl_lets_escape_becomes_a_reason(tmp_path: Path) -> None:
    build_tree(tmp_path)

    def raising(error: Exception) -> Callable[[], Library]:
        def construct() -> None:
            raise error

        return lambda: SimpleNamespace(PkgAPI=construct, DramAPI=construct, PyRAPLException=PyRAPLException)

    path = "/sys/devices/system/cpu/cpu3/topology/physical_package_id"
    for error, reason, remedy in (
        (FileNotFoundError(errno.ENOENT, "No such file or directory", path), f"{path}: No such file", "online"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied", "'rapl'"),
        (PyRAPLException(), r"refuses this processor (PyRAPLException)", "'rapl'"),
        (TypeError("'NoneType' object is not iterable"), "TypeError 'NoneType'", "'rapl'"),
        (ValueError("could not convert"), "ValueError could not convert", "'rapl'"),
    ):
        outcome = refused(PyRaplSensor(tmp_path, FakeClock(), load=raising(error)))
        assert reason in outcome.reason
        assert remedy in outcome.remedy
        assert not outcome.is_absent


@pytest.mark.skipif(not HAS_PYRAPL, reason="needs pyRAPL")
def test_an_offline_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = build_tree(tmp_path)
    load = the_package(tmp_path, 1, monkeypatch)
    (tmp_path / "sys/devices/system/cpu/cpu1/topology/physical_package_id").unlink()
    outcome = refused(PyRaplSensor(tree.root, FakeClock(), load=load))
    assert "cpu1/topology" in outcome.reason
    assert "online" in outcome.remedy


def test_several_dies_of_a_package_are_refused_with_their_names(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, dies=2, start_uj={"package-0-die-0": 5, "package-0-die-1": 9_000_000})
    outcome = refused(sensor(tree, loader))
    assert "PyRAPLCantInitDeviceAPI" in outcome.reason
    assert "package-0-die-0, package-0-die-1" in outcome.reason


def test_the_only_die_of_a_package_is_the_package(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path, dies=1)
    assert available(sensor(tree, loader)).total == ("package-0-die-0", "dram-0-die-0")


def test_a_counter_that_cannot_be_read_now_is_none(tmp_path: Path, loader: Loader) -> None:
    tree = build_tree(tmp_path)
    mine = sensor(tree, loader)
    available(mine)
    mine.open()
    for text in ("", "\n", "12x\n", "nan\n", "-5\n", f"{PACKAGE_RANGE_UJ + 10**6}\n"):
        tree.zones["dram-0"].energy_path.write_text(text)
        assert mine.read() == [pytest.approx(123.456789), None]
    tree.zones["package-0"].energy_path.write_text("")
    with pytest.raises(SensorError, match="no counter can be read"):
        mine.read()
    tree.set_uj("package-0", 10**6)
    assert mine.read() == [1.0, None]
    mine.close()


def test_other_counters_than_were_probed_are_refused(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    mine = sensor(tree, the_fake)
    available(mine)
    (tree.zones["dram-0"].path / "name").write_text("uncore\n")
    with pytest.raises(SensorError, match="other counters"):
        mine.open()


def test_it_works_below_the_root_only_and_says_what_to_install(tmp_path: Path) -> None:
    build_tree(tmp_path)
    copy = refused(PyRaplSensor(tmp_path, FakeClock()))
    assert copy.is_absent
    assert "not what is below" in copy.reason

    def load() -> Library:
        raise ImportError("No module named 'pyRAPL'")

    outcome = refused(PyRaplSensor(tmp_path, FakeClock(), load=load))
    assert outcome.is_absent
    assert "fedmeter[pyrapl]" in outcome.remedy


IMPORT = """
import logging, sys
from profiler.sensors.pyrapl import load_pyrapl
seen = []
class Handler(logging.Handler):
    def emit(self, record):
        seen.append(record.getMessage())
root = logging.getLogger()
root.addHandler(Handler()) if "handler" in sys.argv else None
before = list(root.handlers), list(root.filters), root.level
load_pyrapl()
assert "pyRAPL" in sys.modules
assert (root.handlers, root.filters, root.level) == before, root.handlers
assert seen == []
assert not {"pandas", "pymongo"} & set(sys.modules), "what only its outputs need"
from pyRAPL.outputs import dataframeoutput  # can still be had
"""


@pytest.mark.parametrize("argument", ["bare", "handler"])
@pytest.mark.parametrize(
    "package",
    ["fake", pytest.param("real", marks=pytest.mark.skipif(not HAS_PYRAPL, reason="needs pyRAPL"))],
)
def test_importing_it_is_silent_under_w_error(tmp_path: Path, package: str, argument: str) -> None:
    paths = [str(noisy_package(tmp_path))] if package == "fake" else []
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, sys.path)])}
    run = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", IMPORT, argument],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
