"""From the command line to a job: who, what, and the tasks that follow; new, or as an interrupted run was planned."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fl.workload import Defaults, Workload, load_workload
from harness.cutoffs import read_cutoffs
from harness.experiment import (
    Case,
    Cutoff,
    CutoffEntry,
    ExperimentSpec,
    check_experiment,
    load_experiment,
    with_cutoffs,
)
from harness.fleet import FleetSpec, load_fleet, parse_fleet
from harness.flower.choice import OWN, EngineChoice
from harness.host import available_cores
from harness.plan import Task, make_plan
from harness.run_spec import RunSpec
from harness.store import Done, open_for_resume
from harness.task_strategy import task_strategy
from profiler.errors import SpecError, UsageError

_OVERRIDES = ("workload", "rounds", "epochs", "clients", "seeds", "strategy")


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line comes down to. `workload` is None where nothing is trained."""

    spec: RunSpec
    workload: Workload | None
    experiment_text: str
    resume: Path | None
    done: Done

    @property
    def trained(self) -> Workload:
        """The workload of a job that trains."""
        if self.workload is None:
            raise ValueError("nothing is trained")
        return self.workload


def new_job(args: argparse.Namespace) -> Job:
    experiment, text = load_experiment(args.experiment or "demo")
    experiment = _override(experiment, args)
    name = args.fleet or experiment.fleet or "local"
    fleet = _say_insecure(load_fleet(name, cores=available_cores()), args)
    engine = EngineChoice(args.engine or OWN, args.federation)
    spec, workload = _planned(fleet, experiment, engine, training=not args.no_training)
    for task in spec.tasks:
        task_strategy(task, experiment)  # a wrong option must show before anything is started
    return Job(spec, workload, text, None, Done())


def _planned(
    fleet: FleetSpec, experiment: ExperimentSpec, engine: EngineChoice, *, training: bool
) -> tuple[RunSpec, Workload | None]:
    """The plan, and the workload where one is trained or knows the numbers that the experiment leaves open."""
    fleet, experiment = engine.carried(fleet, experiment)
    if not training and not fleet.is_simulated:
        raise UsageError("--no-training is for simulated fleets: real devices cost what they cost while they train.")
    batch_size, lr, rounds = experiment.batch_size, experiment.lr, experiment.rounds
    if not training and batch_size is not None and lr is not None and rounds is not None:
        plan = make_plan(fleet, experiment, Defaults(batch_size, lr, rounds), training=False)
        return RunSpec(fleet, experiment, plan), None
    workload = load_workload(experiment.workload, **experiment.workload_options)
    plan = make_plan(fleet, experiment, workload.defaults, training=training, engine=engine.task_name)
    return RunSpec(fleet, experiment, plan, engine), workload if training else None


def _say_insecure(fleet: FleetSpec, args: argparse.Namespace) -> FleetSpec:
    if args.insecure and fleet.tls is not None:
        raise UsageError("--insecure and the fleet's 'tls' contradict each other: leave out one of them.")
    return replace(fleet, insecure=True) if args.insecure else fleet


def _override(experiment: ExperimentSpec, args: argparse.Namespace) -> ExperimentSpec:
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in _OVERRIDES
        if (value := getattr(args, name)) is not None
    }
    for name in ("epochs", "clients", "seeds"):
        values = changes.get(name, ())
        if len(set(values)) != len(values):
            raise UsageError(f"--{name} names a value twice: {' '.join(map(str, values))}.")
        if any(value < (0 if name == "seeds" else 1) for value in values):
            raise UsageError(f"--{name} must be at least {0 if name == 'seeds' else 1}.")
    experiment = replace(experiment, **changes)
    if args.cutoffs is not None:
        experiment = with_cutoffs(experiment, read_cutoffs(args.cutoffs))
    return check_experiment(experiment, "command line")


def resumed_job(args: argparse.Namespace) -> Job:
    """The run as it was planned. Raises SpecError where the command line or the files plan something else."""
    run, fleet_text, planned, done = open_for_resume(args.resume)
    where = f"{args.resume}/run.json"
    experiment = _override(_experiment_from_json(run.get("experiment_spec"), where), args)
    fleet = parse_fleet(fleet_text, f"{args.resume}/fleet.toml", cores=int(run.get("cores", available_cores())))
    fleet = _say_insecure(fleet, args)
    if args.fleet is not None and load_fleet(args.fleet, cores=available_cores()).text != fleet_text:
        raise SpecError(
            f"--resume {args.resume}: fleet '{args.fleet}' is not the fleet of that run.",
            remedy="Leave the fleet out, or start a new run without --resume.",
        )
    if args.experiment is not None:
        raise UsageError("--resume and --experiment do not go together: a run keeps its experiment.")
    engine = _resumed_engine(run, args)
    spec, workload = _planned(fleet, experiment, engine, training=bool(run.get("training", True)))
    if [task.id for task in spec.tasks] != [row["task"] for row in planned]:
        raise SpecError(
            f"--resume {args.resume}: the plan has changed: {_plan_difference(spec.tasks, planned)}.",
            remedy="Resume without flags that change the plan, or start a new run.",
        )
    return Job(spec, workload, "", args.resume, done)


def _resumed_engine(run: Mapping[str, Any], args: argparse.Namespace) -> EngineChoice:
    """That of the run; a federation may have another address by now."""
    then = EngineChoice.from_facts(run.get("engine"))
    if args.engine is not None and args.engine != then.name:
        raise UsageError(f"--engine {args.engine}: that run was begun on {then.name}.", remedy="Leave --engine out.")
    return then if args.federation is None else replace(then, federation=args.federation)


def _plan_difference(tasks: Sequence[Task], planned: Sequence[dict[str, Any]]) -> str:
    if len(tasks) != len(planned):
        return f"{len(tasks)} tasks now, {len(planned)} then"
    for task, row in zip(tasks, planned, strict=True):
        now = json.loads(json.dumps(task.row()))
        for name, value in now.items():
            if name != "task" and value != row.get(name):
                return f"task {row['task']} has {name} = {value} now, {row.get(name)} then"
    return "plan.jsonl was edited"


def _experiment_from_json(values: Any, where: str) -> ExperimentSpec:
    if not isinstance(values, dict):
        raise SpecError(f"{where} has no 'experiment_spec'.", remedy="Start a new run.")
    try:
        cases = [Case(tuple(case["processors"]), _cutoff_entries(case)) for case in values.get("cases", [])]
        lists = {name: tuple(values[name]) for name in ("epochs", "seeds")}
        lists |= {"cutoffs": _cutoff_entries(values), "cases": tuple(cases) or (Case(),)}
        clients = tuple(values["clients"]) if values.get("clients") else None
        return check_experiment(ExperimentSpec(**{**values, **lists, "clients": clients}), where)
    except (TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"{where}: 'experiment_spec' is damaged: {error}.", remedy="Start a new run.") from None


def _cutoff_entries(values: dict[str, Any]) -> tuple[CutoffEntry, ...]:
    return tuple(CutoffEntry(**{**entry, "cutoff": Cutoff(**entry["cutoff"])}) for entry in values.get("cutoffs", []))
