"""The strategy of a task, and config keys by the names that foreign clients know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fl.strategy import Adjusted, Assignment, Strategy, load_strategy
from harness.experiment import ExperimentSpec
from harness.plan import Task


def task_strategy(task: Task, experiment: ExperimentSpec) -> Strategy:
    """The strategy of a task. Raises UsageError for a name or an option that there is not."""
    options = dict(task.strategy_options)
    if task.cutoffs:
        options["cutoffs"] = task.tau_s
    return load_strategy(
        task.strategy,
        epochs=task.epochs,
        batch_size=task.batch_size,
        lr=task.lr,
        seed=task.seed,
        fit_timeout_s=experiment.fit_timeout_s,
        **options,
    )


def with_renamed_keys(strategy: Strategy, names: Mapping[str, Mapping[str, str]]) -> Strategy:
    """A strategy whose config keys are renamed for clients, by device, that know them by other names."""

    def rename(assignment: Assignment) -> Assignment:
        known_as = names.get(assignment.device, {})
        config = {known_as.get(key, key): value for key, value in assignment.config.items()}
        return replace(assignment, config=config)

    return Adjusted(strategy, rename)
