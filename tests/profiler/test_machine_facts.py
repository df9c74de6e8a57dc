from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from profiler.jetson_state import Facts, processor_label
from profiler.machine_facts import machine_facts, ranges
from tests.fixtures.machine import NVPMODEL_CONF, build_laptop, build_orin_nano, write
from tests.profiler.sensors.test_rapl import as_nobody

OF_THE_PROCESS = {"system", "release", "machine", "python"}


def facts(root: Path) -> Facts:
    found = machine_facts(root)
    assert all(type(value) in (str, int, float, bool) for value in found.values())
    return {name: value for name, value in found.items() if name not in OF_THE_PROCESS}


def test_all_of_an_orin_nano(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    assert facts(tmp_path) == {
        "os": "Ubuntu 22.04.5 LTS",
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "memory_bytes": 7802780 * 1024,
        "cpus_online": "0-5",
        "governor": "schedutil",
        "cpufreq.0.cpus": "0-5",
        "cpufreq.0.governor": "schedutil",
        "cpufreq.0.min_hz": 729_600_000,
        "cpufreq.0.max_hz": 1_510_400_000,
        "cpufreq.0.now_hz": 1_120_000_000,
        "gpu.0.name": "17000000.gpu",
        "gpu.0.governor": "nvhost_podgov",
        "gpu.0.min_hz": 306_000_000,
        "gpu.0.max_hz": 624_750_000,
        "gpu.0.now_hz": 306_000_000,
        "clocks_pinned": False,
        "temperature.cpu-thermal_c": 48.281,
        "temperature.gpu-thermal_c": 47.125,
        "l4t": "36.4.3",
        "power_mode": "15W",
        "power_mode_id": 0,
        "emc.now_hz": 2_133_000_000,
        "emc.max_hz": 3_199_000_000,
        "emc.cap_hz": 2_133_000_000,
        "emc.is_locked": False,
        "fan.0.pwm": 88,
    }


def test_a_laptop_has_groups_of_cpus_and_no_serial_number(tmp_path: Path) -> None:
    build_laptop(tmp_path)
    found = facts(tmp_path)
    assert found["model"] == "LENOVO 21CBCTO1WW"
    assert found["cpu_model"] == "12th Gen Intel(R) Core(TM) i7-1260P"
    assert (found["cpufreq.0.cpus"], found["cpufreq.0.max_hz"]) == ("0-3", 4_700_000_000)
    assert (found["cpufreq.1.cpus"], found["cpufreq.1.max_hz"]) == ("4-15", 3_500_000_000)
    assert found["cpufreq.1.now_hz"] == 1_009_500_000
    assert (found["temperature.acpitz_c"], found["temperature.acpitz@1_c"]) == (51.0, 27.8)
    assert "SECRET" not in repr(found)
    assert not {"power_mode", "l4t", "clocks_pinned", "virtual_machine", "container"} & found.keys()


def test_an_empty_root_says_nothing_and_this_machine_something(tmp_path: Path) -> None:
    assert facts(tmp_path) == {}
    assert machine_facts(tmp_path)["release"] == platform.release()
    here = machine_facts()
    memory_bytes = here["memory_bytes"]
    assert isinstance(memory_bytes, int)
    assert memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("pinned", "expected"), [(True, True), (False, False)])
def test_pinned_clocks_are_those_with_equal_limits(tmp_path: Path, pinned: bool, expected: bool) -> None:
    build_orin_nano(tmp_path, pinned=pinned)
    assert facts(tmp_path)["clocks_pinned"] is expected


@pytest.mark.parametrize(
    "name", ["class/devfreq/17000000.gpu/min_freq", "devices/system/cpu/cpufreq/policy4/scaling_max_freq"]
)
def test_nobody_knows_whether_clocks_are_pinned_where_a_limit_is_not_known(tmp_path: Path, name: str) -> None:
    build_orin_nano(tmp_path, pinned=True)
    (tmp_path / "sys" / name).write_text("")
    assert "clocks_pinned" not in facts(tmp_path)


@pytest.mark.parametrize(
    ("status", "mode_id", "name"),
    [
        ("pmode:0002", 2, "MAXN_SUPER"),
        ("pmode:0001 fmode:fanNull", 1, "25W"),
        ("pmode:0007", 7, None),
        ("pmode:", None, None),
        ("", None, None),
        ("pmode:-1", None, None),
        ("\x00\x01pmode:0001", None, None),
    ],
)
def test_the_power_mode_is_what_nvpmodel_noted(tmp_path: Path, status: str, mode_id: int | None, name: str) -> None:
    build_orin_nano(tmp_path, mode=status)
    found = facts(tmp_path)
    assert found.get("power_mode_id") == mode_id
    assert found.get("power_mode") == name


@pytest.mark.parametrize(
    "conf",
    [
        "",
        "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=0 NAME=10W >\n",  # which of the two?
        "# < POWER_MODEL ID=0 NAME=15W >\n",
        "< POWER_MODEL ID=0 NAME= >\n",
        f"< POWER_MODEL ID=0 NAME={'W' * 100} >\n",
        f"{'x' * (1 << 19)}\n< POWER_MODEL ID=0 NAME=15W >\n",
    ],
)
def test_a_list_of_modes_that_says_no_name_leaves_the_number(tmp_path: Path, conf: str) -> None:
    build_orin_nano(tmp_path)
    (tmp_path / "etc/nvpmodel.conf").unlink()
    (tmp_path / "etc/nvpmodel.conf").write_text(conf)
    found = facts(tmp_path)
    assert (found["power_mode_id"], found.get("power_mode")) == (0, None)


def test_a_name_that_a_terminal_would_obey_is_made_harmless(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    conf = tmp_path / "etc/nvpmodel/nvpmodel_p3767_0003_super.conf"
    conf.write_text(NVPMODEL_CONF.replace("15W", "\x1b[31m15W"))
    (tmp_path / "sys/class/thermal/thermal_zone0/type").write_text("a\x1b.b c\n")
    found = facts(tmp_path)
    assert found["power_mode"] == "?[31m15W"
    assert found["temperature.a__b_c_c"] == 48.281
    assert all(str(value).isprintable() and name.isprintable() for name, value in found.items())


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64", "32.7.1"),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic", "38.2.0"),
        ("# R36 (release), REVISION: , GCID: 1", None),
        ("R36", None),
    ],
)
def test_the_release_of_l4t(tmp_path: Path, release: str, expected: str | None) -> None:
    build_orin_nano(tmp_path)
    (tmp_path / "etc/nv_tegra_release").write_text(f"{release}\n")
    assert facts(tmp_path).get("l4t") == expected


def test_jetpack_4_has_its_fan_and_its_cap_elsewhere(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004",
            "sys/devices/pwm-fan/cur_pwm": "120",
            "sys/kernel/nvpmodel_emc_cap/emc_iso_cap": "1600000000",
            "sys/kernel/nvpmodel_clk_cap/emc": "0",
        },
    )
    found = facts(tmp_path)
    assert (found["fan.0.pwm"], found["emc.cap_hz"]) == (120, 1_600_000_000)


@pytest.mark.parametrize(
    ("model", "mode", "label"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "15W", "orin-nano-15w"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "MAXN", "agx-orin-maxn"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "MODE_15W_6CORE", "xavier-nx-15w-6core"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "120W", "agx-thor-120w"),
        ("quill", "MAXQ", "quill-maxq"),
        ("NVIDIA Jetson", "5W", "jetson-5w"),
        ("NVIDIA Jetson Orin Nano", None, None),
        (None, "15W", None),
    ],
)
def test_a_label_for_the_processor(model: str | None, mode: str | None, label: str | None) -> None:
    given = {"model": model, "power_mode": mode}
    assert processor_label({name: value for name, value in given.items() if value is not None}) == label


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"sys/class/dmi/id/product_name": "KVM"}, "kvm"),
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, "qemu"),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2"}, "amazon"),
        ({"sys/class/dmi/id/product_name": "VirtualBox", "sys/class/dmi/id/sys_vendor": "innotek GmbH"}, "virtualbox"),
        (
            {
                "sys/class/dmi/id/product_name": "Virtual Machine",
                "sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
            },
            "microsoft",
        ),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation", "sys/class/dmi/id/product_name": "Surface"}, None),
        ({"sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": "model name\t: x\nflags\t\t: fpu hypervisor lahf_lm"}, "unknown"),
        ({"proc/cpuinfo": "model name\t: hypervisor\nflags\t\t: fpu"}, None),
    ],
)
def test_virtual_machines_are_told(tmp_path: Path, files: dict[str, str], kind: str | None) -> None:
    write(tmp_path, files)
    assert facts(tmp_path).get("virtual_machine") == kind


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": "engine=podman", ".dockerenv": ""}, "podman"),
        ({"run/systemd/container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"proc/1/cgroup": "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope"}, "kubepods"),
        ({"proc/1/cgroup": "0::/init.scope"}, None),
    ],
)
def test_containers_are_told(tmp_path: Path, files: dict[str, str], kind: str | None) -> None:
    write(tmp_path, files)
    assert facts(tmp_path).get("container") == kind


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    for name in ("var/lib/nvpmodel/status", "proc/meminfo", "etc/os-release"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    before_s = time.monotonic()
    found = facts(tmp_path)
    assert time.monotonic() - before_s < 5
    assert not {"power_mode", "memory_bytes", "os"} & found.keys()
    assert found["l4t"] == "36.4.3"


@pytest.mark.parametrize("content", [b"", b"\xff" * 5000, b"-1 2\n", b"9" * 4000, b"\0", "٣".encode()])
def test_no_content_of_any_file_does_harm(tmp_path: Path, content: bytes) -> None:
    build_orin_nano(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.write_bytes(content)
    found = facts(tmp_path)
    assert not [name for name in found if name.endswith(("_hz", "_bytes")) and "now" in name]
    assert not {"power_mode", "power_mode_id", "l4t", "memory_bytes"} & found.keys()
    assert all(len(str(value)) <= 200 and str(value).isprintable() for value in found.values())


def test_a_machine_of_many_zones_and_policies_stays_bounded(tmp_path: Path) -> None:
    for n in range(300):
        write(
            tmp_path,
            {
                f"sys/class/thermal/thermal_zone{n}/type": f"zone{n}",
                f"sys/class/thermal/thermal_zone{n}/temp": "40000",
                f"sys/devices/system/cpu/cpufreq/policy{n}/affected_cpus": str(n),
                f"sys/devices/system/cpu/cpufreq/policy{n}/scaling_max_freq": str(1000 + n),
            },
        )
    found = facts(tmp_path)
    assert len(found) < 200
    assert found["cpufreq.2.cpus"] == "2"  # policies in the order of their numbers


def test_cpus_are_listed_as_the_kernel_does() -> None:
    assert ranges([5, 3, 0, 1, 2, 2, 9]) == "0-3,5,9"
    assert ranges([0, 1]) == "0-1"
    assert ranges([]) == ""


def test_reading_a_machine_loads_nothing_heavy() -> None:
    code = (
        "import sys; from profiler.machine_facts import machine_facts; machine_facts();"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'psutil', 'subprocess', 'importlib.metadata')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_root_that_may_not_be_entered_tells_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        root = Path(folder)
        build_orin_nano(root)
        root.chmod(0)
        with as_nobody():
            found = facts(root)
        root.chmod(0o700)
    assert found == {}


def test_debugfs_is_for_root_and_the_rest_is_not() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        build_orin_nano(root)
        debugfs = root / "sys/kernel/debug"
        debugfs.chmod(0o700 if os.geteuid() == 0 else 0)
        with as_nobody():
            found = facts(root)
        debugfs.chmod(0o700)
    assert found["emc.cap_hz"] == 2_133_000_000
    assert not {"emc.now_hz", "emc.is_locked"} & found.keys()
    assert found["power_mode"] == "15W"
