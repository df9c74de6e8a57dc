"""Exit codes and what is shown where."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from analysis import cli
from analysis.files import write_atomically
from profiler.errors import ResultsError, UsageError


def run_with(error: BaseException | None, argv: list[str]) -> int:
    def command(arguments: argparse.Namespace) -> int:
        if error is not None:
            raise error
        return 0

    return cli.run(cli.parser("analysis.test", "a test"), command, argv)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (UsageError("no"), 2),
        (ResultsError("no"), 3),
        (PermissionError("no"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException | None, code: int) -> None:
    assert run_with(error, ["results"]) == code


def test_wrong_arguments_and_help_return_their_codes() -> None:
    assert run_with(None, []) == 2
    assert run_with(None, ["--help"]) == 0


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_with(ZeroDivisionError(), ["results"])


def test_stderr_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    run_with(ResultsError("folder \x1b[2J is empty."), ["results"])
    assert capsys.readouterr().err == "error: folder ?[2J is empty.\n"


def test_choose_names_the_nearest() -> None:
    assert cli.choose("--x", "parity", ["parity", "knee"]) == "parity"
    with pytest.raises(UsageError, match="Did you mean 'knee'"):
        cli.choose("--x", "nee", ["parity", "knee"])


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [child.name for child in path.parent.iterdir()] == ["x.txt"]
