"""The channels: their state, packets, requests that wait, latencies, and how full each ring has lately been."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual import events
from textual.widgets import DataTable

from dissectors.engine.archive import Archive
from dissectors.engine.traffic import ChannelTraffic, RingTraffic
from tui.packet_list import duration

NARROW_BARS = 5
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTHS = {
    "channel": 11, "state": 9, "packets": 11, "packets →": 11, "packets ←": 11, "bytes →": 15, "bytes ←": 15,
    "waiting": 7, "wait": 5, "mean": 8, "99 %": 8,
}  # fmt: skip
_STATES = {"open": "green", "rescinded": "red", "released": "dim", "closed": "dim", "offered": "yellow"}


def bars(levels: list[float], width: int) -> str:
    """A bar for each of the last levels (parts of 1); anything above nothing shows."""
    shown = levels[-width:]
    return "".join(_BARS[min(int(level * 8) + (level > 0), 8)] for level in shown).rjust(width)


def ring_cell(levels: list[float], highest: float, width: int) -> Text:
    """Bars of the last levels, and the highest ever in percent; red above three quarters, where writers wait."""
    last = levels[-1] if levels else 0.0
    colour = "red" if last > 0.75 else "yellow" if last > 0.5 else "green"
    percent = f"{highest:.0%}" if highest >= 0.01 or not highest else "<1%"
    word = " max " if width > NARROW_BARS else " "
    return Text(bars(levels, width), colour).append(f"{word}{percent:>4}", "dim")


class ChannelTable(DataTable[Any]):
    """One row a channel, and one for all; selecting a row shows only its records."""

    def __init__(self, archive: Archive, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row")
        self._archive = archive
        self._levels: dict[tuple[int, bool], list[float]] = {}
        self._layout: list[str] = []
        self._bar_width = 8

    def on_resize(self, event: events.Resize) -> None:
        """Show as many columns as there is room for."""
        width = event.size.width
        self._bar_width = 16 if width >= 150 else 8 if width >= 100 else NARROW_BARS
        wanted = ["channel", "state", "packets →", "→ ring", "packets ←", "← ring", "waiting", "mean", "99 %"]
        if width < 100:
            wanted = ["channel", "state", "packets", "→ ring", "← ring", "wait", "99 %"]
        if width >= 150:
            wanted[6:6] = ["bytes →", "bytes ←"]
        if wanted != self._layout:
            self._layout = wanted
            self._rebuild()

    def _rebuild(self) -> None:
        row = self.cursor_row
        self.clear(columns=True)
        for label in self._layout:
            self.add_column(_head(label), key=label, width=self._width(label))
        self.add_row("all", *[""] * (len(self._layout) - 1), key="0")
        self.show()
        self.move_cursor(row=row)

    def _width(self, label: str) -> int:
        if label.endswith("ring"):
            return self._bar_width + (9 if self._bar_width > NARROW_BARS else 5)
        return _WIDTHS[label]

    def sample(self) -> None:
        """Take down how full the rings have been since the last time."""
        for channel_id, traffic in list(self._archive.traffic.channels.items()):
            for is_to_host, ring in ((True, traffic.to_host), (False, traffic.to_guest)):
                levels = self._levels.setdefault((channel_id, is_to_host), [])
                levels.append(ring.peak)
                ring.peak = 0.0
                del levels[:-16]

    def show(self, *, is_over: bool = False) -> None:
        """Bring the rows up to date; ``is_over``: the stream has ended, and what was open then is known no better."""
        if not self._layout:
            return
        for channel_id, life in list(self._archive.session.channels.items()):
            traffic = self._archive.traffic.channels.get(channel_id) or ChannelTraffic()
            state = f"was {life.state}" if is_over and life.state == "open" else life.state
            cells = self._cells(f"{channel_id} {life.name}", state, channel_id, traffic)
            key = str(channel_id)
            if key in self.rows:
                for column in self._layout:
                    if self.get_cell(key, column) != cells[column]:
                        self.update_cell(key, column, cells[column])
            else:
                self.add_row(*(cells[column] for column in self._layout), key=key)

    def _cells(self, name: str, state: str, channel_id: int, traffic: ChannelTraffic) -> dict[str, Any]:
        to_host, to_guest = traffic.to_host, traffic.to_guest
        waiting = traffic.requests - traffic.completed
        mean, high = traffic.mean_ns, traffic.percentile_ns(99)
        wait = f"{waiting:,}" if waiting else "-"
        return {
            "channel": name,
            "state": Text(state, _STATES.get(state, "")),
            "packets": _right(f"{to_host.packets + to_guest.packets:,}", 11),
            "packets →": _right(f"{to_host.packets:,}", 11),
            "packets ←": _right(f"{to_guest.packets:,}", 11),
            "bytes →": _right(f"{to_host.bytes:,}", 15),
            "bytes ←": _right(f"{to_guest.bytes:,}", 15),
            "→ ring": self._ring(channel_id, True, to_host),
            "← ring": self._ring(channel_id, False, to_guest),
            "waiting": _right(wait, 7),
            "wait": _right(wait, 5),
            "mean": _right(duration(mean) if mean is not None else "", 8),
            "99 %": _right(duration(high) if high is not None else "", 8),
        }

    def _ring(self, channel_id: int, is_to_host: bool, ring: RingTraffic) -> Text:
        if not ring.size:
            return Text("")
        return ring_cell(self._levels.get((channel_id, is_to_host), []), ring.highest, self._bar_width)


def _right(text: str, width: int) -> Text:
    return Text(text.rjust(width))


def _head(label: str) -> Text:
    """Numbers stand under heads that are to the right too."""
    return Text(label if label in ("channel", "state") or label.endswith("ring") else label.rjust(_WIDTHS[label]))
