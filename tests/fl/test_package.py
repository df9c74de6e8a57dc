"""The package's front door, and what stays outside of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fl


def test_the_public_names_are_there() -> None:
    for name in fl.__all__:
        assert getattr(fl, name).__name__ == name
    with pytest.raises(AttributeError, match="start_serve"):
        fl.start_serve  # type: ignore[attr-defined]  # noqa: B018


def test_the_loop_and_the_device_half_load_no_heavy_package() -> None:
    code = "import sys, fl.loop, fl.responder, fl.in_process; print([m for m in ('grpc', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
