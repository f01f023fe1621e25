"""The channels with their rings: state, packets, requests that wait, and how full each ring stood last."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from textual.widgets import DataTable

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from vmbus.wire.capture import Direction, RecordKind

_RING = struct.Struct("<IIII")
_PACKET = int(RecordKind.PACKET)
_TO_HOST = int(Direction.GUEST_TO_HOST)
_BAR = " ▁▂▃▄▅▆▇█"
_KEEP = 12


@dataclass
class RingUse:
    """One direction of a channel: packets so far, and the ring's fill over the last drains."""

    packets: int = 0
    fill: list[float] = field(default_factory=list)

    def bars(self) -> str:
        return "".join(_BAR[min(int(level * 8 + (0.999 if level else 0)), 8)] for level in self.fill[-_KEEP:])


@dataclass
class ChannelUse:
    """What has crossed one channel."""

    to_host: RingUse = field(default_factory=RingUse)
    to_guest: RingUse = field(default_factory=RingUse)
    bytes: int = 0
    requests: int = 0
    completed: int = 0
    latency_ns: int = 0


class ChannelTable(DataTable[Any]):
    """One row a channel; selecting one shows only its records."""

    def __init__(self, session: Session, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True)
        self._session = session
        self._use: dict[int, ChannelUse] = {}
        self._shown: set[str] = set()

    def on_mount(self) -> None:
        for key, label in (
            ("channel", "channel"), ("state", "state"), ("in", "→ packets"), ("in_ring", "→ ring"),
            ("out", "← packets"), ("out_ring", "← ring"), ("waiting", "waiting"), ("mean", "mean"),
        ):  # fmt: skip
            self.add_column(label, key=key)
        self.add_row("all", "", "", "", "", "", "", "", key="0")
        self._shown.add("0")

    def count(self, items: list[Decoded]) -> None:
        """Take in newly decoded records."""
        peak: dict[tuple[int, bool], float] = {}
        for item in items:
            if item.kind != _PACKET or not item.channel_id:
                continue
            use = self._use.setdefault(item.channel_id, ChannelUse())
            to_host = item.direction == _TO_HOST
            ring = use.to_host if to_host else use.to_guest
            ring.packets += 1
            use.bytes += item.volume
            if len(item.data) >= 32:
                size, _, read, write = _RING.unpack_from(item.data, 16)
                if size:
                    key = (item.channel_id, to_host)
                    peak[key] = max(peak.get(key, 0.0), (write - read) % size / size)
            if item.wants_completion:
                use.requests += 1
            elif item.request is not None:
                use.completed += 1
                use.latency_ns += max(item.time_ns - item.request.time_ns, 0)
        for channel_id, use in self._use.items():
            for to_host, ring in ((True, use.to_host), (False, use.to_guest)):
                ring.fill.append(peak.get((channel_id, to_host), 0.0))
                del ring.fill[:-_KEEP]

    def show(self) -> None:
        """Bring the rows up to date."""
        for channel_id, life in self._session.channels.items():
            key = str(channel_id)
            use = self._use.get(channel_id, ChannelUse())
            mean = f"{use.latency_ns / use.completed / 1000:.0f} us" if use.completed else ""
            waiting = max(use.requests - use.completed, 0)
            cells = {
                "channel": f"{channel_id} {life.name}",
                "state": Text(life.state, style="green" if life.state == "open" else "dim"),
                "in": f"{use.to_host.packets:,}",
                "in_ring": use.to_host.bars(),
                "out": f"{use.to_guest.packets:,}",
                "out_ring": use.to_guest.bars(),
                "waiting": str(waiting) if waiting else "",
                "mean": mean,
            }
            if key in self._shown:
                for column, cell in cells.items():
                    self.update_cell(key, column, cell)
            else:
                self._shown.add(key)
                self.add_row(*cells.values(), key=key)
