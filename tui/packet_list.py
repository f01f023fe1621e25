"""The packet list: a virtual list that draws only the rows on the screen, however many there are.

Textual's own ``DataTable`` freezes for seconds at a hundred thousand rows; ``ScrollView.render_line`` costs ten
microseconds a row that is looked at, and nothing for the others.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from dissectors.engine.decoded import Decoded
from tui.rows import Rows
from tui.theme import protocol_style

_HEADS = (("no.", 8, True), ("seconds", 13, True), ("", 2, False), ("channel", 13, False), ("protocol", 9, False),
          ("latency", 10, True), ("summary", 0, False))  # fmt: skip


class PacketList(ScrollView, can_focus=True):
    """Rows of decoded records with a cursor.  While ``follow`` is on, the list stays at the newest row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("enter", "partner", "Request/answer"),
        Binding("f", "toggle_follow", "Follow"),
    ]

    cursor: reactive[int] = reactive(0)
    follow: reactive[bool] = reactive(True)

    class Selected(Message):
        """The cursor is on another record."""

        def __init__(self, item: Decoded | None) -> None:
            super().__init__()
            self.item = item

    def __init__(self, rows: Rows, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows = rows
        self._selected: Decoded | None = None

    @property
    def selected(self) -> Decoded | None:
        visible = self._rows.visible
        return visible[self.cursor] if 0 <= self.cursor < len(visible) else None

    def rows_changed(self) -> None:
        """New rows came, or the filter changed: adjust the size, follow, repaint."""
        count = len(self._rows.visible)
        self.virtual_size = Size(self.size.width, count + 1)
        if self.follow and count:
            self.cursor = count - 1
        else:
            self.cursor = min(self.cursor, max(count - 1, 0))
        self._show_cursor()
        self._tell()
        self.refresh()

    def _tell(self) -> None:
        if self.selected is not self._selected:
            self._selected = self.selected
            self.post_message(self.Selected(self._selected))

    def _show_cursor(self) -> None:
        top, height = self.scroll_offset.y, max(self.size.height - 1, 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)

    def _go(self, row: int) -> None:
        count = len(self._rows.visible)
        self.cursor = max(0, min(row, count - 1))
        self.follow = self.follow and self.cursor == count - 1
        self._show_cursor()
        self._tell()
        self.refresh()

    # Keys and mouse

    def action_move(self, step: int) -> None:
        self.follow = False
        self._go(self.cursor + step)

    def action_page(self, pages: int) -> None:
        self.follow = False
        self._go(self.cursor + pages * max(self.size.height - 2, 1))

    def action_first(self) -> None:
        self.follow = False
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._rows.visible) - 1)

    def action_toggle_follow(self) -> None:
        self.follow = not self.follow
        self.rows_changed()

    def action_partner(self) -> None:
        """Jump from a request to what answers it, and back."""
        item = self.selected
        partner = item and (item.response or item.request)
        if partner is not None:
            self.go_to(partner)

    def go_to(self, item: Decoded) -> None:
        """Put the cursor on a record, or on the next one that is shown."""
        visible = self._rows.visible
        low, high = 0, len(visible)
        while low < high:
            middle = (low + high) // 2
            if visible[middle].number < item.number:
                low = middle + 1
            else:
                high = middle
        self.follow = False
        self._go(low)

    def on_click(self, event: events.Click) -> None:
        if event.y >= 1:
            self.follow = False
            self._go(self.scroll_offset.y + event.y - 1)

    def on_resize(self) -> None:
        self.rows_changed()

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.follow = False
        super()._on_mouse_scroll_up(event)

    # Drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._heads(width)
        row = self.scroll_offset.y + y - 1
        visible = self._rows.visible
        if row >= len(visible):
            return Strip.blank(width, self.rich_style)
        return self._row(visible[row], row == self.cursor, width)

    def _heads(self, width: int) -> Strip:
        style = self.get_component_rich_style("packet-list--heads")
        text = " ".join(
            name.rjust(size) if right else name.ljust(size) if size else name for name, size, right in _HEADS
        )
        return Strip([Segment(text, style)]).adjust_cell_length(width, style)

    COMPONENT_CLASSES: ClassVar[set[str]] = {"packet-list--heads", "packet-list--cursor"}

    def _row(self, item: Decoded, is_cursor: bool, width: int) -> Strip:
        base = self.get_component_rich_style("packet-list--cursor") if is_cursor else self.rich_style
        dim = base + Style(dim=True)
        latency = item.latency_ns
        tint = base + protocol_style(item)
        segments = [
            Segment(f"{item.number:>8} ", dim),
            Segment(f"{(item.time_ns - self._rows.start_ns) / 1e9:>13.6f} ", base),
            Segment(f"{item.arrow:<2} ", tint),
            Segment(f"{(item.channel_name or '-')[:13]:<13} ", base),
            Segment(f"{item.protocol[:9]:<9} ", tint),
            Segment(f"{'' if latency is None else duration(latency):>10} ", dim),
            Segment(item.summary.replace("\n", " "), base + Style(bold=bool(item.notes))),
        ]
        return Strip(segments).adjust_cell_length(width, base)

    def refresh_line(self, y: int) -> None:
        """Repaint one row of the screen."""
        self.refresh(Region(0, y, self.size.width, 1))


def duration(nanoseconds: int) -> str:
    """A time for people: ``85 us``, ``1.2 ms``, ``3.4 s``."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.0f} us"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e9:.1f} s"
