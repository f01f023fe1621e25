"""What ``vmbus stats`` says: channels, protocols, operations, latencies, queue depth, throughput over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from dissectors.engine.summary import text_table
from dissectors.statistics.tally import Count, Tally
from dissectors.statistics.transactions import Latency, queue_depth
from vmbus.wire.capture import RecordKind

_MESSAGE, _SIGNAL = int(RecordKind.MESSAGE), int(RecordKind.SIGNAL)
_SPOKEN = frozenset({int(RecordKind.PACKET), int(RecordKind.EXTERNAL)})


class Report:
    """Statistics of one capture."""

    def __init__(self, tally: Tally, interval: float = 1.0) -> None:
        """``tally`` is finished; ``interval`` is the width of the throughput's steps in seconds."""
        self._tally = tally
        self._interval = interval

    def channels(self) -> list[dict[str, Any]]:
        """One row for each life of a channel, by channel id; the control plane first."""
        tally = self._tally
        control = [count for (_, kind), count in tally.counts.items() if kind == _MESSAGE]
        rows = [self._row("", "control", control, control, 0, ())]
        kinds: dict[int, dict[int, Count]] = defaultdict(dict)
        for (place, kind), count in tally.counts.items():
            if place and kind != _MESSAGE:
                kinds[place][kind] = count
        keys: dict[int, list[int]] = defaultdict(list)
        for key, (place, _) in enumerate(tally.operations):
            keys[place].append(key)
        for place in sorted(kinds, key=lambda place: (getattr(tally.owners[place], "channel_id", 0), place)):
            owner, counts = tally.owners[place], kinds[place]
            assert owner is not None
            spoken = [count for kind, count in counts.items() if kind in _SPOKEN]
            signals = counts[_SIGNAL].records if _SIGNAL in counts else 0
            name = f"{owner.channel_id} {owner.name}"
            rows.append(self._row(name, owner.protocol, counts.values(), spoken, signals, keys[place]))
        return rows

    def _row(
        self,
        name: str,
        protocol: str,
        counts: Iterable[Count],
        spoken: Iterable[Count],
        signals: int,
        keys: Iterable[int],
    ) -> dict[str, Any]:
        return {
            "channel": name,
            "protocol": protocol,
            "records": sum(count.records for count in counts),
            "signals": signals,
            "bytes": sum(count.bytes for count in spoken),
            **self._waits(keys),
        }

    def _waits(self, keys: Iterable[int]) -> dict[str, Any]:
        """Requests, queue depth and latencies of those with one of the keys."""
        starts, ends = self._tally.transactions.of(keys)
        mean, deepest = queue_depth(starts, ends)
        latency = Latency.of(starts, ends)
        found = {"requests": len(starts), "queue_mean": round(mean, 2), "queue_max": deepest}
        return {**found, **({} if latency is None else latency.as_dict())}

    def protocols(self) -> list[dict[str, Any]]:
        """One row for each protocol, on whatever channels; signals, registers and notes count as such."""
        tally = self._tally
        counts: dict[str, list[Count]] = defaultdict(list)
        for (place, kind), count in tally.counts.items():
            owner = tally.owners[place]
            name = "control" if kind == _MESSAGE else owner.protocol if owner and kind in _SPOKEN else _kind_name(kind)
            counts[name].append(count)
        keys: dict[str, list[int]] = defaultdict(list)
        for key, (place, _) in enumerate(tally.operations):
            owner = tally.owners[place]
            if owner is not None:
                keys[owner.protocol].append(key)
        return [
            {
                "protocol": name,
                "records": sum(count.records for count in counts[name]),
                "bytes": sum(count.bytes for count in counts[name]),
                **self._waits(keys[name]),
            }
            for name in sorted(
                counts.keys() | {name for name in keys if self._tally.transactions.of(keys[name])[0].size}
            )
        ]

    def operations(self) -> list[dict[str, Any]]:
        """One row for each kind of request of storage and network channels."""
        tally = self._tally
        rows: list[dict[str, Any]] = []
        for key, (place, name) in enumerate(tally.operations):
            owner, waits = tally.owners[place], self._waits([key])
            if name and owner is not None and waits["requests"]:
                rows.append({"channel": f"{owner.channel_id} {owner.name}", "operation": name, **waits})
        return sorted(rows, key=lambda row: (int(row["channel"].split()[0]), row["operation"]))

    def throughput(self) -> list[dict[str, Any]]:
        """Records and bytes in each step of time in which there are any."""
        steps = sorted(self._tally.steps.items())
        first = min(steps[0][0], 0) if steps else 0
        return [
            {"second": round((step - first) * self._interval, 6), "records": count.records, "bytes": count.bytes}
            for step, count in steps
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON shows it."""
        tally = self._tally
        seconds = 0 if tally.first_ns is None else tally.last_ns - tally.first_ns
        return {
            "records": tally.records,
            "unknown": tally.unknown,
            "seconds": round(seconds / 1e9, 6),
            "channels": self.channels(),
            "protocols": self.protocols(),
            "operations": self.operations(),
            "throughput": self.throughput(),
        }

    def lines(self) -> list[str]:
        """Everything as text."""
        found = self.as_dict()
        lines = _table(found["channels"], ("channel", "protocol"), ("records", "signals", "bytes", *_WAITS))
        lines += ["", *_table(found["protocols"], ("protocol",), ("records", "bytes", *_WAITS))]
        if found["operations"]:
            lines += ["", *_table(found["operations"], ("channel", "operation"), _WAITS)]
        steps = [
            (f"{row['second']:.1f}", f"{row['records']:,}", f"{row['bytes'] / self._interval / 1e6:,.3f}")
            for row in found["throughput"]
        ]
        lines += ["", *text_table(("second", "records", "MB/s"), steps, left=0)]
        return [*lines, "", f"{found['records']:,} records in {found['seconds']:.3f} s"]


_WAITS = ("requests", "queue_mean", "queue_max", "median_us", "p90_us", "p99_us", "max_us")
_HEADS = {
    "queue_mean": "depth", "queue_max": "max", "median_us": "median us", "p90_us": "p90 us", "p99_us": "p99 us",
    "max_us": "max us",
}  # fmt: skip


def _table(rows: list[dict[str, Any]], names: tuple[str, ...], values: tuple[str, ...]) -> list[str]:
    cells = [[str(row[name]) or "-" for name in names] + [_shown(row.get(value)) for value in values] for row in rows]
    return text_table([*names, *(_HEADS.get(value, value) for value in values)], cells, left=len(names))


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _kind_name(kind: int) -> str:
    return str(RecordKind(kind)).lower() if kind else "none"
