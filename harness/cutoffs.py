"""Reading a cutoffs file, as `python -m analysis.cutoff -o` writes it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.experiment import Cutoff, CutoffEntry
from profiler.errors import SpecError

SCHEMA = 1
MAX_CUTOFFS_BYTES = 16 * 1024 * 1024


def read_cutoffs(path: Path) -> tuple[CutoffEntry, ...]:
    """Every entry of the file. Raises SpecError, naming file and entry."""
    remedy = "Write one with: python -m analysis.cutoff results/ -o cutoffs.json"
    try:
        if path.stat().st_size > MAX_CUTOFFS_BYTES:
            raise SpecError(f"{path} is larger than {MAX_CUTOFFS_BYTES} bytes: not a cutoffs file.", remedy=remedy)
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError(f"cutoffs file {path} cannot be read: {error.strerror}.", remedy=remedy) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"cutoffs file {path} is not JSON: {error}.", remedy=remedy) from None
    if not isinstance(content, dict) or not isinstance(content.get("cutoffs"), list):
        raise SpecError(f"{path} has no list 'cutoffs'.", remedy=remedy)
    if content.get("schema") != SCHEMA:
        raise SpecError(f"{path} has schema {content.get('schema')!r}; this version reads schema {SCHEMA}.")
    return tuple(_entry(item, f"{path}, entry {n}") for n, item in enumerate(content["cutoffs"], start=1))


def _entry(item: Any, where: str) -> CutoffEntry:
    if not isinstance(item, dict):
        raise SpecError(f"{where}: not an object.")
    tau_s = _field(item, "tau_s", (int, float), where)
    if not math.isfinite(tau_s) or tau_s < 0:
        raise SpecError(f"{where}: tau_s must be seconds from 0 (0: none), got {tau_s!r}.")
    return CutoffEntry(
        processor=_field(item, "processor", (str,), where),
        cutoff=Cutoff(float(tau_s), _field(item, "kind", (str,), where)),
        workload=_field(item, "workload", (str,), where),
        epochs=_field(item, "epochs", (int,), where),
        batch_size=_field(item, "batch_size", (int,), where),
    )


def _field(item: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise SpecError(f"{where}: '{key}' must be {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}.")
    return value


def find_cutoff(
    entries: tuple[CutoffEntry, ...], *, workload: str, processor: str, epochs: int, batch_size: int
) -> Cutoff:
    """The one entry that fits. Raises SpecError where none does, naming what there is, or where several do."""
    wanted = {"workload": workload, "processor": processor, "epochs": epochs, "batch_size": batch_size}
    fits = [entry for entry in entries if all(getattr(entry, key) in (None, value) for key, value in wanted.items())]
    said = ", ".join(f"{key} {value}" for key, value in wanted.items())
    if not fits:
        there = "; ".join(entry.label for entry in entries)
        raise SpecError(f"no cutoff for {said}. There are: {there or 'none'}.")
    if len({entry.cutoff for entry in fits}) > 1:
        raise SpecError(f"{len(fits)} different cutoffs for {said}.", remedy="Keep one of them in the file.")
    return fits[0].cutoff
