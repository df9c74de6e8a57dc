"""Who takes part: a fleet file (TOML) becomes a FleetSpec. Strict: a key that is not known is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

from fl.addresses import host_and_port
from fl.proxy import TensorEncoding
from harness.device import DeviceGroup, DeviceSpec
from harness.launcher import launcher_class
from harness.relaunch import RelaunchPolicy, read_policy
from harness.spec import Table, parse_toml, read_spec
from profiler.errors import SpecError

_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DEVICES = 10_000
MAX_COUNT = 100_000_000
SIMULATED = "simulated"
FOREIGN = "foreign"
_STRANGERS = frozenset({FOREIGN, "external", "adb", "device-farm"})
"""Launchers whose clients may be other people's programs."""
RESERVED_IDS = frozenset({"host", "server", "other"})


@dataclass(frozen=True)
class FleetSpec:
    """A fleet, groups of devices in the order of the file. `text` is the file as it was."""

    name: str
    groups: tuple[DeviceGroup, ...]
    address: str
    tls: Path | None
    insecure: bool
    foreign_address: str | None
    asks_names: bool
    join_timeout_s: float
    meter_rate_hz: float
    text: str
    where: str
    relaunch: RelaunchPolicy = field(default_factory=RelaunchPolicy)

    @property
    def size(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def shards(self) -> int:
        """Into how many parts the training data are split. Groups may hold the same ones, as alternatives."""
        return max(group.end_shard for group in self.groups)

    @property
    def is_simulated(self) -> bool:
        """Whether all of it is, so that it can live in simulated time."""
        return all(group.launcher == SIMULATED for group in self.groups)

    @property
    def has_simulated(self) -> bool:
        return any(group.launcher == SIMULATED for group in self.groups)

    @cached_property
    def devices(self) -> tuple[DeviceSpec, ...]:
        """Raises SpecError where there are more than can be handled one by one, or two of one id."""
        if self.size > MAX_DEVICES:
            raise SpecError(
                f"{self.where}: {self.size} devices; at most {MAX_DEVICES} take part one by one.",
                remedy="A larger fleet can be simulated without training: --no-training.",
            )
        devices = tuple(group.device(n) for group in self.groups for n in range(group.count))
        _check_ids(devices, self.where)
        return devices

    def first(self, clients: int, processors: Collection[str]) -> list[tuple[DeviceGroup, int]]:
        """The first so many devices among those with these labels, as groups and how many of each."""
        taken = []
        for group in self.groups:
            count = min(group.count, clients)
            if group.processor in processors and count:
                taken.append((group, count))
                clients -= count
        return taken

    def members(self, clients: int, processors: Collection[str]) -> tuple[DeviceSpec, ...]:
        """The same, one by one."""
        return tuple([device for device in self.devices if device.processor in processors][:clients])


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
    groups = _groups(table, cores)
    fleet = FleetSpec(
        name=name,
        groups=groups,
        address=server.take("address", str, "127.0.0.1:0"),
        tls=_folder(server.take("tls", str, None)),
        insecure=server.take("insecure", bool, False),
        foreign_address=server.take("foreign_address", str, None),
        asks_names=server.take(
            "asks_names", bool, not any(group.first.foreign and group.first.tensors == "float32" for group in groups)
        ),
        join_timeout_s=server.take("join_timeout_s", float, 120.0),
        meter_rate_hz=meter.take("rate_hz", float, 20.0),
        text=text,
        where=where,
        relaunch=read_policy(table.table("relaunch")),
    )
    server.at_least("join_timeout_s", fleet.join_timeout_s, 1)
    meter.at_least("rate_hz", fleet.meter_rate_hz, 0.1)
    for part in (server, meter, table):
        part.finish()
    _check_addresses(fleet, server.where)
    _check_ways(fleet, server.where)
    if fleet.size <= MAX_DEVICES:
        _ = fleet.devices  # two of one id must show before anything is started
    return fleet


def _folder(name: str | None) -> Path | None:
    """A relative one counts from where the command runs, so that it is still right when a run is resumed."""
    return None if name is None else Path(name).expanduser().absolute()


def _check_addresses(fleet: FleetSpec, where: str) -> None:
    for key in ("address", "foreign_address"):
        address = getattr(fleet, key)
        try:
            _, port = host_and_port(address or "localhost:0")
        except ValueError as error:
            raise SpecError(f"{where}: {key} = '{address}': {error}.") from None
        if key == "foreign_address" and port and address == fleet.address:
            raise SpecError(f"{where}: '{address}' is one port, and cannot be both address and foreign_address.")


def _check_ways(fleet: FleetSpec, where: str) -> None:
    has_foreign = any(group.first.foreign for group in fleet.groups)
    if fleet.tls is not None and has_foreign and fleet.foreign_address is None:
        raise SpecError(
            f"{where}: foreign devices cannot show the certificate that clients of ours show on '{fleet.address}'.",
            remedy='Give them a port of their own: foreign_address = "HOST:PORT".',
        )
    if fleet.foreign_address is not None and not (has_foreign and fleet.tls is not None):
        raise SpecError(f"{where}: 'foreign_address' is for foreign devices beside 'tls', and there are none.")
    if fleet.tls is not None and fleet.insecure:
        raise SpecError(f"{where}: 'tls' and 'insecure' contradict each other.", remedy="Leave out one of them.")


def _groups(table: Table, cores: int) -> tuple[DeviceGroup, ...]:
    groups: list[DeviceGroup] = []
    for entry in table.tables("device"):
        groups.append(
            _group(
                entry,
                cores,
                first_number=sum(group.count for group in groups),
                next_shard=max((group.end_shard for group in groups), default=0),
            )
        )
    if not any(group.count for group in groups):
        raise SpecError(
            f"{table.where}: a fleet of zero clients.", remedy="Add a [[device]] with a count of 1 or more."
        )
    return tuple(groups)


def _check_ids(devices: Sequence[DeviceSpec], where: str) -> None:
    counts = Counter(device.id for device in devices)
    if twice := [id_ for id_, count in counts.items() if count > 1]:
        raise SpecError(f"{where}: device id '{min(twice)}' is given twice.", remedy='Use id = "name-{n}".')


def _group(entry: Table, cores: int, *, first_number: int, next_shard: int) -> DeviceGroup:
    pattern: str = entry.take("id", str)
    count = _count(entry, cores)
    foreign: bool = entry.take("foreign", bool, False)
    launcher: str = entry.take("launcher", str, FOREIGN if foreign else "local")
    if (launcher not in _STRANGERS) if foreign else (launcher == FOREIGN):
        raise SpecError(
            f"{entry.where}: launcher '{launcher}' does not go with foreign = {str(foreign).lower()}.",
            remedy="Leave out 'launcher': a foreign client is started by its owner, or is an app that 'adb' starts.",
        )
    processor: str = entry.take("processor", str)
    require: list[str] = entry.take("require", list, [])
    config_keys: dict[str, str] = entry.take("config_keys", dict, {})
    if any(not isinstance(value, str) for value in [*require, *config_keys.values()]):
        raise SpecError(f"{entry.where}: 'require' and 'config_keys' hold strings.")
    tensors = _tensors(entry)
    first_shard: int = entry.take("first_shard", int, next_shard)
    entry.at_least("first_shard", first_shard, 0)
    options = launcher_class(launcher, entry.where).read_options(entry)
    entry.finish()
    if count > 1 and "{n}" not in pattern:
        raise SpecError(f"{entry.where}: {count} devices need different ids.", remedy=f'Use id = "{pattern}-{{n}}".')
    first = DeviceSpec(
        id=pattern,
        launcher=launcher,
        processor=processor,
        shard=first_shard,
        require=tuple(require),
        config_keys=config_keys,
        options=options,
        tensors=tensors,
        foreign=foreign,
        number=first_number,
    )
    group = DeviceGroup(first, count)
    for id_ in {group.device(0).id, group.device(max(0, count - 1)).id}:
        _check_id(id_, entry.where)
    return group


def _check_id(id_: str, where: str) -> None:
    if id_ in RESERVED_IDS:
        raise SpecError(f"{where}: id '{id_}' has a meaning of its own in the results.", remedy="Choose another.")
    if not _DEVICE_ID.fullmatch(id_):
        raise SpecError(f"{where}: id '{id_}' may hold letters, digits, '.', '_' and '-' only, 64 at most.")


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
        if count > MAX_COUNT:
            raise SpecError(f"{entry.where}: more than {MAX_COUNT} devices.")
        return count
    rule = Table(count, f"{entry.where} count")
    per_cores: int = rule.take("per_cores", int)
    most: int = rule.take("max", int)
    rule.at_least("per_cores", per_cores, 1)
    rule.at_least("max", most, 1)
    rule.finish()
    return max(1, min(cores // per_cores, most))
