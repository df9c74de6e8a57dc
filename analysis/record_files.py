"""Reads the record files of one run folder as a stream of parts, large ones by several processes."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.span_lines import Span, SpanColumns, decode
from analysis.spans import SpanSelection
from profiler.records import Row, TornLine, decoded_lines

PART_BYTES = 16 * 1024 * 1024
PARALLEL_FROM_BYTES = 8 * PART_BYTES  # less takes about as long as other processes need to start
MAX_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Stretch:
    """The lines of a file that begin in some of its bytes."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one stretch holds: the selected spans as columns, a digest of every span; all other records as they are."""

    path: Path
    rows: dict[str, list[Row]]
    spans: list[pa.RecordBatch]
    span_tasks: frozenset[str]
    digests: npt.NDArray[np.int64]
    torn: TornLine


def read_parts(
    folder: Path,
    selection: SpanSelection,
    *,
    n_workers: int | None = None,
    parallel_from_bytes: int = PARALLEL_FROM_BYTES,
) -> Iterator[Part]:
    """All records of a run folder, in the order of their files and lines. Raises ResultsError on a bad line."""
    paths = sorted((folder / "records").glob("*.jsonl"))
    n_bytes = sum(path.stat().st_size for path in paths)
    stretches = (stretch for path in paths for stretch in stretches_of(path))
    n_workers = n_workers or min(os.cpu_count() or 1, MAX_WORKERS)
    if n_bytes < parallel_from_bytes or n_workers == 1:
        return (read_part(stretch, selection) for stretch in stretches)
    return _in_processes(stretches, selection, n_workers)


def stretches_of(path: Path, part_bytes: int = PART_BYTES) -> Iterator[Stretch]:
    """A file in stretches of about so many bytes, cut at line ends."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(min(start + part_bytes, size) - 1)
            file.readline()
            yield Stretch(path, start, stop := file.tell())
            start = stop


def _in_processes(stretches: Iterable[Stretch], selection: SpanSelection, n_workers: int) -> Iterator[Part]:
    """Parts in their order; no more than a few at a time are read ahead of whoever takes them."""
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[Future[Part]] = deque()
        try:
            for stretch in stretches:
                ahead.append(pool.submit(read_part, stretch, selection))
                if len(ahead) > 2 * n_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_part(stretch: Stretch, selection: SpanSelection) -> Part:
    """Every line is checked whole, whatever is kept of it."""
    torn = TornLine()
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    spans = SpanColumns(selection)
    for record in decoded_lines(stretch.path, decode, torn, start=stretch.start, stop=stretch.stop):
        if isinstance(record, Span):
            spans.add(record)
        else:
            rows[record["kind"]].append(record)
    batches, digests = spans.finish()
    return Part(stretch.path, dict(rows), batches, frozenset(spans.tasks), digests, torn)
