"""Requests with their completions, as times in a temporary file: twenty bytes each, however many there are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).min
"""In place of the time of a completion that did not come."""

_ROW = np.dtype([("key", "<i4"), ("start", "<i8"), ("end", "<i8")])
Times = NDArray[np.int64]


class Latency(NamedTuple):
    """Percentiles in microseconds; each is a value that occurred."""

    completed: int
    median: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, starts: Times, ends: Times) -> Latency | None:
        """Of requests that began and were completed; None if none was completed."""
        done = ends != NEVER
        if not done.any():
            return None
        nanoseconds = ends[done] - starts[done]
        median, p90, p99, longest = (
            float(value) / 1000 for value in np.percentile(nanoseconds, (50, 90, 99, 100), method="inverted_cdf")
        )
        return cls(len(nanoseconds), median, p90, p99, longest)

    def as_dict(self) -> dict[str, float]:
        """As JSON shows it."""
        return {
            "completed": self.completed,
            "median_us": round(self.median, 3),
            "p90_us": round(self.p90, 3),
            "p99_us": round(self.p99, 3),
            "max_us": round(self.longest, 3),
        }


class Transactions:
    """Append-only; ``key`` is what the caller wants to find them by."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="vmbus-stats-")  # noqa: SIM115 - as long as the object
        self._count = 0

    def append(self, keys: Any, starts: Any, ends: Any) -> None:
        """Add some: three arrays or numbers."""
        rows = np.empty(len(np.atleast_1d(keys)), _ROW)
        rows["key"], rows["start"], rows["end"] = keys, starts, ends
        self._file.write(rows.tobytes())
        self._count += len(rows)

    def of(self, keys: Iterable[int]) -> tuple[Times, Times]:
        """Starts and ends of those that have one of the keys."""
        if not self._count:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._file.flush()
        rows = np.memmap(self._file, _ROW, "r", shape=(self._count,))
        chosen = np.flatnonzero(np.isin(rows["key"], list(keys)))
        return np.asarray(rows["start"][chosen]), np.asarray(rows["end"][chosen])


def queue_depth(starts: Times, ends: Times) -> tuple[float, int]:
    """Mean over time and maximum of the requests that wait."""
    done = ends != NEVER
    times = np.concatenate((starts, ends[done]))
    steps = np.concatenate((np.ones(len(starts), np.int64), np.full(int(done.sum()), -1, np.int64)))
    if len(times) < 2:
        return 0.0, len(starts)
    order = np.lexsort((steps, times))
    depth = np.cumsum(steps[order])
    spans = np.diff(times[order])
    total = int(spans.sum())
    mean = float((depth[:-1] * spans).sum() / total) if total else 0.0
    return mean, int(depth.max())
