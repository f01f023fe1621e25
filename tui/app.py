"""The application: channels with their rings, the packet list and one record in full, of a capture or a live stream."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Header, Input, Static, Tree

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from tui.channel_table import ChannelTable
from tui.detail import DecodeTree, HexView
from tui.feed import Feed
from tui.filtering import FilterError, compile_filter
from tui.packet_list import PacketList
from tui.rows import Rows
from vmbus.wire.tree import Node

DRAIN_HZ = 20
MAX_PER_DRAIN = 20_000
"""Records decoded between two repaints; a long capture fills the list while one already scrolls in it."""


class VmbusApp(App[None]):
    """Shows a ``Feed``.  ``title`` names what is shown."""

    CSS_PATH = "style.tcss"
    TITLE = "vmbus"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter"),
        Binding("space", "pause", "Pause"),
        Binding("m", "maximize_pane", "Maximize"),
        Binding("c", "copy_record", "Copy", show=False),
        Binding("n", "next_problem", "Next problem"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, feed: Feed, *, title: str = "") -> None:
        super().__init__()
        self._feed = feed
        self.sub_title = title or feed.source
        self.session = Session()
        self.rows = Rows(self.session)
        self._channel = 0
        self._filter_text = ""
        self._paused = False
        self._drain_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Header()
        yield ChannelTable(self.session, id="channels")
        yield Input(placeholder="filter, e.g. vstor.cdb.opcode == READ_10 && latency > 5ms", id="filter")
        yield PacketList(self.rows, id="packets")
        with Horizontal(id="detail"):
            yield DecodeTree(id="tree")
            yield HexView(id="hex")
        yield Static(id="status")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#channels").border_title = "channels"
        self.query_one("#packets").border_title = "packets"
        self.query_one("#tree").border_title = "decode"
        self.query_one("#hex").border_title = "bytes"
        packets = self.query_one(PacketList)
        packets.follow = self._feed.is_live
        packets.focus()
        self._feed.start()
        self._drain_timer = self.set_interval(1 / DRAIN_HZ, self._drain)

    # Records in

    def _drain(self) -> None:
        if not self.query(ChannelTable):
            return  # the screen is being taken down
        if self._paused:
            self._show_status()
            return
        records = self._feed.drain(MAX_PER_DRAIN)
        table = self.query_one(ChannelTable)
        if records:
            items = self.rows.feed(records)
            table.count(items)
            self.query_one(PacketList).rows_changed()
        elif self._feed.is_live:
            table.count([])
        table.show()
        self._show_status()

    def _show_status(self) -> None:
        packets, rows, feed = self.query_one(PacketList), self.rows, self._feed
        parts = [f"{self.session.count:,} records"]
        if rows.is_filtered:
            parts.append(f"{len(rows.visible):,} shown")
        if rows.trimmed:
            parts.append(f"{rows.trimmed:,} old ones forgotten")
        if feed.dropped:
            parts.append(f"{feed.dropped:,} not shown (too fast)")
        if feed.damage:
            parts.append(f"damage: {feed.damage[-1]}")
        parts.append("paused" if self._paused else "live" if feed.is_live else feed.ended or "reading")
        parts.append("following" if packets.follow else "f: follow")
        self.query_one("#status", Static).update("  |  ".join(parts))

    # One record in full

    @on(PacketList.Selected)
    def _record_selected(self, event: PacketList.Selected) -> None:
        self.query_one(DecodeTree).show_record(event.item)
        self.query_one(HexView).show_record(event.item)

    @on(Tree.NodeHighlighted, "#tree")
    def _field_highlighted(self, event: Tree.NodeHighlighted[Node]) -> None:
        node = event.node.data
        if node is not None:
            self.query_one(HexView).mark(node.offset, node.size)

    # Filters

    @on(DataTable.RowSelected, "#channels")
    def _channel_selected(self, event: DataTable.RowSelected) -> None:
        self._channel = int(event.row_key.value or 0)
        self._apply_filter()
        self.query_one(PacketList).focus()

    def action_filter(self) -> None:
        """Open the filter line."""
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        try:
            compile_filter(event.value)
        except FilterError as error:
            event.input.add_class("wrong")
            event.input.border_title = str(error)
        else:
            event.input.remove_class("wrong")
            event.input.border_title = "filter"

    @on(Input.Submitted, "#filter")
    def _filter_submitted(self, event: Input.Submitted) -> None:
        try:
            compile_filter(event.value)
        except FilterError:
            return
        self._filter_text = event.value
        event.input.set_class(bool(event.value), "shown")
        self._apply_filter()
        self.query_one(PacketList).focus()

    def on_key(self, event: object) -> None:
        """Escape leaves the filter line, or takes the filter away."""
        if getattr(event, "key", "") != "escape":
            return
        box = self.query_one("#filter", Input)
        if box.has_focus or self._filter_text or self._channel:
            box.value = self._filter_text = ""
            self._channel = 0
            box.remove_class("shown")
            self._apply_filter()
            self.query_one(PacketList).focus()

    def _apply_filter(self) -> None:
        text_filter = compile_filter(self._filter_text)
        channel = self._channel
        if text_filter is None and not channel:
            self.rows.set_filter(None)
        else:
            self.rows.set_filter(
                lambda item: (not channel or item.channel_id == channel) and (text_filter is None or text_filter(item))
            )
        titles = [f"channel {channel}" if channel else "", self._filter_text]
        shown = ", ".join(title for title in titles if title)
        self.query_one("#packets").border_title = f"packets: {shown}" if shown else "packets"
        packets = self.query_one(PacketList)
        keep: Decoded | None = packets.selected
        packets.rows_changed()
        if keep is not None and not packets.follow:
            packets.go_to(keep)

    # Other actions

    def action_pause(self) -> None:
        """Stop taking records in; a live host goes on, and what it does waits."""
        self._paused = not self._paused

    def action_maximize_pane(self) -> None:
        """The pane with the focus fills the screen, or shrinks back."""
        if self.screen.maximized is not None:
            self.screen.minimize()
        elif self.focused is not None:
            self.screen.maximize(self.focused)

    def action_copy_record(self) -> None:
        """Copy the selected record's line to the clipboard."""
        item = self.query_one(PacketList).selected
        if item is not None:
            self.copy_to_clipboard(f"{item.number} {item.arrow} {item.channel_name} {item.protocol} {item.summary}")
            self.notify("copied")

    def action_next_problem(self) -> None:
        """Jump to the next record with a note about something odd."""
        packets = self.query_one(PacketList)
        visible = self.rows.visible
        for item in visible[packets.cursor + 1 :]:
            if item.notes:
                packets.go_to(item)
                return
        self.notify("no further problem")

    def on_unmount(self) -> None:
        self._feed.stop()
