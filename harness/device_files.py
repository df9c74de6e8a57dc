"""The files devices/*.json of a run: what each device is and how its client was started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fl.proxy import ClientProxy
from harness.device import DeviceSpec
from harness.host import device_facts, host_facts
from harness.idle import idle_facts
from harness.meter import HOST
from harness.sessions import Sessions
from harness.store import Store
from profiler.records import Row


class DeviceFiles:
    """`idle` are the idle records, as far as there are any; `root` is where this host is described from."""

    def __init__(self, store: Store, devices: Mapping[str, DeviceSpec], idle: Iterable[Row], root: Path) -> None:
        self._store = store
        self._devices = devices
        self._idle = idle
        self._root = root
        self._told: dict[str, Mapping[str, object]] = {}  # what clients said of their machines
        self._stale: set[str] = set()  # those whose files tell of an earlier client

    def outdated(self, device: str) -> None:
        """It has another client than its file tells of."""
        self._stale.add(device)

    def write_all(self, sessions: Sessions, proxies: Iterable[ClientProxy], meter_facts: Mapping[str, Any]) -> None:
        """This host's and everybody's."""
        host = {**host_facts(self._root), **meter_facts, **idle_facts(self._idle, HOST)}
        self._store.write_device(HOST, host)
        self._stale.update(self._devices)
        self.write(sessions, proxies)

    def write(self, sessions: Sessions, proxies: Iterable[ClientProxy]) -> None:
        """Those that are outdated."""
        self._told.update((proxy.info.device, proxy.info.properties) for proxy in proxies)
        for id_ in sorted(self._stale):
            started = sessions[id_].facts if id_ in sessions else {}
            facts = device_facts(self._devices[id_], started, self._told.get(id_, {}))
            self._store.write_device(id_, {**facts, **idle_facts(self._idle, id_)})
        self._stale.clear()
