"""Who takes part: a fleet file (TOML) becomes a FleetSpec. Strict: a key that is not known is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from fl.proxy import TensorEncoding
from harness.device import DeviceSpec
from harness.launcher import launcher_class
from harness.spec import Table, parse_toml, read_spec
from profiler.errors import SpecError

_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DEVICES = 10_000
RESERVED_IDS = frozenset({"host", "server", "other"})


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A fleet, devices in the order of the file. `text` is the file as it was."""

    name: str
    devices: tuple[DeviceSpec, ...]
    address: str
    tls: Path | None
    insecure: bool
    foreign_address: str | None
    asks_names: bool
    join_timeout_s: float
    meter_rate_hz: float
    text: str
    where: str

    def first(self, clients: int) -> tuple[DeviceSpec, ...]:
        return self.devices[:clients]


def load_fleet(name: str, *, cores: int) -> FleetSpec:
    """The fleet file at a path, or a shipped one by name. `cores` sizes counts given per core.

    Raises SpecError.
    """
    text, where = read_spec(name, "harness.fleets", "fleet")
    return parse_fleet(text, where, cores=cores)


def parse_fleet(text: str, where: str, *, cores: int) -> FleetSpec:
    table = parse_toml(text, where)
    server, meter = table.table("server"), table.table("meter")
    name = table.take("name", str)
    devices = _devices(table, cores)
    fleet = FleetSpec(
        name=name,
        devices=devices,
        address=server.take("address", str, "127.0.0.1:0"),
        tls=_folder(server.take("tls", str, None)),
        insecure=server.take("insecure", bool, False),
        foreign_address=server.take("foreign_address", str, None),
        asks_names=server.take("asks_names", bool, not any(d.foreign and d.tensors == "float32" for d in devices)),
        join_timeout_s=server.take("join_timeout_s", float, 120.0),
        meter_rate_hz=meter.take("rate_hz", float, 20.0),
        text=text,
        where=where,
    )
    server.at_least("join_timeout_s", fleet.join_timeout_s, 1)
    meter.at_least("rate_hz", fleet.meter_rate_hz, 0.1)
    for part in (server, meter, table):
        part.finish()
    _check_ways(fleet, server.where)
    return fleet


def _folder(name: str | None) -> Path | None:
    """A relative one counts from where the command runs, so that it is still right when a run is resumed."""
    return None if name is None else Path(name).expanduser().absolute()


def _check_ways(fleet: FleetSpec, where: str) -> None:
    has_foreign = any(device.foreign for device in fleet.devices)
    if fleet.tls is not None and has_foreign and fleet.foreign_address is None:
        raise SpecError(
            f"{where}: foreign devices cannot show the certificate that clients of ours show on '{fleet.address}'.",
            remedy='Give them a port of their own: foreign_address = "HOST:PORT".',
        )
    if fleet.foreign_address is not None and not (has_foreign and fleet.tls is not None):
        raise SpecError(f"{where}: 'foreign_address' is for foreign devices beside 'tls', and there are none.")
    if fleet.tls is not None and fleet.insecure:
        raise SpecError(f"{where}: 'tls' and 'insecure' contradict each other.", remedy="Leave out one of them.")


def _devices(table: Table, cores: int) -> tuple[DeviceSpec, ...]:
    devices: list[DeviceSpec] = []
    for entry in table.tables("device"):
        devices += _expand(entry, cores, first_shard=len(devices))
        if len(devices) > MAX_DEVICES:
            raise SpecError(f"{entry.where}: more than {MAX_DEVICES} devices.")
    if not devices:
        raise SpecError(
            f"{table.where}: a fleet of zero clients.", remedy="Add a [[device]] with a count of 1 or more."
        )
    ids = [device.id for device in devices]
    if twice := {id_ for id_ in ids if ids.count(id_) > 1}:
        raise SpecError(f"{table.where}: device id '{min(twice)}' is given twice.", remedy='Use id = "name-{n}".')
    return tuple(devices)


def _expand(entry: Table, cores: int, first_shard: int) -> list[DeviceSpec]:
    pattern: str = entry.take("id", str)
    count = _count(entry, cores)
    foreign: bool = entry.take("foreign", bool, False)
    launcher: str = entry.take("launcher", str, "foreign" if foreign else "local")
    if foreign != (launcher == "foreign"):
        raise SpecError(
            f"{entry.where}: launcher '{launcher}' does not go with foreign = {str(foreign).lower()}.",
            remedy="Leave out 'launcher': a foreign client is started by its owner.",
        )
    processor: str = entry.take("processor", str)
    require: list[str] = entry.take("require", list, [])
    config_keys: dict[str, str] = entry.take("config_keys", dict, {})
    if any(not isinstance(value, str) for value in [*require, *config_keys.values()]):
        raise SpecError(f"{entry.where}: 'require' and 'config_keys' hold strings.")
    tensors = _tensors(entry)
    options = launcher_class(launcher, entry.where).read_options(entry)
    entry.finish()
    if count > 1 and "{n}" not in pattern:
        raise SpecError(f"{entry.where}: {count} devices need different ids.", remedy=f'Use id = "{pattern}-{{n}}".')
    ids = [pattern.replace("{n}", str(n)) for n in range(count)]
    for id_ in ids:
        if id_ in RESERVED_IDS:
            raise SpecError(
                f"{entry.where}: id '{id_}' has a meaning of its own in the results.", remedy="Choose another."
            )
        if not _DEVICE_ID.fullmatch(id_):
            raise SpecError(f"{entry.where}: id '{id_}' may hold letters, digits, '.', '_' and '-' only, 64 at most.")
    return [
        DeviceSpec(id_, launcher, processor, first_shard + n, tuple(require), config_keys, options, tensors, foreign)
        for n, id_ in enumerate(ids)
    ]


def _tensors(entry: Table) -> TensorEncoding:
    given: str = entry.take("tensors", str, "npy")
    if given not in get_args(TensorEncoding):
        raise SpecError(f"{entry.where}: tensors = '{given}'; it is one of {', '.join(get_args(TensorEncoding))}.")
    return cast(TensorEncoding, given)


def _count(entry: Table, cores: int) -> int:
    """`count = 4`, or one for every so many cores: `count = { per_cores = 2, max = 4 }`."""
    count: int | dict[str, Any] = entry.take("count", int, 1, or_kind=dict)
    if isinstance(count, int):
        entry.at_least("count", count, 0)
        return count
    rule = Table(count, f"{entry.where} count")
    per_cores: int = rule.take("per_cores", int)
    most: int = rule.take("max", int)
    rule.at_least("per_cores", per_cores, 1)
    rule.at_least("max", most, 1)
    rule.finish()
    return max(1, min(cores // per_cores, most))
