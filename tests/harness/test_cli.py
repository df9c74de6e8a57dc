"""`fedmeter VERB`."""

from __future__ import annotations

import pytest

from harness.cli import main


def test_verbs_are_listed_and_misspelt_ones_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "pareto" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["paretto"]) == 2
    assert "Did you mean 'pareto'" in capsys.readouterr().err


def test_a_verb_runs_the_main_of_its_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", "--epochs", "3"]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["profiler", "list", "--json"]) == 0
    assert main(["cutoff", "nowhere"]) == 3
