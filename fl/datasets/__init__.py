"""Data sets and weights that training needs and no package brings: where they lie, how they are fetched and read.

    python -m fl.datasets {cifar10,mobilenetv2} [--from URL|FILE]

Nothing is fetched unasked: a workload whose data are missing says this command. No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT_VARIABLE = "FEDMETER_DATASETS"


def data_root(environment: Mapping[str, str] = os.environ) -> Path:
    """`$FEDMETER_DATASETS`, else `fedmeter/datasets` in the user's cache (XDG Base Directory Specification 0.8)."""
    chosen = environment.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen)
    cache = environment.get("XDG_CACHE_HOME", "")
    # The specification wants relative paths ignored.
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "fedmeter" / "datasets"
