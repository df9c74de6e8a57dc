"""Fits of clients that do not count their steps: whole fits all the same, where no cutoff could have ended them."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import load
from analysis.windows import fit_windows
from tests.fixtures.results_folder import Client, RunFolder, Task


@pytest.mark.parametrize(("stopped_by", "n_used"), [("unknown", 2), ("completed", 2), ("cutoff", 0)])
def test_their_windows_are_learnt_from(tmp_path: Path, stopped_by: str, n_used: int) -> None:
    fits = [Client("a", "fast", 1.0), Client("b", "slow", 3.0, stopped_by=stopped_by)]
    RunFolder(tmp_path).write([Task("t", fits=fits)])
    grouped, left_out = fit_windows(load([tmp_path]))
    [by_processor] = grouped.values()
    found = by_processor["slow"].windows if "slow" in by_processor else ()
    assert [window.window_s for window in found] == [3.0] * n_used
    assert bool(left_out) == (n_used == 0)
