"""How a Jetson is set up: its release, its power mode, its memory's clock, its fan. From files, mostly without root.

- `/etc/nv_tegra_release`: `# R36 (release), REVISION: 4.3, GCID: ...`; NVIDIA's package nvidia-l4t-core installs it.
- `/var/lib/nvpmodel/status`: `pmode:0002`, which `nvpmodel` writes when it sets a mode; `/etc/nvpmodel.conf` names the
  modes, `< POWER_MODEL ID=2 NAME=15W >` (Jetson Linux Developer Guide, "Supported Modes and Power Efficiency"). The
  program `nvpmodel -q` is not asked: on some releases it wants root, in a container it is not there.
- `/sys/kernel/nvpmodel_clk_cap/emc`, `/sys/kernel/nvpmodel_emc_cap/emc_iso_cap` (before JetPack 6): the cap in Hz that
  the mode puts on the memory's clock, 0 for none; L4T's kernel driver `nvpmodel-clk-cap.c`.
- `/sys/kernel/debug/bpmp/debug/clk/emc`: the memory's clock itself, for root alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from profiler.files import folders, integer, line, printable, text

Fact = str | int | float | bool
Facts = dict[str, Fact]

_RELEASE = re.compile(r"# R(?P<major>\d{1,4}) \(release\), REVISION: (?P<revision>\d{1,4}(?:\.\d{1,4}){0,3})")
_STATUS = re.compile(r"pmode:(?P<id>\d{1,6})")
_MODE = re.compile(
    r"^[ \t]{0,8}<[ \t]{1,8}POWER_MODEL[ \t]{1,8}ID=(\d{1,6})[ \t]{1,8}NAME=([^\s>]{1,64})(?=[\s>])", re.MULTILINE
)
_MAX_CONF_BYTES = 256 * 1024
_MAX_FANS = 4
_WORD = re.compile(r"[a-z0-9]{1,32}")
_END_OF_NAME = frozenset({"developer", "engineering", "reference", "module", "kit", "with", "dev"})


def jetson_facts(root: Path, sys_: Path) -> Facts:
    """What is known of a Jetson below `root`, whose sysfs is `sys_`; empty on any other machine. Never raises.

    `l4t` (36.4.3), `power_mode` (15W) and `power_mode_id`, `emc.now_hz`, `emc.min_hz`, `emc.max_hz`, `emc.cap_hz`,
    `emc.is_locked`, `fan.0.pwm` (0..255), `fan.0.rpm`.
    """
    release, mode_id = _l4t(root), _power_mode_id(root)
    if release is None and mode_id is None:
        return {}
    emc = sys_ / "kernel/debug/bpmp/debug/clk/emc"
    is_locked = integer(emc / "mrq_rate_locked")
    facts: dict[str, Fact | None] = {
        "l4t": release,
        "power_mode": None if mode_id is None else _power_mode(root, mode_id),
        "power_mode_id": mode_id,
        "emc.now_hz": integer(emc / "rate"),
        "emc.min_hz": integer(emc / "min_rate"),
        "emc.max_hz": integer(emc / "max_rate"),
        "emc.cap_hz": _emc_cap_hz(sys_ / "kernel"),
        "emc.is_locked": None if is_locked is None else is_locked != 0,
        **_fans(sys_),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _l4t(root: Path) -> str | None:
    match = _RELEASE.match(text(root / "etc/nv_tegra_release") or "")
    return f"{match['major']}.{match['revision']}" if match else None


def _power_mode_id(root: Path) -> int | None:
    match = _STATUS.match(text(root / "var/lib/nvpmodel/status") or "")
    return int(match["id"]) if match else None


def _power_mode(root: Path, mode_id: int) -> str | None:
    """The name of a mode; None where the list of modes does not have it, or has it under two names."""
    modes = _MODE.findall(text(_below(root, "etc/nvpmodel.conf"), _MAX_CONF_BYTES) or "")
    names = {name for number, name in modes if int(number) == mode_id}
    return printable(names.pop()) if len(names) == 1 else None


def _below(root: Path, path: str) -> Path:
    """L4T links this file with an absolute target, which is meant from `root`, not from this machine's."""
    link = root / path
    try:
        target = link.readlink()
    except OSError:
        return link
    return root / target.relative_to("/") if target.is_absolute() else link


def _emc_cap_hz(kernel: Path) -> int | None:
    caps_hz = [integer(kernel / name) for name in ("nvpmodel_clk_cap/emc", "nvpmodel_emc_cap/emc_iso_cap")]
    return next((cap_hz for cap_hz in caps_hz if cap_hz), None)


def _fans(sys_: Path) -> Facts:
    """A fan is a hwmon device called pwmfan (JetPack 5 and later), or `/sys/devices/pwm-fan` (JetPack 4)."""
    facts: Facts = {}
    fans = [folder for folder in folders(sys_ / "class/hwmon", "hwmon*") if line(folder / "name") == "pwmfan"]
    for n, folder in enumerate(fans[:_MAX_FANS]):
        for name, value in (("pwm", integer(folder / "pwm1")), ("rpm", integer(folder / "fan1_input"))):
            if value is not None:
                facts[f"fan.{n}.{name}"] = value
    pwm = None if fans else integer(sys_ / "devices/pwm-fan/cur_pwm")
    return facts if pwm is None else {"fan.0.pwm": pwm}


def processor_label(facts: Facts) -> str | None:
    """A label for `processor` in a fleet file, such as `orin-nano-15w`; None where no power mode is known.

    A cutoff that was learnt in one power mode does not hold in another, so the mode belongs into the label.
    """
    mode, model = facts.get("power_mode"), facts.get("model")
    if not isinstance(mode, str) or not isinstance(model, str):
        return None
    name = [word for word in _WORD.findall(model.lower()) if word not in ("nvidia", "jetson")]
    end = next((n for n, word in enumerate(name) if word in _END_OF_NAME), len(name))
    words = [word for word in _WORD.findall(mode.lower()) if word != "mode"]
    return "-".join([*(name[:end] or ["jetson"]), *words])


def power_mode_lines(facts: Facts) -> list[str]:
    """For people: the power mode of a Jetson and the label that goes with it; nothing where there is no mode."""
    mode_id = facts.get("power_mode_id")
    if mode_id is None:
        return []
    name = facts.get("power_mode", "of no name that /etc/nvpmodel.conf tells")
    pinned = {True: ", clocks pinned", False: ", clocks free to change"}
    is_pinned = facts.get("clocks_pinned")
    lines = [f"power mode: {name} (id {mode_id}){pinned[is_pinned] if isinstance(is_pinned, bool) else ''}"]
    label = processor_label(facts)
    return [*lines, f'a label for its entry in a fleet file: processor = "{label}"'] if label else lines
