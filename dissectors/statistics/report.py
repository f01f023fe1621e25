"""What ``vmbus stats`` says: channels and protocols, operations, latencies, queue depth, throughput over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dissectors.engine import Session
from dissectors.engine.channels import ChannelLife
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.storage import CDB_AT, EXECUTE_SRB, Storage
from dissectors.engine.summary import text_table
from dissectors.statistics.pairs import Pairs, pair_requests, queue_depth
from vmbus.capture.columns import Columns
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import HEADER_SIZE, RecordKind
from vmbus.wire.nvsp import NvspMessageType
from vmbus.wire.scsi import Opcode
from vmbus.wire.vstor import VstorOperation

_MESSAGE, _PACKET, _EXTERNAL = int(RecordKind.MESSAGE), int(RecordKind.PACKET), int(RecordKind.EXTERNAL)
_BLOCK_HEAD = 28
"""From the start of a packet block to the record in it."""
_DATA_OFFSET_AT = 28
"""In an external record: where in all of the data it starts."""
_DESCRIPTOR_OFFSET_AT = 2


class Latency(NamedTuple):
    """Percentiles in microseconds."""

    completed: int
    median: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, nanoseconds: NDArray[np.int64]) -> Latency | None:
        if not len(nanoseconds):
            return None
        median, p90, p99, longest = (
            float(value) / 1000 for value in np.percentile(nanoseconds, (50, 90, 99, 100), method="inverted_cdf")
        )
        return cls(len(nanoseconds), median, p90, p99, longest)

    def as_dict(self) -> dict[str, float]:
        return {
            "completed": self.completed,
            "median_us": round(self.median, 3),
            "p90_us": round(self.p90, 3),
            "p99_us": round(self.p99, 3),
            "max_us": round(self.longest, 3),
        }


class Report:
    """Statistics of one capture."""

    def __init__(self, store: CaptureStore, session: Session | None = None, interval: float = 1.0) -> None:
        """``store`` is up to date; ``interval`` is the width of the throughput's steps in seconds."""
        self._store = store
        self._columns: Columns = store.columns
        self._bytes = np.frombuffer(store.mapped, np.uint8) if store.mapped is not None else np.zeros(0, np.uint8)
        self._interval = interval
        self._session = session or Session()
        self._lives = self._follow_control()
        self._pairs: Pairs = pair_requests(self._columns)
        self._volume = self._volumes()

    def _follow_control(self) -> list[tuple[int, ChannelLife]]:
        """Every life of every channel with the index of the record in which it begins."""
        known: dict[int, int] = {}
        found: list[tuple[int, ChannelLife]] = []
        for index in np.flatnonzero(self._columns.kind == _MESSAGE):
            self._session.feed_bytes(self._store.data(int(index)), int(self._columns.time[index]), int(index) + 1)
            for life in self._session.channels.values():
                if id(life) not in known:
                    known[id(life)] = 1
                    found.append((int(index), life))
        for channel in np.unique(self._columns.channel[self._columns.kind == _PACKET]):
            first = int(np.flatnonzero(self._columns.channel == channel)[0])
            if not any(life.channel_id == channel and start <= first for start, life in found):
                life = self._session.plane.life(int(channel))
                if id(life) not in known:
                    known[id(life)] = 1
                    found.append((first, life))
        return found

    def _volumes(self) -> NDArray[np.int64]:
        """Bytes that crossed in each record; external data counts with its first record."""
        columns = self._columns
        volume = columns.original_length.astype(np.int64) - HEADER_SIZE
        external = np.flatnonzero(columns.kind == _EXTERNAL)
        later = external[self._words(columns.offset[external] + (_BLOCK_HEAD + _DATA_OFFSET_AT)) != 0]
        volume[later] = 0
        return volume

    def _words(self, places: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The 32-bit words at places of the file; those beyond its end are 0."""
        at = places.astype(np.int64)
        at[at + 4 > len(self._bytes)] = 0
        parts = [self._bytes[at + shift].astype(np.uint32) << np.uint32(8 * shift) for shift in range(4)]
        found: NDArray[np.uint32] = parts[0] | parts[1] | parts[2] | parts[3]
        return found

    def _of_life(self, start: int, life: ChannelLife) -> NDArray[np.bool_]:
        """Which records belong to a channel's life."""
        later = [begin for begin, other in self._lives if other.channel_id == life.channel_id and begin > start]
        end = min(later, default=len(self._columns))
        chosen: NDArray[np.bool_] = self._columns.channel == life.channel_id
        chosen[:start] = False
        chosen[end:] = False
        return chosen

    # Tables

    def channels(self) -> list[dict[str, Any]]:
        """One row for each channel, the control plane first."""
        columns = self._columns
        control = columns.kind == _MESSAGE
        rows = [self._row("", "control", control, control)]
        for start, life in sorted(self._lives, key=lambda entry: entry[1].channel_id):
            of_life = self._of_life(start, life)
            speaks = of_life & ((columns.kind == _PACKET) | (columns.kind == _EXTERNAL))
            rows.append(self._row(f"{life.channel_id} {life.name}", life.dialect.name, of_life & ~control, speaks))
        return rows

    def _row(self, name: str, protocol: str, records: NDArray[Any], counted: NDArray[Any]) -> dict[str, Any]:
        of = records[self._pairs.requests]
        mean, deepest = queue_depth(self._columns, self._pairs, of)
        latency = Latency.of(self._latencies(of))
        return {
            "channel": name,
            "protocol": protocol,
            "records": int(records.sum()),
            "signals": int((records & (self._columns.kind == RecordKind.SIGNAL)).sum()),
            "bytes": int(self._volume[counted].sum()),
            "requests": int(of.sum()),
            "queue_mean": round(mean, 2),
            "queue_max": deepest,
            **({} if latency is None else latency.as_dict()),
        }

    def _latencies(self, of: NDArray[Any]) -> NDArray[np.int64]:
        return Pairs(self._pairs.requests[of], self._pairs.completions[of]).latencies(self._columns)

    def operations(self) -> list[dict[str, Any]]:
        """One row for each kind of request of storage and network channels."""
        rows: list[dict[str, Any]] = []
        for start, life in sorted(self._lives, key=lambda entry: entry[1].channel_id):
            of = self._of_life(start, life)[self._pairs.requests]
            chosen = np.flatnonzero(of)
            for name, which in self._names(life, self._pairs.requests[chosen]).items():
                one = np.zeros(len(of), np.bool_)
                one[chosen[which]] = True
                latency = Latency.of(self._latencies(one))
                rows.append(
                    {
                        "channel": f"{life.channel_id} {life.name}",
                        "operation": name,
                        "requests": int(one.sum()),
                        **({} if latency is None else latency.as_dict()),
                    }
                )
        return rows

    def _names(self, life: ChannelLife, requests: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The requests of a channel by operation."""
        columns = self._columns
        if not isinstance(life.dialect, (Storage, Network)) or not len(requests):
            return {}
        descriptor = columns.offset[requests] + (_BLOCK_HEAD + HEADER_SIZE)
        payload = descriptor + (self._words(descriptor) >> np.uint32(16)).astype(np.uint64) * 8
        number = self._words(payload)
        if isinstance(life.dialect, Network):
            return {str(NvspMessageType(int(v))): np.flatnonzero(number == v) for v in np.unique(number)}
        code = self._words(payload + np.uint64(CDB_AT)) & np.uint32(0xFF)
        found = {
            str(VstorOperation(int(v))): np.flatnonzero(number == v) for v in np.unique(number) if v != EXECUTE_SRB
        }
        is_command = number == EXECUTE_SRB
        for value in np.unique(code[is_command]):
            found[str(Opcode(int(value)))] = np.flatnonzero(is_command & (code == value))
        return found

    def throughput(self) -> list[dict[str, Any]]:
        """Records and bytes in each step of time."""
        columns = self._columns
        if not len(columns):
            return []
        times = columns.time - columns.time.min()
        step = np.minimum(times // max(int(self._interval * 1e9), 1), 1 << 20).astype(np.int64)
        counted = (columns.kind == _PACKET) | (columns.kind == _EXTERNAL)
        records = np.bincount(step)
        volume = np.bincount(step[counted], self._volume[counted], len(records))
        return [
            {"second": round(index * self._interval, 6), "records": int(count), "bytes": int(size)}
            for index, (count, size) in enumerate(zip(records, volume, strict=True))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON shows it."""
        times = self._columns.time
        return {
            "records": len(self._columns),
            "seconds": round((int(times.max()) - int(times.min())) / 1e9, 6) if len(times) else 0.0,
            "channels": self.channels(),
            "operations": self.operations(),
            "throughput": self.throughput(),
        }

    def lines(self) -> list[str]:
        """Everything as text."""
        found = self.as_dict()
        heads = (
            "channel",
            "protocol",
            "records",
            "signals",
            "bytes",
            "requests",
            "depth",
            "max",
            "median us",
            "p99 us",
        )
        rows = [
            (
                row["channel"] or "-",
                row["protocol"],
                f"{row['records']:,}",
                f"{row['signals']:,}",
                f"{row['bytes']:,}",
                f"{row['requests']:,}",
                f"{row['queue_mean']:.2f}",
                f"{row['queue_max']:,}",
                _number(row.get("median_us")),
                _number(row.get("p99_us")),
            )
            for row in found["channels"]
        ]
        lines = text_table(heads, rows, left=2)
        heads2 = ("channel", "operation", "requests", "median us", "p90 us", "p99 us", "max us")
        operations = [
            (
                row["channel"],
                row["operation"],
                f"{row['requests']:,}",
                *(_number(row.get(key)) for key in ("median_us", "p90_us", "p99_us", "max_us")),
            )
            for row in found["operations"]
        ]
        if operations:
            lines += ["", *text_table(heads2, operations, left=2)]
        steps = [
            (f"{row['second']:.1f}", f"{row['records']:,}", f"{row['bytes'] / self._interval / 1e6:,.3f}")
            for row in found["throughput"]
        ]
        lines += ["", *text_table(("second", "records", "MB/s"), steps, left=0)]
        return [*lines, "", f"{found['records']:,} records in {found['seconds']:.3f} s"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
