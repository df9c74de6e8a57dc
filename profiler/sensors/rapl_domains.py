"""What RAPL's domains are, whichever way the kernel hands them out: their names, scopes, limits and total.

Domains after Documentation/power/powercap/powercap.rst and arch/x86/events/rapl.c of the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from profiler.machine import cpu_info
from profiler.quantities import Provenance, Rail, RailKind, Scope

KINDS = ("package", "psys", "core", "uncore", "dram")
EDGE_JITTER_S = 0.001  # the counters tick every 0.976 ms, without a time stamp (Hähnel et al. 2012)
# Neither Intel nor AMD documents an accuracy. Against plug power packages track closely (Khan et al., "RAPL in
# Action", 2018) and memory follows with an offset that depends on the system (Desrochers et al., MEMSYS 2016). These
# limits are our assumption of what that amounts to; they are no specification.
_GAIN_ERR = {"package": 0.05, "psys": 0.05, "core": 0.10, "uncore": 0.10, "dram": 0.20}
_SCOPES = {
    "package": Scope.PACKAGE,
    "psys": Scope.DEVICE,
    "core": Scope.CPU,
    "uncore": Scope.RAIL,
    "dram": Scope.DRAM,
}
MAX_POWER_W = 1000.0  # no package draws more; only tells a wrapped counter from one that was reset


def label(kind: str, package: str | None) -> str:
    """The name of a rail: `package-0` and `psys` as they are, else the kind and the package it belongs to."""
    if kind == "package" and package is not None:
        return package
    return kind if kind == "psys" or package is None else f"{kind}-{package.removeprefix('package-')}"


def rail(
    name: str,
    kind: str,
    package: str | None,
    *,
    resolution_j: float,
    wrap_j: float | None = None,
    max_power_w: float | None = None,
) -> Rail:
    """One domain's rail. A package contains its `core` and `uncore`, but not its memory."""
    return Rail(
        name=name,
        scope=_SCOPES[kind],
        kind=RailKind.COUNTER_J,
        provenance=Provenance.COUNTER,
        min_period_s=EDGE_JITTER_S,
        resolution=resolution_j,
        wrap_j=wrap_j,
        gain_err=_GAIN_ERR[kind],
        edge_jitter_s=EDGE_JITTER_S,
        max_power_w=max_power_w or MAX_POWER_W,
        parent=package if kind in ("core", "uncore") else None,
    )


def total(names_and_kinds: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Packages and memory; where there are no packages, psys."""
    domains = list(names_and_kinds)
    wanted = ("package", "dram") if any(kind == "package" for _, kind in domains) else ("psys",)
    return tuple(name for name, kind in domains if kind in wanted)


def notes(kinds: Iterable[str], root: Path) -> list[str]:
    """What a reader of the total has to know: memory that is not in it, noise that was added on purpose."""
    said = [] if "dram" in kinds else ["no dram zone: memory is not in the total"]
    about = cpu_info(root)
    if "sgx" in about.get("flags", "").split():
        # Intel, "Running Average Power Limit Energy Reporting" (CVE-2020-8694, INTEL-SA-00389): with SGX on, the
        # counters are filtered against power side channels. Whether they are stands in an MSR that only root reads.
        said.append("SGX is on, so the processor may add noise to its counters (INTEL-SA-00389): trust no short spans")
    return said
