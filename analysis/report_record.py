"""What the record says of runs: what was run, what failed, what each device measured, how to have a run again."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import words
from analysis.cli import printable
from analysis.load import Results, Run, rows
from analysis.page_spans import PageSpans

MAX_TABLE_ROWS = 1000
MAX_TEXT = 65_536
HOST = "host"

Cell = str | float | int | None
"""A number is shown to four digits and sorted as a number; None is an empty cell, sorted last."""


@dataclass(frozen=True, slots=True)
class Table:
    """`key` is its id on the page. `n_left_out` rows were too many."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n_left_out: int = 0

    @classmethod
    def of(cls, key: str, title: str, columns: Sequence[str], cells: Iterable[Sequence[Cell]]) -> Table:
        found = [tuple(row) for row in cells]
        return cls(key, title, tuple(columns), tuple(found[:MAX_TABLE_ROWS]), max(0, len(found) - MAX_TABLE_ROWS))


@dataclass(frozen=True, slots=True)
class Origin:
    """How one run can be had again."""

    run_id: str
    command: str
    facts: Mapping[str, str]
    texts: Mapping[str, str]


# What was run, and what was measured


def runs(results: Results) -> Table:
    due: Counter[str] = Counter(results.tasks["run_id"].tolist())
    done: Counter[str] = Counter(results.tasks[results.tasks["finished"].fillna(False)]["run_id"].tolist())
    cells = [
        (
            run.run_id,
            str(run.info.get("wall_time", ""))[:19],
            str(run.info.get("fleet", "")),
            str(run.info.get("experiment", "")),
            words.TIME_PROVENANCE[run.clock],
            f"{done[run.run_id]} of {due[run.run_id]}",
            "interrupted" if run.interrupted else "ended",
        )
        for run in results.runs
    ]
    columns = ("run", "began (UTC)", "fleet", "experiment", "times are", "tasks finished", "state")
    return Table.of("runs", "Runs", columns, cells)


def failures(results: Results) -> Table:
    columns = ("run", "task", "round", "device", "phase", "reason")
    cells = [
        (row["run_id"], row["task"], row["round"], row["device"] or "", row["phase"], row["reason"][:400])
        for row in rows(results.failures)
    ]
    return Table.of("failures", "Failures", columns, cells)


def devices(results: Results, spans: PageSpans) -> Table:
    energies = _energies_by_device(spans.energies)
    cells = []
    for run_id, by_id in results.devices.items():
        for device, info in sorted(by_id.items()):
            machine = info.get("machine") if isinstance(info.get("machine"), dict) else info
            cells.append(
                (
                    *(run_id, device, _word(info.get("processor")), _word(info.get("launcher"))),
                    _machine(machine or {}),
                    _word(info.get("meter")) or energies.get((run_id, device), "no energy"),
                    _idle_w(info),
                )
            )
    columns = ("run", "device", "processor", "launcher", "machine", "energy is", "idle power (W)")
    return Table.of("devices", "What each device measured", columns, cells)


def _energies_by_device(energies: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(run, device) -> `estimated (process)`: all kinds and scopes of the energies of its spans."""
    known = energies[(energies["n_known"] > 0) & energies["device"].notna()]
    seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    columns = ["run_id", "device", "provenance", "energy_scope"]
    for row in rows(known[columns].drop_duplicates()):
        seen[row["run_id"], row["device"]].add(f"{row['provenance']} ({row['energy_scope']})")
    return {key: ", ".join(sorted(kinds)) for key, kinds in seen.items()}


def _machine(machine: Mapping[str, Any]) -> str:
    told = [_word(machine.get(name)) for name in ("model", "board", "cpu_model", "os", "virtual_machine")]
    return ", ".join(dict.fromkeys(word for word in told if word and word != "unknown"))


def _idle_w(info: Mapping[str, Any]) -> float | None:
    idle = info.get("idle")
    powers = [one.get("power_w") for one in idle if isinstance(one, dict)] if isinstance(idle, list) else []
    known = [float(power) for power in powers if isinstance(power, (int, float)) and not isinstance(power, bool)]
    return sum(known) / len(known) if known else None


def _word(value: object, limit: int = 120) -> str:
    return "" if value is None else printable(str(value))[:limit]


def sensors(results: Results) -> Table:
    """Sensors of every meter, what is alike in several runs once."""
    counts: Counter[tuple[str, ...]] = Counter()
    for by_id in results.devices.values():
        for device, info in by_id.items():
            listed = info.get("sensors") if isinstance(info.get("sensors"), list) else []
            counts.update(
                _sensor(device, one, _word(info.get("meter"))) for one in listed or [] if isinstance(one, dict)
            )
    columns = ("device", "sensor", "state", "kind", "scope", "why, and what to do", "runs")
    order = {"in use": 0, "available": 1, "refused": 2, "not here": 3}
    found = sorted(counts.items(), key=lambda item: (item[0][0], order[item[0][2]], item[0]))
    return Table.of("sensors", "Sensors: used, refused, absent", columns, [(*key, count) for key, count in found])


def _sensor(device: str, info: Mapping[str, Any], meter: str) -> tuple[str, ...]:
    name = _word(info.get("name"))
    if info.get("available") is True:
        in_use = name in meter.replace("+", " ").split()
        state, why = "in use" if in_use else "available", _word(info.get("notes"), 400)
    else:
        state = "not here" if info.get("absent") is True else "refused"
        why = ". ".join(part for part in (_word(info.get("reason"), 400), _word(info.get("remedy"), 400)) if part)
    return device, name, state, _word(info.get("provenance")), _word(info.get("scope")), why


# How to have it again


def origin(run: Run) -> Origin:
    info = run.info
    argv = info.get("argv")
    known = isinstance(argv, list) and all(isinstance(word, str) for word in argv)
    command = shlex.join(["python", "-m", "harness.run", *argv]) if known and argv is not None else "not on record"
    texts = {"fleet.toml": _text_of(run), "experiment": _word_text(info.get("experiment_text"))}
    return Origin(run.run_id, command, _facts(info), {name: text for name, text in texts.items() if text})


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    git = info.get("git") if isinstance(info.get("git"), dict) else {}
    versions = info.get("versions") if isinstance(info.get("versions"), dict) else {}
    host = info.get("host") if isinstance(info.get("host"), dict) else {}
    state = ""
    if git and git.get("commit"):
        state = f"{_word(git['commit'])}{', with changes that are not committed' if git.get('dirty') else ''}"
    return {
        "fedmeter": _word(info.get("fedmeter")) or _word((versions or {}).get("fedmeter")),
        "git": state or "not on record",
        "versions": ", ".join(f"{_word(name)} {_word(value)}" for name, value in sorted((versions or {}).items()))
        or "not on record",
        "host": _machine(host or {}) or "not on record",
    }


def _text_of(run: Run) -> str:
    path = run.path / "fleet.toml"
    try:
        with path.open("rb") as file:
            return _word_text(file.read(MAX_TEXT + 1).decode(errors="replace"))
    except OSError:
        return ""


def _word_text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "\n[cut off here: it is longer]"
