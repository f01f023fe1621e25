"""Requests with their completions, as times in a temporary file: twenty bytes each, however many there are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).min
"""In place of the time of a completion that did not come."""

_ROW = np.dtype([("key", "<i4"), ("start", "<i8"), ("end", "<i8")])
_PIECE = 1 << 16
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
    """Append-only; ``key`` is what the caller wants to find them by. They are put in order when they are looked for."""

    def __init__(self) -> None:
        self._file = _new_file()
        self._count = 0
        self._places: dict[int, tuple[int, int]] | None = None
        """Where those of each key lie, once they are in order."""

    def append(self, keys: Any, starts: Any, ends: Any) -> None:
        """Add some: three arrays or numbers."""
        rows = np.empty(len(np.atleast_1d(keys)), _ROW)
        rows["key"], rows["start"], rows["end"] = keys, starts, ends
        self._file.write(rows.tobytes())
        self._count += len(rows)
        self._places = None

    def of(self, keys: Iterable[int]) -> tuple[Times, Times]:
        """Starts and ends of those that have one of the keys."""
        if self._places is None:
            self._places = self._sort()
        found = [self._read(*self._places[key]) for key in keys if key in self._places]
        rows = np.concatenate(found) if found else np.empty(0, _ROW)
        return np.ascontiguousarray(rows["start"]), np.ascontiguousarray(rows["end"])

    def _read(self, first: int, last: int) -> NDArray[np.void]:
        self._file.seek(first * _ROW.itemsize)
        return np.frombuffer(self._file.read((last - first) * _ROW.itemsize), _ROW)

    def _sort(self) -> dict[int, tuple[int, int]]:
        """Put them in the order of their keys; of the same key they stay in order. Twelve bytes of memory for each."""
        if not self._count:
            return {}
        self._file.flush()
        rows = np.memmap(self._file, _ROW, "r", shape=(self._count,))
        keys = np.array(rows["key"])
        order = np.argsort(keys, kind="stable")
        different, firsts = np.unique(keys[order], return_index=True)
        del keys
        in_order = _new_file()
        for at in range(0, self._count, _PIECE):
            in_order.write(rows[order[at : at + _PIECE]].tobytes())
        self._file = in_order
        bounds = [*firsts.tolist(), self._count]
        return {key: (bounds[index], bounds[index + 1]) for index, key in enumerate(different.tolist())}


def _new_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="vmbus-stats-")


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
