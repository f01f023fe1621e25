"""Counts the parts of a capture, in order: records and bytes, requests and their times, throughput.

With a filter, a record counts if it passes; a request and its completion are one, and count if either passes, so that
``latency > 5ms`` shows the slow requests although only their completions have a latency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.span import groups
from dissectors.statistics.measure import Measure
from dissectors.statistics.transactions import NEVER, Transactions
from vmbus.wire.capture import RecordKind

_PACKET, _EXTERNAL = int(RecordKind.PACKET), int(RecordKind.EXTERNAL)
_KINDS = 8
_MOST_STEPS = 1 << 20
"""Of throughput; what comes later counts with the last step."""

Mask = NDArray[np.bool_]


class Count:
    """Records and bytes."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    def add(self, records: int, size: int) -> None:
        self.records += records
        self.bytes += size


class Owner(NamedTuple):
    """What is told of a channel's life; the life itself, with all that happened in it, is not kept."""

    channel_id: int
    name: str
    protocol: str


class _Waiting(NamedTuple):
    """A request of an earlier part that may still be completed."""

    key: int
    start: int
    passes: bool


class Tally:
    """Of a whole capture."""

    def __init__(self, interval_ns: int) -> None:
        """``interval_ns`` is the width of throughput's steps."""
        self.owners: list[Owner | None] = [None]
        """Of every life of every channel that has records; None stands for none."""
        self.counts: dict[tuple[int, int], Count] = defaultdict(Count)
        """By place in ``owners`` and kind of record."""
        self.operations: list[tuple[int, str]] = []
        """What the keys of ``transactions`` stand for: place in ``owners``, and name, which may be empty."""
        self.transactions = Transactions()
        self.steps: dict[int, Count] = defaultdict(Count)
        """Throughput: packets' and external data's bytes, and all records, by number of the step."""
        self.first_ns: int | None = None
        self.last_ns = 0
        self._interval = max(interval_ns, 1)
        self._start: int | None = None
        self._places: dict[int, tuple[ChannelLife, int]] = {}
        """Lives that may have more records, by their identity, and their places in ``owners``."""
        self._keys: dict[tuple[int, str], int] = {}
        self._waiting: dict[int, _Waiting] = {}

    @property
    def records(self) -> int:
        return sum(count.records for count in self.counts.values())

    @property
    def unknown(self) -> int:
        """Records that are none of VMBus."""
        return sum(count.records for (_, kind), count in self.counts.items() if not kind)

    def add(self, measure: Measure, passes: Mask | None = None) -> None:
        """Count a part; ``passes`` are the records that a filter lets through, None: all."""
        if not len(measure.part):
            return
        chosen = np.ones(len(measure.part), np.bool_) if passes is None else passes
        places = self._place(measure)
        self._count(measure, places, chosen)
        self._add_steps(measure, chosen)
        self._pair(measure, places, chosen)

    def finish(self) -> None:
        """Nothing completes any more what still waits."""
        for request in self._waiting.values():
            self._end(request, NEVER)
        self._waiting.clear()

    def _place(self, measure: Measure) -> NDArray[np.int64]:
        """The place in ``owners`` of each record's."""
        codes, lives = measure.lives
        table = [0] * len(lives)
        for code, life in enumerate(lives):
            if life is not None:
                _, table[code] = self._places.setdefault(id(life), (life, len(self.owners)))
                if table[code] == len(self.owners):
                    self.owners.append(Owner(life.channel_id, life.name, life.dialect.name))
        known = {id(life) for life in measure.part.known_lives()}
        self._places = {key: found for key, found in self._places.items() if key in known}
        return np.array(table, np.int64)[codes]

    def _count(self, measure: Measure, places: NDArray[np.int64], chosen: Mask) -> None:
        columns = measure.part.columns
        both = (places * _KINDS + np.minimum(columns.kind, _KINDS - 1))[chosen]
        for found, count, size in _sums(both, measure.volume[chosen]):
            self.counts[divmod(found, _KINDS)].add(count, size)
        times = columns.time[chosen]
        if len(times):
            earliest = int(times.min())
            self.first_ns = earliest if self.first_ns is None else min(self.first_ns, earliest)
            self.last_ns = max(self.last_ns, int(times.max()))

    def _add_steps(self, measure: Measure, chosen: Mask) -> None:
        columns = measure.part.columns
        if self._start is None:
            self._start = int(columns.time.min())
        steps = np.minimum((columns.time[chosen] - self._start) // self._interval, _MOST_STEPS)
        kind = columns.kind[chosen]
        volume = np.where((kind == _PACKET) | (kind == _EXTERNAL), measure.volume[chosen], 0)
        for step, count, size in _sums(steps, volume):
            self.steps[step].add(count, size)

    def _pair(self, measure: Measure, places: NDArray[np.int64], chosen: Mask) -> None:
        part, requests = measure.part, measure.requests
        columns = part.columns
        keys = self._key(measure, places[requests])
        passes = chosen[requests].copy()
        ends = np.full(len(requests), NEVER, np.int64)
        asked = part.partners().requests
        completions = np.flatnonzero((columns.kind == _PACKET) & (columns.subtype == COMPLETION) & (asked >= 0))
        inside = completions[asked[completions] >= part.first]
        place = np.searchsorted(requests, asked[inside] - part.first)
        ends[place] = columns.time[inside]
        passes[place] |= chosen[inside]
        for index in completions[asked[completions] < part.first].tolist():
            request = self._waiting.pop(int(asked[index]), None)
            if request is not None:
                self._end(request._replace(passes=request.passes or bool(chosen[index])), int(columns.time[index]))
        starts = columns.time[requests]
        done = ends != NEVER
        complete = np.flatnonzero(done & passes)
        self.transactions.append(keys[complete], starts[complete], ends[complete])
        for at in np.flatnonzero(~done).tolist():
            request = _Waiting(int(keys[at]), int(starts[at]), bool(passes[at]))
            self._waiting[part.first + int(requests[at])] = request
        for gone in [index for index in self._waiting if index not in part.open]:
            self._end(self._waiting.pop(gone), NEVER)

    def _key(self, measure: Measure, places: NDArray[np.int64]) -> NDArray[np.int32]:
        """The key of each request."""
        keys = np.zeros(len(places), np.int32)
        both = places * len(measure.operations) + measure.operation
        for found, mine in groups(both):
            place, operation = divmod(found, len(measure.operations))
            named = place, measure.operations[operation]
            key = self._keys.setdefault(named, len(self.operations))
            if key == len(self.operations):
                self.operations.append(named)
            keys[mine] = key
        return keys

    def _end(self, request: _Waiting, time_ns: int) -> None:
        if request.passes:
            self.transactions.append(request.key, request.start, time_ns)


def _sums(keys: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Each different key, how often it occurs, and the sum of its sizes."""
    different, inverse = np.unique(keys, return_inverse=True)
    counts, sums = np.bincount(inverse), np.bincount(inverse, sizes)
    for key, count, size in zip(different.tolist(), counts.tolist(), sums.tolist(), strict=True):
        yield key, count, int(size)
