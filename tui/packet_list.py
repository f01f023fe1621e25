"""The packet list: a virtual list that decodes and draws only the rows on the screen, however many there are.

Textual's own ``DataTable`` freezes for seconds at a hundred thousand rows; ``ScrollView.render_line`` costs some ten
microseconds for each row that is looked at, and nothing for the others.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from dissectors.engine.decoded import Decoded
from tui.findings import Findings
from tui.rows import Rows
from tui.theme import DARK, LIGHT, Palette, ink, tint

MARK = "●"


class Columns:
    """The columns of the list at one width: heads, sizes, and which are left out to leave the summary room."""

    def __init__(self, width: int) -> None:
        is_wide, is_medium = width >= 150, width >= 100
        self.number = 9 if is_medium else 7
        self.seconds = 13 if is_wide else 11 if is_medium else 9
        self.decimals = 6 if is_medium else 4
        self.channel = 12 if is_wide else 9 if is_medium else 7
        self.protocol = 9 if is_wide else 8
        self.latency = 9 if is_medium else 0
        self.bytes = 9 if is_wide else 0

    def heads(self) -> str:
        cells = [
            "no.".rjust(self.number), "seconds".rjust(self.seconds), "  ", "channel".ljust(self.channel),
            "protocol"[: self.protocol].ljust(self.protocol), "latency".rjust(self.latency) if self.latency else None,
            "bytes".rjust(self.bytes) if self.bytes else None, "summary",
        ]  # fmt: skip
        return " ".join(cell for cell in cells if cell is not None)


class PacketList(ScrollView, can_focus=True):
    """Rows of records with a cursor.  While ``follow`` is on, the list stays at the newest row."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"packet-list--heads", "packet-list--cursor", "packet-list--pair"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("enter", "partner", "Answer"),
        Binding("m", "toggle_mark", "Mark", show=False),
        Binding("apostrophe", "next_mark", "Next mark", show=False),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    follow: reactive[bool] = reactive(True, repaint=False)

    class Selected(Message):
        """The cursor is on another record, which is given, or on none."""

        def __init__(self, item: Decoded | None) -> None:
            super().__init__()
            self.item = item

    def __init__(self, rows: Rows, findings: Findings, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.marks: set[int] = set()
        """Records that the user marked, by index."""
        self._rows = rows
        self._findings = findings
        self._drawn = -1
        self._told = -1
        self._columns = Columns(80)

    @property
    def selected_index(self) -> int:
        """The record under the cursor; -1 if there is none."""
        return self._rows.index(self.cursor) if self.cursor < len(self._rows) else -1

    @property
    def selected(self) -> Decoded | None:
        return self._rows.item(self.cursor) if self.cursor < len(self._rows) else None

    @property
    def height(self) -> int:
        """Rows on the screen, without the heads."""
        return max(self.size.height - 1, 1)

    # What changes

    def rows_grew(self) -> None:
        """There may be more rows than before: make room for them, and follow."""
        count = len(self._rows)
        if count == self._drawn:
            return
        was_full = self._drawn >= self.scroll_offset.y + self.height
        self._drawn = count
        self.virtual_size = Size(0, count + 1)
        if self.follow and count:
            self._go(count - 1)
        elif not was_full:
            self.refresh()
        if self._told < 0:
            self._tell()

    def rows_changed(self, keep: int) -> None:
        """Other rows are shown: stay at the record ``keep``, or where it would be."""
        self._drawn = len(self._rows)
        self._told = -1
        self.virtual_size = Size(0, self._drawn + 1)
        self._go(self._rows.row_of(keep) if keep >= 0 else 0, centre=True)
        self._tell()
        self.refresh()

    def _go(self, row: int, *, centre: bool = False) -> None:
        self.cursor = max(0, min(row, len(self._rows) - 1))
        top, height = self.scroll_offset.y, self.height
        if not top <= self.cursor < top + height:
            ahead = height // 2 if centre else 0 if self.cursor < top else height - 1
            self.scroll_to(y=max(self.cursor - ahead, 0), animate=False, force=True)
        self._tell()
        self.refresh()

    def _tell(self) -> None:
        index = self.selected_index
        if index != self._told:
            self._told = index
            self.post_message(self.Selected(self.selected))

    def go_to(self, index: int) -> None:
        """Put the cursor on a record, or on the next one that is shown."""
        self.follow = False
        self._go(self._rows.row_of(index), centre=True)

    # Keys

    def action_move(self, step: int) -> None:
        self.follow = False
        self._go(self.cursor + step)

    def action_page(self, pages: int) -> None:
        self.follow = False
        self._go(self.cursor + pages * max(self.height - 1, 1))

    def action_first(self) -> None:
        self.follow = False
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._rows) - 1)

    def action_toggle_follow(self) -> None:
        """Stay at the newest record, or where one is."""
        self.follow = not self.follow
        if self.follow:
            self._go(len(self._rows) - 1)

    def action_partner(self) -> None:
        """Jump from a request to what answers it, and back."""
        item = self.selected
        partner = item and (item.response or item.request)
        if partner is None:
            self.notify("it has no answer and answers nothing", timeout=2)
            return
        self.go_to(partner.number - 1)
        if self.selected_index != partner.number - 1:
            self.notify(f"record {partner.number} is hidden by the filter", timeout=2)

    def action_toggle_mark(self) -> None:
        """Mark the record, or take its mark away."""
        index = self.selected_index
        if index >= 0:
            self.marks ^= {index}
            self.refresh()

    def action_next_mark(self) -> None:
        """Go to the next marked record; after the last one, to the first."""
        if not self.marks:
            self.notify("nothing is marked: m marks a record", timeout=2)
            return
        here = self.selected_index
        self.go_to(min((index for index in self.marks if index > here), default=min(self.marks)))

    # Mouse

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        row = self.scroll_offset.y + at.y - 1 if at is not None and at.y else -1
        if not 0 <= row < len(self._rows):
            return
        self.follow = False
        self._go(row)
        if event.chain == 2:
            self.action_partner()

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.follow = False
        self.scroll_to(y=self.scroll_offset.y - 3, animate=False)
        event.stop()

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.scroll_to(y=self.scroll_offset.y + 3, animate=False)
        event.stop()

    # Drawing

    def on_resize(self) -> None:
        self._columns = Columns(self.size.width)
        if self.follow:
            self._go(len(self._rows) - 1)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            style = self.get_component_rich_style("packet-list--heads")
            return Strip([Segment(self._columns.heads(), style)]).adjust_cell_length(width, style)
        row = self.scroll_offset.y + y - 1
        if row >= min(len(self._rows), self._drawn):
            return Strip.blank(width, self.rich_style)
        return self._row(self._rows.item(row), row, width)

    def _row(self, item: Decoded, row: int, width: int) -> Strip:
        base = self._ground(item, row)
        palette: Palette = DARK if self.app.current_theme.dark else LIGHT
        quiet, colour = base + ink(palette.quiet), base + tint(item, palette)
        c = self._columns
        latency, is_marked = item.latency_ns, item.number - 1 in self.marks
        number = f"{MARK if is_marked else ''}{item.number}"
        segments = [
            Segment(f"{number:>{c.number}} ", base + ink(palette.mark) if is_marked else quiet),
            Segment(f"{(item.time_ns - self._rows.start_ns) / 1e9:>{c.seconds}.{c.decimals}f} ", base),
            Segment(f"{item.arrow:<2} ", colour),
            Segment(f"{(item.channel_name or '-')[: c.channel]:<{c.channel}} ", base),
            Segment(f"{item.protocol[: c.protocol]:<{c.protocol}} ", colour),
        ]
        if c.latency:
            segments.append(Segment(f"{'' if latency is None else duration(latency):>{c.latency}} ", quiet))
        if c.bytes:
            segments.append(Segment(f"{item.volume:>{c.bytes},} ", quiet))
        text, problems = item.summary.replace("\n", " "), [*self._findings.of(item.number - 1), *item.notes]
        if problems:
            segments.append(Segment(f"{text}  ! {problems[0]}", base + ink(palette.problem)))
        else:
            segments.append(Segment(text, colour if item.kind_name == "note" else base))
        return Strip(segments).adjust_cell_length(width, base)

    def _ground(self, item: Decoded, row: int) -> Style:
        if row == self.cursor:
            return self.get_component_rich_style("packet-list--cursor")
        other = item.response or item.request
        if other is not None and other.number - 1 == self._told:
            return self.get_component_rich_style("packet-list--pair")
        return self.rich_style


def duration(nanoseconds: float) -> str:
    """A time for people: ``85 us``, ``1.2 ms``, ``3.4 s``."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.0f} us"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e9:.1f} s"
