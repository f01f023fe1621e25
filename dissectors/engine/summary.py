"""What a capture or a live stream amounts to: records and bytes by channel and protocol, requests and their latencies.

Feed it the records of a session as they come; it keeps one 64-bit number for each completed request and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dissectors.engine.decoded import Decoded
from vmbus.wire.capture import RecordKind

_PACKET, _EXTERNAL = int(RecordKind.PACKET), int(RecordKind.EXTERNAL)


def percentile(sorted_values: Sequence[int], percent: float) -> int | None:
    """The smallest value that at least ``percent`` of all values do not exceed; None of no values."""
    if not sorted_values:
        return None
    rank = -(-len(sorted_values) * percent // 100)
    return sorted_values[max(int(rank) - 1, 0)]


@dataclass
class ChannelSummary:
    """The totals of one protocol on one channel."""

    channel: str
    """Id and name, ``3 scsi``; empty for the control plane."""
    protocol: str
    records: int = 0
    bytes: int = 0
    """Of messages, packets and external data, recorded or cut."""
    requests: int = 0
    """Ring packets that asked for a completion."""
    latencies_ns: array[int] = field(default_factory=lambda: array("Q"))
    """Of each completed request, in the order of completion."""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON shows it; latencies in microseconds."""
        ordered = sorted(self.latencies_ns)
        return {
            "channel": self.channel,
            "protocol": self.protocol,
            "records": self.records,
            "bytes": self.bytes,
            "requests": self.requests,
            "completed": len(ordered),
            "median_us": _microseconds(percentile(ordered, 50)),
            "p99_us": _microseconds(percentile(ordered, 99)),
        }


def _microseconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else round(nanoseconds / 1000, 3)


class Summary:
    """Totals of everything that was added."""

    def __init__(self) -> None:
        self.records = 0
        self.first_ns = 0
        self.last_ns = 0
        self._rows: dict[tuple[int, str, str], ChannelSummary] = {}

    def add_all(self, items: Iterable[Decoded]) -> Summary:
        for item in items:
            self.add(item)
        return self

    def add(self, item: Decoded) -> None:
        """Count one record."""
        self.records += 1
        self.first_ns = self.first_ns or item.time_ns
        self.last_ns = max(self.last_ns, item.time_ns)
        protocol, channel_id, name = item.protocol, item.channel_id, item.channel_name
        if protocol == "control":
            channel_id, name = 0, ""
        key = (channel_id, name, protocol)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = ChannelSummary(name, protocol)
        row.records += 1
        row.bytes += item.volume
        if item.kind == _PACKET:
            if item.wants_completion:
                row.requests += 1
            elif item.request is not None:
                row.latencies_ns.append(max(item.time_ns - item.request.time_ns, 0))

    @property
    def seconds(self) -> float:
        """From the first to the last record."""
        return (self.last_ns - self.first_ns) / 1e9

    @property
    def rows(self) -> list[ChannelSummary]:
        """By channel id, name and protocol; the control plane first."""
        return [self._rows[key] for key in sorted(self._rows)]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON shows it."""
        return {
            "records": self.records,
            "seconds": round(self.seconds, 6),
            "channels": [row.as_dict() for row in self.rows],
        }

    def lines(self) -> list[str]:
        """The summary as a table of text."""
        heads = ("channel", "protocol", "records", "bytes", "requests", "median us", "p99 us")
        cells = [
            (
                str(row["channel"]) or "-",
                str(row["protocol"]),
                f"{row['records']:,}",
                f"{row['bytes']:,}",
                f"{row['requests']:,}",
                "-" if row["median_us"] is None else f"{row['median_us']:,.1f}",
                "-" if row["p99_us"] is None else f"{row['p99_us']:,.1f}",
            )
            for row in (found.as_dict() for found in self.rows)
        ]
        return [*text_table(heads, cells, left=2), f"{self.records:,} records in {self.seconds:.3f} s"]


def text_table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Rows under heads, the first ``left`` columns to the left and the others to the right."""
    table = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
