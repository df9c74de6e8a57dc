"""A results folder on a disk that is full: a clear end, nothing lost that was written, and a way to go on."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store import Store
from profiler.errors import StorageError
from profiler.records import read_lines
from tests.harness.running import Bench, finish, module, wait_until

pytestmark = pytest.mark.serial

MARGIN_BYTES = 48 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "results"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """A file that takes the rest of a disk, but for so much."""
    path = folder / "filler"
    there = os.statvfs(folder)
    with path.open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, there.f_bavail * there.f_frsize - leave_bytes)
    return path


def failure_row(n: int, reason: str) -> dict[str, object]:
    return {"kind": "failure", "task": "t", "attempt": 1, "device": f"d{n}", "phase": "fit", "reason": reason}


def test_a_line_is_written_whole_or_not_at_all(small_disk: Path) -> None:
    store = Store.create(small_disk, {}, "", [])
    filler = fill(small_disk, leave_bytes=8192)
    with pytest.raises(StorageError, match=f"No space left on device.*--resume {store.folder}") as caught:
        store.append([failure_row(n, "x" * 1500) for n in range(1000)])
    assert caught.value.exit_code == 3
    filler.unlink()
    store.append([failure_row(1000, "there is room again")])
    store.close()
    *written, last = (row["device"] for row in read_lines(store.folder / "records" / "harness.jsonl"))
    assert written == [f"d{n}" for n in range(len(written))]
    assert 0 < len(written) < 1000
    assert last == "d1000"


@pytest.mark.timeout(120)
def test_a_run_on_a_full_disk_ends_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    bench = Bench(small_disk.parent)
    (bench.folder / "fleet.toml").write_text('name = "two"\n[[device]]\nid = "d-{n}"\ncount = 2\nprocessor = "cpu"\n')
    (bench.folder / "experiment.toml").write_text(
        'name = "short"\nworkload = "linear"\nrounds = 20\nidle_s = 0\n[sweep]\nepochs = [20]\nseeds = [1, 2]\n'
    )
    with bench.running() as process:
        wait_until(lambda: len(bench.records("round")) >= 2)
        filler = fill(small_disk, MARGIN_BYTES)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "No space left on device" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert [row["status"] for row in bench.records("task_finished")] == [], "no task is given up for it"
    (run,) = bench.run_folders()
    before = [(row["task"], row["round"]) for row in bench.records("round")]
    filler.unlink()
    done = finish([*module("harness.run", "--resume", run), "--json"], bench.folder)
    assert done.returncode == 0, done.stderr
    assert [task["rounds_done"] for task in json.loads(done.stdout)["tasks"]] == [20, 20]
    after = [(row["task"], row["round"]) for row in bench.records("round")]
    assert after[: len(before)] == before
    spans = Counter(row["span_id"] for row in bench.records("span"))
    assert not [span_id for span_id, n in spans.items() if n > 1]
