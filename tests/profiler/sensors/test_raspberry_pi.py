from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors import raspberry_pi
from profiler.sensors.raspberry_pi import RaspberryPiSensor, parse_adc
from tests.fixtures.raspberry_pi import CURRENTS_A, PMIC, VOLTS, model

SUM_W = sum(float(amps) * float(VOLTS[name][1]) for name, (_, amps) in CURRENTS_A.items())


class Pmic:
    """Stands for the command: hands out `text`, or raises `error`, and counts its calls."""

    def __init__(self, text: str = PMIC) -> None:
        self.text = text
        self.error: Exception | None = None
        self.n_calls = 0

    def __call__(self) -> bytes:
        self.n_calls += 1
        if self.error is not None:
            raise self.error
        return self.text.encode()


def refusal(root: Path, run: Callable[[], bytes] | None = None) -> Unavailable:
    outcome = RaspberryPiSensor(root, FakeClock(), run=run).probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


def test_rails_are_paired_by_name_and_inputs_with_volts_only_are_not_counted(tmp_path: Path) -> None:
    model(tmp_path)
    sensor = RaspberryPiSensor(tmp_path, FakeClock(), run=Pmic())
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert outcome.total == tuple(CURRENTS_A)
    assert not {"EXT5V", "BATT"} & set(outcome.total)
    assert (outcome.scope, outcome.provenance) == (Scope.MODULE, Provenance.INTEGRATED)
    sensor.open()
    values = sensor.read()
    assert values[outcome.total.index("VDD_CORE")] == pytest.approx(10.87674 * 0.8974594)
    assert sum(value or 0 for value in values) == pytest.approx(SUM_W)
    assert values.count(0.0) == 2  # two rails are switched off: measured, not missing


def test_what_is_not_seen_is_told(tmp_path: Path) -> None:
    model(tmp_path)
    outcome = RaspberryPiSensor(tmp_path, FakeClock(), run=Pmic()).probe()
    assert isinstance(outcome, Available)
    for words in ("USB ports", "10 % is assumed", "Raspberry Pi 5"):
        assert words in outcome.notes


def test_all_on_one_line_reads_the_same() -> None:
    assert parse_adc(" ".join(PMIC.split()).encode()) == parse_adc(PMIC.encode())


def test_the_order_of_lines_does_not_matter_but_for_the_order_of_rails() -> None:
    lines = PMIC.splitlines(keepends=True)
    assert parse_adc("".join(reversed(lines)).encode()) == parse_adc(PMIC.encode())


def test_an_offset_may_make_a_rail_negative() -> None:
    text = PMIC.replace("3V7_WL_SW_A current(0)=0.", "3V7_WL_SW_A current(0)=-0.")
    assert list(parse_adc(text.encode())) == list(CURRENTS_A)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "something else"),
        ('error=1 error_msg="Command not registered"', "Command not registered"),
        (PMIC[: PMIC.index("0.89745940V") + 4], "something else"),  # cut off
        (PMIC.replace("VDD_CORE_V", "VDD_CORES_V"), "no volts of VDD_CORE"),
        (PMIC + PMIC, "twice"),
        (PMIC.replace("10.87674000A", "nanA"), "nan"),
        (PMIC.replace("10.87674000A", "1e9A"), "1e9"),
        (PMIC.replace("10.87674000A", "10.87674000V"), "10.87674000V"),
        ("".join(f" {name}_V volt(1)=1.0V\n" for name in VOLTS), "something else"),
        ("X" * 100_000, "something else"),
    ],
)
def test_what_would_make_the_sum_too_small_is_refused(tmp_path: Path, text: str, word: str) -> None:
    model(tmp_path)
    outcome = refusal(tmp_path, Pmic(text))
    assert word in outcome.reason
    assert len(outcome.reason) < 400
    assert "vcgencmd pmic_read_adc" in outcome.remedy


@pytest.mark.parametrize("name", ["Raspberry Pi 4 Model B Rev 1.4", "Raspberry Pi 400 Rev 1.0", "NVIDIA Orin Nano", ""])
def test_other_boards_have_no_such_chip_and_start_nothing(tmp_path: Path, name: str) -> None:
    model(tmp_path, name)
    run = Pmic()
    assert "has no chip" in refusal(tmp_path, run).reason
    assert run.n_calls == 0


@pytest.mark.parametrize("name", ["Raspberry Pi 500 Rev 1.0", "Raspberry Pi Compute Module 5 Rev 1.0"])
def test_boards_that_have_it(tmp_path: Path, name: str) -> None:
    model(tmp_path, name)
    assert isinstance(RaspberryPiSensor(tmp_path, FakeClock(), run=Pmic()).probe(), Available)


def test_a_copied_tree_never_asks_this_machine(tmp_path: Path) -> None:
    model(tmp_path)
    assert "asks this machine" in refusal(tmp_path).reason


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError("vcgencmd"), "raspi-utils"),
        (OSError("vcgencmd failed: 'Can't open device file: /dev/vcio'"), "usermod -aG video"),
        (PermissionError("vcgencmd"), "usermod -aG video"),
        (TimeoutError("vcgencmd gave no answer within 0.5 s"), "usermod -aG video"),
    ],
)
def test_a_command_that_fails_has_a_remedy(tmp_path: Path, error: OSError, remedy: str) -> None:
    model(tmp_path)
    run = Pmic()
    run.error = error
    assert remedy in refusal(tmp_path, run).remedy


def test_at_most_ten_processes_a_second(tmp_path: Path) -> None:
    model(tmp_path)
    clock, run = FakeClock(), Pmic()
    sensor = RaspberryPiSensor(tmp_path, clock, run=run)
    sensor.open()
    run.n_calls = 0
    for _ in range(200):
        sensor.read()
        clock.advance(0.005)
    assert run.n_calls == 10
    run.error = OSError("gone")
    failures = 0
    for _ in range(200):
        try:
            sensor.read()
        except SensorError:
            failures += 1
        clock.advance(0.005)
    assert failures == 200
    assert run.n_calls == 20


def test_a_rail_that_is_gone_is_none_and_comes_back(tmp_path: Path) -> None:
    model(tmp_path)
    clock, run = FakeClock(), Pmic()
    sensor = RaspberryPiSensor(tmp_path, clock, run=run)
    sensor.open()
    run.text = "\n".join(line for line in PMIC.splitlines() if "HDMI" not in line)
    assert sensor.read()[-1] is None
    clock.advance(0.2)
    run.text = " OTHER_A current(1)=1.0A\n OTHER_V volt(2)=1.0V\n"
    with pytest.raises(SensorError, match="still there"):
        sensor.read()
    clock.advance(0.2)
    run.text = PMIC
    assert None not in sensor.read()


def test_a_constant_board_is_exact(tmp_path: Path) -> None:
    model(tmp_path)
    clock = FakeClock()
    with Sampler(RaspberryPiSensor(tmp_path, clock, run=Pmic()), clock, rate_hz=1) as sampler:
        window = sampler.open_window()
        for _ in range(50):
            clock.advance(0.1)
            sampler.sample_now()
        total = sampler.total(window.close())
    assert total.energy_j == pytest.approx(SUM_W * 5, rel=1e-12)
    assert total.scope is Scope.MODULE


def script(folder: Path, text: str) -> None:
    path = folder / "vcgencmd"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)


def test_the_command_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(raspberry_pi, "_TIMEOUT_S", 10.0)  # starting an interpreter is slow
    with pytest.raises(FileNotFoundError):
        raspberry_pi._vcgencmd()
    script(tmp_path, f"import sys; assert sys.argv[1:] == ['pmic_read_adc']; sys.stdout.write({PMIC!r})")
    assert parse_adc(raspberry_pi._vcgencmd()) == parse_adc(PMIC.encode())
    script(tmp_path, "import sys; sys.exit('VCHI initialization failed')")
    with pytest.raises(OSError, match="VCHI initialization failed"):
        raspberry_pi._vcgencmd()
    script(tmp_path, "import time; time.sleep(60)")
    monkeypatch.setattr(raspberry_pi, "_TIMEOUT_S", 0.1)
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        raspberry_pi._vcgencmd()
