"""Foreign plug-ins, as an installed distribution would bring them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.plugins import load_plugin
from fl.strategy import load_strategy
from profiler.errors import PreconditionError, UsageError
from tests.fixtures.documented import install


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "foreign_strategies",
        "from fl.strategies.fedavg import FedAvg\n\nclass Mine(FedAvg):\n    name = 'mine'\n",
        "[fedmeter.strategies]\nmine = foreign_strategies:Mine\nbroken = foreign_strategies_gone:Mine\n",
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("foreign")
def test_a_foreign_strategy_is_found_beside_the_built_in_ones() -> None:
    assert load_strategy("mine", epochs=1, batch_size=8, lr=0.1).name == "mine"
    assert load_strategy("fedavg", epochs=1, batch_size=8, lr=0.1).name == "fedavg"


@pytest.mark.usefixtures("foreign")
def test_a_plugin_whose_needs_are_missing_says_what() -> None:
    with pytest.raises(PreconditionError, match=r"'broken'.*No module named 'foreign_strategies_gone'.*Install"):
        load_plugin("fedmeter.strategies", "broken")


def test_a_group_with_nothing_in_it() -> None:
    with pytest.raises(UsageError, match=r"no 'x' among fedmeter\.nothing\. Known: none"):
        load_plugin("fedmeter.nothing", "x")
