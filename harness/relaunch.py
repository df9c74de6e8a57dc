"""How often, and after what pauses, a device that failed is started again: `[relaunch]` of a fleet file. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.spec import Table


@dataclass(frozen=True, slots=True)
class RelaunchPolicy:
    """`attempts` in a row in which a device answers no fit or evaluate; an answer, and a new task, set the count back.

    Pauses double from `pause_s` to `longest_pause_s`.
    """

    attempts: int = 5
    pause_s: float = 2.0
    longest_pause_s: float = 60.0

    def pause(self, n: int, rng: random.Random) -> float:
        """Seconds after the n-th failure in a row, from 1: half of the limit, and up to as much again by chance, so
        that devices which failed together do not come back together."""
        limit_s = min(self.longest_pause_s, self.pause_s * 2.0 ** min(n - 1, 60))
        return limit_s / 2 * (1 + rng.random())


def read_policy(table: Table) -> RelaunchPolicy:
    """Raises SpecError."""
    default = RelaunchPolicy()
    policy = RelaunchPolicy(
        attempts=table.take("attempts", int, default.attempts),
        pause_s=table.take("pause_s", float, default.pause_s),
        longest_pause_s=table.take("longest_pause_s", float, default.longest_pause_s),
    )
    table.at_least("attempts", policy.attempts, 0)
    table.at_least("pause_s", policy.pause_s, 0)
    table.at_least("longest_pause_s", policy.longest_pause_s, 0)
    table.finish()
    return policy
