"""The channels: their state, packets, requests that wait, latencies, and how full each ring has lately been."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import events
from textual.widgets import DataTable

from dissectors.engine.archive import Archive
from dissectors.engine.channels import ChannelLife
from dissectors.engine.traffic import ChannelTraffic, RingTraffic
from tui.packet_list import duration

MOST_ROWS = 200
"""A guest can have had any number of sockets; of more channels than this, those that are over lose their rows."""
NARROW_BARS = 5
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTHS = {
    "channel": 11, "state": 9, "packets": 11, "packets →": 11, "packets ←": 11, "bytes →": 15, "bytes ←": 15,
    "waiting": 7, "wait": 5, "mean": 8, "99 %": 8,
}  # fmt: skip
_LONGEST_NAME = 24
_GAP = 2
"""Characters between two columns."""
_ALL = (
    "channel", "state", "packets →", "→ ring", "packets ←", "← ring", "bytes →", "bytes ←", "waiting", "mean", "99 %",
)  # fmt: skip
_NO_BYTES = tuple(label for label in _ALL if not label.startswith("bytes"))
_LAYOUTS: tuple[tuple[tuple[str, ...], int], ...] = (
    (_ALL, 16),
    (_ALL, 8),
    (_NO_BYTES, 16),
    (_NO_BYTES, 8),
    (("channel", "state", "packets", "→ ring", "← ring", "wait", "mean", "99 %"), NARROW_BARS),
    (("channel", "state", "packets", "→ ring", "← ring", "wait", "99 %"), NARROW_BARS),
    (("channel", "state", "packets", "wait", "99 %"), NARROW_BARS),
)
"""Columns, and the width of the rings' bars: the first for which there is room are shown."""
_STATES = {
    "open": "green", "rescinded": "red", "released": "dim", "unloaded": "dim", "closed": "dim", "offered": "yellow",
}  # fmt: skip


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


def _width(label: str, bar_width: int) -> int:
    if label.endswith("ring"):
        return bar_width + (9 if bar_width > NARROW_BARS else 5)
    return _WIDTHS[label]


def _needs(layout: Iterable[str], bar_width: int) -> int:
    return sum(_width(label, bar_width) + _GAP for label in layout)


def choose_layout(width: int) -> tuple[tuple[str, ...], int]:
    """The most columns that there is room for, and the width of the rings' bars."""
    return next((layout for layout in _LAYOUTS if _needs(*layout) <= width), _LAYOUTS[-1])


class ChannelTable(DataTable[Any]):
    """One row a channel, and one for all; selecting a row shows only its records."""

    def __init__(self, archive: Archive, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row")
        self._archive = archive
        self._shown: dict[int, ChannelLife] = {}
        """The channels that have rows, and the lives that these show."""
        self._levels: dict[tuple[int, bool], list[float]] = {}
        self._layout: tuple[str, ...] = ()
        self._bar_width = 8
        self._name_width = 0

    def on_resize(self, event: events.Resize) -> None:
        """Show as many columns as there is room for; what is left of it goes to the names."""
        width = event.size.width - self.styles.gutter.width
        layout, bar_width = choose_layout(width)
        spare = max(width - _needs(layout, bar_width), 0)
        name_width = min(_WIDTHS["channel"] + spare, _LONGEST_NAME)
        if (layout, bar_width, name_width) != (self._layout, self._bar_width, self._name_width):
            self._layout, self._bar_width, self._name_width = layout, bar_width, name_width
            self._rebuild()

    def _rebuild(self) -> None:
        row = self.cursor_row
        self.clear(columns=True)
        for label in self._layout:
            width = self._name_width if label == "channel" else _width(label, self._bar_width)
            self.add_column(_head(label), key=label, width=width)
        self.add_row(*[""] * len(self._layout), key="0")
        shown, self._shown = self._shown, {}
        for channel_id, life in shown.items():
            self._add(channel_id, life)
        self.show()
        self.move_cursor(row=row)

    def sample(self) -> None:
        """Take down how full the rings have been since the last time."""
        for channel_id in self._shown:
            traffic = self._archive.traffic.channels.get(channel_id)
            if traffic is None:
                continue
            for is_to_host, ring in ((True, traffic.to_host), (False, traffic.to_guest)):
                levels = self._levels.setdefault((channel_id, is_to_host), [])
                levels.append(ring.peak)
                ring.peak = 0.0
                del levels[:-16]

    def show(self, *, is_over: bool = False) -> None:
        """Bring the rows up to date; ``is_over``: the stream has ended, and what was open then is known no better."""
        if not self._layout:
            return
        self._choose()
        open_count = sum(life.state == "open" for life in list(self._archive.session.channels.values()))
        self._update("0", self._cells("all", f"{open_count} open", 0, self._archive.traffic.total))
        for channel_id, life in self._shown.items():
            traffic = self._archive.traffic.channels.get(channel_id) or ChannelTraffic()
            state = f"was {life.state}" if is_over and life.state == "open" else life.state
            self._update(str(channel_id), self._cells(f"{channel_id} {life.name}", state, channel_id, traffic))

    def _choose(self) -> None:
        """Give channels rows: those that are there, in place of some that are over if need be, and then the others."""
        known, current = self._archive.last_lives(), set(self._archive.session.channels)
        over = []
        for channel_id in self._shown:
            self._shown[channel_id] = known[channel_id]
            if channel_id not in current:
                over.append(channel_id)
        for is_there in (True, False):
            for channel_id, life in known.items():
                if channel_id in self._shown or (channel_id in current) is not is_there:
                    continue
                if len(self._shown) >= MOST_ROWS:
                    if not (over and is_there):
                        break
                    self._remove(over.pop(0))
                self._add(channel_id, life)

    def _add(self, channel_id: int, life: ChannelLife) -> None:
        self._shown[channel_id] = life
        self.add_row(*[""] * len(self._layout), key=str(channel_id))

    def _remove(self, channel_id: int) -> None:
        del self._shown[channel_id]
        self.remove_row(str(channel_id))
        for is_to_host in (True, False):
            self._levels.pop((channel_id, is_to_host), None)

    def _update(self, key: str, cells: dict[str, Any]) -> None:
        for column in self._layout:
            if self.get_cell(key, column) != cells[column]:
                self.update_cell(key, column, cells[column])

    def _cells(self, name: str, state: str, channel_id: int, traffic: ChannelTraffic) -> dict[str, Any]:
        to_host, to_guest = traffic.to_host, traffic.to_guest
        waiting = traffic.requests - traffic.completed
        mean, high = traffic.mean_ns, traffic.percentile_ns(99)
        wait = f"{waiting:,}" if waiting else "-"
        return {
            "channel": name if len(name) <= self._name_width else f"{name[: self._name_width - 1]}…",
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
