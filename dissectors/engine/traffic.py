"""What has crossed each channel so far, kept up to date while records come: packets, requests, latencies, ring fill.

Latencies are counted in buckets, eight for each doubling, so that a percentile is right within 9 % whatever the number
of requests; ``dissectors.statistics`` has exact ones, of whole captures.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.span import groups
from vmbus.capture.columns import RecordMark
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import HEADER_SIZE, Direction, RecordKind

_PACKET = int(RecordKind.PACKET)
_RING = struct.Struct("<IIII")
_PER_DOUBLING = 8
_BUCKETS = 64 * _PER_DOUBLING
_SAMPLES = 16
"""Packets of a batch, at most, whose ring indices are looked at for each ring."""


@dataclass
class RingTraffic:
    """One direction of a channel."""

    packets: int = 0
    bytes: int = 0
    """Of packets, with their descriptors."""
    size: int = 0
    """Of the ring, in bytes; 0 if it is not known."""
    peak: float = 0.0
    """How full the ring was at most since somebody last set this to 0; a part of 1."""
    highest: float = 0.0
    """The same since the beginning."""


@dataclass
class ChannelTraffic:
    """What has crossed one channel, or all."""

    to_host: RingTraffic = field(default_factory=RingTraffic)
    to_guest: RingTraffic = field(default_factory=RingTraffic)
    requests: int = 0
    """Packets of either end that asked for a completion."""
    completed: int = 0
    total_ns: int = 0
    """Of the latencies of completed requests."""
    buckets: NDArray[np.int64] | None = None
    """Of the latencies; four kilobytes, which only a channel with completed requests has."""

    @property
    def rings(self) -> tuple[tuple[Direction, RingTraffic], ...]:
        return (Direction.GUEST_TO_HOST, self.to_host), (Direction.HOST_TO_GUEST, self.to_guest)

    @property
    def mean_ns(self) -> float | None:
        return self.total_ns / self.completed if self.completed else None

    def percentile_ns(self, percent: float) -> float | None:
        """About the latency that ``percent`` of the completed requests do not exceed."""
        if self.buckets is None:
            return None
        rank = max(-(-self.completed * percent // 100), 1)
        bucket = int(np.searchsorted(np.cumsum(self.buckets), rank))
        return float(2 ** ((bucket + 0.5) / _PER_DOUBLING))

    def add_latencies(self, latencies: NDArray[np.int64]) -> None:
        """Count completed requests."""
        if self.buckets is None:
            self.buckets = np.zeros(_BUCKETS, np.int64)
        buckets = (np.log2(np.maximum(latencies, 1)) * _PER_DOUBLING).astype(np.int64)
        self.buckets += np.bincount(buckets, minlength=_BUCKETS)[:_BUCKETS]
        self.completed += len(latencies)
        self.total_ns += int(latencies.sum())


class Traffic:
    """By channel id, in ``channels``, and of all of them in ``total``."""

    def __init__(self, store: CaptureStore) -> None:
        self.channels: dict[int, ChannelTraffic] = {}
        self.total = ChannelTraffic()
        """Without the sizes and fill of rings."""
        self._store = store

    def add(self, first: int, last: int, completed: list[tuple[int, int]]) -> None:
        """Count the records from ``first`` up to ``last``, and requests with their completions."""
        columns = self._store.columns
        packets = np.flatnonzero(columns.kind[first:last] == _PACKET) + first
        direction, wants = columns.direction[packets], columns.flags[packets] & RecordMark.WANTS_COMPLETION != 0
        sizes = np.maximum(columns.original_length[packets].astype(np.int64) - HEADER_SIZE, 0)
        for channel_id, mine in groups(columns.channel[packets]):
            traffic = self.channels.setdefault(channel_id, ChannelTraffic())
            for counted in (traffic, self.total):
                counted.requests += int(np.count_nonzero(wants[mine]))
                for way, ring in counted.rings:
                    these = mine[direction[mine] == int(way)]
                    ring.packets += len(these)
                    ring.bytes += int(sizes[these].sum())
            for way, ring in traffic.rings:
                self._look_at_ring(ring, packets[mine[direction[mine] == int(way)]])
        if completed:
            self._add_latencies(np.array(completed, np.int64))

    def _look_at_ring(self, ring: RingTraffic, packets: NDArray[np.int64]) -> None:
        area = self._store.mapped
        for index in packets[:: max(len(packets) // _SAMPLES, 1)].tolist():
            if area is None or self._store.columns.length[index] < HEADER_SIZE:
                continue
            size, _, read, write = _RING.unpack_from(area, self._store.data_offset(index) + 16)
            if size:
                ring.size = size
                ring.peak = max(ring.peak, (write - read) % size / size)
        ring.highest = max(ring.highest, ring.peak)

    def _add_latencies(self, pairs: NDArray[np.int64]) -> None:
        columns = self._store.columns
        requests, completions = pairs[:, 0], pairs[:, 1]
        latency = np.maximum(columns.time[completions] - columns.time[requests], 0)
        self.total.add_latencies(latency)
        for channel_id, mine in groups(columns.channel[requests]):
            self.channels.setdefault(channel_id, ChannelTraffic()).add_latencies(latency[mine])
