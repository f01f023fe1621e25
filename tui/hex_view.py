"""The bytes of one record: offset, hexadecimal, text.  The selected field's bytes stand out, and so does one byte."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from dissectors.engine.decoded import Decoded
from tui.theme import DARK, LIGHT, ink

_FULL_WIDTH = 74
_HEX_AT = 6
"""The column of the first byte: after the offset."""


class HexView(ScrollView, can_focus=True):
    """Sixteen bytes a line, or eight where there is little room.  The cursor is a byte; moving it selects its field."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Left", show=False),
        Binding("right,l", "move(1)", "Right", show=False),
        Binding("up,k", "move_line(-1)", "Up", show=False),
        Binding("down,j", "move_line(1)", "Down", show=False),
        Binding("home", "move_to(0)", "First byte", show=False),
        Binding("end", "move_to(-1)", "Last byte", show=False),
        Binding("y", "copy_bytes", "Copy bytes", show=False),
    ]

    class ByteSelected(Message):
        """The user put the cursor on a byte."""

        def __init__(self, offset: int) -> None:
            super().__init__()
            self.offset = offset

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._data = b""
        self._field = (0, 0)
        self._byte = -1

    @property
    def per_line(self) -> int:
        return 16 if self.size.width >= _FULL_WIDTH else 8

    @property
    def marked(self) -> tuple[int, int]:
        """Where the marked field starts and ends."""
        return self._field

    def show_record(self, item: Decoded | None) -> None:
        """Show another record, with nothing marked."""
        self._data = bytes(item.data) if item is not None else b""
        self._field, self._byte = (0, 0), -1
        self._make_room()
        self.scroll_to(y=0, animate=False)
        self.refresh()

    def mark(self, offset: int, size: int) -> None:
        """Mark the bytes of a field, and bring them into view.

        Where the keys move this view's byte it stays: the field of one byte may be marked when the next is chosen.
        """
        self._field = (offset, offset + size)
        if not self.has_focus and not offset <= self._byte < offset + size:
            self._byte = -1
        self._show(self._byte if self._byte >= 0 else offset)
        self.refresh()

    def _make_room(self) -> None:
        self.virtual_size = Size(0, -(-len(self._data) // self.per_line))

    def on_resize(self) -> None:
        self._make_room()

    def _show(self, offset: int) -> None:
        line, top, height = offset // self.per_line, self.scroll_offset.y, max(self.size.height, 1)
        if not top <= line < top + height:
            self.scroll_to(y=max(line - 1, 0), animate=False, force=True)

    # Keys and mouse

    def action_move(self, step: int) -> None:
        start = self._byte if self._byte >= 0 else self._field[0] - (step > 0)
        self._put(start + step)

    def action_move_line(self, step: int) -> None:
        self.action_move(step * self.per_line)

    def action_move_to(self, offset: int) -> None:
        self._put(offset if offset >= 0 else len(self._data) - 1)

    def _put(self, offset: int) -> None:
        if not self._data:
            return
        self._byte = max(0, min(offset, len(self._data) - 1))
        self._show(self._byte)
        self.post_message(self.ByteSelected(self._byte))
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        offset = self.byte_at(at.x, at.y) if at is not None else None
        if offset is not None:
            self._put(offset)

    def byte_at(self, x: int, y: int) -> int | None:
        """The offset of the byte drawn at a place, in hexadecimal or as text."""
        count = self.per_line
        text_at = _HEX_AT + 3 * count + count // 8
        if x >= text_at:
            place = x - text_at
        else:
            place = (x - _HEX_AT - (x > _HEX_AT + 24)) // 3
        offset = (self.scroll_offset.y + y) * count + place
        return offset if 0 <= place < count and 0 <= offset < len(self._data) else None

    def action_copy_bytes(self) -> None:
        """Copy the marked bytes, or all, as hexadecimal digits."""
        start, stop = self._field
        piece = self._data[start:stop] or self._data
        self.app.copy_to_clipboard(piece.hex())
        self.notify(f"copied {len(piece)} bytes", timeout=2)

    # Drawing

    def render_line(self, y: int) -> Strip:
        base, count = self.rich_style, self.per_line
        at = (self.scroll_offset.y + y) * count
        piece = self._data[at : at + count]
        if not piece:
            return Strip.blank(self.size.width, base)
        palette = DARK if self.app.current_theme.dark else LIGHT
        quiet = base + ink(palette.quiet)
        field = base + Style(bgcolor=palette.field, bold=True)
        cursor = base + Style(bgcolor=palette.byte, bold=True, underline=True)
        start, stop = self._field
        hexes: list[Segment] = []
        texts: list[Segment] = []
        for index in range(count):
            gap = "  " if index % 8 == 7 else " "
            if index >= len(piece):
                hexes.append(Segment(f"  {gap}", base))
                continue
            place, byte = at + index, piece[index]
            inside = start <= place < stop
            style = cursor if place == self._byte else field if inside else base if byte else quiet
            joined = inside and place + 1 < stop and index + 1 < count
            hexes += [Segment(f"{byte:02x}", style), Segment(gap, field if joined else base)]
            texts.append(Segment(chr(byte) if 0x20 <= byte < 0x7F else "·", style))
        return (
            Strip([Segment(f"{at:04x}  ", quiet), *hexes, *texts]).simplify().adjust_cell_length(self.size.width, base)
        )
