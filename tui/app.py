"""The application: channels with their rings, the packet list and one record in full, of a capture or a live stream."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import DataTable, Footer, Static, Tree
from textual.worker import get_current_worker

from dissectors.engine.archive import ArchiveReader
from dissectors.engine.render import record_line
from dissectors.filters import Filter
from tui.channel_table import ChannelTable
from tui.decode_tree import DecodeTree
from tui.feed import Feed
from tui.findings import Findings
from tui.help import HelpScreen
from tui.hex_view import HexView
from tui.packet_list import PacketList
from tui.prompt import FieldNames, Prompt, check_filter, check_number
from tui.rows import Rows
from tui.selection import Selection
from tui.status import status_line
from vmbus.wire.tree import Node

REPAINTS_PER_SECOND = 20
_SAMPLES_PER_SECOND = 4
_AHEAD = 500
"""Records that the rules see beyond the one in question: some faults show only afterwards."""


class VmbusApp(App[int]):
    """Shows a ``Feed``, which it starts and stops.  ``title`` names what is shown; ``run`` returns an exit status."""

    CSS_PATH = "style.tcss"
    TITLE = "vmbus"
    HORIZONTAL_BREAKPOINTS = [(0, "-slim"), (76, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (22, "-low"), (34, "-high")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter"),
        Binding("f", "follow", "Follow"),
        Binding("space", "pause", "Pause"),
        Binding("n", "problem(1)", "Problem"),
        Binding("N", "problem(-1)", "Previous problem", show=False),
        Binding("colon", "go_to", "Go to"),
        Binding("z", "maximize_pane", "Zoom"),
        Binding("y", "copy_record", "Copy", show=False),
        Binding("x", "copy_hex", "Copy hex", show=False),
        Binding("t", "light_or_dark", "Light/dark", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "leave", "Back", show=False),
        Binding("ctrl+c", "quit", "Quit", show=False),
    ]

    def __init__(self, feed: Feed, *, title: str = "") -> None:
        super().__init__()
        self._feed = feed
        self.sub_title = title or ("standard input" if feed.source == "-" else feed.source)
        self.rows = Rows(feed.archive, feed.reader)
        self.findings = Findings(feed.archive)
        self._channel = 0
        self._filter = ""
        self._searching = ""

    def compose(self) -> ComposeResult:
        yield ChannelTable(self._feed.archive, id="channels")
        yield PacketList(self.rows, self.findings, id="packets")
        with Container(id="detail"):
            yield DecodeTree(id="tree")
            yield HexView(id="hex")
        example = 'vstor.cdb.opcode == READ_10 && latency > 5ms && channel ~ "scsi"'
        yield Prompt("filter", example, check_filter, suggester=FieldNames(), id="filter")
        yield Prompt("record", "number", check_number, id="number")
        yield Static(id="status", markup=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        for pane, title in (("#channels", self.sub_title), ("#tree", "decode"), ("#hex", "bytes")):
            self.query_one(pane).border_title = title
        self._show_title()
        packets = self.query_one(PacketList)
        packets.follow = self._feed.is_live
        packets.focus()
        self._feed.start()
        self.set_interval(1 / REPAINTS_PER_SECOND, self._repaint)
        self.set_interval(1 / _SAMPLES_PER_SECOND, self._sample)

    def on_unmount(self) -> None:
        self._feed.stop()
        self.rows.select(None)

    # What comes in

    def _repaint(self) -> None:
        """Show what the feed's thread has taken in since the last time."""
        if not self.screen_stack or not self.query("#status"):
            return  # the screen is being taken down
        self.query_one(PacketList).rows_grew()
        if self._feed.error is not None and not len(self._feed.archive):
            self.exit(1, message=f"vmbus: {self._feed.error}")
            return
        self._show_status()

    def _sample(self) -> None:
        table = self.query(ChannelTable)
        if table:
            table.first().sample()
            table.first().show(is_over=self._feed.is_over)

    def _show_status(self) -> None:
        text = status_line(self._feed, self.rows, follows=self.query_one(PacketList).follow, searching=self._searching)
        self.query_one("#status", Static).update(text)

    def _show_title(self) -> None:
        life = self._feed.archive.session.channels.get(self._channel)
        channel = f"channel {self._channel} {life.name if life else ''}".rstrip() if self._channel else ""
        shown = ", ".join(part for part in (channel, self._filter) if part)
        self.query_one("#packets").border_title = f"packets: {shown}".replace("[", r"\[") if shown else "packets"

    # One record in full

    @property
    def _panes_are_there(self) -> bool:
        """Whether the panes can be found: not while another screen covers them, or when they have been taken down."""
        return bool(self.screen_stack) and len(self.query("#hex, #tree")) == 2

    @on(PacketList.Selected)
    def _record_selected(self, event: PacketList.Selected) -> None:
        if not self._panes_are_there:
            return
        self.query_one(HexView).show_record(event.item)
        found = self.findings.of(event.item.number - 1) if event.item is not None else []
        self.query_one(DecodeTree).show_record(event.item, found)
        self.query_one("#hex").border_title = "bytes" if event.item is None else f"bytes: {len(event.item.data)}"

    @on(Tree.NodeHighlighted, "#tree")
    def _field_highlighted(self, event: Tree.NodeHighlighted[Node]) -> None:
        node = event.node.data
        if node is not None and self._panes_are_there:
            self.query_one(HexView).mark(node.offset, node.size)

    @on(HexView.ByteSelected)
    def _byte_selected(self, event: HexView.ByteSelected) -> None:
        if self._panes_are_there:
            self.query_one(DecodeTree).select_byte(event.offset)

    # Filters

    @on(DataTable.RowSelected, "#channels")
    def _channel_selected(self, event: DataTable.RowSelected) -> None:
        self.show_only(channel=int(event.row_key.value or 0))

    @on(DecodeTree.FilterWanted)
    def _filter_wanted(self, event: DecodeTree.FilterWanted) -> None:
        self.query_one("#filter", Prompt).ask(event.text)
        self.show_only(text=event.text)

    def action_filter(self) -> None:
        self.query_one("#filter", Prompt).ask()

    @on(Prompt.Entered, "#filter")
    def _filter_entered(self, event: Prompt.Entered) -> None:
        if not isinstance(event, Prompt.Left):
            self.show_only(text=event.text)

    def show_only(self, *, channel: int | None = None, text: str | None = None) -> None:
        """Show the records of a channel (0: of all) that pass a filter (empty: all); None leaves either as it is."""
        self._channel = self._channel if channel is None else channel
        self._filter = self._filter if text is None else text
        packets = self.query_one(PacketList)
        keep = packets.selected_index
        if self._channel or self._filter:
            wanted = Filter(self._filter) if self._filter else None
            self.rows.select(Selection(self._feed.archive, channel=self._channel, wanted=wanted))
        else:
            self.rows.select(None)
        self.query_one("#filter", Prompt).leave(shown=bool(self._filter))
        self._show_title()
        packets.rows_changed(keep)
        packets.focus()

    @on(Prompt.Left)
    def _prompt_left(self, event: Prompt.Left) -> None:
        event.prompt.clear()
        event.prompt.leave()
        if event.prompt.id == "filter" and self._filter:
            self.show_only(text="")
        self.query_one(PacketList).focus()

    def action_leave(self) -> None:
        """Stop searching, shrink a pane, or take filters away: whatever is on."""
        if self._searching:
            self.workers.cancel_group(self, "search")
        elif self.screen.maximized is not None:
            self.screen.minimize()
        elif self._channel or self._filter:
            self.query_one("#filter", Prompt).clear()
            self.show_only(channel=0, text="")

    # Going places

    def action_follow(self) -> None:
        self.query_one(PacketList).action_toggle_follow()

    def action_pause(self) -> None:
        """Keep the view as it is; what happens meanwhile is taken in all the same."""
        self.rows.pause(not self.rows.is_paused)
        self._show_status()

    def action_go_to(self) -> None:
        self.query_one("#number", Prompt).ask("")

    @on(Prompt.Entered, "#number")
    def _number_entered(self, event: Prompt.Entered) -> None:
        if isinstance(event, Prompt.Left):
            return
        event.prompt.leave()
        packets = self.query_one(PacketList)
        if event.text:
            packets.go_to(max(int(event.text.lstrip("#")) - 1, 0))
        packets.focus()

    def action_problem(self, step: int) -> None:
        """Go to the next or previous record that is shown and has something wrong about it."""
        packets = self.query_one(PacketList)
        packets.follow = False
        self._search(packets.cursor + step, step)

    @work(thread=True, exclusive=True, group="search")
    def _search(self, row: int, step: int) -> None:
        """Decodes one record after the other, which takes a while where there are many and none is wrong."""
        worker, reader, rows = get_current_worker(), ArchiveReader(self._feed.archive), self.rows
        began, found = time.monotonic(), -1
        while 0 <= row < len(rows) and not worker.is_cancelled:
            index = rows.index(row)
            while not worker.is_cancelled and self.findings.advance(index + 1 + _AHEAD):
                self._searching = f"checking: {self.findings.checked:,}"
            if self._feed.ended:
                self.findings.finish()
            if self.findings.of(index) or reader.item(index).problems:
                found = index
                break
            row += step
            if not row % 1000 and time.monotonic() - began > 0.3:
                self._searching = f"searching: {row:,}"
        self._searching = ""
        if not worker.is_cancelled:
            self.call_from_thread(self._found, found, step)

    def _found(self, index: int, step: int) -> None:
        if index < 0:
            self.notify(f"no {'further' if step > 0 else 'earlier'} problem", timeout=2)
            return
        self.query_one(PacketList).go_to(index)
        findings = [f"{finding}. {finding.look_at}" for finding in self.findings.of(index)]
        problems = findings or self._feed.reader.item(index).problems
        self.notify("\n".join(problems[:3]), severity="warning", timeout=6, markup=False)

    # Other actions

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
            self.copy_to_clipboard(record_line(item, self.rows.start_ns).strip())
            self.notify(f"copied record {item.number}", timeout=2)

    def action_copy_hex(self) -> None:
        """Copy the selected record's bytes as hexadecimal digits."""
        item = self.query_one(PacketList).selected
        if item is not None:
            self.copy_to_clipboard(bytes(item.data).hex())
            self.notify(f"copied {len(item.data)} bytes of record {item.number}", timeout=2)

    def action_light_or_dark(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        self.query_one(PacketList).refresh()
        self.query_one(HexView).refresh()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())
