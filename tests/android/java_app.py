"""The app, without its Android half, on a phone of the fixture's: `am` starts it with an intent's extras."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.android.java_client import Built
from tests.fixtures.adb_server import Phone

PACKAGE = "fedmeter.app"


def install_app(phone: Phone, built: Built, files: Path, supplies: Path) -> None:
    """`files` stands for the folder that adb pushes examples to, `supplies` for the phone's power_supply class."""
    folder = phone.install(PACKAGE)
    properties = [f"-Dfiles={files}", f"-Ddata={folder / 'data'}", f"-Dsupplies={supplies}"]
    classes = f"{built.test_classes}:{built.jar}"
    # one processor: more would only start more threads that wait
    command = ["java", "-XX:ActiveProcessorCount=1", *properties, "-cp", classes, "fedmeter.client.Intent"]
    script = folder / "run"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o755)
