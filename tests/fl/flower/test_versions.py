"""Which flwr will do, said to who has another."""

from __future__ import annotations

import pytest

from fl.flower.versions import require_flwr
from profiler.errors import PreconditionError


@pytest.mark.parametrize("installed", ["1.24.0", "1.32.1", "1.42.0", "1.100.0", "2.0.0rc1"])
def test_new_enough(installed: str) -> None:
    require_flwr(installed)


@pytest.mark.parametrize("installed", ["1.23.0", "1.8.0", "0.19.0", "unknown"])
def test_another_version_is_told_which_are_supported(installed: str) -> None:
    with pytest.raises(PreconditionError, match=rf"flwr {installed}\. Supported are 1\.24 to 1\.42: pip install"):
        require_flwr(installed)


def test_none_is_told_how_to_get_it() -> None:
    with pytest.raises(PreconditionError, match=r"not installed.*fedmeter\[flower\]"):
        require_flwr("")
