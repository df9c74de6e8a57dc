"""Reading tables that people write: every key is known and typed, and every mistake is told by file, key and remedy."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from profiler.errors import SpecError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_REQUIRED = object()
_KIND_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class Table:
    """One table of a spec file. `take` each key once, then `finish`, which refuses what is left."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._known: set[str] = set()
        self.where = where

    def take(self, key: str, kind: type[T], default: object = _REQUIRED, *, or_kind: type | None = None) -> T:
        """The value of a key, checked to be a `kind` (or an `or_kind`; a whole number will do for a float)."""
        self._known.add(key)
        if key not in self._values:
            if default is _REQUIRED:
                self._refuse_near_miss(key)
                raise SpecError(f"{self.where}: '{key}' is missing.", remedy=f"Add {key} = ...")
            return cast(T, default)
        value = self._values.pop(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return cast(T, float(value))
        kinds = [one for one in (kind, or_kind) if one is not None]
        if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(_KIND_NAMES.get(one, one.__name__) for one in kinds)
            raise SpecError(f"{self.where}: '{key}' must be {names}, got {value!r}.")
        return cast(T, value)

    def _refuse_near_miss(self, key: str) -> None:
        """Where a needed key is missing and one much like it is there, that one is what has to be told."""
        for near in get_close_matches(key, self._values, n=1, cutoff=0.7):
            raise SpecError(f"{self.where}: unknown key '{near}'.", remedy=f"Did you mean '{key}'?")

    def has(self, key: str) -> bool:
        """Whether a key is there and has not been taken."""
        return key in self._values

    def table(self, key: str) -> Table:
        return Table(self.take(key, dict, {}), f"{self.where} [{key}]")

    def tables(self, key: str) -> list[Table]:
        rows: list[Any] = self.take(key, list, [])
        if any(not isinstance(row, dict) for row in rows):
            raise SpecError(f"{self.where}: write [[{key}]] before each entry.")
        return [Table(row, f"{self.where} [[{key}]] number {n}") for n, row in enumerate(rows, start=1)]

    def numbers(self, key: str, default: list[int], *, minimum: int) -> list[int]:
        """A non-empty list of whole numbers without repeats."""
        values: list[Any] = self.take(key, list, default)
        bad = [value for value in values if isinstance(value, bool) or not isinstance(value, int) or value < minimum]
        if bad:
            raise SpecError(f"{self.where}: '{key}' must hold whole numbers from {minimum}, got {bad[0]!r}.")
        if len(set(values)) != len(values):
            raise SpecError(f"{self.where}: '{key}' names a value twice: {values}.")
        return values

    def at_least(self, key: str, value: float, minimum: float) -> None:
        if not value >= minimum:
            raise SpecError(f"{self.where}: '{key}' must be at least {minimum:g}, got {value:g}.")
        if value == math.inf:
            raise SpecError(f"{self.where}: '{key}' must be finite.")

    def rest(self) -> dict[str, Any]:
        """What has not been taken, taken."""
        values, self._values = self._values, {}
        return values

    def finish(self) -> None:
        if self._values:
            key = next(iter(self._values))
            raise SpecError(f"{self.where}: unknown key '{key}'.", remedy=nearest(key, self._known))


def parse_toml(text: str, where: str) -> Table:
    try:
        return Table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{where} is not valid TOML: {error}.") from None
